"""The three forms in which a photo arrives: a raw body, a multipart field, base64 in JSON."""

from __future__ import annotations

import binascii
import json
from io import BytesIO
from math import inf
from typing import Any, NamedTuple

from macule.body import Body
from macule.errors import BadRequest, BodyTooLarge
from macule.http import Request

FIELDS = ("image", "file")
TEXTS = (WEBHOOK, EVENTS) = ("webhook", "webhook_events_filter")  # what may come beside it
FORM_BYTES = 2**16  # what a form may weigh beside its image
MAX_PARTS = 32
MAX_VALUES = 1000  # of JSON with an image in it
SMALL_TEXT_BYTES = 2**16  # of JSON that may hold any character
# An object counts as four values: with one member it takes 282 bytes. A value in a list takes 96 at
# most, a list of one; so text alone would become 32 times its size.
VALUE_BYTES = 96
WHITE = dict.fromkeys(b" \t\r\n\f\v")
DECODING_BYTES = 7 * 2**20  # of a baseline JPEG of 48 MP
# Of what comes as JSON: the text as bytes and as characters; then its base64 and the image. Of all
# else one: what a growing buffer keeps in reserve is not touched, and takes no memory.
JSON_COPIES = 2.5
HOW = (
    "Send the photo as a raw body, as the multipart field `image` or `file`, or as JSON "
    '{"image": "<base64 or data: URI>"}.'
)


class Upload(NamedTuple):
    """An image's bytes, and those of TEXTS that came beside it."""

    image: bytes
    texts: dict[str, str]


def expect(request: Request, max_image_bytes: int, timeout_s: float = inf) -> None:
    """Have the body come before anything is held for it, as `Body.expect` has it.

    Raises: BadRequest, BodyTooLarge, SlowBody.
    """
    media_type, limit_bytes = _media_type(request), max_image_bytes
    if media_type == "multipart/form-data":
        limit_bytes += FORM_BYTES
    elif media_type == "application/json":
        limit_bytes = max_image_bytes * 4 // 3 + FORM_BYTES
    request.body.expect(limit_bytes, timeout_s)


def price(request: Request, max_image_bytes: int) -> int:
    """Estimate the bytes that reading the body takes, and then decoding an ordinary photo.

    What of it lies in memory already is used, and becomes free as it is read.
    Two bodies must not fill the memory that each needs to be decoded.
    """
    length = request.body.length
    size = max_image_bytes if length is None else min(length, max_image_bytes)
    copies = JSON_COPIES if _media_type(request) == "application/json" else 1
    return DECODING_BYTES + int(max(0, size * copies - request.body.received_bytes))


def photo(request: Request, max_image_bytes: int, timeout_s: float = inf) -> Upload:
    """Return the image's bytes, at most *max_image_bytes* of them, and what is asked beside it.

    *timeout_s*: as `Body.chunks` has it.
    Raises: BadRequest, BodyTooLarge, SlowBody.
    """
    kind, media_type = request.headers.get("content-type", ""), _media_type(request)
    if media_type == "multipart/form-data":
        found = _from_form(request.body, kind, max_image_bytes, timeout_s)
    elif media_type == "application/json":
        found = _from_json(request.body, max_image_bytes, timeout_s)
    else:
        found = Upload(_gather(request.body, max_image_bytes, timeout_s), {})
    if not found.image:
        raise BadRequest(f"There is no image in the request. {HOW}")
    return found


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def _gather(body: Body, limit_bytes: int, timeout_s: float) -> bytes:
    """Read the body once; a BytesIO gives its bytes away without a copy."""
    buffer = BytesIO()
    for chunk in body.chunks(limit_bytes, timeout_s):
        buffer.write(chunk)
    return buffer.getvalue()


