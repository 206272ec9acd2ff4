"""Upload formats."""

import base64
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import BytesIO
from urllib.parse import quote, urlencode

import pytest
from macule.errors import BadRequest, BodyTooLarge, Macule, UnsupportedCoding, UnsupportedImage
from macule.http import uploads
from macule.http.body import Body
from macule.http.messages import Request
from support.service import form

IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40 + b"\xfb\xff"
LIMIT = 20_000
JSON, URLENCODED = "application/json", "application/x-www-form-urlencoded"


def request(body: bytes, kind: str = "", length: int | None = -1, coding: str = "") -> Request:
    size = len(body) if length == -1 else length
    headers = {"content-type": kind, "content-encoding": coding}
    return Request("POST", "/", {}, headers, Body(BytesIO(body), size))


def photo(body: bytes, kind: str, length: int | None = -1, coding: str = "") -> bytes:
    return uploads.read_upload(request(body, kind, length, coding), LIMIT).image


def as_json(document: object) -> bytes:
    return json.dumps(document).encode()


def in_form(content: bytes, head: str = 'name="image"; filename="a.jpg"') -> bytes:
    """Write a form of one part, with the rest of its Content-Disposition."""
    return (
        f"--b\r\nContent-Disposition: form-data; {head}\r\n\r\n".encode() + content + b"\r\n--b--"
    )


ENCODED = base64.b64encode(IMAGE).decode()
URL_SAFE = base64.urlsafe_b64encode(IMAGE).decode().rstrip("=")
WRAPPED = base64.encodebytes(IMAGE).decode()
CUT = ENCODED[:1001]
URI = "data:image/png;base64," + ENCODED
FORM, QUOTED = "multipart/form-data; boundary=b", 'multipart/form-data; boundary="b"'


def deflated(content: bytes, window: int) -> bytes:
    packer = zlib.compressobj(wbits=window)
    return packer.compress(content) + packer.flush()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (IMAGE, "image/jpeg"),
        (IMAGE, "application/octet-stream"),
        (IMAGE, ""),
        (IMAGE, URLENCODED),
        (IMAGE, JSON),
        (as_json({"image": ENCODED}), JSON),
        (as_json({"image": ENCODED}), ""),
        (as_json({"image": ENCODED}), URLENCODED),
        (as_json({"image": ENCODED}), "text/plain; charset=utf-8"),
        (as_json({"image": ENCODED}), "application/problem+json"),
        (b"\xef\xbb\xbf" + as_json({"image": ENCODED}), JSON),
        (as_json(ENCODED), JSON),
        (as_json([ENCODED]), JSON),
        (as_json({"b64": ENCODED}), JSON),
        (as_json({"image_bytes": {"b64": ENCODED}}), JSON),
        (as_json({"instances": [ENCODED]}), JSON),
        (as_json({"instances": [{"b64": ENCODED}]}), JSON),
        (as_json({"instances": [{"image": ENCODED}]}), JSON),
        (as_json({"instances": [{"image_bytes": {"b64": URL_SAFE}, "key": "1"}]}), JSON),
        (as_json({"instances": [{"content": ENCODED, "mimeType": "image/png"}]}), JSON),
        (as_json({"instances": [{"input_1": {"b64": ENCODED}}], "parameters": {}}), JSON),
        (ENCODED.encode(), "text/plain"),
        (WRAPPED.encode(), "image/jpeg"),
        (URI.encode(), "image/png"),
        (URI.encode(), JSON),
        (urlencode({"image": ENCODED, "x": "1"}).encode(), URLENCODED),
        (urlencode({"x": "1", "file": URI}).encode(), URLENCODED),
        (f"image={ENCODED}".encode(), URLENCODED),
        *((body, headers["Content-Type"]) for body, headers in (form("image", IMAGE),)),
        *((body, headers["Content-Type"]) for body, headers in (form("file", IMAGE),)),
        (in_form(IMAGE, 'name="image"'), FORM),
        (in_form(IMAGE, "name=image; filename*=UTF-8''%E1%BA%A3nh.jpg"), FORM),
        (in_form(IMAGE, "name=file; filename=a; filename*=utf-8''a"), QUOTED),
        (in_form(URI.encode(), 'name="image"'), FORM),
        (in_form(WRAPPED.encode()), FORM),
        (in_form(b"")[:-5] + in_form(IMAGE), FORM),
    ],
)  # fmt: skip
def test_each_format_gives_the_same_bytes(body: bytes, kind: str) -> None:
    """Every format gives the photo byte for byte, with a length and without."""
    assert photo(body, kind) == photo(body, kind, None) == IMAGE


