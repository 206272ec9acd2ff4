"""The thread that delivers the webhooks in the outbox, a few at a time."""

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
THREADS_PER_HOST = 2  # so that a hanging host does not block others
MAX_SLEEP_S = 30.0  # clocks jump, and other processes die with claimed webhooks

Send = Callable[[str, str, bytes], Outcome]  # url, message id, body; as messages.deliver
Event = tuple[Delivery, Outcome] | None  # the outcome of an attempt, or a wake-up


class DeliveryThread:
    """The delivery thread of a process; slow targets block nothing else.

    Args:
      transaction: opens a transaction of the queue in *folder*; *token* identifies this process.
      send: makes one attempt.
      retry_delay_s: as messages.retry_delay_s.
    """

    def __init__(
        self,
        transaction: Callable[[], AbstractContextManager[sqlite3.Connection]],
        folder: Path,
        token: str,
        send: Send,
        retry_delay_s: Callable[[int], float | None] = messages.retry_delay_s,
    ) -> None:
        self._transaction, self._token = transaction, token
        self._is_dead = partial(process_lock.is_dead, folder)
        self._send, self._retry_delay_s = send, retry_delay_s
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._unsaved: list[tuple[Delivery, Outcome]] = []
        self._hosts: Counter[str] = Counter()  # of the deliveries in progress
        self._stopping = False
        self._thread = Thread(target=self._run, name="webhooks", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Report a new webhook, after its commit."""
        self._events.put(None)

    def stop(self, timeout_s: float) -> None:
        """Start no more deliveries and wait up to *timeout_s* for those in progress.

        The next process repeats those that have not ended by then.
        """
        self._stopping = True
        self.wake()
        self._thread.join(timeout_s)

    def _finished(self) -> bool:
        return self._stopping and not self._hosts and not self._unsaved

    def _run(self) -> None:
        while not self._finished():
            try:
                sleep_s = 0.0
                while not self._finished():
                    self._wait(sleep_s)
                    sleep_s = self._deliver_due()
            except QueueUnavailable as error:  # locked, or the disk is full: temporary
                log.warning("webhooks wait: %s", error)
                self._wait(MAX_SLEEP_S)

    def _deliver_due(self) -> float:
        """Save the outcomes of attempts, and start due deliveries.

        Returns: seconds until the next one is due.
        """
        self._save_outcomes()
        with self._transaction() as database:
            outbox.release_claims(database, self._is_dead)
        while self._hosts.total() < THREADS and not self._stopping:
            full = [host for host, count in self._hosts.items() if count >= THREADS_PER_HOST]
            with self._transaction() as database:
                delivery = outbox.claim(database, self._token, time.time(), full)
                due_at = None if delivery else outbox.next_due(database, full)
            if not delivery:
                wait_s = MAX_SLEEP_S if due_at is None else due_at - time.time()
                return min(max(wait_s, 0.0), MAX_SLEEP_S)
            self._hosts[delivery.host] += 1
            Thread(target=self._attempt, args=(delivery,), daemon=True).start()
        return MAX_SLEEP_S

    def _attempt(self, delivery: Delivery) -> None:
        outcome = Outcome("retry", "internal error")
        try:
            outcome = self._send(delivery.url, delivery.message_id, delivery.body)
        finally:
            self._events.put((delivery, outcome))

    def _wait(self, sleep_s: float) -> None:
        """Wait for an event, then handle all pending ones."""
        try:
            event = self._events.get(timeout=sleep_s)
            while True:
                if event:
                    self._hosts = self._hosts - Counter([event[0].host])  # drops it at 0
                    self._unsaved.append(event)
                event = self._events.get_nowait()
        except Empty:
            pass

    def _save_outcomes(self) -> None:
        while self._unsaved:
            with self._transaction() as database:  # one per transaction: the disk may be full
                self._record(database, *self._unsaved[0])
            del self._unsaved[0]

    def _record(self, connection: sqlite3.Connection, sent: Delivery, outcome: Outcome) -> None:
        attempts = sent.attempts + 1
        delay_s = self._retry_delay_s(attempts) if outcome.state == "retry" else None
        if delay_s is not None:
            due_at = time.time() + max(delay_s, outcome.after_s)
            outbox.reschedule(connection, sent.message_id, due_at)
            return
        outbox.delete(connection, sent.message_id)
        messages.log_outcome(outcome, attempts, sent.host)
