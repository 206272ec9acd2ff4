"""The embedded queue: one SQLite file in DATA_DIR, shared by the processes of one machine."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from macule import errors, jobs
from macule.jobs import Job, JobOptions, Usage, process_lock
from macule.jobs.embedded.database import CLEANUP_INTERVAL_S, MAX_FREE_PAGES, Database, Expiry
from macule.jobs.embedded.disk_space import DiskSpace
from macule.observability import metrics

COLUMNS = "id, status, asked, created_at, started_at, ended_at, outcome, attempts, owner"

OnChange = Callable[[sqlite3.Connection, Job], None]


class Taken(NamedTuple):
    """A job to run, and its image."""

    job: Job
    image: bytes


class SqliteQueue:
    """The queue in *folder*; implements `jobs.Queue`.

    Args:
      ttl_s: how long an outcome is stored.
      max_jobs: jobs that may wait.
      max_bytes: of images, outcomes and webhooks together.
      labels: returns the number of the model's labels, if known.
      clock: seconds since 1970.
    """

    def __init__(
        self,
        folder: Path,
        ttl_s: float,
        max_jobs: int,
        clock: Callable[[], float] = time.time,
        max_bytes: int = 256 * jobs.MB,
        labels: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._ttl_s = ttl_s
        self._max_jobs = max_jobs
        self._clock = clock
        self._labels = labels
        self._max_bytes = max_bytes
        self._space = DiskSpace(folder, max_bytes)
        self._database = Database(folder, self._space)
        self._expiry = Expiry(self._database, ttl_s, clock)
        self.token = self._database.token
        self._compacted_at = 0.0
        self._on_change: OnChange | None = None
        self._after_change: Callable[[], None] = lambda: None

    def put(self, options: JobOptions, image: bytes, key: str = "", fingerprint: str = "") -> Job:
        self._expiry.run()
        try:
            return self._put(options, image, key, fingerprint)
        except errors.QueueUnavailable as error:
            now = self._clock()
            if not error.figures or abs(now - self._compacted_at) < CLEANUP_INTERVAL_S:
                raise
            self._compacted_at = now
            self.compact(max_free_pages=0)
            return self._put(options, image, key, fingerprint)

    def _put(self, options: JobOptions, image: bytes, key: str, fingerprint: str) -> Job:
        with self.transaction() as db:
            known = f"SELECT {COLUMNS}, fingerprint FROM jobs WHERE owner = ? AND key = ?"  # noqa: S608
            previous = key and db.execute(known, (options.owner, key)).fetchone()
            if previous:
                return jobs.existing_job(_job(previous[:-1]), previous[-1], fingerprint)
            reserved = jobs.reserved_bytes(options, self._labels())
            size = len(image) + sum(reserved.values())
            self._admit(db, size)
            job = Job(os.urandom(12).hex(), jobs.STARTING, options, self._clock())
            asked = jobs.serialize_options(options)
            db.execute(
                "INSERT INTO jobs (id, owner, status, asked, created_at, key, fingerprint) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (job.id, options.owner, job.status, asked, job.created_at, key, fingerprint),
            )
            db.execute("INSERT INTO images VALUES (?, ?, ?)", (job.id, size, image))
            db.executemany(
                "INSERT INTO reserved VALUES (?, ?, zeroblob(?))",
                [(job.id, event, length) for event, length in reserved.items()],
            )
            return job

    def get(self, job_id: str, owner: str) -> Job:
        self._expiry.run()
        with self._database.reading() as db:
            return self._find(db, job_id, owner)

    def cancel(self, job_id: str, owner: str) -> Job:
        self._expiry.run()
        with self.transaction() as db:
            job = self._find(db, job_id, owner)
            if job.ended:
                raise jobs.already_ended(job)
            return self._end(db, job, jobs.CANCELED, None)

    def take(self) -> Taken | None:
        """Take the oldest waiting job; no other process can take it while this one lives.

        A job whose worker died is taken again, at most MAX_ATTEMPTS times in all.
        """
        with self.transaction() as db:
            self._release_dead(db)
            row = db.execute(
                f"UPDATE jobs SET status = ?, taker = ?, attempts = attempts + 1, "  # noqa: S608
                "started_at = coalesce(started_at, ?) WHERE place = "
                "(SELECT place FROM jobs WHERE status = ? ORDER BY place LIMIT 1) "
                f"RETURNING {COLUMNS}",
                (jobs.PROCESSING, self.token, self._clock(), jobs.STARTING),
            ).fetchone()
            if row is None:
                return None
            job = _job(row)
            if job.attempts == 1:
                started = job.id, jobs.STARTED_EVENT
                db.execute("DELETE FROM reserved WHERE id = ? AND event = ?", started)
                self._changed(db, job)
            (image,) = db.execute("SELECT content FROM images WHERE id = ?", (job.id,)).fetchone()
            return Taken(job, image)

    def requeue(self, job_id: str) -> None:
        """Put a taken job back; this does not count as an attempt."""
        with self.transaction() as db:
            db.execute(
                "UPDATE jobs SET status = ?, taker = '', attempts = attempts - 1 "
                "WHERE id = ? AND status = ? AND taker = ?",
                (jobs.STARTING, job_id, jobs.PROCESSING, self.token),
            )

    def finish(self, job_id: str, status: str, outcome: Mapping[str, Any]) -> bool:
        with self.transaction() as db:
            row = db.execute(
                f"SELECT {COLUMNS} FROM jobs WHERE id = ? AND status = ? AND taker = ?",  # noqa: S608
                (job_id, jobs.PROCESSING, self.token),
            ).fetchone()
            if row is None:
                return False
            self._end(db, _job(row), status, outcome)
            return True

    def waiting(self) -> int:
        with self._database.reading() as db:
            (count,) = db.execute("SELECT count(*) FROM images").fetchone()
            return int(count)

    def undelivered(self) -> int:
        if self._on_change is None:  # there is no outbox
            return 0
        with self._database.reading() as db:
            (count,) = db.execute("SELECT count(*) FROM outbox").fetchone()
            return int(count)

    def usage(self) -> Usage:
        with self._database.reading() as db:
            return Usage(self._space.used_bytes(db), self._max_bytes)

    def compact(self, max_free_pages: int = MAX_FREE_PAGES) -> None:
        self._database.compact(max_free_pages)

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return self._database.transaction()

    def on_change(self, action: OnChange, after_commit: Callable[[], None]) -> None:
        """Call *action* in each transaction that starts or ends a job, then *after_commit*."""
        self._on_change, self._after_change = action, after_commit

    def close(self) -> None:
        self._database.close()

    def _find(self, db: sqlite3.Connection, job_id: str, owner: str) -> Job:
        row = db.execute(
            f"SELECT {COLUMNS} FROM jobs WHERE id = ? AND owner = ?",  # noqa: S608
            (job_id, owner),
        ).fetchone()
        if row:
            return _job(row)
        gone = db.execute("SELECT 1 FROM gone WHERE id = ? AND owner = ?", (job_id, owner))
        raise jobs.missing(was_deleted=gone.fetchone() is not None)

    def _end(
        self, db: sqlite3.Connection, job: Job, status: str, outcome: Mapping[str, Any] | None
    ) -> Job:
        """Delete the image and write the outcome into the space that it used."""
        ended = job._replace(status=status, ended_at=self._clock(), outcome=outcome)
        db.execute("DELETE FROM images WHERE id = ?", (job.id,))
        db.execute("DELETE FROM reserved WHERE id = ?", (job.id,))
        text = None if outcome is None else json.dumps(outcome, ensure_ascii=False)
        db.execute(
            "UPDATE jobs SET status = ?, ended_at = ?, outcome = ?, taker = '' WHERE id = ?",
            (status, ended.ended_at, text, job.id),
        )
        self._database.request_checkpoint()
        if not db.execute("SELECT 1 FROM images LIMIT 1").fetchone():
            self._space.shrink_reserve()
        self._changed(db, ended)
        return ended

    def _admit(self, db: sqlite3.Connection, size: int) -> None:
        """Check that there is space for a job of *size* bytes.

        Raises: QueueFull, QueueUnavailable, CannotFit.
        """
        counted = db.execute("SELECT count(*), coalesce(max(size), 0) FROM images")
        waiting, largest = counted.fetchone()
        if waiting >= self._max_jobs:
            raise jobs.too_many_jobs(waiting)
        try:
            self._space.admit(db, size, largest, waiting)
        except errors.QueueFull as full:
            oldest = db.execute(
                "SELECT ended_at FROM jobs WHERE status = ? ORDER BY place LIMIT 1",
                (jobs.SUCCEEDED,),
            ).fetchone()
            if oldest and not waiting:  # then stored outcomes take the space
                left_s = oldest[0] + self._ttl_s - self._clock()
                full.retry_after_s = max(full.retry_after_s, ceil(left_s))
            raise

    def _changed(self, db: sqlite3.Connection, job: Job) -> None:
        if self._on_change:
            self._on_change(db, job)
            self._database.after_commit(self._after_change)

    def _release_dead(self, db: sqlite3.Connection) -> None:
        """Requeue the jobs of dead processes; fail those with MAX_ATTEMPTS attempts."""
        takers = db.execute(
            "SELECT DISTINCT taker FROM jobs WHERE status = ? AND taker <> ?",
            (jobs.PROCESSING, self.token),
        ).fetchall()
        for (taker,) in takers:
            if not process_lock.is_dead(self._folder, taker):
                continue
            rows = db.execute(
                f"SELECT {COLUMNS} FROM jobs WHERE status = ? AND taker = ?",  # noqa: S608
                (jobs.PROCESSING, taker),
            ).fetchall()
            for job in map(_job, rows):
                if job.attempts < jobs.MAX_ATTEMPTS:
                    db.execute(
                        "UPDATE jobs SET status = ?, taker = '' WHERE id = ?",
                        (jobs.STARTING, job.id),
                    )
                else:
                    died = errors.WorkerDied(jobs.WORKER_DIED)
                    self._end(db, job, jobs.FAILED, errors.problem_document(died))
                    metrics.add("macule_jobs_total", jobs.FAILED, died.slug)


def _job(row: tuple[Any, ...]) -> Job:
    job_id, status, asked, created_at, started_at, ended_at, outcome, attempts, owner = row
    options = jobs.parse_options(asked, owner)
    parsed = None if outcome is None else json.loads(outcome)
    return Job(job_id, status, options, created_at, started_at, ended_at, parsed, attempts)
