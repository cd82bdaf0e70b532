"""Backends that respond after a delay each, in one process on one CPU. A response's body is the delay in milliseconds."""

import asyncio
import json
import sys
from pathlib import Path

from .process import Process


def start(folder, ports_and_delays, cpu):
    """Responds on each port after its delay in milliseconds, to GET on kept connections."""
    package = Path(__file__).resolve().parents[1]
    program = f"import sys; sys.path.insert(0, {str(package)!r}); from bench import delayed; delayed.serve()"
    command = [sys.executable, "-c", program, json.dumps(ports_and_delays)]
    return Process("backends", command, cpu, folder, [port for port, _ in ports_and_delays])


def serve():
    asyncio.run(_serve(json.loads(sys.argv[1])))


async def _serve(ports_and_delays):
    loop = asyncio.get_running_loop()
    for port, delay in ports_and_delays:
        await loop.create_server(lambda delay=delay: _Connection(loop, delay), "127.0.0.1", port, backlog=1024)
    await asyncio.Event().wait()


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    def __init__(self, loop, delay):
        self.loop, self.seconds = loop, delay / 1e3
        body = str(delay)
        self.response = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        self.received = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.received += data
        while b"\r\n\r\n" in self.received:
            _, _, self.received = self.received.partition(b"\r\n\r\n")
            self.loop.call_later(self.seconds, self._respond)

    def _respond(self):
        if not self.transport.is_closing():
            self.transport.write(self.response)
