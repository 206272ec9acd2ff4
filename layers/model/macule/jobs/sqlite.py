"""The embedded queue: one SQLite file in DATA_DIR, shared by the processes of one machine."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

from macule import jobs, metrics
from macule.errors import (
    JobEnded,
    JobExpired,
    NoSuchJob,
    QueueFull,
    QueueUnavailable,
    WorkerDied,
    document,
)
from macule.jobs import (
    CANCELED,
    DIED,
    FAILED,
    FILE,
    MOST_ATTEMPTS,
    PROCESSING,
    STARTING,
    Job,
    Order,
    alive,
)

MB = 2**20
MOST_BYTES = 256 * MB  # of images that wait
GONE_S = 86400.0  # how long a job that is no longer kept is told from one that never was
LOOK_S = 1.0  # between looks for what has expired
LOCK_S = 5.0  # for another process's transaction, which takes milliseconds
# secure_delete: an image that has been deleted is overwritten, not only forgotten.
SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA secure_delete = ON;
CREATE TABLE IF NOT EXISTS jobs (
    place INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    owner TEXT NOT NULL,
    status TEXT NOT NULL,
    asked TEXT NOT NULL,
    created_at REAL NOT NULL,
    started_at REAL,
    ended_at REAL,
    outcome TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    taker TEXT NOT NULL DEFAULT '',
    key TEXT NOT NULL,
    fingerprint TEXT NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS by_key ON jobs (owner, key) WHERE key <> '';
CREATE INDEX IF NOT EXISTS by_status ON jobs (status, place);
CREATE TABLE IF NOT EXISTS images (id TEXT PRIMARY KEY, size INTEGER NOT NULL, content BLOB);
CREATE TABLE IF NOT EXISTS gone (id TEXT PRIMARY KEY, owner TEXT NOT NULL, at REAL NOT NULL);
"""
COLUMNS = "id, status, asked, created_at, started_at, ended_at, outcome, attempts, owner"


Tell = Callable[[sqlite3.Connection, Job], None]


class Taken(NamedTuple):
    """A job to be worked on, and its image."""

    job: Job
    image: bytes


