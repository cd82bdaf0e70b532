"""The load: h2load, a counted number of requests, and the check that every response was right."""

import re
import subprocess
from dataclasses import dataclass

from .process import Failed, pinned

LIMIT_SECONDS = 120
BODY_BYTES = 1024
CIPHER = "TLS_AES_128_GCM_SHA256"


@dataclass(frozen=True)
class Shape:
    """The protocol and concurrency of the requests."""

    http2: bool
    tls: bool
    connections: int
    streams: int = 1
    grpc: bool = False


def run(shape, cpu, port, host, path, requests, grpc_message, headers=()):
    """Sends `requests` requests and returns how many were answered in a second.

    Raises `Failed` unless every one was answered with a 200 and a body of `BODY_BYTES` bytes.
    """
    command = ["h2load", "--requests", requests, "--clients", shape.connections, "--max-concurrent-streams", shape.streams, "--threads", 1]
    command += ["--tls13-ciphers", CIPHER]
    if not shape.http2:
        command.append("--h1")
    elif not shape.tls:
        command.append("--no-tls-proto=h2c")
    if shape.grpc:
        command += ["--header=content-type: application/grpc", "--header=te: trailers", "--data", grpc_message]
    command += [f"--header={header}" for header in headers]
    scheme = "https" if shape.tls else "http"
    command += ["--connect-to", f"127.0.0.1:{port}", f"{scheme}://{host}:{port}{path}"]
    done = subprocess.run(pinned(cpu, command), capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    return _check(done.stdout, done.stderr, requests, shape)


def _check(output, errors, requests, shape):
    def number(pattern):
        found = re.search(pattern, output)
        if found is None:
            raise Failed(f"h2load said no {pattern}: {output}{errors}")
        return found.group(1)

    if int(number(r"status codes: (\d+) 2xx")) != requests or int(number(r" (\d+) succeeded")) != requests:
        raise Failed(f"not every request was answered with a 200:\n{output}{errors}")
    if int(number(r"\((\d+)\) data")) != requests * BODY_BYTES:
        raise Failed(f"not every body had {BODY_BYTES} bytes:\n{output}{errors}")
    if shape.tls and number(r"Cipher: (\S+)") != CIPHER:
        raise Failed(f"another cipher than {CIPHER}:\n{output}")
    return float(number(r"finished in .*?, ([\d.]+) req/s"))
