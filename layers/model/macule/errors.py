"""Every failure of macule, and the HTTP status it becomes.

Macule
├── BadRequest 400        the request itself is malformed
├── Unauthorized 401      no key, or one that nobody has
├── Forbidden 403         the key is known, and revoked
├── NotFound 404
│   ├── NoSuchJob         nobody made it, or somebody else did
│   └── NoSuchModel       `/v2`: another model serves, or another version of it
├── MethodNotAllowed 405
├── SlowBody 408          the body did not come in time
├── JobEnded 409          it cannot be canceled any more
├── KeyInUse 409          the same Idempotency-Key made a job that has not ended
├── JobExpired 410        its outcome was kept for JOB_TTL_S
├── BodyTooLarge 413      more bytes than the limit
├── ImageTooLarge 413     more pixels than the limit
├── UnsupportedImage 415  not a format that is served
├── UnsupportedCoding 415 the body is compressed in a way that is not read
├── BadImage 422          a served format, but it cannot be decoded
├── Unreadable 422        `macule batch`, the Python API: the file is gone, or may not be read
├── SlowImage 422         decoding it takes longer than the limit
├── KeyReused 422         the same Idempotency-Key came with another request
├── QuotaExceeded 429     this caller has asked as often as it may
├── BadSetting 500        an environment variable that cannot be read
├── WorkerDied 500        whoever worked on a job died, again and again
├── NoMaps 501            the Python API: an activation map is asked for, and there is none
├── NoWebhooks 501        a webhook is asked for, and the operator has set no secret to sign it with
├── Unavailable 503       try again after retry_after_s
│   ├── Busy              others hold the memory this request needs
│   ├── Draining          this instance is being stopped
│   ├── QueueFull         as many jobs wait as may
│   ├── QueueUnavailable  the queue's own store cannot be reached or written
│   └── ModelUnavailable  the model is missing, damaged or not as its card says
│       └── BadCard       the card itself cannot be read
└── CannotFit 507         this image can never fit this instance
"""

from __future__ import annotations

from typing import Any

Figure = int | float | str | list[str]


class Macule(Exception):
    """A failure whose text may be shown to the caller.

    `figures` are the numbers that matter; they become members of the problem document.
    """

    status = 500
    slug = "internal"
    title = "Internal error"

    def __init__(self, detail: str, **figures: Figure) -> None:
        super().__init__(detail)
        self.figures = figures

    def headers(self) -> dict[str, str]:
        """Return what the answer's head must say beside the document."""
        return {}


class BadRequest(Macule):
    status, slug, title = 400, "bad-request", "Malformed request"


class Unauthorized(Macule):
    status, slug, title = 401, "unauthorized", "A key is needed"

    def __init__(self, detail: str, wrong: bool = False) -> None:
        super().__init__(detail)
        self._wrong = wrong

    def headers(self) -> dict[str, str]:
        """Ask for a key as RFC 6750 has it."""
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
        """Name the methods that there are."""
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
        """Name the codings that are read, as RFC 9110, 12.5.3, has it."""
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
        self, detail: str, retry_after_s: int, told: dict[str, str], **figures: Figure
    ) -> None:
        super().__init__(detail, **figures)
        self._headers = {"Retry-After": str(retry_after_s), **told}

    def headers(self) -> dict[str, str]:
        """Say when to come back, and what the quota is."""
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
        """Say when to come back."""
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
    """Describe *error* for a caller, as RFC 9457 has it."""
    ours = isinstance(error, BadSetting) or type(error) is Macule
    return {
        "type": f"urn:macule:problem:{error.slug}",
        "title": error.title,
        "status": error.status,
        "detail": "The operator's log says more." if ours else str(error),
        **error.figures,
    }
