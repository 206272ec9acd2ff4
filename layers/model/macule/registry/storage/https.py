"""What lies at an https:// address, in pieces. Imported only where a model is fetched from one."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import HTTPRedirectHandler, Request, build_opener

from macule import __version__
from macule.errors import ModelUnavailable
from macule.settings import urls

CHUNK_BYTES = 2**18
ABSENT = (403, 404, 410)  # object stores answer 403 for what is not there to those who may not list
RETRYABLE = (408, 425, 429)  # and all from 500 on


class RedirectHandler(HTTPRedirectHandler):
    """Five at most, and never to where a setting may not point."""

    max_redirections = 5

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        """Refuse what `uri.refusal` refuses."""
        if why := urls.rejection_reason(newurl) or (
            "" if newurl.startswith("http") else "is no web page"
        ):
            raise ModelUnavailable(f"{urls.redact(req.full_url)} redirects to what {why}.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def read(address: str, quiet_s: float) -> tuple[int | None, str, Iterator[bytes]] | None:
    """Begin to read; as `objects.read`."""
    name = urls.redact(address)
    request = Request(address, headers={"User-Agent": f"macule/{__version__}"})  # noqa: S310
    try:
        answer = build_opener(RedirectHandler).open(request, timeout=quiet_s)
    except HTTPError as error:
        error.close()
        if error.code in ABSENT:
            return None
        if error.code in RETRYABLE or error.code >= 500:
            raise ConnectionError(f"{name} answers {error.code}") from error
        if error.code < 400:
            raise ModelUnavailable(f"{name} redirects too often, or to no web page.") from error
        raise ModelUnavailable(f"{name} answers {error.code}.") from error
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise ModelUnavailable(f"{name}: {reason.verify_message}.") from error
        why = getattr(reason, "strerror", None) or type(reason).__name__
        raise ConnectionError(f"{name} cannot be reached ({why})") from error
    return answer.length, "", _pieces(answer, answer.length, name)


def _pieces(answer: HTTPResponse, size: int | None, name: str) -> Iterator[bytes]:
    """Read to the end that was announced: http.client takes an early one for the end."""
    read = 0
    with answer:
        while True:
            try:
                piece = answer.read(CHUNK_BYTES)
            except (OSError, HTTPException) as error:
                raise ConnectionError(f"{name} stalls after {read:,} bytes") from error
            if not piece:
                break
            read += len(piece)
            yield piece
    if size is not None and read < size:
        raise ConnectionError(f"{name} breaks off after {read:,} of {size:,} bytes")
