"""Deletion of outcomes after their time to live, and of the ids remembered afterwards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from macule.errors import QueueUnavailable
from macule.jobs.embedded.database import Database

ID_TTL_S = 86400.0  # so long the id of a deleted job gets JobExpired instead of NoSuchJob
CLEANUP_INTERVAL_S = 1.0  # at least, between two deletions
MAX_IDS = 10_000  # of deleted jobs; a row takes 150 bytes
MAX_AT_ONCE = 200  # outcomes; the caller waits for their deletion


class Expiry:
    """Deletes the outcomes in *database* that ended more than *ttl_s* ago."""

    def __init__(self, database: Database, ttl_s: float, clock: Callable[[], float]) -> None:
        self._database = database
        self._ttl_s = ttl_s
        self._clock = clock
        self._last_run = 0.0

    def run(self) -> None:
        """Delete expired outcomes, at most once per CLEANUP_INTERVAL_S."""
        now = self._clock()
        if abs(now - self._last_run) < CLEANUP_INTERVAL_S:
            return
        self._last_run = now
        with suppress(QueueUnavailable):
            for _ in range(MAX_AT_ONCE):
                if not self._delete_one(now):
                    break

    def _delete_one(self, now: float) -> bool:
        """Delete one outcome: a transaction each, as the log grows and the disk may be full."""
        with self._database.transaction() as db:
            row = db.execute(
                "DELETE FROM jobs WHERE place = (SELECT place FROM jobs WHERE ended_at < ? LIMIT 1)"
                " RETURNING id, owner",
                (now - self._ttl_s,),
            ).fetchone()
            if row:
                db.execute("INSERT OR REPLACE INTO gone VALUES (?, ?, ?)", (*row, now))
            db.execute(
                "DELETE FROM gone WHERE at < ? OR rowid <= (SELECT max(rowid) FROM gone) - ?",
                (now - ID_TTL_S, MAX_IDS),
            )
            return row is not None
