"""Reading over HTTPS in chunks. Imported only if a model is downloaded from an https:// URL."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from typing import IO, TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from macule import __version__
from macule.errors import ModelUnavailable
from macule.settings import urls

if TYPE_CHECKING:
    from macule.registry.storage import Opened

CHUNK_BYTES = 2**18
ABSENT = (403, 404, 410)  # object stores answer 403 for missing objects without permission to list
RETRYABLE = (408, 425, 429)  # and all from 500 up


class RedirectHandler(HTTPRedirectHandler):
    """Follows at most five redirects, and only to URLs that a setting may have."""

    max_redirections = 5

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        """Refuse the URLs that `urls.rejection_reason` refuses."""
        if why := urls.rejection_reason(newurl) or (
            "" if newurl.startswith("http") else "is not an HTTP URL"
        ):
            raise ModelUnavailable(f"{urls.redact(req.full_url)} redirects to a URL that {why}.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def read(address: str, idle_timeout_s: float) -> Opened | None:
    """Open a resource; as `storage.read`."""
    name = urls.redact(address)
    request = Request(address, headers={"User-Agent": f"macule/{__version__}"})  # noqa: S310
    try:
        answer = build_opener(RedirectHandler).open(request, timeout=idle_timeout_s)
    except HTTPError as error:
        error.close()
        if error.code in ABSENT:
            return None
        if error.code in RETRYABLE or error.code >= 500:
            raise ConnectionError(f"{name} answers {error.code}") from error
        if error.code < 400:
            raise ModelUnavailable(f"{name} redirects too often, or not to an HTTP URL.") from error
        raise ModelUnavailable(f"{name} answers {error.code}.") from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise ModelUnavailable(f"{name}: {reason.verify_message}.") from error
        why = getattr(reason, "strerror", None) or type(reason).__name__
        raise ConnectionError(f"{name} cannot be reached ({why})") from error
    return answer.length, "", _chunks(answer, answer.length, name)


def _chunks(answer: HTTPResponse, size: int | None, name: str) -> Iterator[bytes]:
    """Yield chunks and check the announced size, as http.client ignores an early end."""
    read = 0
    with answer:
        while True:
            try:
                chunk = answer.read(CHUNK_BYTES)
            except (OSError, HTTPException) as error:
                raise ConnectionError(f"{name} stalled after {read:,} bytes") from error
            if not chunk:
                break
            read += len(chunk)
            yield chunk
    if size is not None and read < size:
        raise ConnectionError(f"{name} ended after {read:,} of {size:,} bytes")
