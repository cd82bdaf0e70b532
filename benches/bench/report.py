"""The result: for each row and gateway what it cost, as a Markdown table for people and as JSON for programs."""

from statistics import median


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


def markdown(rows, subject):
    """The table; where `subject` ran, with its ratio to each peer and the goal beside it."""
    lines = ["| work | gateway | CPU µs/request: median (min–max) | requests/s | peak MiB | goal |", "| --- | --- | --- | --- | --- | --- |"]
    for row in rows:
        for name, result in row["gateways"].items():
            cpu = result["cpu_us"]
            lines.append(
                f"| {row['title']} | {name} | {cpu['median']:.2f} ({cpu['min']:.2f}–{cpu['max']:.2f}) "
                f"| {result['requests_per_second']:,.0f} | {result['peak_kib'] / 1024:.1f} | {_goal(row, name, subject)} |"
            )
    return "\n".join(lines)


def _goal(row, name, subject):
    """Beside each peer: the subject's ratio to it, and whether the goal is met where there is one."""
    if name == subject or subject not in row["gateways"]:
        return ""
    ratio = row["gateways"][subject]["cpu_us"]["ratios"][name]
    goal = row["goals"].get(name)
    if goal is None:
        return f"{ratio:.2f} ×"
    return f"{ratio:.2f} × (≤ {goal:.2f}: {'met' if ratio <= goal else '**missed**'})"
