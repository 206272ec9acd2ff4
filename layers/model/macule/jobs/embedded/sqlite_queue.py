"""The embedded queue: one SQLite file in DATA_DIR, shared by the processes of one machine."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from math import ceil
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

from macule import jobs
from macule.errors import (
    JobEnded,
    JobExpired,
    NoSuchJob,
    QueueFull,
    QueueUnavailable,
    WorkerDied,
    problem_document,
)
from macule.jobs import (
    CANCELED,
    DIED,
    FAILED,
    FILE,
    MOST_ATTEMPTS,
    PROCESSING,
    STARTED_EVENT,
    STARTING,
    SUCCEEDED,
    Held,
    Job,
    Order,
    process_lock,
)
from macule.jobs.embedded.disk_space import Space
from macule.observability import metrics

MB = 2**20
GONE_S = 86400.0  # how long a job that is no longer kept is told from one that never was
LOOK_S = 1.0  # between looks for what has expired
MOST_GONE = 10_000  # of those, as a row takes 150 bytes
LOCK_S = 5.0  # for another process's transaction, which takes milliseconds
MOST_FORGOTTEN = 200  # outcomes at once; whoever asked waits for that
KEPT_PAGES = 1024  # 4 MB that the file keeps for the next jobs, while the disk has room
STEP_PAGES = 128  # given back to the disk at once; the log may take as many
# secure_delete: an image that has been deleted is overwritten, not only forgotten.
# reserved: zeros, as long as the end of a job may be; they are deleted just before it is written,
# so that the file does not grow by it.
SCHEMA = """
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA secure_delete = ON;
PRAGMA wal_autocheckpoint = 0;
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
CREATE TABLE IF NOT EXISTS reserved (id TEXT NOT NULL, event TEXT NOT NULL, room BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS by_id ON reserved (id);
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
      most_bytes: of all that is kept, outcomes too.
      labels: how many the model has, as far as that is known.
      clock: seconds since 1970.
    """

    def __init__(
        self,
        folder: Path,
        ttl_s: float,
        most: int,
        clock: Callable[[], float] = time.time,
        most_bytes: int = 256 * MB,
        labels: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._folder = folder
        self._ttl_s = ttl_s
        self._most = most
        self._clock = clock
        self._lock = RLock()
        self._labels = labels
        self._most_bytes = most_bytes
        self._space = Space(folder, most_bytes)
        self._logged = False  # the log has what should not stay there
        self._forgot = self._compacted = 0.0
        self._tell: Tell | None = None
        self._told = self._after = _nothing
        with self._explained():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._space.make_way()  # opening the file takes space too
            path = folder / FILE
            os.close(os.open(path, os.O_CREAT, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=LOCK_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._connection.executescript(SCHEMA)
                self.token = process_lock.mark(folder)
            except BaseException:
                self._connection.close()
                raise

    def put(self, order: Order, image: bytes, key: str = "", fingerprint: str = "") -> Job:
        self._forget()
        try:
            return self._put(order, image, key, fingerprint)
        except QueueUnavailable as short:
            now = self._clock()
            if not short.figures or abs(now - self._compacted) < LOOK_S:
                raise
            self._compacted = now
            self.compact(kept_pages=0)
            return self._put(order, image, key, fingerprint)

    def _put(self, order: Order, image: bytes, key: str, fingerprint: str) -> Job:
        with self.changing() as database:
            before = (
                key
                and database.execute(
                    f"SELECT {COLUMNS}, fingerprint FROM jobs WHERE owner = ? AND key = ?",  # noqa: S608
                    (order.owner, key),
                ).fetchone()
            )
            if before:
                return jobs.known(_job(before[:-1]), before[-1], fingerprint)
            rooms = jobs.rooms(order, self._labels())
            size = len(image) + sum(rooms.values())
            self._admit(database, size)
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
            database.execute("INSERT INTO images VALUES (?, ?, ?)", (job.id, size, image))
            database.executemany(
                "INSERT INTO reserved VALUES (?, ?, zeroblob(?))",
                [(job.id, event, room) for event, room in rooms.items()],
            )
            return job

    def get(self, job_id: str, owner: str) -> Job:
        self._forget()
        with self._explained(), self._lock:
            return self._find(self._connection, job_id, owner)

    def cancel(self, job_id: str, owner: str) -> Job:
        self._forget()
        with self.changing() as database:
            job = self._find(database, job_id, owner)
            if job.ended:
                raise JobEnded(f"The prediction has {job.status}; nothing is left to cancel.")
            return self._end(database, job, CANCELED, None)

    def take(self) -> Taken | None:
        """Take the job that has waited longest; nobody else gets it while this process lives.

        One whose worker died is taken again, until it has been taken MOST_ATTEMPTS times.
        """
        with self.changing() as database:
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
                database.execute(
                    "DELETE FROM reserved WHERE id = ? AND event = ?", (job.id, STARTED_EVENT)
                )
                self._changed(database, job)
            (image,) = database.execute(
                "SELECT content FROM images WHERE id = ?", (job.id,)
            ).fetchone()
            return Taken(job, image)

    def give_back(self, job_id: str) -> None:
        """Let a taken job wait again; that does not count as an attempt."""
        with self.changing() as database:
            database.execute(
                "UPDATE jobs SET status = ?, taker = '', attempts = attempts - 1 "
                "WHERE id = ? AND status = ? AND taker = ?",
                (STARTING, job_id, PROCESSING, self.token),
            )

    def finish(self, job_id: str, status: str, outcome: Mapping[str, Any]) -> bool:
        with self.changing() as database:
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

    def held(self) -> Held:
        with self._explained(), self._lock:
            return Held(self._space.held(self._connection), self._most_bytes)

    def compact(self, kept_pages: int = KEPT_PAGES) -> None:
        """Give empty pages of the file back to the disk, a few at a time."""
        with suppress(QueueUnavailable):
            while self._compact(kept_pages):
                pass

    def on_change(self, tell: Tell, told: Callable[[], None]) -> None:
        """Call *tell* in the transaction in which a job begins or ends, *told* after it."""
        self._tell, self._told = tell, told

    @contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """Hold the database for one transaction: all of it happens, or nothing.

        Where the disk is full it may take the reserve.
        Raises: QueueUnavailable.
        """
        with self._explained(), self._lock:
            database = self._connection
            database.execute("BEGIN IMMEDIATE")
            try:
                self._space.make_way()
                yield database
                database.execute("COMMIT")
            except BaseException:
                self._after = _nothing
                if database.in_transaction:  # SQLite may have ended it itself, as the disk is full
                    database.execute("ROLLBACK")
                raise
            finally:
                self._settle(database)
            self._after()
            self._after = _nothing

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
        """Let the image go, and write an end where it was."""
        ended = job._replace(status=status, ended_at=self._clock(), outcome=outcome)
        database.execute("DELETE FROM images WHERE id = ?", (job.id,))
        database.execute("DELETE FROM reserved WHERE id = ?", (job.id,))
        text = None if outcome is None else json.dumps(outcome, ensure_ascii=False)
        database.execute(
            "UPDATE jobs SET status = ?, ended_at = ?, outcome = ?, taker = '' WHERE id = ?",
            (status, ended.ended_at, text, job.id),
        )
        self._logged = True
        if not database.execute("SELECT 1 FROM images LIMIT 1").fetchone():
            self._space.shrink()
        self._changed(database, ended)
        return ended

    def _admit(self, database: sqlite3.Connection, size: int) -> None:
        """Raises: QueueFull, QueueUnavailable, CannotFit, where a job of *size* is one too many."""
        waiting, largest = database.execute(
            "SELECT count(*), coalesce(max(size), 0) FROM images"
        ).fetchone()
        if waiting >= self._most:
            raise QueueFull("Too many predictions wait here. Try again.", waiting=waiting)
        try:
            self._space.admit(database, size, largest, waiting)
        except QueueFull as full:
            oldest = database.execute(
                "SELECT ended_at FROM jobs WHERE status = ? ORDER BY place LIMIT 1", (SUCCEEDED,)
            ).fetchone()
            if oldest and not waiting:  # then it is outcomes that take the space
                left_s = oldest[0] + self._ttl_s - self._clock()
                full.retry_after_s = max(full.retry_after_s, ceil(left_s))
            raise

    def _compact(self, kept_pages: int) -> bool:
        """Give back some pages; return whether there may be more."""
        with self.changing() as database:
            (free,) = database.execute("PRAGMA freelist_count").fetchone()
            (mode,) = database.execute("PRAGMA auto_vacuum").fetchone()
            if free <= kept_pages or mode != 2:
                return False
            database.execute(f"PRAGMA incremental_vacuum({STEP_PAGES})").fetchall()
            self._logged |= free - STEP_PAGES <= kept_pages  # the file is cut as the log is emptied
            return True

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
            if not process_lock.dead(self._folder, taker):
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
                    self._end(database, job, FAILED, problem_document(died))
                    metrics.add("macule_jobs_total", FAILED, died.slug)

    def _forget(self) -> None:
        """Let go of outcomes that were kept for their time."""
        now = self._clock()
        if abs(now - self._forgot) < LOOK_S:
            return
        self._forgot = now
        with suppress(QueueUnavailable):
            for _ in range(MOST_FORGOTTEN):
                if not self._forget_one(now):
                    break

    def _forget_one(self, now: float) -> bool:
        """Let go of one outcome: the log has all that is overwritten, and the disk may be full."""
        with self.changing() as database:
            row = database.execute(
                "DELETE FROM jobs WHERE place = (SELECT place FROM jobs WHERE ended_at < ? LIMIT 1)"
                " RETURNING id, owner",
                (now - self._ttl_s,),
            ).fetchone()
            if row:
                database.execute("INSERT OR REPLACE INTO gone VALUES (?, ?, ?)", (*row, now))
            database.execute(
                "DELETE FROM gone WHERE at < ? OR rowid <= (SELECT max(rowid) FROM gone) - ?",
                (now - GONE_S, MOST_GONE),
            )
            return row is not None

    def _settle(self, database: sqlite3.Connection) -> None:
        """Empty the log of images, and of what it took the reserve for; later if not now."""
        with suppress(sqlite3.Error, OSError):
            if self._logged or self._space.lent() or self._space.logged():
                (busy, _, _) = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                self._logged = bool(busy)
            if self._space.lent():
                (largest,) = database.execute(
                    "SELECT coalesce(max(size), 0) FROM images"
                ).fetchone()
                self._space.restore(largest)

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
