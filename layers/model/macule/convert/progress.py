"""Progress of long work: which step, how far, how long yet."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO, TypeVar

T = TypeVar("T")
EVERY_S = 0.2  # on a terminal
SHARES = 4  # lines a step where the output is kept


class Progress:
    """Tells of numbered steps: a moving line on a terminal, few lines elsewhere."""

    def __init__(self, steps: int, stream: TextIO | None = None) -> None:
        self.steps = steps
        self._stream = stream or sys.stderr
        self._moves = self._stream.isatty()
        self._step = 0
        self._open = False

    def step(self, what: str) -> None:
        """Begin the next step."""
        self._step += 1
        self._line(f"[{self._step}/{self.steps}] {what}")

    def log(self, what: str) -> None:
        """Tell something within the step."""
        self._line(f"      {what}")

    def track(self, items: Iterable[T], total: int, what: str) -> Iterator[T]:
        """Yield *items*, telling how many of *total* are done and how long the rest may take."""
        began = told = time.monotonic()
        shown = 0
        for done, item in enumerate(items):
            now = time.monotonic()
            share = done * SHARES // max(total, 1)
            if done and (now - told >= EVERY_S if self._moves else share > shown):
                left_s = (now - began) / done * (total - done)
                self._move(f"      {what}: {done} of {total}, {left_s:.0f} s left")
                told, shown = now, share
            yield item
        self._line(f"      {what}: {total} in {time.monotonic() - began:.1f} s")

    def _move(self, text: str) -> None:
        if self._moves:
            self._stream.write(f"\r\x1b[K{text}")
            self._stream.flush()
            self._open = True
        else:
            self._line(text)

    def _line(self, text: str) -> None:
        self._stream.write(f"\r\x1b[K{text}\n" if self._open else f"{text}\n")
        self._stream.flush()
        self._open = False
