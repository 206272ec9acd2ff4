"""Standard Webhooks 1.0.0: what is sent, how it is signed, one attempt to deliver it."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from random import random
from socket import getaddrinfo
from typing import Any, Literal, NamedTuple

from macule.errors import BadRequest
from macule.http import client
from macule.jobs.webhooks import addresses
from macule.observability import metrics
from macule.settings import urls

log = logging.getLogger("macule")

MOST_CHARACTERS = 2000
TIMEOUT_S = 15.0  # of one attempt in all; the standard recommends 15 to 30
PAUSES_S = (5, 30, 120, 600, 1800, 7200, 18000, 36000)  # between attempts: 18 hours in all
JITTER = 0.2
LONGEST_S = PAUSES_S[-1] * (1 + JITTER)  # nothing is ever due later than this


class Outcome(NamedTuple):
    """What came of an attempt; `why` not, for the log; `after_s` is the receiver's Retry-After."""

    state: Literal["delivered", "again", "over"]
    why: str = ""
    after_s: float = 0.0


def check(url: str, loopback: bool) -> str:
    """Return *url* if a caller may name it.

    What its name leads to is checked at each connection; this is for errors that can be told now.
    Raises: BadRequest.
    """
    if len(url) > MOST_CHARACTERS:
        raise BadRequest(
            f"webhook has {len(url):,} characters; at most {MOST_CHARACTERS} are taken."
        )
    parts = urls.split(url)
    if not parts or "#" in url:
        raise BadRequest("webhook is no address such as https://receiver.example/hook.")
    host = parts.hostname or ""
    if "@" in parts.netloc:
        raise BadRequest("webhook has a user name in it; put a secret into its path or query.")
    here = loopback and host in urls.LOOPBACK
    if parts.scheme != "https" and not (here and parts.scheme == "http"):
        raise BadRequest("webhook does not begin with https://.")
    if not here and not _may_be_public(host):
        raise BadRequest("webhook leads to no public address.")
    return url


def message(event: str, document: Mapping[str, Any], now: float) -> tuple[str, bytes]:
    """Write what tells of *event*: the job's *document* as callers see it, without its pictures.

    Returns: the message's id, the same for each job and event, and the body.
    """
    moment = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
    body = {
        "type": event,
        "timestamp": moment.replace("+00:00", "Z"),
        "data": _without_pictures(document),
    }
    message_id = f"msg_{document['id']}_{event.rpartition('.')[2]}"  # a dot would end it, signed
    return message_id, json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def sign(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """Return one signature a secret, so that receivers may change theirs when they like."""
    from base64 import b64decode, b64encode
    from hmac import digest

    content = f"{message_id}.{timestamp}.".encode() + body
    keys = (b64decode(secret.removeprefix("whsec_")) for secret in secrets)
    return " ".join(f"v1,{b64encode(digest(key, content, 'sha256')).decode()}" for key in keys)


def deliver(
    url: str,
    message_id: str,
    body: bytes,
    secrets: Sequence[str],
    loopback: bool,
    timeout_s: float = TIMEOUT_S,
    resolve: addresses.Resolve = getaddrinfo,
) -> Outcome:
    """Try once, for *timeout_s* in all; the status alone counts, an answer's body is not read."""
    timestamp = int(time.time())  # of the attempt: receivers refuse what was signed long ago
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secrets, message_id, timestamp, body),
    }
    connect = addresses.connector(loopback, resolve)
    try:
        reply = client.request(url, timeout_s, "POST", body, headers, connect, with_body=False)
    except addresses.Refused as error:
        return Outcome("over", str(error))
    except client.Unreachable as error:
        return Outcome("again", str(error))
    if 200 <= reply.status < 300:
        return Outcome("delivered")
    why = f"answered {reply.status}"
    if reply.status == 410:
        return Outcome("over", why)
    return Outcome("again", why, _retry_after_s(reply.headers.get("retry-after", "")))


def over(outcome: Outcome, attempts: int, host: str) -> None:
    """Log and count that nothing more is tried; of where it went the *host* alone."""
    if outcome.state == "delivered":
        metrics.add("macule_webhooks_total", "delivered")
        return
    facts = {"event": "webhook_given_up"}
    said = "webhook given up (attempt %d): %s %s"
    log.warning(said, attempts, host, outcome.why, extra={"facts": facts})
    metrics.add("macule_webhooks_total", "given_up")


def pause_s(attempts: int, chance: Callable[[], float] = random) -> float | None:
    """Return how long to wait after so many attempts, with jitter; None when it was the last."""
    if attempts > len(PAUSES_S):
        return None
    return PAUSES_S[attempts - 1] * (1 - JITTER + 2 * JITTER * chance())


def _may_be_public(host: str) -> bool:
    try:
        return addresses.public(host)
    except ValueError:  # a name; those without a dot are this network's own
        return "." in host


def _without_pictures(value: Any) -> Any:
    """Leave out `data:` URIs: a map's overlay shows the photo, and payloads are to be small."""
    if isinstance(value, Mapping):
        return {key: _without_pictures(part) for key, part in value.items() if not _picture(part)}
    if isinstance(value, list | tuple):
        return [_without_pictures(part) for part in value]
    return value


def _picture(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("data:")


def _retry_after_s(text: str) -> float:
    """Read seconds or a date, at most the longest pause; 0 for anything else."""
    try:
        after_s = float(text) if text.isdecimal() else _seconds_to(text)
    except (ValueError, OverflowError):
        after_s = 0.0
    return min(max(after_s, 0.0), PAUSES_S[-1])


def _seconds_to(date: str) -> float:
    from email.utils import parsedate_to_datetime

    return parsedate_to_datetime(date).timestamp() - time.time()
