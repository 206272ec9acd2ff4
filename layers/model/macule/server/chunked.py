"""Where a body in chunks (RFC 9112, 7.1) ends, found as it comes.

gunicorn's own parser decodes the chunks, but it must read until their end without a pause. This one
only says when it may begin: the end is there, or something that no parser would take.
"""

from __future__ import annotations

MAX_LINE_BYTES = 4096  # a size and its extensions
MAX_TRAILER_BYTES = 2**14
# Sizes, extensions and trailers beside the data: 6 bytes for each line of base64 (76) are allowed.
FRAMING_BYTES, FRAMING_DIVISOR = 2**16, 8
HEX = frozenset(b"0123456789abcdefABCDEF")
MAX_DIGITS = 12


class ChunkTracker:
    """Follows the frames of a chunked body.

    Args:
      max_bytes: of data; more than that is never waited for.
    """

    def __init__(self, max_bytes: int) -> None:
        self.is_done = False  # its end is there, or it is malformed or too large
        self.data_bytes = 0  # that its sizes announce so far
        self._max_bytes = max_bytes
        self._fed_bytes = self._skip = 0
        self._rest = bytearray()

    @property
    def missing_bytes(self) -> int:
        """At least so many bytes are still to come."""
        return 0 if self.is_done else max(1, self._skip)

    def feed(self, data: bytes) -> None:
        """Follow *data*, the next bytes of the body."""
        self._fed_bytes += len(data)
        skipped = min(self._skip, len(data))
        self._skip -= skipped
        self._rest += memoryview(data)[skipped:]
        at = 0
        while not self.is_done and not self._skip and (found := self._next(at)) is not None:
            at = found
        del self._rest[:at]
        framing = self._fed_bytes - self.data_bytes
        if framing > FRAMING_BYTES + self.data_bytes // FRAMING_DIVISOR:
            self.is_done = True

    def _next(self, at: int) -> int | None:
        """Read the size line at *at*; return where the next is, None until it is all there."""
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
            is_whole = rest.find(b"\r\n\r\n", end) >= 0
            self.is_done = is_whole or len(rest) - end > MAX_TRAILER_BYTES
            return None
        self.data_bytes += size
        self.is_done = self.data_bytes > self._max_bytes
        after = end + 2 + size + 2
        self._skip = max(0, after - len(rest))
        return min(after, len(rest))
