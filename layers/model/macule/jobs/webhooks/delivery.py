"""A thread that delivers what waits in the outbox, a few at a time, until it is told to stop."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread

from macule.errors import QueueUnavailable
from macule.jobs import process_lock
from macule.jobs.webhooks import messages, outbox
from macule.jobs.webhooks.messages import Outcome
from macule.jobs.webhooks.outbox import Delivery

log = logging.getLogger("macule")

THREADS = 4
THREADS_A_HOST = 2  # so one that hangs leaves others room
LONGEST_SLEEP_S = 30.0  # clocks jump, other processes die and leave what they had claimed

Send = Callable[[str, str, bytes], Outcome]  # url, message id, body; as webhooks.deliver
Note = tuple[Delivery, Outcome] | None  # what came of an attempt, or a mere knock


class Courier:
    """One a process; whatever its targets do, nobody waits for it.

    Args:
      changing: a transaction of the queue, whose folder *folder* has the process's mark, *token*.
      send: one attempt.
      pause_s: as webhooks.pause_s.
    """

    def __init__(
        self,
        changing: Callable[[], AbstractContextManager[sqlite3.Connection]],
        folder: Path,
        token: str,
        send: Send,
        pause_s: Callable[[int], float | None] = messages.pause_s,
    ) -> None:
        self._changing, self._token = changing, token
        self._dead = partial(process_lock.dead, folder)
        self._send, self._pause_s = send, pause_s
        self._notes: SimpleQueue[Note] = SimpleQueue()
        self._unwritten: list[tuple[Delivery, Outcome]] = []
        self._hosts: Counter[str] = Counter()  # of what is on its way
        self._stopping = False
        self._thread = Thread(target=self._run, name="courier", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Say that something was added, once that is committed."""
        self._notes.put(None)

    def stop(self, timeout_s: float) -> None:
        """Begin nothing more, and wait so long for what is on its way.

        What is still under way then is sent again by the next process.
        """
        self._stopping = True
        self.wake()
        self._thread.join(timeout_s)

    def _over(self) -> bool:
        return self._stopping and not self._hosts and not self._unwritten

    def _run(self) -> None:
        while not self._over():
            try:
                sleep_s = 0.0
                while not self._over():
                    self._listen(sleep_s)
                    sleep_s = self._round()
            except QueueUnavailable as error:  # locked, or the disk is full; not for ever
                log.warning("webhooks wait: %s", error)
                self._listen(LONGEST_SLEEP_S)

    def _round(self) -> float:
        """Write down what came of attempts, begin others.

        Returns: how long there is nothing to do.
        """
        self._write()
        with self._changing() as database:
            outbox.free(database, self._dead)
        while self._hosts.total() < THREADS and not self._stopping:
            full = [host for host, count in self._hosts.items() if count >= THREADS_A_HOST]
            with self._changing() as database:
                delivery = outbox.claim(database, self._token, time.time(), full)
                due_at = None if delivery else outbox.next_due(database, full)
            if not delivery:
                wait_s = LONGEST_SLEEP_S if due_at is None else due_at - time.time()
                return min(max(wait_s, 0.0), LONGEST_SLEEP_S)
            self._hosts[delivery.host] += 1
            Thread(target=self._try, args=(delivery,), daemon=True).start()
        return LONGEST_SLEEP_S

    def _try(self, delivery: Delivery) -> None:
        outcome = Outcome("again", "failed on our side")
        try:
            outcome = self._send(delivery.url, delivery.message_id, delivery.body)
        finally:
            self._notes.put((delivery, outcome))

    def _listen(self, sleep_s: float) -> None:
        """Sleep until something happens, then take all that has."""
        try:
            note = self._notes.get(timeout=sleep_s)
            while True:
                if note:
                    self._hosts = self._hosts - Counter([note[0].host])  # drops it at 0
                    self._unwritten.append(note)
                note = self._notes.get_nowait()
        except Empty:
            pass

    def _write(self) -> None:
        while self._unwritten:
            with self._changing() as database:  # one a transaction: the disk may be full
                self._record(database, *self._unwritten[0])
            del self._unwritten[0]

    def _record(self, connection: sqlite3.Connection, sent: Delivery, outcome: Outcome) -> None:
        attempts = sent.attempts + 1
        pause_s = self._pause_s(attempts) if outcome.state == "again" else None
        if pause_s is not None:
            due_at = time.time() + max(pause_s, outcome.after_s)
            outbox.later(connection, sent.message_id, due_at)
            return
        outbox.done(connection, sent.message_id)
        messages.over(outcome, attempts, sent.host)
