"""The forms in which a photo arrives: a raw body, a form's field, JSON; each as bytes or base64."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from io import BytesIO
from math import inf
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from macule.errors import BadRequest, BodyTooLarge, UnsupportedImage
from macule.http import content_coding, data_uri
from macule.http.messages import Request

IMAGE_FIELDS = ("image", "file")
TEXT_FIELDS = (WEBHOOK, EVENTS) = ("webhook", "webhook_events_filter")  # what may come beside it
# Where JSON has the photo: ours, TF Serving's and Vertex AI's names; each may hold another.
JSON_MEMBERS = ("image", "image_bytes", "b64", "content")
INSTANCES = (
    "instances"  # a list in which TF Serving's and Vertex AI's clients send what is predicted
)
FORM_BYTES = 2**16  # what a form may weigh beside its image
MAX_PARTS = 32
MAX_VALUES = 1000  # of JSON with an image in it
SMALL_TEXT_BYTES = 2**16  # of JSON that may hold any character
# An object counts as four values: with one member it takes 282 bytes. A value in a list takes 96 at
# most, a list of one; so text alone would become 32 times its size.
JSON_VALUE_BYTES = 96
DECODING_BYTES = 7 * 2**20  # of a baseline JPEG of 48 MP
# Of what may be JSON: the text as bytes and as characters, then its base64. Of all else one: what
# a growing buffer keeps in reserve is not touched, and takes no memory.
TEXT_COPIES = 2
FORM, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
JSON_TYPE = re.compile(r"(application|text)/([\w.+-]+\+)?json")
JSON_START = re.compile(rb"(\xef\xbb\xbf|\xff\xfe|\xfe\xff)?\s*\0?[{\[\"]")
UNTYPED_MEDIA_TYPES = (
    "",
    "text/plain",
    URLENCODED,
)  # what clients send who do not set a type; may be JSON
START_BYTES = data_uri.START_BYTES
URLENCODED_IMAGE = re.compile(rb"(?:^|&)(?:image|file)=([^&]*)&?")
USAGE = (
    "Send the photo as a raw body, as the multipart field `image` or `file`, or as JSON "
    '{"image": "<base64 or data: URI>"}.'
)
SEVERAL_IMAGES = (
    "A request takes one photo, and this has several. Send a request for each; for many files "
    "there is `macule batch`."
)
PIXELS_AS_NUMBERS = "A photo comes as base64; pixels as numbers are for /v2/models/NAME/infer."
NO_BOUNDARY = (
    "The body is a multipart form, but its Content-Type has no boundary. Do not set that header "
    "yourself: fetch, axios, requests and curl -F write it."
)
BYTES_AS_TEXT = (
    "The photo's bytes were turned into text on their way, which destroys them. Send them as "
    "bytes (a Blob, a Buffer, an open file), not as a string; in AWS API Gateway set "
    "binaryMediaTypes to */*."
)
BYTES_STRIPPED = (
    "Line ends and zeros are missing from the photo, as `curl -d @file` leaves them out. Send it "
    "by `curl --data-binary @file` or `curl -F image=@file`."
)
UTF8_IMAGE_STARTS = (
    b"\xc3\xbf\xc3\x98",
    b"\xc2\x89PNG",
)  # JPEG, PNG: each byte a character in UTF-8
REPLACEMENT_CHARACTER = "\ufffd".encode()  # what stands for bytes that are no UTF-8
GZIPPED = "The body is a gzip file. Send the photo itself, or `Content-Encoding: gzip` with it."


class Upload(NamedTuple):
    """An image's bytes, and those of TEXTS that came beside it; whether in a list, as BATCH."""

    image: bytes
    texts: dict[str, str]
    is_batch: bool = False


def wait_for_body(request: Request, max_image_bytes: int, timeout_s: float = inf) -> None:
    """Have the body come before anything is held for it, as `Body.wait_for_arrival` has it.

    Raises: BadRequest, BodyTooLarge, SlowBody, UnsupportedCoding.
    """
    content_coding.parse_coding(request)
    request.body.wait_for_arrival(_limit_bytes(request, max_image_bytes), timeout_s)


def estimate_bytes(request: Request, max_image_bytes: int) -> int:
    """Estimate the bytes that reading the body takes, and then decoding an ordinary photo.

    What of it lies in memory already is used, and becomes free as it is read.
    Two bodies must not fill the memory that each needs to be decoded.
    """
    size = content_coding.max_decoded_bytes(request, _limit_bytes(request, max_image_bytes))
    copies = TEXT_COPIES if _may_be_json(_media_type(request)) else 1
    return DECODING_BYTES + int(max(0, size * copies - request.body.received_bytes))


