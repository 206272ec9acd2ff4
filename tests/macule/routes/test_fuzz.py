"""Fuzzing of images, uploads and requests: each gets an answer or a named error."""

import gzip
import json
import struct
import zlib
from base64 import b64encode, encodebytes, urlsafe_b64encode
from collections.abc import Callable
from io import BytesIO
from urllib.parse import quote, urlencode

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from macule.errors import (
    BadImage,
    BadRequest,
    BodyTooLarge,
    CannotFit,
    ImageTooLarge,
    SlowImage,
    UnsupportedCoding,
    UnsupportedImage,
)
from macule.http import uploads
from macule.http.adapters import wsgi
from macule.http.body import Body
from macule.http.messages import Request
from macule.http.uploads import data_uri
from macule.inference import decoding
from macule.routes import classify, health
from support.images import pixels_of, saved, skin

SIDE = 32
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
BODIES = [saved(skin(90, 70), kind) for kind in FORMATS]
BODIES += [
    saved(skin(90, 70), "JPEG", progressive=True),
    saved(skin(90, 70).convert("P"), "PNG", transparency=3),
    saved(skin(90, 70).convert("RGBA"), "WEBP", lossless=True),
    saved(skin(90, 70), "TIFF", compression="tiff_lzw"),
]
ROUTES = {
    "GET /health/": health.alive,
    "GET /memory/": health.memory,
    "GET /model/": health.card,
    "POST /predict/": classify.classify_image,
}


def check(body: bytes) -> None:
    """Decode within a request's limits; only a named error may be raised."""
    try:
        decoding.inspect(body, 10**6)
        decoded = decoding.decode(body, SIDE, "squash", 5.0)
    except (BadImage, CannotFit, ImageTooLarge, SlowImage, UnsupportedImage):
        return
    assert (pixels_of(decoded).shape, pixels_of(decoded).dtype) == ((1, SIDE, SIDE, 3), np.uint8)


