"""Chunked bodies that violate RFC 9112, 7.1, drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator

HUGE = 2**20


def bodies(seed: int, payload: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield endless pairs of a mistake and a body with it; *payload* is its data."""
    draw = random.Random(seed)
    while True:
        for what in ("size", "huge size", "terminator", "extension", "long extension", "trailer",
                     "long trailer", "cut short", "noise"):  # fmt: skip
            yield what, broken(what, payload, draw)


def broken(what: str, payload: bytes, draw: random.Random) -> bytes:
    """Write *payload* in a few chunks, and break it in one place."""
    chunks = split(payload, draw)
    place = draw.randrange(len(chunks))
    data, rest = chunks[place], b"".join(map(chunk, chunks[place + 1 :]))
    before = b"".join(map(chunk, chunks[:place]))
    end = b"0\r\n\r\n"
    size = b"%x" % len(data)
    if what == "size":
        wrong = draw.choice(
            [b"-1", b"0x3", b"ZZ", b"+5", b"5_0", b"", b" 5", b"5 5", b"\xd9\xa3", b"1.0", b"-0",
             b"5\t6", b"0\n"]
        )  # fmt: skip
        return before + wrong + b"\r\n" + data + b"\r\n" + rest + end
    if what == "huge size":
        return before + draw.choice([b"f" * 16, b"f" * 400, b"7" + b"f" * 15]) + b"\r\n" + data
    if what == "terminator":
        wrong = draw.choice([b"\n", b"\r", b"", b"\n\r", b"xx", b"\0\0"])
        return before + size + b"\r\n" + data + wrong + b"5\r\nhello\r\n" + rest + end
    if what == "extension":
        wrong = draw.choice([b"a\nb", b"a\rb", b"a\0b", b'"', b"=", b"a=\xff\n"])
        return before + size + b";" + wrong + b"\r\n" + data + b"\r\n" + rest + end
    if what == "long extension":
        return before + size + b";" + b"a" * HUGE + b"\r\n" + data + b"\r\n" + rest + end
    if what == "trailer":
        wrong = draw.choice([b"X", b": a", b"X : a", b"X: a\nY: b", b" X: a", b"X\0: a"])
        return before + size + b"\r\n" + data + b"\r\n" + rest + b"0\r\n" + wrong + b"\r\n\r\n"
    if what == "long trailer":
        return before + b"0\r\nX: " + b"a" * HUGE + b"\r\n\r\n"
    if what == "cut short":
        return before + size + b"\r\n" + data[: len(data) // 2]
    return before + draw.randbytes(draw.randrange(1, 200)) + b"\r\n\r\n"


def split(payload: bytes, draw: random.Random) -> list[bytes]:
    """Cut *payload* into chunks."""
    cuts = sorted(draw.sample(range(1, len(payload)), 3))
    return [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]


def chunk(data: bytes) -> bytes:
    """Write one valid chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)
