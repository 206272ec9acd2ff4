"""Remote objects over https://, s3:// and gs://: read, write and list by URL."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import TypeVar
from urllib.parse import urlsplit

from macule.errors import BadRequest, ModelUnavailable

T = TypeVar("T")
Opened = tuple[int | None, str, Iterator[bytes]]  # size in bytes if announced, version, chunks
PAUSES_S = (0.2, 0.6, 1.8)  # before the second, third and fourth attempt, each with jitter
MAX_SMALL_BYTES = 2**20  # the default model's card has 5 kB


def read(address: str, idle_timeout_s: float) -> Opened | None:
    """Open the object at *address*, with a time-out for each wait for data.

    Returns: None if the object is missing or access is denied.
    Raises: ConnectionError for temporary failures, ModelUnavailable for permanent ones; the chunks
      raise the same.
    """
    opened: Opened | None = _backend(address).read(address, idle_timeout_s)
    return opened


def write(address: str, content: bytes, version: str, idle_timeout_s: float) -> bool:
    """Replace the object at *address* if it has *version*; "" means that it must not exist.

    Returns: False if the object has another version.
    Raises: ConnectionError, ModelUnavailable as `read`; BadRequest for a scheme without writing.
    """
    if urlsplit(address).scheme not in ("s3", "gs"):
        raise BadRequest("Models are published to s3://BUCKET/PREFIX or gs://BUCKET/PREFIX.")
    return bool(_backend(address).write(address, content, version, idle_timeout_s))


def list_addresses(prefix: str, idle_timeout_s: float) -> Iterator[str]:
    """Yield the URLs that begin with *prefix*, sorted, in pages.

    Raises: ModelUnavailable.
    """
    token = ""
    while True:
        page = partial(_backend(prefix).page, prefix, token, idle_timeout_s)
        listed, token = retry(page)
        yield from listed
        if not token:
            return


def _backend(address: str) -> ModuleType:
    """Import the module for the scheme of *address*; each is large."""
    scheme = urlsplit(address).scheme
    if scheme == "s3":
        from macule.registry.storage import s3

        return s3
    if scheme == "gs":
        from macule.registry.storage import gs

        return gs
    from macule.registry.storage import https

    return https


def read_small(address: str, idle_timeout_s: float) -> tuple[bytes, str] | None:
    """Read a whole card or alias, with retries.

    Returns: its bytes and its version; None as in `read`.
    Raises: ModelUnavailable.
    """

    def read_once() -> tuple[bytes, str] | None:
        found = read(address, idle_timeout_s)
        if found is None:
            return None
        _, version, chunks = found
        content = b""
        for chunk in chunks:
            content += chunk
            if len(content) > MAX_SMALL_BYTES:
                raise ModelUnavailable(
                    f"The card or alias has over {MAX_SMALL_BYTES:,} bytes, the limit."
                )
        return content, version

    return retry(read_once)


def retry(action: Callable[[], T]) -> T:
    """Run *action*; after a ConnectionError retry it with growing pauses.

    Raises: ModelUnavailable after four failures.
    """
    for pause_s in PAUSES_S:
        try:
            return action()
        except ConnectionError:
            time.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311
    try:
        return action()
    except ConnectionError as error:
        raise ModelUnavailable(f"{error}; tried {len(PAUSES_S) + 1} times.") from error