def _from_form(body: Body, kind: str, max_image_bytes: int, timeout_s: float) -> Upload:
    """Keep the known fields of a multipart form, each once; drop every other as it passes."""
    import multipart

    _, options = multipart.parse_options_header(kind)
    if not options.get("boundary"):
        raise BadRequest("The Content-Type multipart/form-data has no boundary.")
    kept: dict[str, BytesIO] = {}
    into: BytesIO | None = None
    try:
        with multipart.PushMultipartParser(
            options["boundary"], max_segment_count=MAX_PARTS
        ) as parser:
            for chunk in body.chunks(max_image_bytes + FORM_BYTES, timeout_s):
                for event in parser.parse(chunk):
                    if isinstance(event, multipart.MultipartSegment):
                        name = FIELDS[0] if event.name in FIELDS else event.name
                        known = name in (FIELDS[0], *TEXTS) and name not in kept
                        into = kept.setdefault(name, BytesIO()) if known else None
                    elif event and into is not None:
                        into.write(event)
    except multipart.MultipartError as error:
        raise BadRequest(f"The multipart form is malformed. {HOW}") from error
    image = kept.pop(FIELDS[0], None)
    if image is None:
        raise BadRequest(f"The form has no field `image` or `file`. {HOW}")
    texts = {name: text.getvalue().decode("utf-8", "replace") for name, text in kept.items()}
    return Upload(within(image.getvalue(), max_image_bytes), texts)


def _from_json(body: Body, max_image_bytes: int, timeout_s: float) -> Upload:
    """Decode the base64 under `image`; each copy is dropped as soon as the next is made."""
    text = _gather(body, max_image_bytes * 4 // 3 + FORM_BYTES, timeout_s)
    try:
        document = parsed(text, MAX_VALUES)
    except BadRequest as error:
        raise BadRequest(f"{error} {HOW}") from error
    del text
    encoded = document.pop("image", None) if isinstance(document, dict) else None
    if not isinstance(encoded, str):
        raise BadRequest(f"The JSON has no text under `image`. {HOW}")
    if encoded.startswith("data:"):
        head, comma, encoded = encoded.partition(",")
        if not comma or not head.endswith(";base64"):
            raise BadRequest("The data: URI under `image` is not base64.")
    return Upload(within(from_base64(encoded, "image"), max_image_bytes), _texts(document))


def values(text: bytes, most: int) -> int:
    """Count what JSON may become, from above: each value takes VALUE_BYTES at most, text aside.

    Raises: BadRequest where these are more than *most*.
    """
    count = text.count(b",") + text.count(b"[") + 4 * text.count(b"{")
    if count > most:
        raise BadRequest(f"The JSON has more than {most:,} values.")
    return count


def parsed(text: bytes, most_values: int) -> Any:
    """Read JSON of so many values at most; they are counted before any is made.

    Raises: BadRequest.
    """
    values(text, most_values)
    if len(text) > SMALL_TEXT_BYTES and not (text.isascii() and b"\\u" not in text):
        # one such character in an image's base64 has all of it take four times as much
        raise BadRequest("JSON of this size is plain ASCII: an image's base64, or numbers.")
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadRequest("The body is not JSON.") from error


def from_base64(text: str, name: str) -> bytes:
    """Decode base64 with or without white space in it.

    Raises: BadRequest.
    """
    try:
        return binascii.a2b_base64(text.translate(WHITE), strict_mode=True)
    except ValueError as error:
        raise BadRequest(f"The text under `{name}` is not base64.") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _texts(document: dict[str, Any]) -> dict[str, str]:
    """Take the known texts out of a JSON object; a list of events becomes one text with commas."""
    found = {}
    for name in TEXTS:
        value = document.get(name)
        if name == EVENTS and isinstance(value, list) and all(isinstance(e, str) for e in value):
            value = ",".join(value)
        if not isinstance(value, str | None):
            raise BadRequest(f"What the JSON has under `{name}` is not text.")
        found[name] = value or ""
    return found


def within(image: bytes, limit_bytes: int) -> bytes:
    """Return *image* if it is no larger than allowed.

    Raises: BodyTooLarge.
    """
    if len(image) > limit_bytes:
        raise BodyTooLarge(
            f"The image has {len(image):,} bytes; at most {limit_bytes:,} are read.",
            limit_bytes=limit_bytes,
        )
    return image