def read_upload(request: Request, max_image_bytes: int, timeout_s: float = inf) -> Upload:
    """Return the image's bytes, at most *max_image_bytes* of them, and what is asked beside it.

    *timeout_s*: as `Body.chunks` has it.
    Raises: BadRequest, BodyTooLarge, SlowBody, UnsupportedCoding, UnsupportedImage.
    """
    chunks = content_coding.decoded_chunks(
        request, _limit_bytes(request, max_image_bytes), timeout_s
    )
    if _media_type(request) == FORM:
        found = _parse_multipart(chunks, request.headers["content-type"])
    else:
        found = _parse_body(chunks, _media_type(request))
    if not found.image:
        unsent = " Its body is empty, or came without a Content-Length."
        detail = f"There is no image in the request.{unsent if request.body.length == 0 else ''}"
        raise BadRequest(f"{detail} {USAGE}")
    check_size(found.image, max_image_bytes)
    return found


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def _may_be_json(media_type: str) -> bool:
    return media_type in UNTYPED_MEDIA_TYPES or JSON_TYPE.fullmatch(media_type) is not None


def _limit_bytes(request: Request, max_image_bytes: int) -> int:
    """Return how many bytes a body may have; base64 is a third longer than what it encodes."""
    media_type = _media_type(request)
    if media_type == FORM:
        return max_image_bytes + FORM_BYTES
    is_json = JSON_TYPE.fullmatch(media_type) is not None
    return max_image_bytes * 4 // 3 + FORM_BYTES if is_json else max_image_bytes


def _parse_multipart(chunks: Iterator[bytes], kind: str) -> Upload:
    """Keep the known fields of a multipart form, each once; drop every other as it passes."""
    import multipart

    _, options = multipart.parse_options_header(kind)
    if not options.get("boundary"):
        raise BadRequest(NO_BOUNDARY)
    image, kept, names = BytesIO(), dict[str, BytesIO](), list[str]()
    into, full = None, False
    try:
        with multipart.PushMultipartParser(
            options["boundary"], max_segment_count=MAX_PARTS
        ) as parser:
            for event in (event for chunk in chunks for event in parser.parse(chunk)):
                if isinstance(event, multipart.MultipartSegment):
                    into, full = _field_buffer(event.name, image, kept), image.tell() > 0
                    names.append(event.name)
                elif event and into is not None:
                    if into is image and full:
                        raise BadRequest(SEVERAL_IMAGES)
                    into.write(event)
    except multipart.MultipartError as error:
        raise BadRequest(
            "The multipart form is malformed: its parts are not those that the boundary in "
            f"Content-Type announces. {USAGE}"
        ) from error
    if not image.tell():
        raise BadRequest(f"{_missing_image(names)} {USAGE}")
    texts = {name: text.getvalue().decode("utf-8", "replace") for name, text in kept.items()}
    return Upload(_decode_file(image), texts)


def _field_buffer(name: str, image: BytesIO, texts: dict[str, BytesIO]) -> BytesIO | None:
    """Return where a field of this name is kept; the second text of one name is not."""
    if name in IMAGE_FIELDS:
        return image
    return texts.setdefault(name, BytesIO()) if name in TEXT_FIELDS and name not in texts else None


def _missing_image(names: list[str]) -> str:
    """Say why a form has no image."""
    if not set(names).isdisjoint(IMAGE_FIELDS):
        return "The form's photo is empty: no file was chosen, or it has no bytes."
    told = ", ".join(f"`{name[:30]}`" for name in names[:5] if name.isprintable())
    return f"The form has no field `image` or `file`, only {told or 'none that can be named'}."


def _parse_body(chunks: Iterator[bytes], media_type: str) -> Upload:
    """Find what a body is by how it begins: JSON, an urlencoded form, base64, or an image."""
    buffer = BytesIO()
    for chunk in chunks:
        buffer.write(chunk)
    start, is_json = _start(buffer), JSON_TYPE.fullmatch(media_type) is not None
    if JSON_START.match(start) and (is_json or start.isascii()):
        if not _may_be_json(media_type):
            raise BadRequest(f"The body is JSON; its Content-Type is not application/json. {USAGE}")
        return _parse_json_upload(buffer)
    if start.startswith(b"--") and b"form-data" in start:
        raise BadRequest(NO_BOUNDARY)
    if media_type == URLENCODED and start.isascii() and b"=" in start:
        return _parse_urlencoded(buffer)
    image = _decode_file(buffer)
    if is_json and image and image.startswith(start) and start.isascii():
        raise BadRequest(f"The body is not JSON. {USAGE}")
    return Upload(image, {})


def _start(buffer: BytesIO) -> bytes:
    return bytes(buffer.getbuffer()[:START_BYTES])


def _parse_urlencoded(buffer: BytesIO) -> Upload:
    """Take the photo, in base64, and the texts beside it out of an urlencoded form."""
    body = buffer.getvalue()
    buffer.close()
    found = URLENCODED_IMAGE.search(body)
    if found is None and not data_uri.looks_encoded(body[:START_BYTES]):
        raise BadRequest(f"{_missing_image(list(parse_qs(body[:START_BYTES].decode())))} {USAGE}")
    at, end = found.span(1) if found else (0, len(body))
    others = body[:at] + body[end : end + FORM_BYTES]
    image = BytesIO(memoryview(body)[at:end])
    del body, found
    data_uri.decode_in_place(image, quoted=True)
    given = parse_qs(others[-FORM_BYTES:].decode("utf-8", "replace"))
    return Upload(image.getvalue(), {name: given[name][0] for name in TEXT_FIELDS if name in given})


