"""All errors of macule, with their HTTP status.

Macule
├── BadRequest 400        the request itself is malformed
├── Unauthorized 401      no key, or an unknown one
├── Forbidden 403         the key has been revoked
├── NotFound 404
│   ├── NoSuchJob         it does not exist, or belongs to another caller
│   └── NoSuchModel       `/v2`: another model or version is served
├── MethodNotAllowed 405
├── SlowBody 408          the body did not arrive in time
├── JobEnded 409          it can no longer be canceled
├── KeyInUse 409          a job with the same Idempotency-Key has not ended
├── JobExpired 410        its outcome was deleted after JOB_TTL_S
├── BodyTooLarge 413      more bytes than the limit
├── ImageTooLarge 413     more pixels than the limit
├── UnsupportedImage 415  an unsupported image format
├── UnsupportedCoding 415 an unsupported Content-Encoding
├── BadImage 422          a supported format, but decoding fails
├── Unreadable 422        `macule batch`, the Python API: the file is missing or not readable
├── SlowImage 422         decoding takes longer than the limit
├── KeyReused 422         the same Idempotency-Key, but another request
├── QuotaExceeded 429     the caller's quota is exhausted
├── BadSetting 500        an environment variable has an invalid value
├── WorkerDied 500        the worker of a job died, repeatedly
├── NoMaps 501            the Python API: the model has no activation maps
├── NoWebhooks 501        a webhook is requested, but WEBHOOK_SECRETS is not set
├── Unavailable 503       try again after retry_after_s
│   ├── Busy              other requests hold the memory this one needs
│   ├── Draining          this instance is being stopped
│   ├── QueueFull         the maximum number of jobs is waiting
│   ├── QueueUnavailable  the queue's store cannot be reached or written
│   └── ModelUnavailable  the model is missing, damaged or does not match its card
│       └── BadCard       the card cannot be read
└── CannotFit 507         this image can never fit this instance
"""

from __future__ import annotations

from typing import Any

Figure = int | float | str | list[str]


class Macule(Exception):
    """An error whose text may be shown to the caller.

    `figures` become members of the problem document.
    """

    status = 500
    slug = "internal"
    title = "Internal error"

    def __init__(self, detail: str, **figures: Figure) -> None:
        super().__init__(detail)
        self.figures = figures

    def headers(self) -> dict[str, str]:
        """Return additional headers of the response."""
        return {}


class BadRequest(Macule):
    status, slug, title = 400, "bad-request", "Malformed request"


class Unauthorized(Macule):
    status, slug, title = 401, "unauthorized", "A key is needed"

    def __init__(self, detail: str, wrong: bool = False) -> None:
        super().__init__(detail)
        self._wrong = wrong

    def headers(self) -> dict[str, str]:
        """Return the challenge of RFC 6750."""
        error = ', error="invalid_token"' if self._wrong else ""
        return {"WWW-Authenticate": f'Bearer realm="macule"{error}'}


class Forbidden(Macule):
    status, slug, title = 403, "key-revoked", "This key has been revoked"


class NotFound(Macule):
    status, slug, title = 404, "not-found", "No such route"


class NoSuchJob(NotFound):
    slug, title = "no-such-job", "No such prediction"


class NoSuchModel(NotFound):
    slug, title = "no-such-model", "No such model"


class MethodNotAllowed(Macule):
    status, slug, title = 405, "method-not-allowed", "Method not allowed"

    def __init__(self, detail: str, allow: list[str]) -> None:
        super().__init__(detail, allow=allow)
        self.allow = allow

    def headers(self) -> dict[str, str]:
        """Return the allowed methods."""
        return {"Allow": ", ".join(self.allow)}


class SlowBody(Macule):
    status, slug, title = 408, "slow-body", "The body came too slowly"


class JobEnded(Macule):
    status, slug, title = 409, "job-ended", "The prediction has ended"


class KeyInUse(Macule):
    status, slug, title = 409, "key-in-use", "This Idempotency-Key's prediction has not ended"


class JobExpired(Macule):
    status, slug, title = 410, "job-expired", "The prediction is no longer kept"


class BodyTooLarge(Macule):
    status, slug, title = 413, "body-too-large", "Too many bytes"


class ImageTooLarge(Macule):
    status, slug, title = 413, "image-too-large", "Too many pixels"


class UnsupportedImage(Macule):
    status, slug, title = 415, "unsupported-image", "Not an image format that is served"


class UnsupportedCoding(Macule):
    status, slug, title = 415, "unsupported-coding", "Not a content coding that is read"

    def headers(self) -> dict[str, str]:
        """Return the supported codings (RFC 9110, 12.5.3)."""
        return {"Accept-Encoding": "gzip, deflate"}


class BadImage(Macule):
    status, slug, title = 422, "bad-image", "The image cannot be decoded"


class Unreadable(Macule):
    status, slug, title = 422, "unreadable", "The file cannot be read"


class SlowImage(Macule):
    status, slug, title = 422, "slow-image", "The image takes too long to decode"


class KeyReused(Macule):
    status, slug, title = 422, "key-reused", "This Idempotency-Key came with another request"


class QuotaExceeded(Macule):
    status, slug, title = 429, "quota-exceeded", "You have asked as often as you may for now"

    def __init__(
        self, detail: str, retry_after_s: int, rate_limit: dict[str, str], **figures: Figure
    ) -> None:
        super().__init__(detail, **figures)
        self._headers = {"Retry-After": str(retry_after_s), **rate_limit}

    def headers(self) -> dict[str, str]:
        """Return Retry-After and the RateLimit headers."""
        return self._headers


class BadSetting(Macule):
    slug, title = "bad-setting", "The service is misconfigured"


class WorkerDied(Macule):
    slug, title = "worker-died", "Whoever worked on it died"


class NoMaps(Macule):
    status, slug, title = 501, "no-maps", "There is no activation map"


class NoWebhooks(Macule):
    status, slug, title = 501, "no-webhooks", "This service sends no webhooks"


class Unavailable(Macule):
    status, slug, title = 503, "unavailable", "Not available now"
    retry_after_s = 1

    def headers(self) -> dict[str, str]:
        """Return Retry-After."""
        return {"Retry-After": str(self.retry_after_s)}


class Busy(Unavailable):
    slug, title = "busy", "The memory this image needs is in use"


class Draining(Unavailable):
    slug, title = "draining", "This instance is being stopped"


class QueueFull(Unavailable):
    slug, title = "queue-full", "Too many predictions wait"
    retry_after_s = 5


class QueueUnavailable(Unavailable):
    slug, title = "queue-unavailable", "Predictions cannot be kept now"
    retry_after_s = 5


class ModelUnavailable(Unavailable):
    slug, title = "model-unavailable", "The model cannot be loaded"
    retry_after_s = 5


class BadCard(ModelUnavailable):
    slug, title = "bad-card", "The model's card cannot be read"


class CannotFit(Macule):
    status, slug, title = 507, "cannot-fit", "This image can never fit this instance"


def problem_document(error: Macule) -> dict[str, Any]:
    """Return the RFC 9457 problem document of *error*.

    Internal errors show no detail to callers.
    """
    is_internal = isinstance(error, BadSetting) or type(error) is Macule
    return {
        "type": f"urn:macule:problem:{error.slug}",
        "title": error.title,
        "status": error.status,
        "detail": "The operator's log has the details." if is_internal else str(error),
        **error.figures,
    }
