"""How equally workers share the work of few connections: a worker that has them all leaves the other CPU idle."""

from . import load
from .load import Shape
from .process import Failed

WORKERS = 2
SHAPE = Shape(False, False, 4)
TITLE = "HTTP/1.1, 4 connections on 2 workers"
RUNS = 20
REQUESTS = 2_000
# Two connections each: half of the work, and what is measured beside it.
GOAL = 0.6


def measure(process, port, cpu, host):
    """The share of the busiest worker in each of some runs, whose connections are new."""
    process.check_pinned()
    shares = []
    for _ in range(RUNS):
        before = _seconds(process)
        load.run(SHAPE, cpu, port, host, SHAPE.path, REQUESTS, None)
        spent = [now - then for now, then in zip(_seconds(process), before, strict=True)]
        shares.append(max(spent) / sum(spent))
    return shares


def _seconds(process):
    seconds = [process.cpu_seconds(f"worker-{number}") for number in range(WORKERS)]
    if 0 in seconds:
        raise Failed(f"{process.name} has not {WORKERS} workers that have run")
    return seconds
