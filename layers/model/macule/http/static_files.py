"""Pages, their files and other texts of this version: kept compressed, sent by their ETag."""

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

GZIP_WBITS = 31  # zlib's word for a gzip file, without that module
MAX_AGE_S = 31_536_000  # a file's address changes with its content


class CompressedText(NamedTuple):
    """A text as a gzip file, and a name of this version of it."""

    version: str
    content: bytes


def compress(content: bytes) -> CompressedText:
    """Compress *content* and name it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, GZIP_WBITS)
    return CompressedText(_checksum(content), packer.compress(content) + packer.flush())


def text_response(
    request: Request, text: CompressedText, headers: dict[str, str], varies: str = ""
) -> Response:
    """Answer with a text: 304 where it is known by its ETag, compressed where that is taken."""
    packed = _accepts_gzip(request.headers.get("accept-encoding", ""))
    headers["ETag"] = tag = f'"{text.version}{"-gzip" if packed else ""}"'
    headers["Vary"] = f"{varies}Accept-Encoding"
    if messages.etag_matches(request, tag):
        return Response(304, b"", headers)
    if packed:
        return Response(200, text.content, {**headers, "Content-Encoding": "gzip"})
    return Response(200, _decompress(text), headers)


def file_response(request: Request, folder: str, kinds: Mapping[str, str]) -> Response:
    """Answer with the file of *folder* that the path names; *kinds* has each name's media type.

    Browsers keep it for good where its address has its version, as `v`.
    Raises: NotFound.
    """
    name = request.names["file"]
    if name not in kinds:
        raise NotFound(f"The page has no file {name[:80]}.", files=sorted(kinds))
    path = os.path.join(folder, name)
    fixed = request.query.get("v") == file_version(path)
    control = f"public, max-age={MAX_AGE_S}, immutable" if fixed else "no-cache"
    headers = {"Content-Type": kinds[name], "Cache-Control": control}
    if not kinds[name].startswith("image/"):
        return text_response(request, _text_file(path), headers)
    headers["ETag"] = tag = f'"{file_version(path)}"'
    known = messages.etag_matches(request, tag)
    return Response(304 if known else 200, b"" if known else read(path), headers)


def parse_quality(parameters: str) -> float:
    """Read `q=0.8` (RFC 9110); 1 without it."""
    text = parameters.strip().removeprefix("q=").strip()
    return 1.0 if not text else float(text) if re.fullmatch(r"[01](\.\d{0,3})?", text) else 0.0


def read(path: str) -> bytes:
    """Read a file; nothing of it is kept."""
    with open(path, "rb") as source:
        return source.read()


@cache
def file_version(path: str) -> str:
    """Name the content of a file."""
    return _checksum(read(path))


@lru_cache(maxsize=2)
def _decompress(text: CompressedText) -> bytes:
    """Inflate a text. Few callers take no gzip; hundreds that do not read share one copy."""
    return zlib.decompress(text.content, GZIP_WBITS)


@cache
def _text_file(path: str) -> CompressedText:
    return compress(read(path))


def _accepts_gzip(accepted: str) -> bool:
    parts = (part.partition(";") for part in accepted.lower().split(","))
    return any(name.strip() == "gzip" and parse_quality(rest) > 0 for name, _, rest in parts)


def _checksum(content: bytes) -> str:
    """Name content: a checksum, as a digest would load TLS."""
    return f"{zlib.crc32(content):08x}"
