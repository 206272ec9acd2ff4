"""HEIC and AVIF: estimates from the coded stream, and streams that are rejected."""

import random
import struct
from io import BytesIO
from typing import Any

import numpy as np
import pillow_heif
import pytest
from macule.errors import BadImage, Macule
from macule.inference import decoding
from macule.inference.decoding.formats import avif, heif, isobmff
from support.images import saved, skin

ANY = 10**9


def heic(width: int = 320, height: int = 200, **options: Any) -> bytes:
    file = BytesIO()
    pillow_heif.from_pillow(skin(width, height)).save(file, quality=90, **options)
    return file.getvalue()


def deep_heic() -> bytes:
    """Return a picture of 10 bits in 4:4:4."""
    pixels = np.asarray(skin(320, 200)).astype(np.uint16) * 257
    file = BytesIO()
    pillow_heif.encode("RGB;16", (320, 200), pixels.tobytes(), file, quality=90, chroma=444)
    return file.getvalue()


def held(body: bytes) -> float:
    return decoding.inspect(body, ANY).held_bytes


def test_a_heic_is_estimated_from_its_stream() -> None:
    """Phone photos are cheap; 4:4:4 and 10 bits cost more."""
    assert held(heic()) == heif.HELD_BYTES < held(heic(chroma=444)) < held(deep_heic())


def test_the_stream_overrides_the_container() -> None:
    """A 10-bit 4:4:4 stream that is declared as ordinary is estimated as it is."""
    honest = deep_heic()
    lie = bytearray(honest)
    place = lie.index(b"hvcC") + 4
    lie[place + 16] = lie[place + 16] & ~3 | 1
    lie[place + 17] &= ~7

    assert held(bytes(lie)) == held(honest)


def stream_of(body: bytes, width: int, height: int) -> bytes:
    """Make the ispe box give a different size than the stream."""
    changed = bytearray(body)
    place = changed.index(b"ispe") + 8
    changed[place : place + 8] = struct.pack(">II", width, height)
    return bytes(changed)


@pytest.mark.parametrize(
    "make",
    [
        lambda: heic(3000, 2000, enc_params={"preset": "ultrafast"}),
        lambda: saved(skin(3000, 2000), "AVIF", speed=10),
    ],
)
def test_a_stream_larger_than_its_picture_is_bad(make: Any) -> None:
    """A small picture cannot hide a large stream."""
    with pytest.raises(BadImage):
        decoding.inspect(stream_of(make(), 64, 48), ANY)


def test_parameters_within_the_stream_are_bad() -> None:
    """Parameter sets in the stream would replace the estimated ones, and are rejected."""
    body = bytearray(heic())
    (item,) = [each for each in isobmff.items(bytes(body)) if each.kind == heif.CODED]
    start = bytes(body).index(bytes(item.parts[0][:32]))
    body[start + 4] = heif.SPS << 1

    with pytest.raises(BadImage):
        decoding.inspect(bytes(body), ANY)


def test_an_avif_is_estimated_from_its_sequence_header() -> None:
    """The largest frame and the profile are read, in 4:2:0 and 4:4:4."""
    for subsampling, profile in (("4:2:0", 0), ("4:4:4", 1)):
        body = saved(skin(320, 200), "AVIF", subsampling=subsampling)
        (item,) = [each for each in isobmff.items(body) if each.kind == avif.CODED]

        assert [*avif.sequence_headers(bytes(item.parts[0]))] == [(320, 200, profile)]


@pytest.mark.parametrize("kind", ["HEIC", "AVIF"])
def test_damaged_files_are_read_or_rejected(kind: str) -> None:
    """Files with changed, removed or repeated bytes are read or rejected, and nothing else."""
    body = heic(96, 64) if kind == "HEIC" else saved(skin(96, 64), "AVIF", speed=10)
    chance, refused = random.Random(5), 0
    for _ in range(300):
        changed = bytearray(body)
        for _ in range(chance.randint(1, 6)):
            changed[chance.randrange(min(len(changed), 700))] = chance.randrange(256)
        try:
            decoding.inspect(bytes(changed), 10**6)
        except Macule:
            refused += 1

    assert 30 < refused < 300
