"""Compares Portcullis with nginx and HAProxy: the CPU time that one request costs each of them, and their peak memory.

All gateways of a row run side by side and take turns, round by round; the server has one CPU, the load and the backend the other.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import backends
import load
import report
from gateways import HOST, HAProxy, Nginx, Place, Portcullis
from load import Shape
from process import Failed, free_ports

SERVER_CPU, LOAD_CPU = 0, 1
WARM_UP = 5_000
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Row:
    """One kind of work, and what Portcullis may cost there, as a ratio to each peer."""

    name: str
    title: str
    shape: Shape
    upstream: str
    floor: bool = False
    goals: dict = field(default_factory=dict)


ROWS = [
    Row("http1", "HTTP/1.1, 64 connections", Shape(False, False, 64), "http1", floor=True, goals={"nginx": 1.0}),
    Row("http1-tls", "HTTP/1.1 over TLS, 64 connections", Shape(False, True, 64), "http1", goals={"nginx": 0.95}),
    Row("http2", "HTTP/2 over TLS, 16 × 10 streams, to HTTP/1.1", Shape(True, True, 16, 10), "http1", goals={"haproxy": 1.0}),
    Row("http2-h2c", "HTTP/2 over TLS, 16 × 10 streams, to h2c", Shape(True, True, 16, 10), "h2c", goals={"haproxy": 1.0}),
    Row("grpc", "gRPC unary over TLS, 16 × 10 streams", Shape(True, True, 16, 10, grpc=True), "h2c"),
]


def main():
    options = arguments()
    rows = [measure_row(row, options) for row in ROWS if not options.rows or row.name in options.rows]
    table = report.markdown(rows, Portcullis.name)
    print(table)
    if options.json:
        options.json.write_text(json.dumps({"requests": options.requests, "rounds": options.rounds, "rows": rows}, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(table + "\n")


def arguments():
    parser = argparse.ArgumentParser(prog="benches/compare", description=__doc__)
    parser.add_argument("--portcullis", type=Path, default=ROOT / "target/release/portcullis", help="the release binary")
    parser.add_argument("--gateways", nargs="+", default=["portcullis", "nginx", "haproxy", "haproxy-tcp"], help="those to run")
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], help="those to run; all without this")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--requests", type=int, default=60_000, help="in each round, for each gateway")
    parser.add_argument("--json", type=Path, help="where to write the figures for programs")
    parser.add_argument("--markdown", type=Path, help="where to write the table")
    return parser.parse_args()


def measure_row(row, options):
    """Starts the backend and all gateways of the row, lets them take turns, and ends them."""
    chosen = [one for one in (Portcullis(options.portcullis), Nginx(), HAProxy(), HAProxy(passthrough=True)) if one.name in options.gateways]
    chosen = [one for one in chosen if one.serves(row)]
    with tempfile.TemporaryDirectory(prefix="portcullis-bench-") as folder, ExitStack() as running:
        folder = Path(folder)
        folder.chmod(0o755)  # nginx, started by root, reads as another user
        certificate, key = make_certificate(folder)
        message = folder / "message"
        message.write_bytes(backends.grpc_message(64))
        log = backends.LogServer()
        (backend_port,) = free_ports(1)
        running.enter_context(backends.start(row.upstream, new_folder(folder / "backend"), backend_port, LOAD_CPU))
        gateways = {}
        for gateway in chosen:
            port, admin_port = free_ports(2)
            place = Place(new_folder(folder / gateway.name), port, admin_port, log.port, backend_port, certificate, key, SERVER_CPU)
            gateways[gateway.name] = running.enter_context(gateway.start(row, place)), port

        def send(name, requests):
            path = "/post" if row.shape.grpc else "/get"
            try:
                return load.run(row.shape, LOAD_CPU, gateways[name][1], HOST, path, requests, message)
            except Failed as failure:
                raise Failed(f"{row.name}, {name}: {failure}") from None

        return {"name": row.name, "title": row.title, "goals": row.goals, "gateways": take_turns(gateways, send, options)}


def take_turns(gateways, send, options):
    for name in gateways:
        send(name, WARM_UP)
    cpu, rates = {name: [] for name in gateways}, {name: [] for name in gateways}
    for number in range(options.rounds):
        for name, (process, _) in gateways.items():
            before = process.cpu_seconds()
            rates[name].append(send(name, options.requests))
            cpu[name].append((process.cpu_seconds() - before) / options.requests * 1e6)
        print(f"round {number + 1}: " + ", ".join(f"{name} {values[-1]:.2f} µs" for name, values in cpu.items()), file=sys.stderr)
    costs = report.summarise(cpu)
    return {
        name: {
            "cpu_us": costs[name],
            "cpu_us_rounds": cpu[name],
            "requests_per_second": median(rates[name]),
            "peak_kib": process.memory_kib("VmHWM"),
        }
        for name, (process, _) in gateways.items()
    }


def new_folder(folder):
    folder.mkdir()
    return folder


def make_certificate(folder):
    """A self-signed one on the curve P-256, as public certificate authorities issue them by default."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={HOST}",
         "-addext", f"subjectAltName=DNS:{HOST}", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key


if __name__ == "__main__":
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("benches/compare: two CPUs are needed, one for the gateway and one for the load")
    try:
        main()
    except Failed as failure:
        sys.exit(f"benches/compare: {failure}")
