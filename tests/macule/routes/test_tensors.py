"""Bodies of the Open Inference Protocol, without a server."""

import json
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from macule.errors import Macule
from macule.http.body import Body
from macule.inference import decoding
from macule.registry import model_card
from macule.routes.open_inference import tensors
from support.images import pixels_of

SIDES = (5, 7)
PIXELS = SIDES[0] * SIDES[1] * 3
WORDS = st.sampled_from(
    ["image", "pixels", "BYTES", "FP32", "UINT8", "AAAA", "decision", "", "\ud800"]
)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | WORDS
VALUES = st.recursive(LEAVES, lambda part: st.lists(part) | st.dictionaries(WORDS, part))
SHAPES = st.sampled_from([[1], [1, 1], [1, *SIDES, 3]]) | VALUES
DATA = st.sampled_from([["AAAA"], [0] * PIXELS, [[0.5] * (PIXELS // 5)] * 5]) | VALUES
ABOUT = st.fixed_dictionaries(
    {},
    optional={
        "name": WORDS,
        "datatype": WORDS,
        "shape": SHAPES,
        "data": DATA,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": VALUES}) | VALUES,
    },
)
OUTPUTS = st.lists(st.fixed_dictionaries({"name": WORDS}, optional={"parameters": VALUES}))
DOCUMENTS = st.fixed_dictionaries(
    {"inputs": st.lists(ABOUT, min_size=1, max_size=1) | VALUES},
    optional={"id": VALUES, "parameters": VALUES, "outputs": OUTPUTS | VALUES},
)


def read(text: bytes, content: bytes = b"", size: int | None = None) -> Any:
    body = Body(BytesIO(text + content), len(text + content))
    return tensors.read(tensors.split(body.chunks(10**6), size), SIDES, 10**6)


@settings(max_examples=25)  # each example draws a whole document; test_fuzz.py draws more
@given(DOCUMENTS, st.binary(max_size=PIXELS * 4), st.booleans())
def test_any_body_is_read_or_rejected(
    document: dict[str, Any], content: bytes, binary: bool
) -> None:
    """Any JSON with any bytes gives a photo or one of macule's errors."""
    text = json.dumps(document).encode()
    try:
        photo, asked = read(text, content if binary else b"", len(text) if binary else None)
    except Macule:
        return

    assert photo
    assert {name for name, _ in asked.outputs} <= set(tensors.OUTPUTS)


@pytest.mark.parametrize("resize", model_card.RESIZE_MODES)
def test_pixels_are_unchanged(resize: str) -> None:
    """As a photo they decode to exactly themselves, with any resizing."""
    values = np.random.default_rng(7).integers(0, 256, (1, *SIDES, 3), np.uint8)
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": list(values.shape)}
    text = json.dumps({"inputs": [{**tensor, "data": values.tolist()}]}).encode()
    photo, _ = read(text)

    assert (pixels_of(decoding.decode(photo, SIDES, resize)) == values).all()


def test_a_body_may_arrive_in_any_pieces() -> None:
    """JSON, length and photo are separated wherever the body is cut."""
    whole = b"{}" + b"\3\0\0\0" + b"abc"

    class Slow(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(size and 1)

    for stream in (BytesIO(whole), Slow(whole)):
        assert tensors.split(Body(stream, len(whole)).chunks(99), 2) == (b"{}", b"\3\0\0\0", b"abc")
