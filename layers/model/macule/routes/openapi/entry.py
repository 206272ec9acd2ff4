"""Types of the entries in `operations`, and what many entries share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from macule import errors
from macule.errors import Macule

JSON, TEXT, HTML = "application/json", "text/plain", "text/html"
PROBLEM = "application/problem+json"

Failures = tuple[type[Macule], ...]


class Answer(NamedTuple):
    """A successful response of an operation.

    `content`: media type to schema name, "" if not JSON. `headers`: in addition to EVERY_HEADER;
    names as in components.json. `links`: ids of operations that take the response's `id`.
    """

    text: str
    content: Mapping[str, str] = {}
    headers: tuple[str, ...] = ()
    links: tuple[str, ...] = ()


class Operation(NamedTuple):
    """One operation: `id` is its operationId, `errors` what it may raise.

    `problems`: the media type of error responses.
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


# Shared by all operations.
EVERY_ERROR: Failures = (errors.MethodNotAllowed, Macule, errors.BadSetting)
EVERY_HEADER = ("X-Request-Id", "X-Memory-Band", "Cache-Control", "X-Content-Type-Options")
EVERY_PARAMETER = ("X-Request-Id",)
# Added to operations that are not exempt, by the function's table or by `draining`.
AUTH_ERRORS: Failures = (errors.Unauthorized, errors.Forbidden)
QUOTA_ERRORS: Failures = (errors.QuotaExceeded,)
SHUTDOWN_ERRORS: Failures = (errors.Draining,)

BODY_ERRORS: Failures = (
    errors.BadRequest,
    errors.SlowBody,
    errors.BodyTooLarge,
    errors.ImageTooLarge,
    errors.UnsupportedImage,
    errors.UnsupportedCoding,
    errors.BadImage,
    errors.SlowImage,
)
MEMORY_ERRORS: Failures = (errors.Busy, errors.CannotFit)
NOT_FOUND_ERRORS: Failures = (errors.NoSuchJob, errors.NotFound)  # an id may have a slash
MODEL_ERRORS: Failures = (errors.ModelUnavailable, errors.BadCard)
IMAGE_ERRORS: Failures = (*BODY_ERRORS, *MEMORY_ERRORS, *MODEL_ERRORS)
