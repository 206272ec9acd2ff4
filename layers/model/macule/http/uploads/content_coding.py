"""Content codings of a request's body (RFC 9110, 8.4): gzip and deflate, decoded in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf

from macule.errors import BadRequest, BodyTooLarge, UnsupportedCoding
from macule.http.messages import Request

PIECE_BYTES = 2**16
MAX_DEFLATE_RATIO = 1032  # the most that deflate compresses: 258 bytes in two bits
ALIASES = {"identity": "", "x-gzip": "gzip"}
GZIP_OR_ZLIB_WBITS, RAW_WBITS = 47, -15  # zlib's wbits for the formats of a stream


def parse_coding(request: Request) -> str:
    """Return the coding of a request's body: gzip, deflate, or "" for none.

    Raises: UnsupportedCoding.
    """
    declared = request.headers.get("content-encoding", "").strip().lower()
    coding = ALIASES.get(declared, declared)
    if coding not in ("", "gzip", "deflate"):
        raise UnsupportedCoding(
            f"The body's Content-Encoding is {declared[:40]!r}; only one of gzip and deflate is "
            "supported. A photo is compressed already: send it as it is."
        )
    return coding


def max_decoded_bytes(request: Request, limit_bytes: int) -> int:
    """Return an upper bound of the decoded body's bytes: *limit_bytes* at most.

    Raises: UnsupportedCoding.
    """
    ratio, length = MAX_DEFLATE_RATIO if parse_coding(request) else 1, request.body.length
    return limit_bytes if length is None else min(length * ratio, limit_bytes)


def decoded_chunks(request: Request, limit_bytes: int, timeout_s: float = inf) -> Iterator[bytes]:
    """Yield the decoded body in pieces, at most *limit_bytes* in total.

    Raises: as `Body.chunks`; UnsupportedCoding; BadRequest if it does not match its coding.
    """
    coding, chunks = parse_coding(request), request.body.chunks(limit_bytes, timeout_s)
    return _inflate(chunks, coding, limit_bytes) if coding else chunks


def _inflate(packed: Iterable[bytes], coding: str, limit_bytes: int) -> Iterator[bytes]:
    """Decompress PIECE_BYTES at a time, so that the output never exceeds *limit_bytes*."""
    import zlib

    inflater, total = None, 0
    try:
        for chunk in packed:
            if inflater is None:
                inflater = zlib.decompressobj(_wbits(coding, chunk))
            rest, full = chunk, True
            while rest or full:  # after a full piece there may be more output
                piece = inflater.decompress(rest, PIECE_BYTES)
                rest, full = inflater.unconsumed_tail, len(piece) == PIECE_BYTES
                total += len(piece)
                if total > limit_bytes:
                    raise BodyTooLarge(
                        f"The decompressed request has more than {limit_bytes:,} bytes, which is "
                        "the limit. Send a smaller copy of the image.",
                        limit_bytes=limit_bytes,
                    )
                if inflater.unused_data:
                    raise BadRequest(f"Bytes follow the end of the {coding} body.")
                yield piece
    except zlib.error as error:
        raise BadRequest(
            f"The body is not {coding}, but its Content-Encoding says so. Leave that header out if "
            "you did not compress the body."
        ) from error
    if inflater is not None and not inflater.eof:
        raise BadRequest(f"The {coding} body is incomplete.")


def _wbits(coding: str, start: bytes) -> int:
    """Detect the format of deflate: zlib, as in RFC 9110, or raw, as some clients send it."""
    is_zlib = start[0] & 15 == 8 and (len(start) < 2 or int.from_bytes(start[:2]) % 31 == 0)
    return RAW_WBITS if coding == "deflate" and not is_zlib else GZIP_OR_ZLIB_WBITS
