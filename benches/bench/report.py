"""The rounds, and their result: for each row and gateway its cost, as a Markdown table for people and as JSON for programs."""

import sys
from statistics import median


def take_turns(gateways, send, rounds, count, warm_up):
    """Sends each of `gateways` (a process and its port, by name) `count` of the measured work, round by round, by `send(name, count)`, which returns the rate per second."""
    for name in gateways:
        send(name, warm_up)
    cpu, rates = {name: [] for name in gateways}, {name: [] for name in gateways}
    for number in range(rounds):
        for name, (process, _) in gateways.items():
            before = process.cpu_seconds()
            rates[name].append(send(name, count))
            cpu[name].append((process.cpu_seconds() - before) / count * 1e6)
        print(f"round {number + 1}: " + ", ".join(f"{name} {values[-1]:.2f} µs" for name, values in cpu.items()), file=sys.stderr)
    costs = summarise(cpu)
    return {
        name: {
            "cpu_us": costs[name],
            "cpu_us_rounds": cpu[name],
            "per_second": median(rates[name]),
            "peak_kib": process.memory_kib("VmHWM"),
        }
        for name, (process, _) in gateways.items()
    }


def summarise(rounds):
    """`rounds`: for each gateway, the CPU µs a request of each round. Returns median, least and greatest, and the ratios to the peers.

    A ratio is the median of the rounds' ratios: the machine's weather is the same for those who ran in the same round.
    """
    return {
        name: {
            "median": median(values),
            "min": min(values),
            "max": max(values),
            "ratios": {peer: median(a / b for a, b in zip(values, others)) for peer, others in rounds.items() if peer != name},
        }
        for name, values in rounds.items()
    }


def markdown(rows, subject, unit="request"):
    """The table of costs per `unit`; if `subject` ran, with its ratio to each peer and the goal."""
    lines = [f"| work | gateway | CPU µs/{unit}: median (min–max) | {unit}s/s | peak MiB | goal |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        for name, result in row["gateways"].items():
            cpu = result["cpu_us"]
            lines.append(
                f"| {row['title']} | {name} | {cpu['median']:.2f} ({cpu['min']:.2f}–{cpu['max']:.2f}) "
                f"| {result['per_second']:,.0f} | {result['peak_kib'] / 1024:.1f} | {_goal(row, name, subject)} |"
            )
    return "\n".join(lines)


def _goal(row, name, subject):
    """For each peer: the subject's ratio to it, and whether the goal is met if there is one."""
    if name == subject or subject not in row["gateways"]:
        return ""
    ratio = row["gateways"][subject]["cpu_us"]["ratios"][name]
    goal = row["goals"].get(name)
    if goal is None:
        return f"{ratio:.2f} ×"
    return f"{ratio:.2f} × (≤ {goal:.2f}: {'met' if ratio <= goal else '**missed**'})"


def figures(result, goals):
    """A table of named figures; a goal is an upper bound."""
    lines = ["| what | figure | goal |", "| --- | --- | --- |"]
    for name, value in result.items():
        goal = goals.get(name)
        said = "" if goal is None else f"< {goal:g}: {'met' if value < goal else '**missed**'}"
        lines.append(f"| {name.replace('_', ' ')} | {value:.3f} | {said} |")
    return "\n".join(lines)
