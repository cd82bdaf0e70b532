"""The load: h2load, or ab where each request has a connection of its own, or the program `load` of benches/peers for messages that are echoed; a counted
number of requests, and the check that every response was right."""

import json
import re
import subprocess
from dataclasses import dataclass

from .process import Failed, pinned
from .programs import LOAD

LIMIT_SECONDS = 120
LEAST_PER_SECOND = 500
BODY_BYTES = 1024
ECHO_BYTES = 100
CIPHER = "TLS_AES_128_GCM_SHA256"
DATA = r"\((\d+)\) data"
RATE = r"finished in .*?, ([\d.]+) req/s"


@dataclass(frozen=True)
class Shape:
    """The protocol and concurrency of the requests."""

    http2: bool
    tls: bool
    connections: int
    streams: int = 1
    grpc: bool = False
    # A new connection for each request.
    fresh: bool = False
    # The length of each request's body and of each response's.
    up: int = 0
    down: int = BODY_BYTES
    # A request is a message that is echoed: on a WebSocket, or on a stream of gRPC.
    echo: bool = False

    @property
    def path(self):
        """What is requested from the backend (see `backends`)."""
        if self.grpc:
            return "/post"
        if self.up:
            return "/upload"
        return "/get" if self.down == BODY_BYTES else "/large"

    @property
    def at_once(self):
        """Requests in flight."""
        return self.connections * self.streams

    def target(self, port, host):
        """The same for the program `load`."""
        kind = ("grpc-stream" if self.grpc else "websocket") if self.echo else ("http2" if self.http2 else "http1")
        size = ECHO_BYTES if self.echo else self.down
        return {"port": port, "host": host, "tls": self.tls, "kind": kind, "connections": self.connections, "streams": self.streams, "bytes": size}


@dataclass(frozen=True)
class Counted:
    """The result of a load whose requests may fail."""

    requests: int
    failed: int
    per_second: float


def run(shape, cpu, port, host, path, requests, data, headers=()):
    """Sends `requests` requests and returns how many were answered in a second. `data` is the file that each of them sends, if its
    shape has a body.

    Raises `Failed` unless every one was answered with a 200 and a body of `shape.down` bytes.
    """
    if shape.fresh:
        return _run_fresh(shape, cpu, port, host, path, requests)
    if shape.echo:
        return requests / order(cpu, {"counted": {"target": shape.target(port, host), "requests": requests}})["seconds"]
    output = _send(shape, cpu, port, host, path, requests, data, headers)
    if int(_number(r"status codes: (\d+) 2xx", output)) != requests or int(_number(r" (\d+) succeeded", output)) != requests:
        raise Failed(f"not every request was answered with a 200:\n{output}")
    if int(_number(DATA, output)) != requests * shape.down:
        raise Failed(f"not every body had {shape.down} bytes:\n{output}")
    if shape.tls and _number(r"Cipher: (\S+)", output) != CIPHER:
        raise Failed(f"another cipher than {CIPHER}:\n{output}")
    return float(_number(RATE, output))


def order(cpu, what):
    """Has the program `load` do something, and returns its result. Raises `Failed` unless every exchange was answered as it should be."""
    done = _run(pinned(cpu, [LOAD.path, json.dumps(what)]), LIMIT_SECONDS)
    if done.returncode != 0:
        raise Failed(f"the load failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def _run_fresh(shape, cpu, port, host, path, requests):
    command = ["ab", "-q", "-n", requests, "-c", shape.connections, "-H", f"Host: {host}"]
    if shape.tls:
        command += ["-f", "TLS1.3", "-Z", CIPHER]
    command.append(f"{'https' if shape.tls else 'http'}://127.0.0.1:{port}{path}")
    output = _output(pinned(cpu, command), requests)
    failed = "Non-2xx responses" in output or int(_number(r"Failed requests:\s+(\d+)", output)) > 0
    if failed or int(_number(r"Complete requests:\s+(\d+)", output)) != requests:
        raise Failed(f"not every request was answered with a 200:\n{output}")
    if int(_number(r"HTML transferred:\s+(\d+)", output)) != requests * BODY_BYTES:
        raise Failed(f"not every body had {BODY_BYTES} bytes:\n{output}")
    if shape.tls and CIPHER not in output:
        raise Failed(f"another cipher than {CIPHER}:\n{output}")
    return float(_number(r"Requests per second:\s+([\d.]+)", output))


def count(shape, cpu, port, host, path, requests, data):
    """Sends `requests` requests, and counts those that fail: without a 200, or without a body of `BODY_BYTES` bytes."""
    output = _send(shape, cpu, port, host, path, requests, data, ())
    succeeded = int(_number(r"status codes: (\d+) 2xx", output))
    whole = int(_number(DATA, output)) // BODY_BYTES
    return Counted(requests, requests - min(succeeded, whole), float(_number(RATE, output)))


def _send(shape, cpu, port, host, path, requests, data, headers):
    command = ["h2load", "--requests", requests, "--clients", shape.connections, "--max-concurrent-streams", shape.streams, "--threads", 1]
    command += ["--tls13-ciphers", CIPHER]
    if not shape.http2:
        command.append("--h1")
    elif not shape.tls:
        command.append("--no-tls-proto=h2c")
    if shape.grpc:
        command += ["--header=content-type: application/grpc", "--header=te: trailers"]
    if data and (shape.grpc or shape.up):
        command += ["--data", data]
    command += [f"--header={header}" for header in headers]
    scheme = "https" if shape.tls else "http"
    command += ["--connect-to", f"127.0.0.1:{port}", f"{scheme}://{host}:{port}{path}"]
    return _output(pinned(cpu, command), requests)


def _output(command, requests):
    done = _run(command, LIMIT_SECONDS + requests / LEAST_PER_SECOND)
    return done.stdout + done.stderr


def _run(command, seconds):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise Failed(f"the load was not answered within {seconds:.0f} s") from None


def _number(pattern, output):
    found = re.search(pattern, output)
    if found is None:
        raise Failed(f"h2load said no {pattern}: {output}")
    return found.group(1)
