"""Parsers of upload bodies: multipart and urlencoded forms, JSON, base64 and raw images."""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from macule.errors import BadRequest, UnsupportedImage
from macule.http.uploads import bounded_json, data_uri

IMAGE_FIELDS = ("image", "file")
TEXT_FIELDS = (WEBHOOK, EVENTS) = ("webhook", "webhook_events_filter")
# Members that hold the image in JSON: macule's, TF Serving's and Vertex AI's names. May be nested.
JSON_MEMBERS = ("image", "image_bytes", "b64", "content")
INSTANCES = "instances"  # the list of inputs in requests for TF Serving and Vertex AI
FORM_BYTES = 2**16  # the limit for everything in a form except its image
MAX_PARTS = 32
MAX_VALUES = 1000  # in JSON with an image
FORM, URLENCODED = "multipart/form-data", "application/x-www-form-urlencoded"
JSON_TYPE = re.compile(r"(application|text)/([\w.+-]+\+)?json")
JSON_START = re.compile(rb"(\xef\xbb\xbf|\xff\xfe|\xfe\xff)?\s*\0?[{\[\"]")
# Clients that set no type send one of these; the body may be JSON.
UNTYPED_MEDIA_TYPES = ("", "text/plain", URLENCODED)
START_BYTES = data_uri.START_BYTES
URLENCODED_IMAGE = re.compile(rb"(?:^|&)(?:image|file)=([^&]*)&?")
USAGE = (
    "Send the photo as a raw body, as the multipart field `image` or `file`, or as JSON "
    '{"image": "<base64 or data: URI>"}.'
)
SEVERAL_IMAGES = (
    "A request takes one photo, but this one has several. Send one request per photo; for many "
    "files use `macule batch`."
)
PIXELS_AS_NUMBERS = "Send a photo as base64; send pixels as numbers to /v2/models/NAME/infer."
NO_BOUNDARY = (
    "The body is a multipart form, but its Content-Type has no boundary. Do not set that header "
    "yourself: fetch, axios, requests and curl -F write it."
)
BYTES_AS_TEXT = (
    "The photo's bytes were turned into text before they arrived, which destroys them. Send them "
    "as bytes (a Blob, a Buffer, an open file), not as a string; in AWS API Gateway set "
    "binaryMediaTypes to */*."
)
BYTES_STRIPPED = (
    "Line ends and zeros are missing from the photo: `curl -d @file` removes them. Send it "
    "by `curl --data-binary @file` or `curl -F image=@file`."
)
# JPEG and PNG with each byte encoded as a character in UTF-8
UTF8_IMAGE_STARTS = (b"\xc3\xbf\xc3\x98", b"\xc2\x89PNG")
REPLACEMENT_CHARACTER = "\ufffd".encode()  # replaces bytes that are not valid UTF-8
GZIPPED = "The body is a gzip file. Send the photo itself, or `Content-Encoding: gzip` with it."


class Upload(NamedTuple):
    """An image file, the TEXT_FIELDS sent with it, and whether it was in a list (INSTANCES)."""

    image: bytes
    texts: dict[str, str]
    is_batch: bool = False


def is_json(media_type: str) -> bool:
    return JSON_TYPE.fullmatch(media_type) is not None


def may_be_json(media_type: str) -> bool:
    """Return whether a body of this type is parsed as JSON if it looks like JSON."""
    return media_type in UNTYPED_MEDIA_TYPES or is_json(media_type)


def parse_multipart(chunks: Iterator[bytes], content_type: str) -> Upload:
    """Return the known fields of a multipart form, each once; discard other fields unread.

    Raises: BadRequest, UnsupportedImage.
    """
    import multipart

    _, options = multipart.parse_options_header(content_type)
    boundary = options.get("boundary")
    if not boundary:
        raise BadRequest(NO_BOUNDARY)
    image, texts, names = BytesIO(), dict[str, BytesIO](), list[str]()
    target, has_image = None, False
    try:
        with multipart.PushMultipartParser(boundary, max_segment_count=MAX_PARTS) as parser:
            for event in (event for chunk in chunks for event in parser.parse(chunk)):
                if isinstance(event, multipart.MultipartSegment):
                    target, has_image = _field_buffer(event.name, image, texts), image.tell() > 0
                    names.append(event.name)
                elif event and target is not None:
                    if target is image and has_image:
                        raise BadRequest(SEVERAL_IMAGES)
                    target.write(event)
    except multipart.MultipartError as error:
        raise BadRequest(
            "The multipart form is malformed: its parts do not match the boundary in "
            f"Content-Type. {USAGE}"
        ) from error
    if not image.tell():
        raise BadRequest(f"{_missing_image(names)} {USAGE}")
    decoded = {name: text.getvalue().decode("utf-8", "replace") for name, text in texts.items()}
    return Upload(_decode_file(image), decoded)


