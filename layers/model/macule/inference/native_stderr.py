"""What compiled code writes to standard error while a command loads a model."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STDERR = 2
# LiteRT tells of each interpreter it makes, at a level that neither Python nor a variable sets
# (google-ai-edge/LiteRT#7420).
INFO_PREFIX = b"INFO: "


@contextmanager
def filtered() -> Iterator[None]:
    """Hold back what is written to file descriptor 2; then pass it on without its INFO lines.

    All of it is passed on where an exception ends the block. A crash leaves Python's own report.
    For a process with one thread: others would be held back too.
    """
    try:
        kept = os.dup(STDERR)
    except OSError:  # it is closed
        yield
        return
    source, sink = os.pipe()
    os.set_blocking(sink, False)  # what exceeds a pipe, 64 kB, is lost, and nothing stands still
    os.set_blocking(source, False)
    was_enabled = faulthandler.is_enabled()
    faulthandler.enable(kept)
    os.dup2(sink, STDERR)
    noise = INFO_PREFIX
    try:
        yield
    except BaseException:
        noise = b"\0"  # no line begins so
        raise
    finally:
        os.dup2(kept, STDERR)
        faulthandler.enable(STDERR) if was_enabled else faulthandler.disable()
        written = b""
        with suppress(BlockingIOError):
            while piece := os.read(source, 2**16):
                written += piece
        lines = written.splitlines(keepends=True)
        os.write(STDERR, b"".join(line for line in lines if not line.startswith(noise)))
        for descriptor in (kept, source, sink):
            os.close(descriptor)
