"""What an entry of the specification says of an operation, and what many of them share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from macule.errors import (
    BadCard,
    BadImage,
    BadRequest,
    BadSetting,
    BodyTooLarge,
    Busy,
    CannotFit,
    Draining,
    Forbidden,
    ImageTooLarge,
    Macule,
    MethodNotAllowed,
    ModelUnavailable,
    NoSuchJob,
    NotFound,
    QuotaExceeded,
    SlowBody,
    SlowImage,
    Unauthorized,
    UnsupportedCoding,
    UnsupportedImage,
)

JSON, TEXT, HTML = "application/json", "text/plain", "text/html"
PROBLEM = "application/problem+json"

Failures = tuple[type[Macule], ...]


class Answer(NamedTuple):
    """What an operation answers when it is no problem.

    `content` maps a media type to the name of its schema, "" for what is no JSON. `headers` come
    beside those of every answer; all names are those of components.json. `links` are the ids of
    operations that take this answer's `id`.
    """

    text: str
    content: Mapping[str, str] = {}
    headers: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


class Operation(NamedTuple):
    """One entry: `id` is the name of a client's function, `errors` what it may raise.

    `problems` is the media type of what it answers then.
    """

    id: str
    tag: str
    summary: str
    text: str
    answers: Mapping[int, Answer]
    errors: Failures = ()
    parameters: tuple[str, ...] = ()
    body: str = ""
    problems: str = PROBLEM


# What every operation may answer, and takes.
EVERY_ERROR: Failures = (MethodNotAllowed, Macule, BadSetting)
EVERY_HEADER = ("X-Request-Id", "X-Memory-Band", "Cache-Control", "X-Content-Type-Options")
EVERY_PARAMETER = ("X-Request-Id",)
# What those may answer that are not named as free of it, by a door or by `draining`.
AUTHENTICATION: Failures = (Unauthorized, Forbidden)
QUOTA: Failures = (QuotaExceeded,)
SHUTDOWN: Failures = (Draining,)

BODY: Failures = (
    BadRequest,
    SlowBody,
    BodyTooLarge,
    ImageTooLarge,
    UnsupportedImage,
    UnsupportedCoding,
    BadImage,
    SlowImage,
)
MEMORY: Failures = (Busy, CannotFit)
UNKNOWN: Failures = (NoSuchJob, NotFound)  # an id may have a slash
MODEL: Failures = (ModelUnavailable, BadCard)
PHOTO: Failures = (*BODY, *MEMORY, *MODEL)
