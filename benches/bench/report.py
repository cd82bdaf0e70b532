"""The result of the rounds as Markdown for people."""

from statistics import median

from .latency import PERCENTILES
from .spread import TITLE


def markdown(rows, subject, unit="request"):
    """The table of costs per `unit`; if `subject` ran, with its ratio to each peer and the goal."""
    lines = [
        f"| work | gateway | CPU µs/{unit}: median (min–max) | user + system | {unit}s/s | peak MiB | ratio, goal |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        for name, result in row["gateways"].items():
            cpu = result["cpu_us"]
            lines.append(
                f"| {row['title']} | {name} | {cpu['median']:.2f} ({cpu['min']:.2f}–{cpu['max']:.2f}) | {result['user_us']:.1f} + {result['system_us']:.1f} "
                f"| {_rate(row, result)} | {result['peak_kib'] / 1024:.1f} | {_goal(row, name, subject)} |"
            )
        lines += [f"| {row['title']} | {name} | refused: {_short(why)} | | | | |" for name, why in row.get("refused", {}).items()]
    return "\n".join(lines)


def _rate(row, result):
    """The rate at saturation, unless something else limited it. One request at a time saturates nothing."""
    if result["saturated"] or not row.get("saturates", True):
        return f"{result['per_second']:,.0f}"
    return f"– (gateway {result['gateway_share']:.0%}, load {result['load_share']:.0%} of a CPU)"


def _short(why):
    return why.splitlines()[0].replace("|", "/")[:160]


def _goal(row, name, subject):
    """For each peer: the subject's ratio to it; for each variation, its ratio to the subject. And whether the goal is met if there is one."""
    if subject not in row["gateways"]:
        return ""
    if name == subject:
        better = row.get("better")
        return _judged(row["gateways"][subject]["cpu_us"]["ratios"][better], row["goal"], f" of {better}") if better else ""
    if name in row.get("variations", {}):
        return _judged(row["gateways"][name]["cpu_us"]["ratios"][subject], row["variations"][name], f" of {subject}")
    ratio = row["gateways"][subject]["cpu_us"]["ratios"][name]
    return _judged(ratio, row["goals"][name]) if name in row["goals"] else f"{ratio:.2f} ×"


def _judged(ratio, goal, of=""):
    return f"{ratio:.2f} ×{of} (≤ {goal:.2f}: {'met' if ratio <= goal else '**missed**'})"


def better_peer(gateways, peers):
    """The one of `peers` that costs least, or None if none of them ran."""
    costs = {name: result["cpu_us"]["median"] for name, result in gateways.items() if name in peers}
    return min(costs, key=costs.get, default=None)


def latencies(rows, subject):
    """The table of latencies at half of saturation. The ratio is the subject's to this gateway, of the 99th percentile."""
    lines = [
        "| work | requests | gateway | p50 ms: median (min–max) | p99 ms | p99.9 ms | p99 of it |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        latency = row.get("latency")
        if not latency:
            continue
        for pattern, gateways in latency["patterns"].items():
            for name, result in gateways.items():
                figures = " | ".join(f"{result[one]['median']:.2f} ({result[one]['min']:.2f}–{result[one]['max']:.2f})" for one in PERCENTILES)
                ratio = f"{gateways[subject]['p99']['median'] / result['p99']['median']:.2f} ×" if name != subject and subject in gateways else ""
                lines.append(f"| {row['title']} | {latency['a_second']:,}/s, {pattern} | {name} | {figures} | {ratio} |")
        lines += [f"| {row['title']} | {latency['a_second']:,}/s | {name} | refused: {_short(why)} | | | |" for name, why in latency["refused"].items()]
    return "\n".join(lines)


def memory(kinds, subject, goal):
    """The table of idle connections: KiB of each gateway, and the subject's ratio to the better peer."""
    lines = ["| idle connections | gateway | KiB a connection | ratio, goal |", "| --- | --- | --- | --- |"]
    for kind in kinds:
        found = kind["kib"]
        better = min((name for name in found if name in kind["peers"]), key=found.get, default=None)
        for name, kib in found.items():
            ratio = ""
            if name == subject and better:
                ratio = _judged(kib / found[better], goal, f" of {better}")
            elif subject in found and name != subject:
                ratio = f"{found[subject] / kib:.2f} ×"
            lines.append(f"| {kind['connections']:,} × {kind['title']} | {name} | {kib:.1f} | {ratio} |")
        lines += [f"| {kind['connections']:,} × {kind['title']} | {name} | refused: {_short(why)} | |" for name, why in kind["refused"].items()]
    return "\n".join(lines)


def spread(shares, goal):
    """The table of workers: the part of the CPU time that the busiest one had, of all runs."""
    least, most = min(shares), max(shares)
    return (
        "| work | share of the busiest worker: median (min–max) | goal |\n| --- | --- | --- |\n"
        f"| {TITLE} | {median(shares):.2f} ({least:.2f}–{most:.2f}) | the most ≤ {goal:.2f}: {'met' if most <= goal else '**missed**'} |"
    )


def figures(result, goals):
    """A table of named figures; a goal is an upper bound."""
    lines = ["| what | figure | goal |", "| --- | --- | --- |"]
    for name, value in result.items():
        goal = goals.get(name)
        said = "" if goal is None else f"< {goal:g}: {'met' if value < goal else '**missed**'}"
        lines.append(f"| {name.replace('_', ' ')} | {value:.3f} | {said} |")
    return "\n".join(lines)