@pytest.mark.parametrize(
    "text",
    [
        ENCODED,
        ENCODED.rstrip("=") + "==",
        ENCODED.rstrip("="),
        URL_SAFE,
        WRAPPED,
        WRAPPED.replace("\n", "\r\n"),
        f"  {ENCODED}\n",
        URI,
        "data:image/png;charset=utf-8;name=a.png;base64," + ENCODED,
        "data:;base64," + ENCODED,
        "data:;charset=utf-8;base64," + quote(ENCODED, safe=""),
        "DATA:IMAGE/PNG;BASE64," + ENCODED,
        "\n data:image/png; base64, " + WRAPPED,
        "data:image/png," + quote(IMAGE, safe=""),
    ],
)
def test_all_variants_of_base64_and_data_uris_are_read(text: str) -> None:
    """Alphabet, padding, white space, parameters, case and %XX make no difference."""
    assert photo(as_json({"image": text}), JSON) == IMAGE


@pytest.mark.parametrize("first", [b"{", b"[", b'"', b"--", b"image=", b"data:"])
@pytest.mark.parametrize("kind", ["", "image/jpeg", URLENCODED])
def test_binary_bodies_may_begin_like_text(first: bytes, kind: str) -> None:
    """A body that only begins like JSON or a form is passed to the decoders."""
    assert photo(first + IMAGE, kind) == first + IMAGE


def test_json_strings_may_have_line_breaks() -> None:
    """Wrapped base64 between quotes may contain raw line breaks."""
    assert photo(f'{{"image": "{WRAPPED}"}}'.encode(), JSON) == IMAGE


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "GZIP", "deflate", "identity"])
@pytest.mark.parametrize(
    ("body", "kind"),
    [(IMAGE, "image/png"), (as_json({"image": ENCODED}), JSON), (in_form(IMAGE), FORM)],
    ids=["raw", "JSON", "form"],
)
def test_a_compressed_body_is_inflated(body: bytes, kind: str, coding: str) -> None:
    """gzip and deflate are read around every format; deflate as zlib and raw."""
    pack: dict[str, list[Callable[[bytes], bytes]]] = {
        "deflate": [zlib.compress, lambda body: deflated(body, -15)],
        "identity": [bytes],
    }
    for packed in (how(body) for how in pack.get(coding, [gzip.compress])):
        assert photo(packed, kind, coding=coding) == IMAGE


@pytest.mark.parametrize(
    ("body", "coding", "error"),
    [
        (IMAGE, "br", UnsupportedCoding),
        (IMAGE, "gzip, gzip", UnsupportedCoding),
        (IMAGE, "utf-8", UnsupportedCoding),
        (IMAGE, "gzip", BadRequest),
        (IMAGE, "deflate", BadRequest),
        (gzip.compress(IMAGE, mtime=0)[:-9], "gzip", BadRequest),
        (gzip.compress(IMAGE, mtime=0) + b"more", "gzip", BadRequest),
        (b"", "gzip", BadRequest),
        (gzip.compress(bytes(LIMIT + 1), mtime=0), "gzip", BodyTooLarge),
        (gzip.compress(IMAGE, mtime=0), "", UnsupportedImage),
    ],
)
def test_a_wrong_content_coding_is_rejected(body: bytes, coding: str, error: type[Macule]) -> None:
    """Unknown, wrong and truncated codings and bombs each have their own error."""
    with pytest.raises(error):
        photo(body, "image/png", coding=coding)


