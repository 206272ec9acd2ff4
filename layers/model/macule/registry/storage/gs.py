"""Objects of Google Cloud Storage. Imported only where a gs:// address is used: 50 MB, 0.5 s."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from macule import extras
from macule.errors import ModelUnavailable
from macule.settings import urls

try:
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
    from google.cloud import storage
    from requests import RequestException
except ModuleNotFoundError as error:
    raise ModelUnavailable(extras.install_message("gs://", "google-cloud-storage")) from error

CHUNK_BYTES = 2**20  # each is a request of its own
FAILURES = (GoogleAPICallError, GoogleAuthError, RequestException)
CONFLICT = 412
RETRYABLE = (408, 429)  # and all from 500 on


def read(address: str, quiet_s: float) -> tuple[int | None, str, Iterator[bytes]] | None:
    """Begin to read; as `objects.read`."""
    name, key = urls.split_bucket(address)
    try:
        blob = client().bucket(name).get_blob(key, timeout=quiet_s, retry=None)
    except FAILURES as error:
        if getattr(error, "code", 0) == 403:  # to those who may not list
            return None
        raise _failure(error, address) from error
    return blob and (blob.size, str(blob.generation), _pieces(blob, address, quiet_s))


def write(address: str, content: bytes, version: str, quiet_s: float) -> bool:
    """Write if nothing came between; as `objects.write`."""
    name, key = urls.split_bucket(address)
    try:
        client().bucket(name).blob(key).upload_from_string(
            content,
            "application/octet-stream",
            if_generation_match=int(version or 0),
            timeout=quiet_s,
            retry=None,
        )
    except FAILURES as error:
        if getattr(error, "code", 0) == CONFLICT:
            return False
        raise _failure(error, address) from error
    return True


def page(prefix: str, mark: str, quiet_s: float) -> tuple[list[str], str]:
    """List what follows *mark*; as `s3.page`."""
    name, key = urls.split_bucket(prefix)
    try:
        found = client().list_blobs(
            name,
            prefix=key,
            page_token=mark or None,
            fields="items(name),nextPageToken",
            timeout=quiet_s,
            retry=None,
        )
        keys = [blob.name for blob in next(found.pages, ()) if not blob.name.endswith("/")]
    except FAILURES as error:
        raise _failure(error, prefix) from error
    return [f"gs://{name}/{key}" for key in keys], found.next_page_token or ""


@cache
def client() -> Any:
    """Make a client once: it keeps its connections and its token."""
    try:
        return storage.Client(project=None)  # the bucket's own is meant
    except DefaultCredentialsError as error:
        raise ModelUnavailable("gs:// found no Google credentials.") from error


def _pieces(blob: Any, address: str, quiet_s: float) -> Iterator[bytes]:
    try:
        with blob.open("rb", chunk_size=CHUNK_BYTES, timeout=quiet_s, retry=None) as file:
            while piece := file.read(CHUNK_BYTES):
                yield piece
    except FAILURES as error:
        raise _failure(error, address) from error


def _failure(error: Exception, address: str) -> Exception:
    """Tell what passes from what stays; Google's own texts have whole addresses in them."""
    code = getattr(error, "code", 0) or 0
    what = f"{urls.redact(address)}: Google says {code or type(error).__name__}"
    passing = code in RETRYABLE or code >= 500 or isinstance(error, RequestException)
    return ConnectionError(what) if passing else ModelUnavailable(f"{what}.")
