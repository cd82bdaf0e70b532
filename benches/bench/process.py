"""A server under test: its processes, their CPU time and their memory, as the kernel accounts for them."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PATH = os.environ["PATH"] + ":/usr/sbin:/sbin"
START_SECONDS = 20
STOP_SECONDS = 10
WAIT_SECONDS = 60


class Failed(Exception):
    """A server or a load that failed; the text names it, and the location of its output."""


def free_ports(number):
    """`number` different TCP ports of 127.0.0.1 that nothing listens on."""
    sockets = [socket.socket() for _ in range(number)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def pinned(cpu, command):
    """`command` on one CPU."""
    return ["taskset", "--cpu-list", str(cpu), *map(str, command)]


def start_module(cpu, name, order):
    """Begins a module of this folder on one CPU, as a process of its own: it reads `order` as JSON, and prints its result."""
    folder = Path(__file__).resolve().parents[1]
    command = pinned(cpu, [sys.executable, "-m", f"bench.{name}", json.dumps(order)])
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)


def result(process, what, seconds):
    """Waits until a module finishes, and returns its result. `what` names it in `Failed`."""
    output, _ = process.communicate(timeout=seconds)
    if process.returncode != 0:
        raise Failed(f"{what} ended with {process.returncode}")
    return json.loads(output)


def status(port, host, path):
    """The status that one GET is answered with, or None if it is not answered within five seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status
    except TimeoutError:
        return None
    finally:
        connection.close()


def wait_for(true, what):
    """Polls `true` until it returns true; raises `Failed` after `WAIT_SECONDS`."""
    end = time.monotonic() + WAIT_SECONDS
    while not true():
        if time.monotonic() > end:
            raise Failed(f"{WAIT_SECONDS} s went by before {what}")
        time.sleep(0.01)


class Process:
    """A running server with its children. Ends with the `with` block that holds it."""

    def __init__(self, name, command, cpu, folder, ports):
        self.name, self.cpus = name, str(cpu)
        self.output = folder / f"{name}.output"
        with open(self.output, "wb") as output:
            self.child = subprocess.Popen(
                pinned(cpu, command), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env={**os.environ, "PATH": PATH}
            )
        try:
            self._await(ports)
        except BaseException:
            self.stop()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def wait_for(self, true, what):
        """Polls as `wait_for` does, and stops the server if it fails."""
        try:
            wait_for(true, what)
        except BaseException:
            self.stop()
            raise

    def _await(self, ports):
        end = time.monotonic() + START_SECONDS
        for port in ports:
            while True:
                if self.child.poll() is not None:
                    raise Failed(f"{self.name} stopped with {self.child.returncode}: {self._tail()}")
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    if time.monotonic() > end:
                        raise Failed(f"{self.name} does not listen on {port}: {self._tail()}") from None
                    time.sleep(0.02)

    def _tail(self):
        return self.output.read_text(errors="replace")[-2000:] or "no output"

    def stop(self):
        """Stops it, and kills it if it does not exit."""
        if self.child.poll() is not None:
            return
        self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in self._pids():
                os.kill(pid, signal.SIGKILL)
            self.child.wait()

    def kill(self):
        """Kills it at once, with its children."""
        for pid in self._pids():
            os.kill(pid, signal.SIGKILL)
        self.child.wait()

    def _pids(self):
        found, queue = [], [self.child.pid]
        while queue:
            pid = queue.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                queue.extend(map(int, children.read_text().split()))
        return found

    def cpu_seconds(self, thread=""):
        """Time on a CPU, user and system, of all its threads whose names begin with `thread` (nanosecond clock of the scheduler: /proc/PID/task/TID/schedstat)."""
        tasks = [task for pid in self._pids() for task in Path(f"/proc/{pid}/task").iterdir()]
        tasks = [task for task in tasks if (task / "comm").read_text().startswith(thread)]
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def user_share(self, before=(0, 0)):
        """The part of its CPU time since `before` (an earlier `ticks()`) that was spent outside the kernel."""
        user, system = (now - then for now, then in zip(self.ticks(), before, strict=True))
        return user / max(user + system, 1)

    def ticks(self):
        """User and system time in ticks of the kernel. Only their relation is exact enough for a round: see `cpu_seconds`."""
        fields = [_after_name(Path(f"/proc/{pid}/stat").read_text()) for pid in self._pids()]
        return sum(int(one[11]) for one in fields), sum(int(one[12]) for one in fields)

    def check_pinned(self):
        """Raises `Failed` unless each of its threads may run on the given CPUs alone."""
        for pid in self._pids():
            for task in Path(f"/proc/{pid}/task").iterdir():
                (allowed,) = [line.split()[1] for line in (task / "status").read_text().splitlines() if line.startswith("Cpus_allowed_list:")]
                if _cpus(allowed) != _cpus(self.cpus):
                    raise Failed(f"a thread of {self.name} may run on the CPUs {allowed}, not on {self.cpus} alone")

    def memory_kib(self, field):
        """`VmHWM` (peak) or `VmRSS` (now), added up over its processes."""
        return sum(self._status(pid, field) for pid in self._pids())

    @staticmethod
    def _status(pid, field):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
        raise Failed(f"/proc/{pid}/status has no {field}")


def _after_name(stat):
    """The fields of /proc/PID/stat after the name, which may contain spaces."""
    return stat.rpartition(")")[2].split()


def _cpus(listed):
    """The CPUs in a list of the kernel such as `0,2-3`."""
    ranges = [part.split("-") for part in listed.split(",")]
    return {cpu for one in ranges for cpu in range(int(one[0]), int(one[-1]) + 1)}
