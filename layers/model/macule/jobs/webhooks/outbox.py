"""The outbox: a table of undelivered webhooks in the database of the embedded queue.

A process claims a webhook with its `process_lock` token; claims of dead processes are released.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from sqlite3 import Connection
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from macule.jobs import JobOptions
from macule.jobs.webhooks import messages
from macule.observability import metrics

log = logging.getLogger("macule")

MAX_PENDING = 1000


class Delivery(NamedTuple):
    """A claimed webhook; `attempts` counts the failed ones."""

    message_id: str
    url: str
    host: str
    attempts: int
    body: bytes


def create_table(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS outbox (message_id TEXT PRIMARY KEY, url TEXT, host TEXT, "
        "attempts INTEGER DEFAULT 0, due_at REAL, owner TEXT DEFAULT '', body BLOB)"
    )


def add(
    connection: Connection, options: JobOptions, event: str, document: Mapping[str, Any], now: float
) -> None:
    """Add a webhook for *event* if *options* ask for it.

    Beyond MAX_PENDING, the webhook with the most failed attempts is dropped.
    """
    if not options.webhook or event not in options.events:
        return
    message_id, body = messages.build_message(event, document, now)
    host = urlsplit(options.webhook).hostname
    connection.execute(
        "INSERT OR IGNORE INTO outbox (message_id, url, host, due_at, body) VALUES (?, ?, ?, ?, ?)",
        (message_id, options.webhook, host, now, body),
    )
    dropped = connection.execute(
        "DELETE FROM outbox WHERE message_id IN (SELECT message_id FROM outbox "
        "ORDER BY attempts, due_at LIMIT -1 OFFSET ?) RETURNING host",
        (MAX_PENDING,),
    ).fetchall()
    for (host,) in dropped:
        facts = {"event": "webhook_given_up"}
        text = "webhook given up: %s, as more than %d wait"
        log.warning(text, host, MAX_PENDING, extra={"facts": facts})
        metrics.add("macule_webhooks_total", "given_up")


def claim(connection: Connection, token: str, now: float, full: Iterable[str]) -> Delivery | None:
    """Claim a due webhook with the fewest attempts, of a host that is not in *full*.

    A row due later than the longest delay is also taken: the clock has been set back since.
    """
    row = connection.execute(
        "UPDATE outbox SET owner = :token WHERE message_id = (SELECT message_id FROM outbox "
        "WHERE owner = '' AND (due_at <= :now OR due_at > :now + :longest) "
        "AND host NOT IN (SELECT value FROM json_each(:full)) ORDER BY attempts, due_at LIMIT 1) "
        "RETURNING message_id, url, host, attempts, body",
        {"token": token, "now": now, "longest": messages.MAX_DELAY_S, "full": _json(full)},
    ).fetchall()
    return Delivery(*row[0]) if row else None


def next_due(connection: Connection, full: Iterable[str]) -> float | None:
    """Return when the next unclaimed webhook is due; None if there is none."""
    (due_at,) = connection.execute(
        "SELECT min(due_at) FROM outbox WHERE owner = '' "
        "AND host NOT IN (SELECT value FROM json_each(?))",
        (_json(full),),
    ).fetchone()
    return None if due_at is None else float(due_at)


def delete(connection: Connection, message_id: str) -> None:
    connection.execute("DELETE FROM outbox WHERE message_id = ?", (message_id,))


def reschedule(connection: Connection, message_id: str, due_at: float) -> None:
    """Release a failed webhook and make it due at *due_at*."""
    connection.execute(
        "UPDATE outbox SET owner = '', attempts = attempts + 1, due_at = ? WHERE message_id = ?",
        (due_at, message_id),
    )


def release_claims(connection: Connection, is_dead: Callable[[str], bool]) -> None:
    """Release the claims of dead processes."""
    owners = connection.execute("SELECT DISTINCT owner FROM outbox WHERE owner != ''").fetchall()
    for (owner,) in owners:
        if is_dead(owner):
            connection.execute("UPDATE outbox SET owner = '' WHERE owner = ?", (owner,))


def _json(names: Iterable[str]) -> str:
    return json.dumps(list(names))
