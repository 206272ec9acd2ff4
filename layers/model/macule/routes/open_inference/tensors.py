"""Bodies of the Open Inference Protocol: input tensors, bounded before decoding, and output."""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from macule.errors import BadRequest
from macule.http import uploads
from macule.http.messages import Response
from macule.http.uploads import bounded_json, data_uri, parsing

if TYPE_CHECKING:
    Numbers = Sequence[int | float]

# https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
HEADER = "Inference-Header-Content-Length"
JSON_BYTES = 2**16  # the most bytes of JSON besides its tensor
PREFIX_BYTES = 4  # length prefix of an element of BYTES
PIXEL_BYTES = {"FP32": 4, "UINT8": 1}
OUTPUTS = ("probabilities", "labels", "decision", "reason")
# Extensions that change the meaning of the answer, so they must not be ignored.
UNSUPPORTED_PARAMETERS = ("classification", "shared_memory_region")
MAX_ID = 1000
Node = Mapping[str, Any]


class InferOptions(NamedTuple):
    """The request besides its tensor: id, and output names with whether each is binary."""

    id: str = ""
    outputs: tuple[tuple[str, bool], ...] = ()


class Parts(NamedTuple):
    """A body in parts: its JSON, the next PREFIX_BYTES, and the rest."""

    text: bytes
    prefix: bytes
    rest: bytes


class Tensor(NamedTuple):
    """One output: FP32 numbers or BYTES strings."""

    datatype: str
    shape: list[int]
    data: list[Any]


def json_bytes(headers: Mapping[str, str]) -> int | None:
    """Return the length of the JSON at the start of the body; None if it is the whole body.

    Raises: BadRequest.
    """
    given = headers.get(HEADER.lower())
    if given is None:
        return None
    if not (given.isascii() and given.isdigit() and len(given) < 9 and int(given) <= JSON_BYTES):
        raise BadRequest(f"{HEADER} is not a number of bytes up to {JSON_BYTES}.")
    return int(given)


def split(chunks: Iterable[bytes], size: int | None) -> Parts:
    """Split a body into its first *size* bytes of JSON (None: all) and the rest.

    Raises: BadRequest if it is shorter than *size*.
    """
    head_bytes = inf if size is None else size + PREFIX_BYTES
    head, rest = BytesIO(), BytesIO()
    for chunk in chunks:
        cut = int(max(0, min(len(chunk), head_bytes - head.tell())))
        head.write(chunk[:cut])
        rest.write(chunk[cut:])
    text = head.getvalue()
    if size is None:
        return Parts(text, b"", b"")
    if len(text) < size:
        raise BadRequest(f"{HEADER} is {size}; the body has {len(text)} bytes.")
    return Parts(text[:size], text[size:], rest.getvalue())


def read_cost(parts: Parts, sides: tuple[int, int]) -> int:
    """Estimate the memory that `read` needs besides *parts*, in bytes.

    Raises: BadRequest if the JSON has more values than any input tensor.
    """
    values = bounded_json.count_values(parts.text, _max_values(sides))
    binary = min(len(parts.rest), 4 * _count(sides))  # an image's bytes are not copied
    return 3 * len(parts.text) + bounded_json.JSON_VALUE_BYTES * values + 5 * binary


def read(parts: Parts, sides: tuple[int, int], max_image_bytes: int) -> tuple[bytes, InferOptions]:
    """Return the image file in *parts*, or its pixels of *sides* as a BMP, and the options.

    Raises: BadRequest, BodyTooLarge.
    """
    document = _object(bounded_json.parse_json(parts.text, _max_values(sides)), "the body")
    options = InferOptions(_id(document), _outputs(document))
    tensor = _input(document, len(parts.prefix) + len(parts.rest))
    kind, shape = (tensor.get("name"), tensor.get("datatype")), tensor.get("shape")
    if kind == ("image", "BYTES") and shape in ([1], [1, 1]):
        return uploads.check_size(_image(tensor, parts), max_image_bytes), options
    if kind in (("pixels", "FP32"), ("pixels", "UINT8")) and shape == [1, *sides, 3]:
        return _bitmap(_numbers(tensor, parts, _count(sides)), sides), options
    raise BadRequest(
        f"The input is {' '.join(map(_short, (*kind, shape)))}. Send `image`, BYTES [1]; or "
        f"`pixels`, FP32 or UINT8 {[1, *sides, 3]}: one image per request."
    )


