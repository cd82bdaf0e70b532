"""Memory of connections that have served a request, and wait for the next one."""

import json
import select
import subprocess

from .load import LIMIT_SECONDS, Shape
from .process import Failed, pinned
from .programs import LOAD

CONNECTIONS = 10_000
FEW = 100
KINDS = {
    "HTTP/1.1": Shape(False, False, CONNECTIONS),
    "HTTP/1.1 over TLS": Shape(False, True, CONNECTIONS),
    "HTTP/2 over TLS": Shape(True, True, CONNECTIONS),
}


class Held:
    """Connections that are open as long as the `with` block runs, which begins when each of them has served a request."""

    def __init__(self, shape, connections, cpu, port, host):
        order = {"idle": {"target": {**shape.target(port, host), "connections": connections}}}
        command = pinned(cpu, [LOAD.path, json.dumps(order)])
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        opened, _, _ = select.select([self.process.stdout], [], [], LIMIT_SECONDS)
        if not opened:
            self.process.kill()
            self.process.communicate()
            raise Failed(f"not all connections were opened within {LIMIT_SECONDS} s")
        if not self.process.stdout.readline():
            _, said = self.process.communicate()
            raise Failed(f"not all connections were opened: {said.strip()[-500:]}")
        return self

    def __exit__(self, *_):
        # This ends its standard input, and so the connections.
        self.process.communicate()


def kib_a_connection(process, shape, cpu, port, host):
    """The growth of the resident memory of a gateway by `CONNECTIONS` connections, for each of them.

    It has served a few of them before, so that what all connections share is there.
    """
    with Held(shape, FEW, cpu, port, host):
        before = process.memory_kib("VmRSS")
    with Held(shape, CONNECTIONS, cpu, port, host):
        return (process.memory_kib("VmRSS") - before) / CONNECTIONS
