"""Files that are not on this machine, read and written by their address."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

from macule.errors import BadRequest, ModelUnavailable

T = TypeVar("T")
PAUSES_S = (0.2, 0.6, 1.8)  # before the second, third and fourth try, each shortened by chance
MAX_SMALL_BYTES = 2**20  # the default model's card has 5 kB


def read(address: str, quiet_s: float) -> tuple[int | None, str, Iterator[bytes]] | None:
    """Begin to read what lies at *address*; *quiet_s* without a byte is too long.

    Returns: bytes to come as far as they are announced, the version, the pieces; None where there
      is nothing, or nothing that may be read.
    Raises: ConnectionError for what may pass, ModelUnavailable for what will not; pieces likewise.
    """
    scheme = urlsplit(address).scheme
    if scheme == "s3":
        from macule.registry.storage import s3

        return s3.read(address, quiet_s)
    if scheme == "gs":
        from macule.registry.storage import gs

        return gs.read(address, quiet_s)
    from macule.registry.storage import https

    return https.read(address, quiet_s)


def write(address: str, content: bytes, version: str, quiet_s: float) -> bool:
    """Replace that *version* of what lies at *address*; an empty one is that of nothing.

    Returns: False if something else is there by now.
    Raises: ConnectionError, ModelUnavailable as `read`; BadRequest where none can write.
    """
    scheme = urlsplit(address).scheme
    if scheme == "s3":
        from macule.registry.storage import s3

        return s3.write(address, content, version, quiet_s)
    if scheme == "gs":
        from macule.registry.storage import gs

        return gs.write(address, content, version, quiet_s)
    raise BadRequest("Models are published to s3://BUCKET/PREFIX or gs://BUCKET/PREFIX.")


def list_addresses(prefix: str, quiet_s: float) -> Iterator[str]:
    """List the addresses that begin with *prefix*, sorted, a page at a time.

    Raises: ModelUnavailable.
    """
    if urlsplit(prefix).scheme == "s3":
        from macule.registry.storage.s3 import page
    else:
        from macule.registry.storage.gs import page
    mark = ""
    while True:
        listed, mark = retry(partial(page, prefix, mark, quiet_s))
        yield from listed
        if not mark:
            return


def read_small(address: str, quiet_s: float) -> tuple[bytes, str] | None:
    """Read a card or an alias whole, trying again.

    Returns: its bytes and its version; None as `read`.
    Raises: ModelUnavailable.
    """

    def once() -> tuple[bytes, str] | None:
        found = read(address, quiet_s)
        if found is None:
            return None
        _, version, pieces = found
        content = b""
        for piece in pieces:
            content += piece
            if len(content) > MAX_SMALL_BYTES:
                raise ModelUnavailable(f"What should be a card has over {MAX_SMALL_BYTES:,} bytes.")
        return content, version

    return retry(once)


def retry(action: Callable[[], T]) -> T:
    """Try again what may pass, after pauses that grow.

    Raises: ModelUnavailable once it has failed four times.
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
