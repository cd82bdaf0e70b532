"""The programs in benches/peers, which `make bench` builds."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Program:
    """A program, and the folder of its sources."""

    path: Path
    source: Path


def _program(name):
    return Program(ROOT / "target/peers/release" / name, ROOT / "benches/peers")


PINGORA, LOAD = _program("pingora"), _program("load")
