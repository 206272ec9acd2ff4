"""Configuration of the C allocator, and release of free memory to the system."""

from __future__ import annotations

from contextlib import suppress

from macule import settings

MB = 2**20
# Options of glibc's mallopt. By default glibc raises its thresholds after the first large image,
# keeps up to 64 MB of freed heap and uses an arena per thread: 122 MB instead of 94 MB through
# functions-framework after 200 photos of 12 MP, at the same speed (docs/memory.md).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
ALLOCATOR = {M_ARENA_MAX: 1, M_MMAP_THRESHOLD: MB, M_TRIM_THRESHOLD: 4 * MB}


def configure() -> None:
    """Make malloc return freed image buffers, and limit libtiff's JPEG scans.

    Call it before any thread starts, as the first allocation of a thread creates its arena.
    libtiff decodes a JPEG inside a TIFF in one call, and each scan takes as long as a baseline
    JPEG: its limit of 100 scans is lowered to twice the number that encoders write.
    """
    import ctypes

    settings.set_default("LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER", "20")

    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ALLOCATOR.items():
            mallopt(option, value)


def release_memory() -> None:
    """Collect garbage and return free memory to the system; this takes some milliseconds."""
    import ctypes
    import gc

    gc.collect()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
