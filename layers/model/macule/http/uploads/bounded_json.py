"""JSON parsing with a limit on the number of values."""

from __future__ import annotations

import json
from typing import Any

from macule.errors import BadRequest

SMALL_TEXT_BYTES = 2**16  # JSON of up to this size may have any characters
# An object counts as four values: with one member it takes 282 bytes. A value in a list takes 96 at
# most, a list of one. Without a limit, JSON could take 32 times its size.
JSON_VALUE_BYTES = 96


def count_values(text: bytes, max_values: int) -> int:
    """Return an upper bound of the JSON values in *text*.

    Each value takes at most JSON_VALUE_BYTES when parsed, without its characters.
    Raises: BadRequest if there are more than *max_values*.
    """
    count = text.count(b",") + text.count(b"[") + 4 * text.count(b"{")
    if count > max_values:
        raise BadRequest(f"The JSON has more than {max_values:,} values.")
    return count


def parse_json(text: bytes, max_values: int) -> Any:
    """Parse JSON of at most *max_values* values, which are counted before parsing.

    Raises: BadRequest.
    """
    count_values(text, max_values)
    return parse_characters(decode_characters(text))


def decode_characters(text: bytes) -> str:
    """Decode the UTF encoding of a JSON text.

    Raises: BadRequest.
    """
    if len(text) > SMALL_TEXT_BYTES and not (text.isascii() and b"\\u" not in text):
        # one wide character makes Python store the whole string with 4 bytes each
        raise BadRequest("JSON of this size must be plain ASCII: base64 of an image, or numbers.")
    try:
        return text.decode(json.detect_encoding(text))
    except ValueError as error:
        raise BadRequest("The body is not JSON.") from error


def parse_characters(text: str) -> Any:
    """Parse JSON; strings may contain line ends, because shells put them into base64.

    Raises: BadRequest.
    """
    try:
        return json.loads(text, parse_constant=_reject_constant, strict=False)
    except (ValueError, RecursionError) as error:
        raise BadRequest("The body is not JSON.") from error


def _reject_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not valid JSON")