@given(
    st.sampled_from(BODIES),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255))),
    st.data(),
)
def test_broken_bytes_are_an_answer_or_a_named_error(
    body: bytes, changes: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Changed bytes and truncation give a picture or a named error."""
    broken = bytearray(body)
    for place, value in changes:
        broken[place % len(broken)] = value
    cut = data.draw(st.integers(0, len(broken)))

    check(bytes(broken[: cut or None]))


@given(st.sampled_from(BODIES), st.sampled_from(BODIES), st.integers(0, 3000), st.integers(0, 3000))
def test_two_files_spliced_are_an_answer_or_a_named_error(
    head: bytes, tail: bytes, end: int, start: int
) -> None:
    """The beginning of one format with the middle of another gives a picture or a named error."""
    check(head[:end] + tail[start:])


def chunk(kind: bytes, content: bytes) -> bytes:
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


@given(
    st.tuples(st.integers(0, 300), st.integers(0, 300)),
    st.sampled_from([1, 2, 4, 8, 16, 3]),
    st.sampled_from([0, 2, 3, 4, 6, 1]),
    st.integers(0, 1),
    st.binary(max_size=400),
    st.lists(
        st.tuples(
            st.sampled_from(
                [b"PLTE", b"tRNS", b"eXIf", b"zTXt", b"iCCP", b"IDAT", b"acTL", b"gAMA"]
            ),
            st.binary(max_size=60),
        ),
        max_size=4,
    ),
)
def test_a_png_with_valid_checksums_and_wrong_content_is_handled(
    size: tuple[int, int],
    depth: int,
    colour: int,
    interlaced: int,
    pixels: bytes,
    chunks: list[tuple[bytes, bytes]],
) -> None:
    """Invalid headers with valid checksums are handled by the strip decoder and by Pillow."""
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    check(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(chunk(kind, content) for kind, content in chunks)
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


NAMES = st.sampled_from(["image", "file", "a", "b64", "image_bytes", "instances", "webhook"])
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.sampled_from(["aGk=", "aGk", "data:,%41", "data:;base64,aGk", "b'aGk='"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
)
PACKS = {"": bytes, "gzip": gzip.compress, "deflate": zlib.compress}


@given(
    st.one_of(
        st.binary(max_size=500),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.dictionaries(NAMES, st.binary(max_size=40).map(b64encode) | st.text()).map(
            lambda fields: urlencode(fields).encode()
        ),
        st.lists(
            st.sampled_from(
                [b"--b", b"--b--", b"\r\n", b'Content-Disposition: form-data; name="image"', b"x"]
            ),
            max_size=20,
        ).map(b"".join),
    ),
    st.sampled_from(
        [
            "",
            "image/jpeg",
            "application/json",
            "application/x-www-form-urlencoded",
            "text/plain",
            "multipart/form-data",
            "multipart/form-data; boundary=b",
        ]
    ),
    st.booleans(),
    st.sampled_from([*PACKS]),
    st.sampled_from([*PACKS, "br"]),
)
def test_any_upload_is_bytes_or_a_named_error(
    body: bytes, kind: str, lying: bool, packed: str, coding: str
) -> None:
    """Forms, JSON and raw bodies, compressed or not, with a length that is right or too long."""
    sent = PACKS[packed](body)
    headers = {"content-type": kind, "content-encoding": coding}
    request = Request("POST", "/", {}, headers, Body(BytesIO(sent), len(sent) + lying))
    try:
        assert uploads.estimate_bytes(request, 300) >= uploads.DECODING_BYTES
        found = uploads.read_upload(request, 300).image
    except (BadRequest, BodyTooLarge, UnsupportedCoding, UnsupportedImage):
        return
    assert 0 < len(found) <= 300


@given(
    st.binary(min_size=1, max_size=2000),
    st.sampled_from([b64encode, urlsafe_b64encode, encodebytes]),
    st.sampled_from(["", "data:image/png;base64,", "DATA:;a=b;BASE64, ", "data:,"]),
    st.booleans(),
    st.integers(1, 90),
)
def test_every_encoding_of_bytes_is_read(
    image: bytes, encode: Callable[[bytes], bytes], head: str, padded: bool, width: int
) -> None:
    """Base64 of any alphabet, padding and line length, and data: URIs, give the bytes."""
    text = encode(image).decode()
    lines = (text[at : at + width] for at in range(0, len(text), width))
    written = "\r\n".join(lines) if padded else text.rstrip("=\n")
    if head == "data:,":
        written = quote(image)

    assert data_uri.decode(head + written) == image
    buffer = BytesIO(quote(head + written).encode())
    data_uri.decode_in_place(buffer, percent_encoded=True)
    assert buffer.getvalue() == image


@given(
    st.sampled_from(["GET", "POST", "PUT", "HEAD", "OPTIONS", "X"]),
    st.sampled_from(["", "/", "/predict", "/memory/", "/health//", "/model/"])
    | st.text(max_size=40),
    st.text(max_size=40),
    st.dictionaries(
        st.sampled_from(["HTTP_ORIGIN", "HTTP_X_REQUEST_ID", "HTTP_X_WARMUP", "CONTENT_TYPE"]),
        st.text(max_size=40),
    ),
    st.sampled_from(["", "0", "5", "-1", "\u00b2", "99999999999999999999"]),
)
def test_no_request_gets_500(
    method: str, path: str, query: str, headers: dict[str, str], length: str
) -> None:
    """Any method, path, query and header gets an expected status."""
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "CONTENT_LENGTH": length,
        "wsgi.input": BytesIO(b"hello"),
        **headers,
    }
    seen = []

    app = wsgi.create_app(ROUTES)
    body = b"".join(app(environ, lambda status, sent: seen.append((status, dict(sent)))))  # type: ignore[arg-type, misc]

    status, sent = seen[0]
    assert int(status.split()[0]) in (200, 204, 400, 404, 405, 413, 415)
    assert method == "HEAD" or len(body) == int(sent["Content-Length"])
    assert all("\n" not in value and "\r" not in value for value in sent.values())