class Sqlite:
    """The queue in *folder*; as `jobs.Queue` has it.

    Args:
      ttl_s: how long an outcome is kept.
      most: jobs that may wait.
      clock: seconds since 1970.
    """

    def __init__(
        self, folder: Path, ttl_s: float, most: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._ttl_s = ttl_s
        self._most = most
        self._clock = clock
        self._lock = RLock()
        self._let_go = False
        self._forgot = 0.0
        self._tell: Tell | None = None
        self._told = self._after = _nothing
        with self._explained():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.token = alive.mark(folder)
            path = folder / FILE
            os.close(os.open(path, os.O_CREAT, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=LOCK_S, isolation_level=None, check_same_thread=False
            )
            self._connection.executescript(SCHEMA)

    def put(self, order: Order, image: bytes, key: str = "", fingerprint: str = "") -> Job:
        self._forget()
        with self._changing() as database:
            before = (
                key
                and database.execute(
                    f"SELECT {COLUMNS}, fingerprint FROM jobs WHERE owner = ? AND key = ?",  # noqa: S608
                    (order.owner, key),
                ).fetchone()
            )
            if before:
                return jobs.known(_job(before[:-1]), before[-1], fingerprint)
            waiting, size = database.execute(
                "SELECT count(*), coalesce(sum(size), 0) FROM images"
            ).fetchone()
            if waiting >= self._most or size + len(image) > MOST_BYTES:
                raise QueueFull("Too many predictions wait here. Try again.", waiting=waiting)
            job = Job(os.urandom(12).hex(), STARTING, order, self._clock())
            database.execute(
                "INSERT INTO jobs (id, owner, status, asked, created_at, key, fingerprint) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    job.id,
                    order.owner,
                    STARTING,
                    jobs.asked(order),
                    job.created_at,
                    key,
                    fingerprint,
                ),
            )
            database.execute("INSERT INTO images VALUES (?, ?, ?)", (job.id, len(image), image))
            return job

    def get(self, job_id: str, owner: str) -> Job:
        self._forget()
        with self._explained(), self._lock:
            return self._find(self._connection, job_id, owner)

    def cancel(self, job_id: str, owner: str) -> Job:
        self._forget()
        with self._changing() as database:
            job = self._find(database, job_id, owner)
            if job.ended:
                raise JobEnded(f"The prediction has {job.status}; nothing is left to cancel.")
            return self._end(database, job, CANCELED, None)

    def take(self) -> Taken | None:
        """Take the job that has waited longest; nobody else gets it while this process lives.

        One whose worker died is taken again, until it has been taken MOST_ATTEMPTS times.
        """
        with self._changing() as database:
            self._free(database)
            row = database.execute(
                f"UPDATE jobs SET status = ?, taker = ?, attempts = attempts + 1, "  # noqa: S608
                "started_at = coalesce(started_at, ?) WHERE place = "
                "(SELECT place FROM jobs WHERE status = ? ORDER BY place LIMIT 1) "
                f"RETURNING {COLUMNS}",
                (PROCESSING, self.token, self._clock(), STARTING),
            ).fetchone()
            if row is None:
                return None
            job = _job(row)
            if job.attempts == 1:
                self._changed(database, job)
            (image,) = database.execute(
                "SELECT content FROM images WHERE id = ?", (job.id,)
            ).fetchone()
            return Taken(job, image)

    def give_back(self, job_id: str) -> None:
        """Let a taken job wait again; that does not count as an attempt."""
        with self._changing() as database:
            database.execute(
                "UPDATE jobs SET status = ?, taker = '', attempts = attempts - 1 "
                "WHERE id = ? AND status = ? AND taker = ?",
                (STARTING, job_id, PROCESSING, self.token),
            )

    def finish(self, job_id: str, status: str, outcome: Mapping[str, Any]) -> bool:
        with self._changing() as database:
            row = database.execute(
                f"SELECT {COLUMNS} FROM jobs WHERE id = ? AND status = ? AND taker = ?",  # noqa: S608
                (job_id, PROCESSING, self.token),
            ).fetchone()
            if row is None:
                return False
            self._end(database, _job(row), status, outcome)
            return True

    def waiting(self) -> int:
        with self._explained(), self._lock:
            (count,) = self._connection.execute("SELECT count(*) FROM images").fetchone()
            return int(count)

    def undelivered(self) -> int:
        with self._explained(), self._lock:
            if self._tell is None:  # there is no outbox
                return 0
            (count,) = self._connection.execute("SELECT count(*) FROM outbox").fetchone()
            return int(count)

    def on_change(self, tell: Tell, told: Callable[[], None]) -> None:
        """Call *tell* in the transaction in which a job begins or ends, *told* after it."""
        self._tell, self._told = tell, told

    def connect(self) -> sqlite3.Connection:
        """Open the file once more, for another thread."""
        return sqlite3.connect(self._folder / FILE, timeout=LOCK_S)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _find(self, database: sqlite3.Connection, job_id: str, owner: str) -> Job:
        row = database.execute(
            f"SELECT {COLUMNS} FROM jobs WHERE id = ? AND owner = ?",  # noqa: S608
            (job_id, owner),
        ).fetchone()
        if row:
            return _job(row)
        if database.execute(
            "SELECT 1 FROM gone WHERE id = ? AND owner = ?", (job_id, owner)
        ).fetchone():
            raise JobExpired("The prediction has ended, and is no longer kept.")
        raise NoSuchJob("There is no prediction of that id.")

    def _end(
        self,
        database: sqlite3.Connection,
        job: Job,
        status: str,
        outcome: Mapping[str, Any] | None,
    ) -> Job:
        """Write an end, and let the image go."""
        ended = job._replace(status=status, ended_at=self._clock(), outcome=outcome)
        text = None if outcome is None else json.dumps(outcome, ensure_ascii=False)
        database.execute(
            "UPDATE jobs SET status = ?, ended_at = ?, outcome = ?, taker = '' WHERE id = ?",
            (status, ended.ended_at, text, job.id),
        )
        database.execute("DELETE FROM images WHERE id = ?", (job.id,))
        self._let_go = True
        self._changed(database, ended)
        return ended

    def _changed(self, database: sqlite3.Connection, job: Job) -> None:
        if self._tell:
            self._tell(database, job)
            self._after = self._told

    def _free(self, database: sqlite3.Connection) -> None:
        """Let the jobs of dead processes wait again, but for those that were tried too often."""
        takers = database.execute(
            "SELECT DISTINCT taker FROM jobs WHERE status = ? AND taker <> ?",
            (PROCESSING, self.token),
        ).fetchall()
        for (taker,) in takers:
            if not alive.dead(self._folder, taker):
                continue
            rows = database.execute(
                f"SELECT {COLUMNS} FROM jobs WHERE status = ? AND taker = ?",  # noqa: S608
                (PROCESSING, taker),
            ).fetchall()
            for job in map(_job, rows):
                if job.attempts < MOST_ATTEMPTS:
                    database.execute(
                        "UPDATE jobs SET status = ?, taker = '' WHERE id = ?", (STARTING, job.id)
                    )
                else:
                    died = WorkerDied(DIED)
                    self._end(database, job, FAILED, document(died))
                    metrics.add("macule_jobs_total", FAILED, died.slug)

    def _forget(self) -> None:
        """Let go of outcomes that were kept for their time."""
        now = self._clock()
        if abs(now - self._forgot) < LOOK_S:
            return
        self._forgot = now
        with self._changing() as database:
            database.execute(
                "INSERT OR REPLACE INTO gone SELECT id, owner, ? FROM jobs WHERE ended_at < ?",
                (now, now - self._ttl_s),
            )
            database.execute("DELETE FROM jobs WHERE ended_at < ?", (now - self._ttl_s,))
            database.execute("DELETE FROM gone WHERE at < ?", (now - GONE_S,))

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        """Hold the database for one transaction: all of it happens, or nothing."""
        with self._explained(), self._lock:
            database = self._connection
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                self._after = _nothing
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
            self._after()
            self._after = _nothing
            if self._let_go:  # of images: what the log has of them is written over
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._let_go = False

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            why = "is full" if "full" in str(error) else "cannot be used"
            raise QueueUnavailable(f"The disk that keeps predictions {why} (DATA_DIR).") from error


def _nothing() -> None:
    pass


def _job(row: tuple[Any, ...]) -> Job:
    job_id, status, asked, created_at, started_at, ended_at, outcome, attempts, owner = row
    order = jobs.ordered(asked, owner)
    kept = None if outcome is None else json.loads(outcome)
    return Job(job_id, status, order, created_at, started_at, ended_at, kept, attempts)
