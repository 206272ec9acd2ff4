"""Filter for what compiled code writes to standard error while a command loads a model."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

STDERR = 2
# LiteRT logs each new interpreter at a level that neither Python nor a variable can change
# (google-ai-edge/LiteRT#7420).
INFO_PREFIX = b"INFO: "


@contextmanager
def filtered() -> Iterator[None]:
    """Buffer what is written to file descriptor 2, then write it without the INFO lines.

    If an exception ends the block, all lines are written. After a crash only the report of
    `faulthandler` is. Use it in a process with one thread, as it buffers all threads' output.
    """
    try:
        stderr = os.dup(STDERR)
    except OSError:  # standard error is closed
        yield
        return
    source, sink = os.pipe()
    os.set_blocking(sink, False)  # output beyond the pipe's 64 kB is lost instead of blocking
    os.set_blocking(source, False)
    was_enabled = faulthandler.is_enabled()
    faulthandler.enable(stderr)
    os.dup2(sink, STDERR)
    dropped = INFO_PREFIX
    try:
        yield
    except BaseException:
        dropped = b"\0"  # matches no line
        raise
    finally:
        os.dup2(stderr, STDERR)
        faulthandler.enable(STDERR) if was_enabled else faulthandler.disable()
        written = b""
        with suppress(BlockingIOError):
            while piece := os.read(source, 2**16):
                written += piece
        lines = written.splitlines(keepends=True)
        os.write(STDERR, b"".join(line for line in lines if not line.startswith(dropped)))
        for descriptor in (stderr, source, sink):
            os.close(descriptor)
