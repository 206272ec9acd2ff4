"""Static pages and files, with ETags; texts are kept compressed in memory."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import NamedTuple

from macule.errors import NotFound
from macule.http import messages
from macule.http.messages import Request, Response

GZIP_WBITS = 31  # zlib's wbits for a gzip file, which avoids the gzip module
MAX_AGE_S = 31_536_000  # one year: a file's URL changes with its content


class CompressedText(NamedTuple):
    """A text as a gzip file, and a checksum of it."""

    version: str
    content: bytes


def compress(content: bytes) -> CompressedText:
    compressor = zlib.compressobj(9, zlib.DEFLATED, GZIP_WBITS)
    return CompressedText(_checksum(content), compressor.compress(content) + compressor.flush())


def text_response(
    request: Request, text: CompressedText, headers: dict[str, str], varies: str = ""
) -> Response:
    """Return a text; 304 if the caller has this ETag, compressed if the caller accepts gzip.

    *varies*: a prefix for the Vary header, such as "Accept-Language, ".
    """
    is_gzip = _accepts_gzip(request.headers.get("accept-encoding", ""))
    headers["ETag"] = tag = f'"{text.version}{"-gzip" if is_gzip else ""}"'
    headers["Vary"] = f"{varies}Accept-Encoding"
    if messages.etag_matches(request, tag):
        return Response(304, b"", headers)
    if is_gzip:
        return Response(200, text.content, {**headers, "Content-Encoding": "gzip"})
    return Response(200, _decompress(text), headers)


def file_response(request: Request, folder: str, kinds: Mapping[str, str]) -> Response:
    """Return the file of *folder* that the path names.

    Browsers cache it for a year if the query has its version, as `v`.

    Args:
      kinds: media types by file name; other files do not exist.
    Raises: NotFound.
    """
    name = request.names["file"]
    if name not in kinds:
        raise NotFound(f"The page has no file {name[:80]}.", files=sorted(kinds))
    path = os.path.join(folder, name)
    is_versioned = request.query.get("v") == file_version(path)
    control = f"public, max-age={MAX_AGE_S}, immutable" if is_versioned else "no-cache"
    headers = {"Content-Type": kinds[name], "Cache-Control": control}
    if not kinds[name].startswith("image/"):
        return text_response(request, _text_file(path), headers)
    headers["ETag"] = tag = f'"{file_version(path)}"'
    known = messages.etag_matches(request, tag)
    return Response(304 if known else 200, b"" if known else read(path), headers)


def parse_quality(parameters: str) -> float:
    """Parse `q=0.8` (RFC 9110); 1 without it, 0 if it is invalid."""
    text = parameters.strip().removeprefix("q=").strip()
    return 1.0 if not text else float(text) if re.fullmatch(r"[01](\.\d{0,3})?", text) else 0.0


def read(path: str) -> bytes:
    """Read a file, uncached."""
    with open(path, "rb") as source:
        return source.read()


@cache
def file_version(path: str) -> str:
    """Return the checksum of a file's content."""
    return _checksum(read(path))


@lru_cache(maxsize=2)
def _decompress(text: CompressedText) -> bytes:
    """Decompress a text for the few callers without gzip; slow readers share one copy."""
    return zlib.decompress(text.content, GZIP_WBITS)


@cache
def _text_file(path: str) -> CompressedText:
    return compress(read(path))


def _accepts_gzip(accepted: str) -> bool:
    parts = (part.partition(";") for part in accepted.lower().split(","))
    return any(name.strip() == "gzip" and parse_quality(rest) > 0 for name, _, rest in parts)


def _checksum(content: bytes) -> str:
    """Return a CRC-32: importing hashlib would load OpenSSL."""
    return f"{zlib.crc32(content):08x}"
