"""Backends that are killed and started again, one after the other."""

import threading
from contextlib import ExitStack, contextmanager

from . import backends
from .gateways import new_folder

PERIOD_SECONDS = 2.2
AWAY_SECONDS = 1.0


class Backends:
    """Backends of one kind, on `ports`."""

    def __init__(self, upstream, folder, ports, cpu):
        self.upstream, self.folder, self.ports, self.cpu = upstream, folder, ports, cpu
        self.running = []
        self.kills = 0
        self.starts = 0
        self.failure = None

    def __enter__(self):
        with ExitStack() as started:
            for port in self.ports:
                self.running.append(started.enter_context(self._start(port)))
            started.pop_all()
        return self

    def __exit__(self, *_):
        for process in self.running:
            process.stop()

    def _start(self, port):
        self.starts += 1
        return backends.start(self.upstream, new_folder(self.folder / str(self.starts)), port, self.cpu)

    @contextmanager
    def by_turns(self):
        """Kills one every `PERIOD_SECONDS` and starts it again after `AWAY_SECONDS`, for as long as the block runs."""
        ended = threading.Event()
        killer = threading.Thread(target=self._kill_by_turns, args=[ended])
        killer.start()
        try:
            yield
        finally:
            ended.set()
            killer.join()
        if self.failure:
            raise self.failure

    def _kill_by_turns(self, ended):
        try:
            while not ended.wait(PERIOD_SECONDS - AWAY_SECONDS):
                turn = self.kills % len(self.ports)
                self.running[turn].kill()
                self.kills += 1
                ended.wait(AWAY_SECONDS)
                self.running[turn] = self._start(self.ports[turn])
        except Exception as failure:
            self.failure = failure
