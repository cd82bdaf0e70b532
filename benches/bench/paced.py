"""A load of requests at random times, so many a second on average, by a separate process on one CPU.

The time of a request counts from when it was due, so that no delay hides in one that was sent late.
"""

import asyncio
import json
import random
import sys

from .process import Failed, result, start_module


def start(cpu, port, host, a_second, seconds):
    """Begins to send requests to 127.0.0.1, on kept connections, as many as are needed."""
    return start_module(cpu, "paced", {"port": port, "host": host, "a_second": a_second, "seconds": seconds})


def end(process):
    """Waits until it finishes. Returns the time of each request in milliseconds, and the body of its response."""
    return result(process, "the load", 600)


async def _main(order):
    idle, results = [], []
    request = f"GET / HTTP/1.1\r\nHost: {order['host']}\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    begin = due = loop.time()
    chance = random.Random(1)
    async with asyncio.TaskGroup() as tasks:
        while due < begin + order["seconds"]:
            await asyncio.sleep(due - loop.time())
            tasks.create_task(_send(order["port"], request, due, idle, results))
            due += chance.expovariate(order["a_second"])
    print(json.dumps(results))


async def _send(port, request, due, idle, results):
    connection, head = None, b""
    while not head:
        # A kept connection may have been closed for its age: then another one is used.
        is_kept = bool(idle)
        connection = idle.pop() if is_kept else await asyncio.open_connection("127.0.0.1", port)
        try:
            connection[1].write(request)
            head = await connection[0].readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            if not is_kept:
                raise
    if not head.startswith(b"HTTP/1.1 200 "):
        raise Failed(f"a request was answered with {head[:40]}")
    (length,) = [line.partition(b":")[2] for line in head.lower().splitlines() if line.startswith(b"content-length:")]
    body = await connection[0].readexactly(int(length))
    results.append(((asyncio.get_running_loop().time() - due) * 1e3, body.decode()))
    idle.append(connection)


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
