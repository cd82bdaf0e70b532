"""The rounds: all gateways of a row do the same work, one after the other, again and again; each turn's cost is the CPU time of the gateway."""

import resource
import sys
from dataclasses import dataclass
from statistics import median

from .process import Failed

# What a process that is never idle has of its CPU, at least: some is the kernel's.
BUSY = 0.85


@dataclass(frozen=True)
class Turn:
    """What one gateway did in a turn."""

    cpu_seconds: float
    user_share: float
    # As the load measures it.
    seconds: float
    # CPU time of the load and the backend, which share a CPU.
    load_seconds: float

    def without(self, opening):
        """Without the turn in which connections were opened alone. Raises `Failed` if that is longer."""
        seconds = self.seconds - opening.seconds
        if seconds <= 0:
            raise Failed("opening the connections took longer than all requests: too few requests, or a machine that is too busy")
        return Turn(self.cpu_seconds - opening.cpu_seconds, self.user_share, seconds, self.load_seconds - opening.load_seconds)


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
        costs = [f"{name} {_cost(of_gateway[-1], count - opening):.2f} µs" for name, of_gateway in turns.items() if name not in refused]
        print(f"round {number + 1}: " + ", ".join(costs), file=sys.stderr)
    kept = {name: of_gateway for name, of_gateway in turns.items() if name not in refused}
    cpu = {name: [_cost(turn, count - opening) for turn in of_gateway] for name, of_gateway in kept.items()}
    costs = summarise(cpu)
    return {name: _result(of_gateway, count - opening, cpu[name], costs[name], gateways[name][0]) for name, of_gateway in kept.items()}, refused


def _warm_up(process, backend, send):
    send()
    for one in (process, backend):
        if one is not None:
            one.check_pinned()


def _turn(process, backend, send, name, count, opening):
    opened = _measure(process, backend, send, name, opening) if opening else None
    turn = _measure(process, backend, send, name, count)
    return turn.without(opened) if opened else turn


def _measure(process, backend, send, name, count):
    cpu, ticks, load = process.cpu_seconds(), process.ticks(), load_seconds(backend)
    per_second = send(name, count)
    return Turn(process.cpu_seconds() - cpu, process.user_share(ticks), count / per_second, load_seconds(backend) - load)


def load_seconds(backend):
    """The CPU time of the backend, and of all loads that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime + (backend.cpu_seconds() if backend else 0.0)


def _cost(turn, count):
    return turn.cpu_seconds / count * 1e6


def _result(turns, count, cpu, costs, process):
    user = median(turn.user_share for turn in turns)
    gateway_share = median(turn.cpu_seconds / turn.seconds for turn in turns)
    return {
        "cpu_us": costs,
        "cpu_us_rounds": cpu,
        "user_us": costs["median"] * user,
        "system_us": costs["median"] * (1 - user),
        "per_second": median(count / turn.seconds for turn in turns),
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
