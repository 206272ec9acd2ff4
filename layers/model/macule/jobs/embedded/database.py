"""The SQLite database of the embedded queue: schema, transactions, space, expiry of outcomes."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock

from macule.errors import QueueUnavailable
from macule.jobs import DATABASE_FILE, process_lock
from macule.jobs.embedded.disk_space import DiskSpace

LOCK_TIMEOUT_S = 5.0  # for another process's transaction, which takes milliseconds
MAX_FREE_PAGES = 1024  # 4 MB that the file keeps for new jobs, while the disk has space
VACUUM_PAGES = 128  # freed at once; the log may take as many
ID_TTL_S = 86400.0  # so long the id of a deleted job gets JobExpired instead of NoSuchJob
CLEANUP_INTERVAL_S = 1.0  # at least, between two deletions
MAX_IDS = 10_000  # of deleted jobs; a row takes 150 bytes
MAX_AT_ONCE = 200  # outcomes; the caller waits for their deletion
# secure_delete: a deleted image is overwritten.
# reserved: zeros, as long as the outcome of a job may be; they are deleted just before it is
# written, so that the file does not grow.
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


class Database:
    """One connection to the queue's file in *folder*, shared by the threads of this process.

    `token` identifies this process, as in `process_lock`.
    """

    def __init__(self, folder: Path, space: DiskSpace) -> None:
        self._space = space
        self._lock = RLock()
        self._needs_checkpoint = False  # the log holds deleted images
        self._after_commit = _nothing
        with _explained():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._space.release_reserve()  # opening the file takes space too
            path = folder / DATABASE_FILE
            os.close(os.open(path, os.O_CREAT, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=LOCK_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._connection.executescript(SCHEMA)
                self.token = process_lock.acquire(folder)
            except BaseException:
                self._connection.close()
                raise

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection, outside a transaction.

        Raises: QueueUnavailable.
        """
        with _explained(), self._lock:
            yield self._connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection in a transaction; commit at the end, roll back on an error.

        If the disk is full, the transaction may use the reserve.
        Raises: QueueUnavailable.
        """
        with _explained(), self._lock:
            db = self._connection
            db.execute("BEGIN IMMEDIATE")
            try:
                self._space.release_reserve()
                yield db
                db.execute("COMMIT")
            except BaseException:
                self._after_commit = _nothing
                if db.in_transaction:  # SQLite itself rolls back if the disk is full
                    db.execute("ROLLBACK")
                raise
            finally:
                self._checkpoint()
            self._after_commit()
            self._after_commit = _nothing

    def after_commit(self, action: Callable[[], None]) -> None:
        """Call *action* after the commit of the current transaction."""
        self._after_commit = action

    def request_checkpoint(self) -> None:
        """Checkpoint after the current transaction, because it deletes an image."""
        self._needs_checkpoint = True

    def compact(self, max_free_pages: int = MAX_FREE_PAGES) -> None:
        """Return free pages of the file to the disk, a few per transaction."""
        with suppress(QueueUnavailable):
            while self._vacuum(max_free_pages):
                pass

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _vacuum(self, max_free_pages: int) -> bool:
        """Return some free pages to the disk; return whether there may be more."""
        with self.transaction() as db:
            (free,) = db.execute("PRAGMA freelist_count").fetchone()
            (mode,) = db.execute("PRAGMA auto_vacuum").fetchone()
            if free <= max_free_pages or mode != 2:
                return False
            db.execute(f"PRAGMA incremental_vacuum({VACUUM_PAGES})").fetchall()
            # the file is truncated when the log is checkpointed
            self._needs_checkpoint |= free - VACUUM_PAGES <= max_free_pages
            return True

    def _checkpoint(self) -> None:
        """Empty the log if it holds images or is long, then allocate a released reserve again.

        What fails now is tried again after the next transaction.
        """
        with suppress(sqlite3.Error, OSError):
            db, released = self._connection, self._space.reserve_released()
            if self._needs_checkpoint or released or self._space.log_is_long():
                (busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                self._needs_checkpoint = bool(busy)
            if released:
                (size,) = db.execute("SELECT coalesce(max(size), 0) FROM images").fetchone()
                self._space.restore_reserve(size)


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


@contextmanager
def _explained() -> Iterator[None]:
    """Turn errors of SQLite and the disk into QueueUnavailable."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        why = "is full" if "full" in str(error) else "cannot be used"
        raise QueueUnavailable(f"The disk of the queue {why} (DATA_DIR).") from error


def _nothing() -> None:
    pass
