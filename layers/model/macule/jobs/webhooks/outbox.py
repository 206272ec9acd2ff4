"""Webhooks that wait to be delivered, in a table beside the jobs; a row lives until that is over.

Whoever wants to send one claims it by its token of `alive`; what the dead claimed is free again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from sqlite3 import Connection
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from macule.jobs import Order
from macule.jobs.webhooks import messages
from macule.observability import metrics

log = logging.getLogger("macule")

MOST_PENDING = 1000


class Delivery(NamedTuple):
    """A message on its way; `attempts` are those that failed."""

    message_id: str
    url: str
    host: str
    attempts: int
    body: bytes


def create(connection: Connection) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS outbox (message_id TEXT PRIMARY KEY, url TEXT, host TEXT, "
        "attempts INTEGER DEFAULT 0, due_at REAL, owner TEXT DEFAULT '', body BLOB)"
    )


def add(
    connection: Connection, order: Order, event: str, document: Mapping[str, Any], now: float
) -> None:
    """Let *order*'s webhook be told of *event* if it asked for that, once the transaction commits.

    Of more than MOST_PENDING, the one that failed most often makes room.
    """
    if not order.webhook or event not in order.events:
        return
    message_id, body = messages.message(event, document, now)
    host = urlsplit(order.webhook).hostname
    connection.execute(
        "INSERT OR IGNORE INTO outbox (message_id, url, host, due_at, body) VALUES (?, ?, ?, ?, ?)",
        (message_id, order.webhook, host, now, body),
    )
    dropped = connection.execute(
        "DELETE FROM outbox WHERE message_id IN (SELECT message_id FROM outbox "
        "ORDER BY attempts, due_at LIMIT -1 OFFSET ?) RETURNING host",
        (MOST_PENDING,),
    ).fetchall()
    for (host,) in dropped:
        facts = {"event": "webhook_given_up"}
        said = "webhook given up: %s, as more than %d wait"
        log.warning(said, host, MOST_PENDING, extra={"facts": facts})
        metrics.add("macule_webhooks_total", "given_up")


def claim(connection: Connection, token: str, now: float, full: Iterable[str]) -> Delivery | None:
    """Take what is due, the least often tried first, of a host that is not *full*.

    What is due beyond the longest pause was put there by a clock that has gone back since.
    """
    row = connection.execute(
        "UPDATE outbox SET owner = :token WHERE message_id = (SELECT message_id FROM outbox "
        "WHERE owner = '' AND (due_at <= :now OR due_at > :now + :longest) "
        "AND host NOT IN (SELECT value FROM json_each(:full)) ORDER BY attempts, due_at LIMIT 1) "
        "RETURNING message_id, url, host, attempts, body",
        {"token": token, "now": now, "longest": messages.LONGEST_S, "full": _json(full)},
    ).fetchall()
    return Delivery(*row[0]) if row else None


def next_due(connection: Connection, full: Iterable[str]) -> float | None:
    """Return when something is due that nobody has claimed."""
    (due_at,) = connection.execute(
        "SELECT min(due_at) FROM outbox WHERE owner = '' "
        "AND host NOT IN (SELECT value FROM json_each(?))",
        (_json(full),),
    ).fetchone()
    return None if due_at is None else float(due_at)


def done(connection: Connection, message_id: str) -> None:
    """Drop what was delivered, or never will be."""
    connection.execute("DELETE FROM outbox WHERE message_id = ?", (message_id,))


def later(connection: Connection, message_id: str, due_at: float) -> None:
    """Let go of what failed, until then."""
    connection.execute(
        "UPDATE outbox SET owner = '', attempts = attempts + 1, due_at = ? WHERE message_id = ?",
        (due_at, message_id),
    )


def free(connection: Connection, dead: Callable[[str], bool]) -> None:
    """Free what the dead claimed."""
    owners = connection.execute("SELECT DISTINCT owner FROM outbox WHERE owner != ''").fetchall()
    for (owner,) in owners:
        if dead(owner):
            connection.execute("UPDATE outbox SET owner = '' WHERE owner = ?", (owner,))


def _json(names: Iterable[str]) -> str:
    return json.dumps(list(names))