def write(document: Node, options: InferOptions, tensors: Mapping[str, Tensor]) -> Response:
    """Return *document* with the requested outputs; binary ones follow the JSON."""
    listed, blobs = [], []
    for name, binary in options.outputs:
        datatype, shape, data = tensors[name]
        about: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if binary:
            blobs.append(_pack(datatype, data))
            about["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            about["data"] = data
        listed.append(about)
    text = json.dumps({**document, "outputs": listed}, separators=(",", ":")).encode()
    if not blobs:
        return Response(200, text, {"Content-Type": "application/json"})
    headers = {"Content-Type": "application/octet-stream", HEADER: str(len(text))}
    return Response(200, b"".join([text, *blobs]), headers)


def _count(sides: tuple[int, int]) -> int:
    return sides[0] * sides[1] * 3


def _max_values(sides: tuple[int, int]) -> int:
    """Return the most JSON values: pixels, the lists around them, and other members."""
    return 2 * _count(sides) + parsing.MAX_VALUES


def _input(document: Node, sent: int) -> dict[str, Any]:
    """Return the one input, with `data` in JSON or *sent* bytes after it."""
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise BadRequest("`inputs` is not a list of one tensor, `image` or `pixels`.")
    tensor = _object(inputs[0], "the input")
    size = _parameters(tensor).get("binary_data_size")
    if size is not None and (type(size) is not int or size != sent):
        raise BadRequest(f"binary_data_size is {_short(size)}; {sent} bytes follow the JSON.")
    if ("data" in tensor) == (size is not None) or (sent and size is None):
        raise BadRequest("A tensor needs either `data`, or binary_data_size and its bytes.")
    return tensor


def _pack(datatype: str, data: list[Any]) -> bytes:
    if datatype == "FP32":
        return struct.pack(f"<{len(data)}f", *data)
    texts = [text.encode() for text in data]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _image(tensor: Node, parts: Parts) -> bytes:
    """Return one element of BYTES: with a length prefix, or base64 in JSON."""
    if "data" not in tensor:
        if len(parts.prefix) < PREFIX_BYTES or parts.prefix != struct.pack("<I", len(parts.rest)):
            raise BadRequest("The element of BYTES is not a 4-byte length and so many bytes.")
        return parts.rest
    data = tensor["data"]
    while isinstance(data, list) and len(data) == 1:
        data = data[0]
    if not isinstance(data, str):
        raise BadRequest("`data` of `image` is not a list of one string with the base64 image.")
    return data_uri.decode(data)


def _numbers(tensor: Node, parts: Parts, count: int) -> Numbers:
    if "data" not in tensor:
        size = PIXEL_BYTES[tensor["datatype"]]
        if len(parts.prefix) + len(parts.rest) != count * size:
            raise BadRequest(f"`pixels` takes {count * size} bytes: {count} values of {size}.")
        content = parts.prefix + parts.rest
        return array("f", content) if size == 4 else content  # every platform is little-endian
    values = tensor["data"]
    # one level of nesting after the other; lists of unequal lengths are not a tensor
    while isinstance(values, list) and set(map(type, values)) == {list}:
        values = [] if len(set(map(len, values))) > 1 else [*chain.from_iterable(values)]
    if isinstance(values, list) and len(values) == count and set(map(type, values)) <= {int, float}:
        return values
    raise BadRequest(f"`data` of `pixels` is not {count} numbers, nested or not.")


def _bitmap(values: Numbers, sides: tuple[int, int]) -> bytes:
    """Encode RGB values, 0 to 255, as a BMP, so that they are processed like any image.

    Raises: BadRequest.
    """
    from PIL.Image import frombytes

    if not isinstance(values, bytes):
        if not all(0 <= value <= 255 for value in values):  # false for nan
            raise BadRequest("`pixels` has values outside 0 to 255.")
        values = bytes(map(round, values))
    height, width = sides
    file = BytesIO()
    frombytes("RGB", (width, height), values).save(file, "BMP")
    return file.getvalue()


def _id(document: Node) -> str:
    given = document.get("id", "")
    if not isinstance(given, str) or len(given) > MAX_ID:
        raise BadRequest(f"`id` is not a string of at most {MAX_ID} characters.")
    return given


def _outputs(document: Node) -> tuple[tuple[str, bool], ...]:
    """Return the requested outputs, by default all, and whether each is binary."""
    binary = _flag(_parameters(document), "binary_data_output", False)
    listed = document.get("outputs") or [{"name": name} for name in OUTPUTS]
    if not isinstance(listed, list):
        raise BadRequest("`outputs` is not a list.")
    found: dict[str, bool] = {}
    for output in listed:
        about = _object(output, "an output")
        name = about.get("name")
        if name not in OUTPUTS or name in found:
            known = ", ".join(OUTPUTS)
            raise BadRequest(f"The output {_short(name)} is unknown or repeated; use {known}.")
        found[name] = _flag(_parameters(about), "binary_data", binary)
    return tuple(found.items())


def _parameters(about: Node) -> dict[str, Any]:
    parameters = _object(about.get("parameters") or {}, "`parameters`")
    if unknown := [name for name in UNSUPPORTED_PARAMETERS if name in parameters]:
        raise BadRequest(f"The parameter {unknown[0]} is not supported.")
    return parameters


def _flag(parameters: Node, name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise BadRequest(f"{name} is {_short(value)}, not true or false.")
    return value


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"The JSON of {what} is not an object.")
    return value


def _short(value: object) -> str:
    """Return a short form of a value, which may be large."""
    if isinstance(value, str):
        return ascii(value[:40])
    if isinstance(value, list) and all(isinstance(part, int) for part in value[:8]):
        return ascii(value[:8])[:80]
    if isinstance(value, int | float):
        return ascii(value)[:40]
    return f"of type {type(value).__name__}"