def test_a_bomb_is_rejected_before_it_is_inflated() -> None:
    """A body that inflates to 200 MB takes no more memory than estimated."""
    bomb = gzip.compress(bytes(200 * 2**20), 9)
    asked = request(bomb, "image/png", coding="gzip")
    most = uploads.estimate_bytes(asked, 2**20)

    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            uploads.read_upload(asked, 2**20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < most


def test_instances_request_their_answer_format() -> None:
    """`instances` alone are a batch; other fields are kept."""
    batch = uploads.read_upload(
        request(as_json({"instances": [ENCODED], "webhook": "w"}), JSON), LIMIT
    )
    plain = uploads.read_upload(request(as_json({"image": ENCODED}), JSON), LIMIT)

    assert (batch.is_batch, batch.texts["webhook"]) == (True, "w")
    assert not plain.is_batch


def test_fields_may_accompany_an_urlencoded_photo() -> None:
    """Fields may come before the photo and after it."""
    body = urlencode({"webhook": "https://a.b/?c", "image": URI, "webhook_events_filter": "e"})

    found = uploads.read_upload(request(body.encode(), URLENCODED), LIMIT)

    assert found == (IMAGE, {"webhook": "https://a.b/?c", "webhook_events_filter": "e"}, False)


@pytest.mark.parametrize(
    ("body", "kind", "expected"),
    [
        (b"", "image/jpeg", "came without a Content-Length"),
        (b"{", JSON, "is not JSON"),
        (b"[" * 100_000, JSON, "more than 1,000 values"),
        (b"[]", JSON, "`image`"),
        (b'{"img": 1}', JSON, "`image`"),
        (b'{"image": 5}', JSON, "`image`"),
        (b'{"image": ""}', JSON, "no image"),
        (b'{"image": "%%%"}', JSON, "not base64"),
        (b'{"image": "AAAA", "x": NaN}', JSON, "is not JSON"),
        (b"hello", JSON, "is not JSON"),
        (as_json({"image": ENCODED, "webhook": 0}), JSON, "`webhook` is not text"),
        (as_json({"image": ENCODED, "webhook": []}), JSON, "`webhook` is not text"),
        (as_json({"image": ENCODED, "webhook_events_filter": False}), JSON, "is not text"),
        (as_json({"image": ENCODED, "webhook_events_filter": [None]}), JSON, "is not text"),
        (as_json({"image": str(ENCODED.encode())}), JSON, ".decode('ascii')"),
        (as_json({"image": "https://example.com/a.jpg"}), JSON, "nothing is fetched"),
        (as_json({"image": "blob:https://example.com/a"}), JSON, "nothing is fetched"),
        (as_json({"image": WRAPPED.replace("\n", "\\n")}), JSON, "backslash"),
        (as_json({"image": ENCODED.rstrip("=") + "=" + ENCODED}), JSON, "not base64"),
        (as_json({"image": CUT}), JSON, "not base64"),
        (as_json({"instances": []}), JSON, "`instances`"),
        (as_json({"instances": {}}), JSON, "`instances`"),
        (as_json({"instances": [{"a": 1, "b": 2}]}), JSON, "`instances`"),
        (as_json({"instances": [{"b64": ENCODED}] * 2}), JSON, "one photo"),
        (as_json({"image": [ENCODED] * 2}), JSON, "one photo"),
        (as_json({"instances": [[[[0.5] * 3] * 224] * 224]}), JSON, "/v2"),
        (as_json({"image": ENCODED}), "image/jpeg", "Content-Type is not application/json"),
        (CUT.encode(), "text/plain", "not base64"),
        (str(ENCODED.encode()).encode(), "text/plain", ".decode('ascii')"),
        (b"photo=" + ENCODED.encode(), URLENCODED, "`photo`"),
        (b"image=%%", URLENCODED, "not base64"),
        (IMAGE.decode("utf-8", "replace").encode(), "image/png", "binaryMediaTypes"),
        (IMAGE.decode("latin-1").encode(), "image/png", "binaryMediaTypes"),
        (b"\xff\xd8\xff\xe0\x00".decode("latin-1").encode(), "image/jpeg", "turned into text"),
        (IMAGE.translate(None, b"\0\r\n"), URLENCODED, "--data-binary"),
        (b"\xff\xd8\xff\xe0\x10JFIF\x01" * 9, "application/octet-stream", "--data-binary"),
        (b"x", "multipart/form-data", "has no boundary"),
        (in_form(IMAGE), JSON, "has no boundary"),
        (in_form(IMAGE), URLENCODED, "has no boundary"),
        (in_form(IMAGE), "", "has no boundary"),
        (b"x", FORM, "malformed"),
        (IMAGE, FORM, "malformed"),
        (in_form(IMAGE), "multipart/form-data; boundary=c", "malformed"),
        (in_form(IMAGE, 'name="photo"'), FORM, "`photo`"),
        (in_form(b"", 'name="image"; filename=""'), FORM, "no file was chosen"),
        (in_form(IMAGE)[:-5] + in_form(IMAGE), FORM, "one photo"),
        (in_form(IMAGE)[:-5] + in_form(IMAGE, 'name="file"'), FORM, "one photo"),
        (in_form(IMAGE.decode("utf-8", "replace").encode()), FORM, "binaryMediaTypes"),
        (form("image", IMAGE)[0][:-30], form("image", IMAGE)[1]["Content-Type"], "malformed"),
    ],
)  # fmt: skip
def test_a_malformed_upload_says_what_is_wrong(body: bytes, kind: str, expected: str) -> None:
    """Every error in a form is a 400 whose detail names it."""
    with pytest.raises(BadRequest) as raised:
        uploads.read_upload(request(body, kind), 2**20)

    assert expected in str(raised.value)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (bytes(LIMIT + 1), "image/jpeg"),
        (bytes(LIMIT + 1), ""),
        (as_json({"image": base64.b64encode(bytes(LIMIT + 1)).decode()}), JSON),
        (base64.b64encode(bytes(LIMIT + 1)), "text/plain"),
        (urlencode({"image": base64.b64encode(bytes(LIMIT + 1))}).encode(), URLENCODED),
        (form("image", bytes(LIMIT + 1))[0], form("image", b"")[1]["Content-Type"]),
    ],
)
def test_an_image_above_the_limit_is_rejected_in_every_format(body: bytes, kind: str) -> None:
    """The limit applies to the image's own bytes in every format."""
    with pytest.raises(BodyTooLarge):
        photo(body, kind)


