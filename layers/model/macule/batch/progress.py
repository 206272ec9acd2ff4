"""Progress of a batch: a changing line on a terminal, else one line a minute."""

from __future__ import annotations

import time
from typing import TextIO

TERMINAL_S, LOG_S = 0.5, 60.0


class Progress:
    """Progress on *stream*; None writes nothing.

    Args:
      before: images scored by earlier runs, excluded from the rate.
      total: number of images, if known.
    """

    def __init__(self, stream: TextIO | None, before: int, total: int | None) -> None:
        self._stream = stream
        self._before, self._total = before, total
        self._began = time.monotonic()
        self._live = stream is not None and stream.isatty()
        self._every_s = TERMINAL_S if self._live else LOG_S
        self._written_at = self._began

    def update(self, done: int, errors: int) -> None:
        """Write the progress, unless it was written recently."""
        now = time.monotonic()
        if self._stream is not None and now >= self._written_at + self._every_s:
            self._written_at = now
            line = self._line(done, errors, now - self._began)
            self._stream.write(f"\r\033[K{line}" if self._live else f"{line}\n")
            self._stream.flush()

    def close(self) -> None:
        """Clear the line on the terminal."""
        if self._stream is not None and self._live:
            self._stream.write("\r\033[K")
            self._stream.flush()

    def _line(self, done: int, errors: int, spent_s: float) -> str:
        rate = (done - self._before) / spent_s
        parts = [f"{done:,} images", f"{errors:,} errors", f"{rate:.1f}/s"]
        if self._total:
            parts[0] = f"{done:,} of {self._total:,} ({done / self._total:.0%})"
            if rate:
                parts.append(f"{_clock((self._total - done) / rate)} left")
        return ", ".join(parts)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
