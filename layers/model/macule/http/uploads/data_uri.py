"""Base64 and data: URIs (RFC 4648, RFC 2397), decoded in pieces to avoid copies of the text."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable, Iterator
from io import BytesIO

from macule.errors import BadRequest

PIECE_BYTES = 2**14
START_BYTES = 1024  # the comma of a data: URI is within these
WHITESPACE = b" \t\r\n\f\v"
URL_SAFE_TO_STANDARD = bytes.maketrans(b"-_", b"+/")  # from the URL-safe alphabet
URI = re.compile(rb"\s*data:([ -+\--~]*),", re.IGNORECASE)
# No image file starts with this many base64 characters. URL: a common mistake instead of an image.
BASE64 = re.compile(rb"\s*(b['\"])?[A-Za-z0-9+/_\-\r\n]{32}[A-Za-z0-9+/_\-=\r\n]*\Z")
URL = re.compile(rb"(https?|blob|file|ftp):/?\S*\Z", re.IGNORECASE)
DETECTION_BYTES = 96  # the patterns above are matched against these
# Common mistakes, by the start of the text, and how to fix them.
MISTAKES = {
    r"b['\"]": "it begins with b', like str() of Python's bytes: use .decode('ascii') instead",
    r"(?i)(https?|blob|file|ftp):": "it is a URL, and nothing is fetched: send the photo itself",
    r".*\\[nr]": "it contains a backslash: write line ends as white space, or leave them out",
}


def looks_encoded(start: bytes) -> bool:
    """Return whether bytes that start with *start* are base64 or a URI, not an image file."""
    span = start[:DETECTION_BYTES]
    return any((URI.match(start), BASE64.match(span), URL.match(span)))


def decode(text: str) -> bytes:
    """Decode a data: URI, or base64 of either alphabet, with or without line ends and padding.

    Raises: BadRequest.
    """
    decoded = BytesIO()
    try:
        for piece in _decode_pieces(_slices(text), text[:START_BYTES].encode()):
            decoded.write(piece)
    except ValueError as error:
        raise _not_base64(text[:START_BYTES]) from error
    return decoded.getvalue()


def decode_in_place(buffer: BytesIO, percent_encoded: bool = False) -> None:
    """Replace base64 or a data: URI in *buffer* by its content, which is never longer.

    *percent_encoded*: as in the values of an urlencoded form.
    Raises: BadRequest.
    """
    buffer.seek(0)
    start, size = buffer.read(START_BYTES), 0
    pieces = _read(buffer)
    try:
        if percent_encoded:
            pieces, start = _percent_decode(pieces), b"".join(_percent_decode([start]))
        for piece in _decode_pieces(pieces, start):
            buffer.seek(size)
            size += buffer.write(piece)
    except ValueError as error:
        raise _not_base64(start.decode("latin-1")) from error
    buffer.truncate(size)


def _read(buffer: BytesIO) -> Iterator[bytes]:
    """Yield *buffer* from its beginning, even if it is written to meanwhile."""
    at, piece = 0, b" "
    while piece:
        buffer.seek(at)
        piece = buffer.read(PIECE_BYTES)
        at += len(piece)
        yield piece


def _slices(text: str) -> Iterator[bytes]:
    for at in range(0, len(text), PIECE_BYTES):
        yield text[at : at + PIECE_BYTES].encode()


def _decode_pieces(pieces: Iterable[bytes], start: bytes) -> Iterator[bytes]:
    """Decode *pieces* of a text that starts with *start*. Raises: ValueError."""
    uri = URI.match(start)
    if uri is None:
        return _decode_base64(pieces)
    payload = _percent_decode(_skip(pieces, uri.end()))
    parameters = [part.strip().lower() for part in uri[1].split(b";")[1:]]
    return _decode_base64(payload) if b"base64" in parameters else payload


def _skip(pieces: Iterable[bytes], skip: int) -> Iterator[bytes]:
    """Yield *pieces* without the first *skip* bytes."""
    for piece in pieces:
        yield piece[skip:]
        skip = max(0, skip - len(piece))


def _percent_decode(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Decode %XX, also across the end of a piece."""
    from urllib.parse import unquote_to_bytes

    rest = b""
    for piece in pieces:
        text = rest + piece
        cut = text.rfind(b"%", max(0, len(text) - 2))
        rest = b"" if cut < 0 else text[cut:]
        yield unquote_to_bytes(text[: len(text) - len(rest)])
    yield unquote_to_bytes(rest)


def _decode_base64(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest, ended = b"", False
    for piece in pieces:
        text = rest + piece.translate(URL_SAFE_TO_STANDARD, WHITESPACE)
        data, padding, after = text.partition(b"=")
        if after.strip(b"=") or (ended and data != rest):
            raise ValueError("data follows the padding")
        ended = ended or bool(padding)
        whole = len(data) // 4 * 4
        rest = data[whole:]
        yield binascii.a2b_base64(data[:whole], strict_mode=True)
    yield binascii.a2b_base64(rest + b"=" * (-len(rest) % 4), strict_mode=True)


def _not_base64(start: str) -> BadRequest:
    hints = (text for mistake, text in MISTAKES.items() if re.match(mistake, start.lstrip()))
    hint = next(hints, "send the photo's bytes in base64, or as a data: URI")
    return BadRequest(f"The photo's text is not base64: {hint}.")
