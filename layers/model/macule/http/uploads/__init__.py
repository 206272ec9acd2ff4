"""Image uploads: size limits, the memory that reading takes, and reading."""

from __future__ import annotations

from math import inf

from macule.errors import BadRequest, BodyTooLarge
from macule.http.messages import Request
from macule.http.uploads import content_coding, parsing
from macule.http.uploads.parsing import FORM, FORM_BYTES, USAGE, Upload

DECODING_BYTES = 7 * 2**20  # of a baseline JPEG of 48 MP
# Of possible JSON: the text as bytes and as characters, then its base64. Others take one copy:
# the unused reserve of a growing buffer takes no memory.
TEXT_COPIES = 2


def wait_for_body(request: Request, max_image_bytes: int, timeout_s: float = inf) -> None:
    """Let the server receive the body before memory is reserved: see `Body.wait_for_arrival`.

    Raises: BadRequest, BodyTooLarge, SlowBody, UnsupportedCoding.
    """
    content_coding.parse_coding(request)
    request.body.wait_for_arrival(_limit_bytes(request, max_image_bytes), timeout_s)


def estimate_bytes(request: Request, max_image_bytes: int) -> int:
    """Estimate the memory to read the body and then decode an ordinary photo.

    Bytes already received are counted as used memory; they are freed as they are read. Decoding is
    included so that two bodies cannot fill the memory that each needs for it.
    """
    size = content_coding.max_decoded_bytes(request, _limit_bytes(request, max_image_bytes))
    copies = TEXT_COPIES if parsing.may_be_json(_media_type(request)) else 1
    return DECODING_BYTES + int(max(0, size * copies - request.body.received_bytes))


def read_upload(request: Request, max_image_bytes: int, timeout_s: float = inf) -> Upload:
    """Read the image, at most *max_image_bytes*, and the text fields sent with it.

    *timeout_s*: see `Body.chunks`.
    Raises: BadRequest, BodyTooLarge, SlowBody, UnsupportedCoding, UnsupportedImage.
    """
    limit_bytes = _limit_bytes(request, max_image_bytes)
    chunks = content_coding.decoded_chunks(request, limit_bytes, timeout_s)
    if _media_type(request) == FORM:
        upload = parsing.parse_multipart(chunks, request.headers["content-type"])
    else:
        upload = parsing.parse_body(chunks, _media_type(request))
    if not upload.image:
        empty = " Its body is empty, or came without a Content-Length."
        detail = f"There is no image in the request.{empty if request.body.length == 0 else ''}"
        raise BadRequest(f"{detail} {USAGE}")
    check_size(upload.image, max_image_bytes)
    return upload


def check_size(image: bytes, limit_bytes: int) -> bytes:
    """Return *image* if it has at most *limit_bytes*.

    Raises: BodyTooLarge.
    """
    if len(image) > limit_bytes:
        raise BodyTooLarge(
            f"The image has {len(image):,} bytes; the limit is {limit_bytes:,}. Send a smaller "
            "copy.",
            limit_bytes=limit_bytes,
        )
    return image


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def _limit_bytes(request: Request, max_image_bytes: int) -> int:
    """Return the limit for the body; base64 is a third longer than its content."""
    media_type = _media_type(request)
    if media_type == FORM:
        return max_image_bytes + FORM_BYTES
    is_json = parsing.is_json(media_type)
    return max_image_bytes * 4 // 3 + FORM_BYTES if is_json else max_image_bytes
