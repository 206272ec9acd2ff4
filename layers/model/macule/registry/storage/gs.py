"""Google Cloud Storage. Imported only if a gs:// URL is used, as it takes 50 MB and 0.5 s."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from macule import extras
from macule.errors import ModelUnavailable
from macule.settings import urls

if TYPE_CHECKING:
    from macule.registry.storage import Opened

try:
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
    from google.cloud import storage
    from requests import RequestException
except ModuleNotFoundError as error:
    raise ModelUnavailable(extras.install_message("gs://", "google-cloud-storage")) from error

CHUNK_BYTES = 2**20  # one request each
FAILURES = (GoogleAPICallError, GoogleAuthError, RequestException)
ABSENT = 403  # also for a missing object, without permission to list
CONFLICT = 412
RETRYABLE = (408, 429)  # and all from 500 up


def read(address: str, idle_timeout_s: float) -> Opened | None:
    """Open an object; as `storage.read`."""
    name, key = urls.split_bucket(address)
    try:
        blob = client().bucket(name).get_blob(key, timeout=idle_timeout_s, retry=None)
    except FAILURES as error:
        if getattr(error, "code", 0) == ABSENT:
            return None
        raise _failure(error, address) from error
    return blob and (blob.size, str(blob.generation), _chunks(blob, address, idle_timeout_s))


def write(address: str, content: bytes, version: str, idle_timeout_s: float) -> bool:
    """Write an object if its version is unchanged; as `storage.write`."""
    name, key = urls.split_bucket(address)
    try:
        client().bucket(name).blob(key).upload_from_string(
            content,
            "application/octet-stream",
            if_generation_match=int(version or 0),
            timeout=idle_timeout_s,
            retry=None,
        )
    except FAILURES as error:
        if getattr(error, "code", 0) == CONFLICT:
            return False
        raise _failure(error, address) from error
    return True


def page(prefix: str, token: str, idle_timeout_s: float) -> tuple[list[str], str]:
    name, key = urls.split_bucket(prefix)
    try:
        found = client().list_blobs(
            name,
            prefix=key,
            page_token=token or None,
            fields="items(name),nextPageToken",
            timeout=idle_timeout_s,
            retry=None,
        )
        keys = [blob.name for blob in next(found.pages, ()) if not blob.name.endswith("/")]
    except FAILURES as error:
        raise _failure(error, prefix) from error
    return [f"gs://{name}/{key}" for key in keys], found.next_page_token or ""


@cache
def client() -> Any:
    """Create the client once, as it keeps its connections and its token."""
    try:
        return storage.Client(project=None)  # the bucket's project is used
    except DefaultCredentialsError as error:
        raise ModelUnavailable("gs:// found no Google credentials.") from error


def _chunks(blob: Any, address: str, idle_timeout_s: float) -> Iterator[bytes]:
    try:
        with blob.open("rb", chunk_size=CHUNK_BYTES, timeout=idle_timeout_s, retry=None) as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except FAILURES as error:
        raise _failure(error, address) from error


def _failure(error: Exception, address: str) -> Exception:
    """Return a temporary or permanent error, without Google's texts, which contain whole URLs."""
    code = getattr(error, "code", 0) or 0
    message = f"{urls.redact(address)}: Google answers {code or type(error).__name__}"
    temporary = code in RETRYABLE or code >= 500 or isinstance(error, RequestException)
    return ConnectionError(message) if temporary else ModelUnavailable(f"{message}.")
