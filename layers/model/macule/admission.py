"""What a request will cost in bytes, and room for it: wait, or refuse with figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import Condition

from macule import budget
from macule.errors import Busy, CannotFit
from macule.image import Header, sides

MB = 2**20
# Peak bytes a pixel while decoding, by Pillow mode: one whole image, measured in fresh processes
# on 12 MP files (docs/memory.md); other modes hold 4 bytes a pixel.
MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}
WEBP_BYTES = 17  # libwebp: two RGBA canvases, one copy out, one image
SLACK = 1.06
STRIPS_BYTES = 3 * MB  # strips, row buffers and the shrunken image
RESERVE_BYTES = 3 * MB  # what sockets, thread stacks and answers take beside the decoder
DRAFTS = (8, 4, 2)


def price(header: Header, side_px: int | tuple[int, int]) -> int:
    """Estimate the peak bytes of decoding an image, from its header alone."""
    pixels, mode = header.pixels, MODE_BYTES.get(header.mode, 4)
    if header.format == "JPEG":
        drafted = min(header.width, header.height) // max(sides(side_px))
        by = next((scale for scale in DRAFTS if drafted >= scale), 1)
        cost = pixels * 2 * header.buffered_samples + pixels * mode / by**2
    elif header.format == "WEBP":
        cost = pixels * WEBP_BYTES
    elif header.format == "TIFF":
        cost = pixels * mode * 2  # a file in one strip is held twice
    else:
        cost = pixels * mode
    return int(cost * SLACK) + STRIPS_BYTES


class Admission:
    """The bytes that requests of this process hold; the rest of the limit is for the next one."""

    def __init__(self, limit_bytes: int, used: Callable[[], int]) -> None:
        self.limit_bytes = limit_bytes
        self.held = 0
        self.admitted = 0
        self._used = used
        self._freed = Condition()

    @contextmanager
    def room(self, cost: int, timeout_s: float) -> Iterator[None]:
        """Hold *cost* bytes, waiting at most *timeout_s* while others hold them.

        Raises: Busy after the wait; CannotFit at once where nobody holds what is missing.
        """
        deadline = time.monotonic() + timeout_s
        with self._freed:
            while cost > (free := self.free()):
                if not self.held:
                    raise CannotFit(
                        f"Decoding this image takes about {cost / MB:.0f} MB, and this instance of "
                        f"{self.limit_bytes / MB:.0f} MB has {max(0, free) / MB:.0f} MB for it. "
                        "Send a smaller copy, or a baseline JPEG.",
                        **self._figures(cost, free),
                    )
                left = deadline - time.monotonic()
                if left <= 0 or not self._freed.wait(left):
                    raise Busy(
                        "Other images are being decoded. Try again.", **self._figures(cost, free)
                    )
            self.held += cost
            self.admitted += 1
        try:
            yield
        finally:
            with self._freed:
                self.held -= cost
                self.admitted -= 1
                self._freed.notify_all()

    def free(self) -> int:
        """Return the bytes left; what is held counts in full, though part of it is used already."""
        return self.limit_bytes - RESERVE_BYTES - self.held - self._used()

    def _figures(self, cost: int, free: int) -> dict[str, float]:
        return {
            "estimated_peak_mb": round(cost / MB, 1),
            "free_mb": round(max(0, free) / MB, 1),
            "limit_mb": round(self.limit_bytes / MB, 1),
        }


@cache
def current() -> Admission:
    """Return this process's admission, under the limit of its budget."""
    limit = budget.current().limit
    return Admission(limit.bytes, lambda: budget.used(limit))
