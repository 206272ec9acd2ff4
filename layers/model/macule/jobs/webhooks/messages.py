"""Standard Webhooks 1.0.0: message, signature, one delivery attempt."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from random import random
from socket import getaddrinfo
from typing import Any, Literal, NamedTuple

from macule.errors import BadRequest
from macule.http import client
from macule.jobs import rfc3339
from macule.jobs.webhooks import addresses
from macule.observability import metrics
from macule.settings import urls

log = logging.getLogger("macule")

MAX_URL_CHARS = 2000
TIMEOUT_S = 15.0  # total per attempt; the standard recommends 15 to 30
# After each failed attempt: 18 hours in total.
RETRY_DELAYS_S = (5, 30, 120, 600, 1800, 7200, 18000, 36000)
JITTER = 0.2
MAX_DELAY_S = RETRY_DELAYS_S[-1] * (1 + JITTER)  # no webhook is due later than this


class Outcome(NamedTuple):
    """The outcome of an attempt; `why` it failed, for the log; `after_s`: the Retry-After."""

    state: Literal["delivered", "retry", "failed"]
    why: str = ""
    after_s: float = 0.0


def validate_url(url: str, loopback: bool) -> str:
    """Return *url* if it is a valid webhook URL.

    The resolved addresses are checked at each connection; this finds errors early.
    Raises: BadRequest.
    """
    if len(url) > MAX_URL_CHARS:
        raise BadRequest(f"webhook has {len(url):,} characters; the limit is {MAX_URL_CHARS}.")
    parts = urls.split(url)
    if not parts or "#" in url:
        raise BadRequest("webhook is not a URL such as https://receiver.example/hook.")
    host = parts.hostname or ""
    if "@" in parts.netloc:
        raise BadRequest("webhook contains a user name; put secrets into the path or query.")
    is_loopback = loopback and host in urls.LOOPBACK
    if parts.scheme != "https" and not (is_loopback and parts.scheme == "http"):
        raise BadRequest("webhook does not start with https://.")
    if not is_loopback and not _may_be_public(host):
        raise BadRequest("webhook does not point to a public address.")
    return url


def build_message(event: str, document: Mapping[str, Any], now: float) -> tuple[str, bytes]:
    """Build the message of *event* with the job's public *document*, without its images.

    Returns: the message id, the same for one job and event, and the body.
    """
    body = {"type": event, "timestamp": rfc3339(now), "data": _without_data_uris(document)}
    # without the event's dot: dots separate the signed parts
    message_id = f"msg_{document['id']}_{event.rpartition('.')[2]}"
    return message_id, json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def sign(secrets: Sequence[str], message_id: str, timestamp: int, body: bytes) -> str:
    """Return one signature per secret, so that receivers can rotate secrets."""
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
    """Make one attempt of at most *timeout_s*; only the status counts, the body is not read."""
    timestamp = int(time.time())  # of this attempt: receivers reject old signatures
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secrets, message_id, timestamp, body),
    }
    connect = addresses.connector(loopback, resolve)
    try:
        reply = client.request(url, timeout_s, "POST", body, headers, connect, with_body=False)
    except addresses.NoPublicAddress as error:
        return Outcome("failed", str(error))
    except client.Unreachable as error:
        return Outcome("retry", str(error))
    if 200 <= reply.status < 300:
        return Outcome("delivered")
    why = f"answered {reply.status}"
    if reply.status == 410:
        return Outcome("failed", why)
    return Outcome("retry", why, _retry_after_s(reply.headers.get("retry-after", "")))


def log_outcome(outcome: Outcome, attempts: int, host: str) -> None:
    """Log and count the final outcome of a webhook; of the URL only the *host*."""
    if outcome.state == "delivered":
        metrics.add("macule_webhooks_total", "delivered")
        return
    facts = {"event": "webhook_given_up"}
    text = "webhook given up (attempt %d): %s %s"
    log.warning(text, attempts, host, outcome.why, extra={"facts": facts})
    metrics.add("macule_webhooks_total", "given_up")


def retry_delay_s(attempts: int, chance: Callable[[], float] = random) -> float | None:
    """Return the delay after *attempts* attempts, with jitter; None after the last."""
    if attempts > len(RETRY_DELAYS_S):
        return None
    return RETRY_DELAYS_S[attempts - 1] * (1 - JITTER + 2 * JITTER * chance())


def _may_be_public(host: str) -> bool:
    try:
        return addresses.is_public(host)
    except ValueError:  # a host name; names without a dot are local
        return "." in host


def _without_data_uris(value: Any) -> Any:
    """Remove `data:` URIs: an overlay shows the photo, and payloads should be small."""
    if isinstance(value, Mapping):
        kept = {key: part for key, part in value.items() if not _is_data_uri(part)}
        return {key: _without_data_uris(part) for key, part in kept.items()}
    if isinstance(value, list | tuple):
        return [_without_data_uris(part) for part in value]
    return value


def _is_data_uri(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("data:")


def _retry_after_s(text: str) -> float:
    """Parse Retry-After (seconds or a date), at most the longest delay; 0 if invalid."""
    try:
        after_s = float(text) if text.isdecimal() else _seconds_until(text)
    except (ValueError, OverflowError):
        after_s = 0.0
    return min(max(after_s, 0.0), RETRY_DELAYS_S[-1])


def _seconds_until(date: str) -> float:
    from email.utils import parsedate_to_datetime

    return parsedate_to_datetime(date).timestamp() - time.time()