def test_a_form_of_a_thousand_parts_is_rejected() -> None:
    """The number of parts is limited."""
    part = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n'

    with pytest.raises(BadRequest):
        photo(part * 1000 + b"--b--\r\n", FORM)


MANY = 2**22
BIG = bytes(range(251)) * (MANY * 3 // 251)  # 12 MB
slow = partial(pytest.param, marks=pytest.mark.slow)  # tracemalloc tracks each quoted byte


@pytest.mark.parametrize(
    ("write", "kind"),
    [
        (lambda: b'{"image": "AAAA", "x": [' + b"[]," * 2**20 + b"0]}", JSON),
        (lambda: b'{"image": "AAAA", "x": [' + b'{"a":1},' * 2**20 + b"0]}", JSON),
        (lambda: b'{"image": "' + b"A" * MANY + b'\\ud83d\\ude00"}', JSON),
        (lambda: b'{"image": "' + b"A" * MANY + "\U0001f600".encode() + b'"}', JSON),
        (lambda: b'{"image": "' + b"ab " * (2**20 + 1) + b'"}', JSON),
        (lambda: as_json({"instances": [{"b64": base64.b64encode(BIG).decode()}]}), JSON),
        slow(lambda: b'{"image": "data:image/png,' + quote(b"\x89" * MANY).encode() + b'"}', JSON),
        slow(lambda: b'{"image": "data:;base64,' + b"%41" * MANY + b'"}', JSON),
        (lambda: base64.b64encode(BIG), "text/plain"),
        (lambda: base64.encodebytes(BIG), "image/jpeg"),
        slow(lambda: b"image=" + b"%41" * MANY, URLENCODED),
        (lambda: b"x=" + b"%41" * MANY + b"&image=AAAA", URLENCODED),
        (lambda: b"&".join([b"x=1"] * MANY) + b"&image=AAAA", URLENCODED),
        (lambda: in_form(base64.b64encode(BIG)), FORM),
        slow(lambda: in_form(b"data:image/png," + b"%41" * MANY), FORM),
    ],
    ids=[
        "lists", "objects", "an escape", "a wide character", "white space", "an instance",
        "a quoted URI", "quoted base64", "base64", "wrapped base64", "a quoted field",
        "another field", "many fields", "base64 in a form", "a URI in a form",
    ],
)  # fmt: skip
def test_no_format_takes_more_than_its_estimate(write: Callable[[], bytes], kind: str) -> None:
    """Expanding input is rejected, or read within its estimate."""
    body = write()
    asked = request(body, kind)
    most = uploads.estimate_bytes(asked, len(body)) - uploads.DECODING_BYTES

    tracemalloc.start()
    try:
        with suppress(BadRequest):
            uploads.read_upload(asked, len(body))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    # a chunk and pieces; and BytesIO's reserve, which it does not touch
    assert peak < most + len(body) // 8 + 2**20
