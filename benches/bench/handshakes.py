"""The load of `handshakes` and `certificates`: a counted number of TLS handshakes, by a separate process on one CPU, and the check that each was of its kind."""

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from itertools import cycle, islice
from pathlib import Path

from .process import Failed, pinned

LIMIT_SECONDS = 120
THREADS = 4
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


def run(cpu, port, hosts, count, version="1.3", resumed=False):
    """Makes `count` handshakes of that version with 127.0.0.1, for one of `hosts` after the other, each on a connection of its own that is closed then.

    Returns the cipher suite, and how many there were in a second. Raises `Failed` unless all were full handshakes, or all resumed ones.
    """
    order = {"port": port, "hosts": hosts, "count": count, "version": version, "resumed": resumed}
    command = pinned(cpu, [sys.executable, "-m", "bench.handshakes"])
    folder = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False, cwd=folder)
    if done.returncode != 0:
        raise Failed(f"handshakes at port {port}: {done.stderr.strip()[-500:]}")
    told = json.loads(done.stdout)
    return told["suite"], order["count"] / told["seconds"]


def certificate(port, host):
    """The certificate, in DER, that 127.0.0.1 serves for `host`."""
    with _connect(_trusting(), port, host) as connection:
        return connection.getpeercert(binary_form=True)


def _trusting():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _main():
    order = json.load(sys.stdin)
    context = _trusting()
    context.minimum_version = context.maximum_version = VERSIONS[order["version"]]
    sessions = {host: _session(context, order["port"], host) for host in order["hosts"]} if order["resumed"] else {}
    failures, suites = [], set()
    each = order["count"] // THREADS

    def work(number):
        try:
            for host in islice(cycle(order["hosts"]), number * each, (number + 1) * each):
                suites.add(_handshake(context, order["port"], host, sessions.get(host)))
        except (OSError, AssertionError) as failure:
            failures.append(failure)

    started = time.monotonic()
    threads = [threading.Thread(target=work, args=[number]) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures or len(suites) != 1:
        sys.exit(f"{failures[:3]}, cipher suites {suites}")
    print(json.dumps({"suite": suites.pop(), "seconds": time.monotonic() - started}))


def _connect(context, port, host, session=None):
    plain = socket.create_connection(("127.0.0.1", port), timeout=10)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(plain, server_hostname=host, session=session)


def _session(context, port, host):
    """A session to resume. In TLS 1.3 it arrives after the handshake: a response is read, before which it must have arrived."""
    with _connect(context, port, host) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        while connection.recv(65536):
            pass
        return connection.session


def _handshake(context, port, host, session):
    with _connect(context, port, host, session) as connection:
        assert connection.session_reused == (session is not None), "another kind of handshake"
        suite = connection.cipher()[0]
        try:
            # The server has ended its side of the handshake when it answers this.
            connection.unwrap()
        except OSError:
            pass  # Some servers close without a close_notify.
        return suite


if __name__ == "__main__":
    _main()
