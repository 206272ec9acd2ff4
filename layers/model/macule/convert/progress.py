"""Progress output: the current step, the items done and the remaining time."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

T = TypeVar("T")
UPDATE_INTERVAL_S = 0.2  # on a terminal
MAX_LINES = 4  # per step, if the output is not a terminal


class Progress:
    """Progress of numbered steps: an updated line on a terminal, a few lines otherwise."""

    def __init__(self, steps: int, stream: TextIO | None = None) -> None:
        self.steps = steps
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._step = 0
        self._line_is_open = False

    def step(self, what: str) -> None:
        self._step += 1
        self._write_line(f"[{self._step}/{self.steps}] {what}")

    def log(self, what: str) -> None:
        """Write a line within the step."""
        self._write_line(f"      {what}")

    def track(self, items: Iterable[T], total: int, what: str) -> Iterator[T]:
        """Yield *items*, and show how many of *total* are done and the remaining time."""
        start = updated = time.monotonic()
        shown = 0
        for done, item in enumerate(items):
            now = time.monotonic()
            share = done * MAX_LINES // max(total, 1)
            if done and (
                now - updated >= UPDATE_INTERVAL_S if self._is_terminal else share > shown
            ):
                left_s = (now - start) / done * (total - done)
                self._update(f"      {what}: {done} of {total}, {left_s:.0f} s left")
                updated, shown = now, share
            yield item
        self._write_line(f"      {what}: {total} in {time.monotonic() - start:.1f} s")

    def _update(self, text: str) -> None:
        if self._is_terminal:
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
            self._line_is_open = True
        else:
            self._write_line(text)

    def _write_line(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text}\n" if self._line_is_open else f"{text}\n")
        self._stream.flush()
        self._line_is_open = False
