"""The three forms in which a photo arrives."""

import base64
import json
import tracemalloc
from io import BytesIO
from math import inf

import pytest
from macule import upload
from macule.body import Body
from macule.errors import BadRequest, BodyTooLarge
from macule.http import Request
from service import form

IMAGE = bytes(range(256)) * 40
LIMIT = 20_000


def photo(body: bytes, kind: str, length: int | None = -1) -> bytes:
    size = len(body) if length == -1 else length
    return upload.photo(
        Request("POST", "/", {}, {"content-type": kind}, Body(BytesIO(body), size)), LIMIT
    ).image


def as_json(document: object) -> bytes:
    return json.dumps(document).encode()


ENCODED = base64.b64encode(IMAGE).decode()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (IMAGE, "image/jpeg"),
        (IMAGE, "application/octet-stream"),
        (IMAGE, ""),
        (as_json({"image": ENCODED}), "application/json"),
        (as_json({"image": "data:image/png;base64," + ENCODED}), "application/json; charset=utf-8"),
        (as_json({"image": base64.encodebytes(IMAGE).decode()}), "application/json"),
        *((body, headers["Content-Type"]) for body, headers in (form("image", IMAGE),)),
        *((body, headers["Content-Type"]) for body, headers in (form("file", IMAGE),)),
    ],
)
def test_each_form_gives_the_same_bytes(body: bytes, kind: str) -> None:
    """Raw, multipart and base64 give the image byte for byte, with a length and without."""
    assert photo(body, kind) == photo(body, kind, None) == IMAGE


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"", "image/jpeg"),
        (b"{", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"[]", "application/json"),
        (b'{"img": 1}', "application/json"),
        (b'{"image": 5}', "application/json"),
        (b'{"image": ""}', "application/json"),
        (b'{"image": "%%%"}', "application/json"),
        (b'{"image": "data:image/png,rawtext"}', "application/json"),
        (b'{"image": "AAAA", "x": NaN}', "application/json"),
        (as_json({"image": ENCODED, "webhook": 0}), "application/json"),
        (as_json({"image": ENCODED, "webhook": []}), "application/json"),
        (as_json({"image": ENCODED, "webhook_events_filter": False}), "application/json"),
        (as_json({"image": ENCODED, "webhook_events_filter": [None]}), "application/json"),
        (b"x", "multipart/form-data"),
        (b"x", "multipart/form-data; boundary=b"),
        (form("other", IMAGE)[0], form("other", IMAGE)[1]["Content-Type"]),
        (form("image", IMAGE)[0][:-30], form("image", IMAGE)[1]["Content-Type"]),
    ],
)
def test_a_malformed_upload_says_how_to_do_it(body: bytes, kind: str) -> None:
    """Whatever is wrong with the form is a 400."""
    with pytest.raises((BadRequest, BodyTooLarge)):
        photo(body, kind)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (bytes(LIMIT + 1), "image/jpeg"),
        (as_json({"image": base64.b64encode(bytes(LIMIT + 1)).decode()}), "application/json"),
        (form("image", bytes(LIMIT + 1))[0], form("image", b"")[1]["Content-Type"]),
    ],
)
def test_an_image_over_the_limit_is_refused_in_every_form(body: bytes, kind: str) -> None:
    """The limit is on the image's own bytes, however they are wrapped."""
    with pytest.raises(BodyTooLarge):
        photo(body, kind)


def test_a_form_of_a_thousand_parts_is_refused() -> None:
    """The number of a form's parts is bounded."""
    part = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n'

    with pytest.raises(BadRequest):
        photo(part * 1000 + b"--b--\r\n", "multipart/form-data; boundary=b")


@pytest.mark.parametrize(
    "text",
    [
        b'{"image": "AAAA", "x": [' + b"[]," * 2**20 + b"0]}",
        b'{"image": "AAAA", "x": [' + b'{"a":1},' * 2**20 + b"0]}",
        b'{"image": "' + b"A" * 2**22 + b'\\ud83d\\ude00"}',
        b'{"image": "' + b"A" * 2**22 + "\U0001f600".encode() + b'"}',
        b'{"image": "' + b"ab " * (2**20 + 1) + b'"}',
    ],
    ids=["lists", "objects", "an escape", "a wide character", "white space"],
)
def test_json_takes_no_more_than_its_price(text: bytes) -> None:
    """What would become many times its size is refused, or read within what is held for it."""
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest):
            upload._from_json(Body(BytesIO(text), len(text)), 2**23, inf)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < upload.DECODING_BYTES + upload.JSON_COPIES * len(text)
