"""Content codings of a request's body (RFC 9110, 8.4): gzip and deflate, inflated in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf

from macule.errors import BadRequest, BodyTooLarge, UnsupportedCoding
from macule.http.messages import Request

PIECE_BYTES = 2**16
MAX_DEFLATE_RATIO = 1032  # deflate makes nothing smaller than by so much: two bits for 258 bytes
ALIASES = {"identity": "", "x-gzip": "gzip"}
GZIP_OR_ZLIB_WBITS, RAW_WBITS = 47, -15  # zlib's words for how a stream begins


def parse_coding(request: Request) -> str:
    """Return the coding of a request's body: gzip, deflate, or "" where there is none.

    Raises: UnsupportedCoding.
    """
    given = request.headers.get("content-encoding", "").strip().lower()
    coding = ALIASES.get(given, given)
    if coding not in ("", "gzip", "deflate"):
        raise UnsupportedCoding(
            f"The body's Content-Encoding is {given[:40]!r}; gzip and deflate are read, one "
            "at a time. A photo is compressed already: send it as it is."
        )
    return coding


def max_decoded_bytes(request: Request, limit_bytes: int) -> int:
    """Return how many bytes the body may have, inflated: *limit_bytes* at most.

    Raises: UnsupportedCoding.
    """
    ratio, length = MAX_DEFLATE_RATIO if parse_coding(request) else 1, request.body.length
    return limit_bytes if length is None else min(length * ratio, limit_bytes)


def decoded_chunks(request: Request, limit_bytes: int, timeout_s: float = inf) -> Iterator[bytes]:
    """Yield the body in pieces, inflated, never more than *limit_bytes* in all.

    Raises: as `Body.chunks`; UnsupportedCoding; BadRequest where it is not what its coding says.
    """
    coding, found = parse_coding(request), request.body.chunks(limit_bytes, timeout_s)
    return _inflate(found, coding, limit_bytes) if coding else found


def _inflate(packed: Iterable[bytes], coding: str, limit_bytes: int) -> Iterator[bytes]:
    """Inflate PIECE_BYTES at a time, so that no more than *limit_bytes* is ever made."""
    import zlib

    inflater, total = None, 0
    try:
        for chunk in packed:
            if inflater is None:
                inflater = zlib.decompressobj(_wbits(coding, chunk))
            rest, full = chunk, True
            while rest or full:  # a full piece may not be all that was made of its input
                piece = inflater.decompress(rest, PIECE_BYTES)
                rest, full = inflater.unconsumed_tail, len(piece) == PIECE_BYTES
                total += len(piece)
                if total > limit_bytes:
                    raise _too_large(limit_bytes)
                if inflater.unused_data:
                    raise BadRequest(f"Bytes follow the end of the {coding} body.")
                yield piece
    except zlib.error as error:
        raise BadRequest(
            f"The body is not {coding}, as its Content-Encoding says. Leave that header out if you "
            "did not compress the body."
        ) from error
    if inflater is not None and not inflater.eof:
        raise BadRequest(f"The {coding} body was not sent to its end.")


def _wbits(coding: str, start: bytes) -> int:
    """Tell how deflate begins: as zlib, as RFC 9110 has it, or bare, as some clients send it."""
    is_zlib = start[0] & 15 == 8 and (len(start) < 2 or int.from_bytes(start[:2]) % 31 == 0)
    return RAW_WBITS if coding == "deflate" and not is_zlib else GZIP_OR_ZLIB_WBITS


def _too_large(limit_bytes: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"Inflated, the request has more than {limit_bytes:,} bytes; at most so many are read. "
        "Send a smaller copy of the image.",
        limit_bytes=limit_bytes,
    )
