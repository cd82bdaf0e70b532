"""Latencies at half of saturation: the same rate for all gateways of a row, half of what Portcullis takes, at even times and in bursts."""

import sys
from statistics import median

from . import load
from .process import Failed
from .turns import BUSY, load_seconds

SECONDS = 2
ROUNDS = 3
# A burst every 10 ms: what connections do that tick together.
BURSTS_A_SECOND = 100
PERCENTILES = ["p50", "p99", "p99.9"]


def measure(row, gateways, backend, cpu, host, saturation):
    """Measures each of `gateways` (a process and its port, by name) round by round. `saturation` is the rate of each of them when nothing else limited it.

    Returns for each pattern the percentiles of each gateway in milliseconds, and why the others have none.
    """
    a_second = max(int(saturation["portcullis"] / 2 / BURSTS_A_SECOND), 1) * BURSTS_A_SECOND
    patterns = {"steady": 1, "bursts": a_second // BURSTS_A_SECOND}
    rounds = {pattern: {name: [] for name in gateways} for pattern in patterns}
    refused = {name: f"takes {rate:,.0f} requests a second at most" for name, rate in saturation.items() if rate * BUSY < a_second}
    for number in range(ROUNDS):
        for pattern, burst in patterns.items():
            for name in gateways:
                if name not in refused:
                    try:
                        rounds[pattern][name].append(_turn(row, gateways[name][1], backend, cpu, host, a_second, burst))
                    except Failed as failure:
                        refused[name] = f"{pattern}: {failure}"
        print(f"latency, round {number + 1} of {row.name} at {a_second} a second", file=sys.stderr)
    kept = {pattern: {name: turns for name, turns in of_pattern.items() if name not in refused} for pattern, of_pattern in rounds.items()}
    results = {pattern: {name: _summarise(turns) for name, turns in of_pattern.items()} for pattern, of_pattern in kept.items()}
    return {"a_second": a_second, "patterns": results, "refused": refused}


def _turn(row, port, backend, cpu, host, a_second, burst):
    before = load_seconds(backend)
    order = {"target": row.shape.target(port, host), "a_second": a_second, "seconds": SECONDS, "burst": burst}
    told = load.order(cpu, {"paced": order})
    share = (load_seconds(backend) - before) / SECONDS
    if share >= BUSY:
        raise Failed(f"the load and the backend are saturated: {share:.0%} of their CPU")
    return [told[one] / 1e3 for one in PERCENTILES]


def _summarise(turns):
    columns = zip(*turns, strict=True)
    return {name: {"median": median(values), "min": min(values), "max": max(values)} for name, values in zip(PERCENTILES, columns, strict=True)}
