"""A record of requests and results by id, and the rules that it proves."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from threading import Lock
from typing import Any, NamedTuple

SETTLE_S = 3.0  # after a kill, in which connections may break


class Ended(NamedTuple):
    """The end of a job, as one poll saw it."""

    status: str
    slug: str


class Ledger:
    """Facts that clients, receivers and faults note while they run; every method is thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self.began = time.monotonic()
        self.answers: dict[str, int] = {}  # of predictions, by request: number of 200s
        self.refused = Counter[str]()  # with Retry-After, by slug
        self.broken = Counter[str]()  # connections, by what broke them
        self.accepted: dict[str, str] = {}  # jobs, by their Idempotency-Key
        self.ended: dict[str, set[Ended]] = defaultdict(set)
        self.delivered: dict[str, Counter[str]] = defaultdict(Counter)  # by job: webhook ids
        self.faults = Counter[str]()
        self.violations: list[str] = []
        self._kills: list[float] = []
        self._breaks: list[tuple[float, float, str]] = []

    def asked(self, request: str) -> None:
        with self._lock:
            self.answers.setdefault(request, 0)

    def answered(self, request: str) -> None:
        with self._lock:
            self.answers[request] += 1

    def refusal(self, request: str, status: int, slug: str, retry_after: str) -> None:
        """Note a refusal: it must have Retry-After."""
        with self._lock:
            if status in (429, 503) and retry_after.isdigit():
                self.refused[slug] += 1
            else:
                self.violations.append(f"{request}: {status} {slug}, Retry-After {retry_after!r}")

    def broke(self, began: float, cause: str) -> None:
        """Note a request, started at *began*, whose connection broke without an answer."""
        with self._lock:
            self.broken[cause] += 1
            self._breaks.append((began, time.monotonic(), cause))

    def job(self, key: str, job_id: str) -> None:
        with self._lock:
            known = self.accepted.setdefault(key, job_id)
            if known != job_id:
                self.violations.append(f"{key}: made two jobs, {known} and {job_id}")

    def end(self, job_id: str, ended: Ended) -> None:
        with self._lock:
            self.ended[job_id].add(ended)

    def delivery(self, job_id: str, message_id: str) -> None:
        with self._lock:
            self.delivered[job_id][message_id] += 1

    def fault(self, name: str, *, kills: bool = False) -> None:
        """Note a fault; one that *kills* may break connections."""
        with self._lock:
            self.faults[name] += 1
            if kills:
                self._kills.append(time.monotonic())

    def verdict(self) -> list[str]:
        """Return every broken rule."""
        return [*self.violations, *self._unanswered(), *self._jobs(), *self._unexplained()]

    def figures(self) -> dict[str, Any]:
        """Return the counts of a report."""
        outcomes = Counter(
            ended.status + (f" ({ended.slug})" if ended.slug else "")
            for found in self.ended.values()
            for ended in found
        )
        messages = [count for ids in self.delivered.values() for count in ids.values()]
        return {
            "faults": dict(sorted(self.faults.items())),
            "predictions": len(self.answers),
            "answered": sum(count == 1 for count in self.answers.values()),
            "refused_with_retry_after": dict(self.refused.most_common()),
            "connections_broken_by_a_kill": dict(self.broken.most_common()),
            "jobs": len(self.accepted),
            "outcomes": dict(outcomes.most_common()),
            "webhooks": len(messages),
            "webhooks_delivered_again": sum(count - 1 for count in messages),
        }

    def _unanswered(self) -> Iterator[str]:
        for request, count in self.answers.items():
            if count != 1:
                yield f"{request}: {count} answers"

    def _jobs(self) -> Iterator[str]:
        for key, job_id in self.accepted.items():
            found = self.ended.get(job_id, set())
            if len(found) != 1:
                yield f"{key} ({job_id}): {len(found)} outcomes {sorted(found)}"
            if len(self.delivered.get(job_id, ())) != 1:
                yield f"{key} ({job_id}): {len(self.delivered.get(job_id, ()))} webhooks by id"

    def _unexplained(self) -> Iterator[str]:
        """Return broken connections that no kill explains."""
        for began, ended, cause in self._breaks:
            if not any(began - SETTLE_S <= kill <= ended for kill in self._kills):
                yield f"{cause} at {ended - self.began:.1f} s, and nothing was killed"
