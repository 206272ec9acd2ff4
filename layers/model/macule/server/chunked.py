"""Detection of the end of a chunked body (RFC 9112, 7.1) while it arrives.

gunicorn's parser decodes the chunks, but it must read to the end without a pause. This module only
detects when it can start: when the end has arrived, or something that no parser would accept.
"""

from __future__ import annotations

MAX_LINE_BYTES = 4096  # a size and its extensions
MAX_TRAILER_BYTES = 2**14
# Limits of sizes, extensions and trailers: enough for 6 bytes per line of base64 (76 bytes).
FRAMING_BYTES, FRAMING_DIVISOR = 2**16, 8
HEX = frozenset(b"0123456789abcdefABCDEF")
MAX_DIGITS = 12


class ChunkTracker:
    """Tracks the chunks of a body.

    Args:
      max_bytes: of data; after this many the tracker is done.
    """

    def __init__(self, max_bytes: int) -> None:
        self.is_done = False  # the end has arrived, or the body is malformed or too large
        self.data_bytes = 0  # the sum of the chunk sizes so far
        self._max_bytes = max_bytes
        self._fed_bytes = self._skip = 0
        self._rest = bytearray()

    @property
    def missing_bytes(self) -> int:
        """The minimum of bytes that are still missing."""
        return 0 if self.is_done else max(1, self._skip)

    def feed(self, data: bytes) -> None:
        """Process *data*, the next bytes of the body."""
        self._fed_bytes += len(data)
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        self._rest += memoryview(data)[skipped:]
        at = 0
        while not self.is_done and not self._skip and (after := self._next(at)) is not None:
            at = after
        del self._rest[:at]
        framing = self._fed_bytes - self.data_bytes
        if framing > FRAMING_BYTES + self.data_bytes // FRAMING_DIVISOR:
            self.is_done = True

    def _next(self, at: int) -> int | None:
        """Parse the size line at *at*; return the next one's position, None if it is incomplete."""
        rest = self._rest
        end = rest.find(b"\r\n", at, at + MAX_LINE_BYTES)
        if end < 0:
            self.is_done = len(rest) - at >= MAX_LINE_BYTES
            return None
        digits = rest[at:end].partition(b";")[0].rstrip(b" \t")
        if not 0 < len(digits) <= MAX_DIGITS or not HEX.issuperset(digits):
            self.is_done = True
            return None
        size = int(digits, 16)
        if not size:
            is_complete = rest.find(b"\r\n\r\n", end) >= 0
            self.is_done = is_complete or len(rest) - end > MAX_TRAILER_BYTES
            return None
        self.data_bytes += size
        self.is_done = self.data_bytes > self._max_bytes
        after = end + 2 + size + 2
        self._skip = max(0, after - len(rest))
        return min(after, len(rest))
