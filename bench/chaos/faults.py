"""The faults, each with its end: whatever is broken works again within seconds."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NamedTuple

from ledger import Ledger
from stage import Clock, Disk, Model, Supervised
from support.broker import Broker

HOLD_S = (1.0, 4.0)  # duration of a lasting fault
STALLED = 60  # connections
MOST_JUMP_S = 300
HEADS = (
    b"POST /predict/ HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n\xff\xd8",
    b"GET /health/ HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n",
    b"POST /predictions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    b"GET /health/ HTTP/1.1\r\nHost: x\r\nX-Slow: ",
)


class Scene(NamedTuple):
    """Everything that faults act on."""

    services: list[Supervised]
    workers: list[Supervised]
    ports: list[int]
    servers: list[Broker]  # of the cache and of the queue
    disk: Disk
    clock: Clock
    model: Model


class Faults:
    """A seeded sequence of faults, one at a time."""

    def __init__(self, scene: Scene, ledger: Ledger, seed: int) -> None:
        self._scene, self._ledger = scene, ledger
        self._rng = random.Random(seed)  # noqa: S311
        self._kinds: dict[str, Callable[[], None]] = {
            "kill -9 of a web worker": self._kill,
            "kill -9 of a queue worker": self._kill_worker,
            "SIGTERM of a service": self._terminate,
            "SIGTERM of a queue worker": self._terminate_worker,
            "SIGHUP of a service": self._reload,
            "Valkey stopped and continued": self._freeze,
            "stalled senders": self._stall,
            "model file damaged and mended": self._swap,
        }
        if scene.disk.mounted:
            self._kinds["disk full and freed"] = self._fill
        if scene.clock.environment:
            self._kinds["clock jump"] = self._jump

    def run(self, end: float, calm_s: float) -> None:
        """Run faults until *end* (time.monotonic): each kind once, in random order, then again."""
        names: list[str] = []
        while time.monotonic() < end:
            names = names or self._rng.sample(sorted(self._kinds), len(self._kinds))
            self._kinds[names.pop()]()
            time.sleep(self._rng.uniform(0.5, 1.5) * calm_s)
        self._scene.clock.jump(MOST_JUMP_S)  # whatever waits for a later time is due

    @property
    def kinds(self) -> list[str]:
        return sorted(self._kinds)

    def _kill(self) -> None:
        pid = self._rng.choice(self._scene.services).worker()
        if pid:
            with suppress(ProcessLookupError):
                self._note("kill -9 of a web worker", kills=True)
                os.kill(pid, signal.SIGKILL)

    def _kill_worker(self) -> None:
        self._note("kill -9 of a queue worker")
        self._rng.choice(self._scene.workers).signal(signal.SIGKILL)

    def _terminate(self) -> None:
        self._note("SIGTERM of a service")
        self._rng.choice(self._scene.services).signal(signal.SIGTERM)

    def _terminate_worker(self) -> None:
        self._note("SIGTERM of a queue worker")
        self._rng.choice(self._scene.workers).signal(signal.SIGTERM)

    def _reload(self) -> None:
        self._note("SIGHUP of a service")
        self._rng.choice(self._scene.services).signal(signal.SIGHUP)

    def _freeze(self) -> None:
        server = self._rng.choice(self._scene.servers)
        with self._holding("Valkey stopped and continued"):
            server.process.send_signal(signal.SIGSTOP)
        server.process.send_signal(signal.SIGCONT)

    def _stall(self) -> None:
        with ExitStack() as opened, self._holding("stalled senders"):
            for _ in range(STALLED):
                with suppress(OSError):
                    address = ("127.0.0.1", self._rng.choice(self._scene.ports))
                    sender = opened.enter_context(socket.create_connection(address, timeout=5))
                    sender.sendall(self._rng.choice(HEADS))

    def _swap(self) -> None:
        with self._holding("model file damaged and mended"):
            self._scene.model.damage()
            self._rng.choice(self._scene.services).signal(signal.SIGHUP)
        self._scene.model.mend()

    def _fill(self) -> None:
        with self._holding("disk full and freed"):
            self._scene.disk.fill()
        self._scene.disk.free()

    def _jump(self) -> None:
        self._note("clock jump")
        self._scene.clock.jump(self._rng.randint(-MOST_JUMP_S, MOST_JUMP_S))

    @contextmanager
    def _holding(self, name: str) -> Iterator[None]:
        """Start a fault and keep it for a while."""
        self._note(name)
        yield
        time.sleep(self._rng.uniform(*HOLD_S))

    def _note(self, name: str, *, kills: bool = False) -> None:
        self._ledger.fault(name, kills=kills)
