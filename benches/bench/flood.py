"""A flood: a fixed rate of requests whether they are answered or not, by a separate process on one CPU, each with a unique header."""

import base64
import json
import os
import selectors
import socket
import sys
import time

from .process import result, start_module

CONNECTIONS = 200
TICK_SECONDS = 0.001


def start(cpu, port, host, header, a_second, seconds):
    """Begins a flood at 127.0.0.1. `{random}` in `header` is 64 octets in base64url, others for each request."""
    order = {"port": port, "host": host, "header": header, "a_second": a_second, "seconds": seconds}
    return start_module(cpu, "flood", order)


def end(process):
    """Waits until it finishes. Returns how many requests a second were sent, and how many of them were answered."""
    counted = result(process, "the flood", 120)
    return counted["sent"], counted["answered"]


def _main():
    order = json.loads(sys.argv[1])
    selector = selectors.DefaultSelector()
    connections = []
    for _ in range(CONNECTIONS):
        connection = socket.create_connection(("127.0.0.1", order["port"]))
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ)
        connections.append(connection)
    before, random, after = f"GET /get HTTP/1.1\r\nHost: {order['host']}\r\n{order['header']}\r\n\r\n".partition("{random}")
    started = time.monotonic()
    due = sent = answered = 0
    while (now := time.monotonic() - started) < order["seconds"]:
        due = int(now * order["a_second"])
        while sent < due:
            connection = connections[sent % CONNECTIONS]
            sent += 1
            try:
                connection.send((before + (_random() if random else "") + after).encode())
            except BlockingIOError:
                pass  # It was offered, and there was no room for it.
        for key, _ in selector.select(0):
            answered += key.fileobj.recv(1 << 16).count(b"HTTP/1.1 ")
        time.sleep(TICK_SECONDS)
    print(json.dumps({"sent": sent / order["seconds"], "answered": answered / order["seconds"]}))


def _random():
    return base64.urlsafe_b64encode(os.urandom(64)).rstrip(b"=").decode()


if __name__ == "__main__":
    _main()
