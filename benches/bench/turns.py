"""The rounds: all gateways of a row do the same work, one after the other, again and again; each turn's cost is the CPU time of the gateway."""

import resource
import sys
import time
from dataclasses import dataclass, replace
from statistics import median

from .process import Failed

# What a process that is never idle has of its CPU, as far as one sees it beside the start of the load.
BUSY = 0.85


@dataclass(frozen=True)
class Turn:
    """What one gateway did in a turn."""

    cpu_seconds: float
    # The part of that for opening the connections.
    opening_seconds: float
    seconds: float
    per_second: float
    user_share: float
    # CPU time of the load and the backend, which share a CPU.
    load_seconds: float


def take_turns(gateways, send, rounds, count, warm_up, backend=None, opening=0):
    """Sends each of `gateways` (a process and its port, by name) `count` of the measured work, round by round, by `send(name, count)`, which returns the
    rate per second. `opening` is the number of its connections if they are kept: then a turn with one request on each is subtracted, which is mostly
    the cost of opening them.

    Returns the result of each gateway, and why the others have none: an error, or a thread that is not pinned.
    """
    turns, refused = {name: [] for name in gateways}, {}

    def attempt(name, work):
        try:
            work()
        except Failed as failure:
            refused[name] = str(failure)
            print(f"{name} is left out: {failure}", file=sys.stderr)

    for name, (process, _) in gateways.items():
        attempt(name, lambda name=name, process=process: _warm_up(process, backend, lambda: send(name, warm_up)))
    for number in range(rounds):
        for name, (process, _) in gateways.items():
            if name not in refused:
                attempt(name, lambda name=name, process=process: turns[name].append(_turn(process, backend, send, name, count, opening)))
        costs = [f"{name} {_cost(of_gateway[-1], count, opening):.2f} µs" for name, of_gateway in turns.items() if name not in refused]
        print(f"round {number + 1}: " + ", ".join(costs), file=sys.stderr)
    kept = {name: of_gateway for name, of_gateway in turns.items() if name not in refused}
    cpu = {name: [_cost(turn, count, opening) for turn in of_gateway] for name, of_gateway in kept.items()}
    costs = summarise(cpu)
    return {name: _result(of_gateway, cpu[name], costs[name], gateways[name][0]) for name, of_gateway in kept.items()}, refused


def _warm_up(process, backend, send):
    send()
    for one in (process, backend):
        if one is not None:
            one.check_pinned()


def _turn(process, backend, send, name, count, opening):
    opened = _measure(process, None, lambda: send(name, opening)).cpu_seconds if opening else 0.0
    turn = _measure(process, backend, lambda: send(name, count))
    return replace(turn, opening_seconds=opened)


def _measure(process, backend, send):
    cpu, ticks, load, begin = process.cpu_seconds(), process.ticks(), load_seconds(backend), time.monotonic()
    per_second = send()
    seconds = time.monotonic() - begin
    return Turn(process.cpu_seconds() - cpu, 0.0, seconds, per_second, process.user_share(ticks), load_seconds(backend) - load)


def load_seconds(backend):
    """The CPU time of the backend, and of all loads that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime + (backend.cpu_seconds() if backend else 0.0)


def _cost(turn, count, opening):
    return (turn.cpu_seconds - turn.opening_seconds) / (count - opening) * 1e6


def _result(turns, cpu, costs, process):
    user = median(turn.user_share for turn in turns)
    gateway_share = median(turn.cpu_seconds / turn.seconds for turn in turns)
    return {
        "cpu_us": costs,
        "cpu_us_rounds": cpu,
        "user_us": costs["median"] * user,
        "system_us": costs["median"] * (1 - user),
        "per_second": median(turn.per_second for turn in turns),
        "gateway_share": gateway_share,
        "load_share": median(turn.load_seconds / turn.seconds for turn in turns),
        # Whether its own CPU was what limited the rate.
        "saturated": gateway_share >= BUSY,
        "peak_kib": process.memory_kib("VmHWM"),
    }


def summarise(rounds):
    """`rounds`: for each gateway, a figure of each round. Returns median, least and greatest, and the ratios to the peers.

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
