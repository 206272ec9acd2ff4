"""AVIF: the memory that libavif takes, read from the coded streams before decoding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from macule.inference.decoding.formats import isobmff

BRANDS = {b"avif"}
ANIMATED = b"avis"
CODED = b"av01"
SEQUENCE = 1  # obu_type
# Maximum bytes per pixel by seq_profile: 4:2:0 and 4:4:4 of 10 bits, 4:2:2 of 12.
PLANES = {0: 3.0, 1: 6.0, 2: 6.0}
HELD_COPY = 0.5
HELD_BYTES = PLANES[0] + 3 + HELD_COPY  # RGB in 4:2:0
MIN_PIXELS = 2**16


class StreamHeader(NamedTuple):
    """Facts of a sequence header: the largest frame in pixels, and the profile."""

    width: int
    height: int
    profile: int


def held_bytes(body: bytes, size: tuple[int, int], bands: int) -> float:
    """Return the bytes per pixel that libavif holds, from the coded streams.

    Raises: ValueError, struct.error if the streams contradict the container.
    """
    streams = [
        stream
        for item in isobmff.items(body)
        if item.kind == CODED
        for stream in sequence_headers(b"".join(item.parts))
    ]
    if not streams:
        raise ValueError("there is no picture of AV1")
    pixels = size[0] * size[1]
    largest = max(stream.width * stream.height for stream in streams)
    if largest > max(2 * pixels, MIN_PIXELS):
        raise ValueError(f"a stream of {largest} pixels in a picture of {pixels}")
    planes = max(PLANES.get(stream.profile, 6.0) for stream in streams)
    alpha = 2.0 if bands == 4 else 0.0
    return (planes + alpha + bands + HELD_COPY) * max(pixels, largest) / pixels


def sequence_headers(data: bytes) -> Iterator[StreamHeader]:
    """Yield the sequence headers of a stream."""
    place = 0
    while place < len(data):
        head = data[place]
        place += 2 if head & 4 else 1  # obu_extension_flag
        size = len(data) - place
        if head & 2:  # obu_has_size_field
            size, place = _leb128(data, place)
        if head >> 3 & 15 == SEQUENCE:
            yield _parse_sequence_header(data[place : place + size])
        place += size


def _leb128(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 56, 7):
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            break
    return value, place


def _parse_sequence_header(header: bytes) -> StreamHeader:
    """Parse a sequence header up to the frame size (AV1 specification, 5.5.1)."""
    bits = isobmff.Bits(header[:64])
    profile = bits.read(3)
    bits.read(1)
    if bits.read(1):  # reduced_still_picture_header
        bits.read(5)
    else:
        _skip_operating_points(bits)
    across, down = bits.read(4) + 1, bits.read(4) + 1
    return StreamHeader(bits.read(across) + 1, bits.read(down) + 1, profile)


def _skip_operating_points(bits: isobmff.Bits) -> None:
    delay_bits = 0
    if bits.read(1):  # timing_info
        bits.read(64)
        if bits.read(1):
            bits.golomb()
        if bits.read(1):  # decoder_model_info
            delay_bits = bits.read(5) + 1
            bits.read(32 + 5 + 5)
    delays = bits.read(1)
    for _ in range(bits.read(5) + 1):
        bits.read(12)
        if bits.read(5) > 7:
            bits.read(1)
        if delay_bits and bits.read(1):
            bits.read(2 * delay_bits + 1)
        if delays and bits.read(1):
            bits.read(4)