def parse_body(chunks: Iterator[bytes], media_type: str) -> Upload:
    """Parse a body by its first bytes: JSON, an urlencoded form, base64, or an image file.

    Raises: BadRequest, UnsupportedImage.
    """
    buffer = BytesIO()
    for chunk in chunks:
        buffer.write(chunk)
    start = _start(buffer)
    if JSON_START.match(start) and (is_json(media_type) or start.isascii()):
        if not may_be_json(media_type):
            raise BadRequest(f"The body is JSON; its Content-Type is not application/json. {USAGE}")
        return _parse_json_upload(buffer)
    if start.startswith(b"--") and b"form-data" in start:
        raise BadRequest(NO_BOUNDARY)
    if media_type == URLENCODED and start.isascii() and b"=" in start:
        return _parse_urlencoded(buffer)
    image = _decode_file(buffer)
    if is_json(media_type) and image and image.startswith(start) and start.isascii():
        raise BadRequest(f"The body is not JSON. {USAGE}")
    return Upload(image, {})


def _field_buffer(name: str, image: BytesIO, texts: dict[str, BytesIO]) -> BytesIO | None:
    """Return the buffer for a field; None for unknown fields and repeated texts."""
    if name in IMAGE_FIELDS:
        return image
    return texts.setdefault(name, BytesIO()) if name in TEXT_FIELDS and name not in texts else None


def _missing_image(names: list[str]) -> str:
    """Explain why a form with the fields *names* has no image."""
    if not set(names).isdisjoint(IMAGE_FIELDS):
        return "The form's photo is empty: no file was chosen, or it has no bytes."
    shown = ", ".join(f"`{name[:30]}`" for name in names[:5] if name.isprintable())
    return f"The form has no field `image` or `file`, only {shown or 'fields without a name'}."


def _start(buffer: BytesIO) -> bytes:
    return bytes(buffer.getbuffer()[:START_BYTES])


def _parse_urlencoded(buffer: BytesIO) -> Upload:
    """Return the base64 image and the text fields of an urlencoded form."""
    body = buffer.getvalue()
    buffer.close()
    match = URLENCODED_IMAGE.search(body)
    if match is None and not data_uri.looks_encoded(body[:START_BYTES]):
        names = list(parse_qs(body[:START_BYTES].decode()))
        raise BadRequest(f"{_missing_image(names)} {USAGE}")
    at, end = match.span(1) if match else (0, len(body))
    others = body[:at] + body[end : end + FORM_BYTES]
    image = BytesIO(memoryview(body)[at:end])
    del body, match
    data_uri.decode_in_place(image, percent_encoded=True)
    fields = parse_qs(others[-FORM_BYTES:].decode("utf-8", "replace"))
    texts = {name: fields[name][0] for name in TEXT_FIELDS if name in fields}
    return Upload(image.getvalue(), texts)


def _decode_file(buffer: BytesIO) -> bytes:
    """Return the image file in *buffer*, decoded if it is base64 or a data: URI.

    Raises: BadRequest, UnsupportedImage if a known client mistake has damaged it.
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
    """Decode the base64 image of a JSON document; free each copy as soon as the next exists."""
    body = buffer.getvalue()
    buffer.close()  # it holds the body
    try:
        bounded_json.count_values(body, MAX_VALUES)
    except BadRequest as error:
        raise BadRequest(f"{error} {PIXELS_AS_NUMBERS} {USAGE}") from error
    try:
        text = bounded_json.decode_characters(body)
        del body
        document = bounded_json.parse_characters(text)
        del text
    except BadRequest as error:
        raise BadRequest(f"{error} {USAGE}") from error
    if not isinstance(document, dict):
        document = {JSON_MEMBERS[0]: document}
    texts, is_batch = _text_fields(document), INSTANCES in document
    encoded = _find_encoded(document.pop(INSTANCES) if is_batch else document, is_batch)
    return Upload(data_uri.decode(encoded), texts, is_batch)


def _find_encoded(value: Any, is_batch: bool) -> str:
    """Return the string with the image: under JSON_MEMBERS, or the only item of a list.

    The members of an instance have the names of a model's inputs, so a single member is the image.
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
            expected = "`image`" if not is_batch else "`b64` in the one of its `instances`"
            raise BadRequest(f"The JSON has no text under {expected}. {USAGE}")
        value = members[names[0]]
    return value


def _text_fields(document: dict[str, Any]) -> dict[str, str]:
    """Return the TEXT_FIELDS of a JSON object; join a list of events with commas."""
    texts = {}
    for name in TEXT_FIELDS:
        value = document.get(name)
        if name == EVENTS and isinstance(value, list) and all(isinstance(e, str) for e in value):
            value = ",".join(value)
        if not isinstance(value, str | None):
            raise BadRequest(f"The JSON's `{name}` is not text.")
        texts[name] = value or ""
    return texts