def _decode_file(buffer: BytesIO) -> bytes:
    """Take an image file out of *buffer*, where it may be as base64 or a data: URI.

    Raises: BadRequest, UnsupportedImage, where it is what a mistake has made of one.
    """
    start = _start(buffer)
    if data_uri.looks_encoded(start):
        data_uri.decode_in_place(buffer)
    elif start.startswith(UTF8_IMAGE_STARTS) or REPLACEMENT_CHARACTER in start[:64]:
        raise BadRequest(BYTES_AS_TEXT)
    elif start.startswith(b"\x89PNG\x1a") or (start[:2] == b"\xff\xd8" and b"\0" not in start):
        raise BadRequest(BYTES_STRIPPED)
    elif start.startswith(b"\x1f\x8b"):
        raise UnsupportedImage(GZIPPED)
    return buffer.getvalue()


def _parse_json_upload(buffer: BytesIO) -> Upload:
    """Decode the base64 of a JSON document; each copy is dropped as soon as the next is made."""
    body = buffer.getvalue()
    buffer.close()  # it holds the body
    try:
        count_values(body, MAX_VALUES)
    except BadRequest as error:
        raise BadRequest(f"{error} {PIXELS_AS_NUMBERS} {USAGE}") from error
    try:
        text = _characters(body)
        del body
        document = _document(text)
        del text
    except BadRequest as error:
        raise BadRequest(f"{error} {USAGE}") from error
    if not isinstance(document, dict):
        document = {JSON_MEMBERS[0]: document}
    texts, is_batch = _text_fields(document), INSTANCES in document
    encoded = (
        _find_encoded(document.pop(INSTANCES), True) if is_batch else _find_encoded(document, False)
    )
    return Upload(data_uri.decode(encoded), texts, is_batch)


def _find_encoded(value: Any, is_batch: bool) -> str:
    """Find the text that a photo is in JSON: below NAMES, alone in a list, the one of BATCH.

    The members of an instance are named as a model's inputs are, so one that is alone is it.
    """
    while not isinstance(value, str):
        if isinstance(value, list) and len(value) > 1 and isinstance(value[0], dict | str):
            raise BadRequest(SEVERAL_IMAGES)
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
            continue
        members = value if isinstance(value, dict) else {}
        names = [name for name in JSON_MEMBERS if name in members] or [*members]
        if not names or (names[0] not in JSON_MEMBERS and not (is_batch and len(names) == 1)):
            named = "`image`" if not is_batch else "`b64` in the one of its `instances`"
            raise BadRequest(f"The JSON has no text under {named}. {USAGE}")
        value = members[names[0]]
    return value


def count_values(text: bytes, most: int) -> int:
    """Count what JSON may become, from above: each value takes VALUE_BYTES at most, text aside.

    Raises: BadRequest where these are more than *most*.
    """
    count = text.count(b",") + text.count(b"[") + 4 * text.count(b"{")
    if count > most:
        raise BadRequest(f"The JSON has more than {most:,} values.")
    return count


def parse_json(text: bytes, most_values: int) -> Any:
    """Read JSON of so many values at most; they are counted before any is made.

    Raises: BadRequest.
    """
    count_values(text, most_values)
    return _document(_characters(text))


def _characters(text: bytes) -> str:
    if len(text) > SMALL_TEXT_BYTES and not (text.isascii() and b"\\u" not in text):
        # one such character in an image's base64 has all of it take four times as much
        raise BadRequest("JSON of this size is plain ASCII: an image's base64, or numbers.")
    try:
        return text.decode(json.detect_encoding(text))
    except ValueError as error:
        raise BadRequest("The body is not JSON.") from error


def _document(text: str) -> Any:
    """Read JSON; in its texts there may be line ends, as shells put them into base64."""
    try:
        return json.loads(text, parse_constant=_reject_constant, strict=False)
    except (ValueError, RecursionError) as error:
        raise BadRequest("The body is not JSON.") from error


def _reject_constant(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _text_fields(document: dict[str, Any]) -> dict[str, str]:
    """Take the known texts out of a JSON object; a list of events becomes one text with commas."""
    found = {}
    for name in TEXT_FIELDS:
        value = document.get(name)
        if name == EVENTS and isinstance(value, list) and all(isinstance(e, str) for e in value):
            value = ",".join(value)
        if not isinstance(value, str | None):
            raise BadRequest(f"What the JSON has under `{name}` is not text.")
        found[name] = value or ""
    return found


def check_size(image: bytes, limit_bytes: int) -> bytes:
    """Return *image* if it is no larger than allowed.

    Raises: BodyTooLarge.
    """
    if len(image) > limit_bytes:
        raise BodyTooLarge(
            f"The image has {len(image):,} bytes; at most {limit_bytes:,} are read. Send a "
            "smaller copy.",
            limit_bytes=limit_bytes,
        )
    return image
