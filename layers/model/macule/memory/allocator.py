"""The C allocator: set up once a process, and asked to return free memory to the system."""

from __future__ import annotations

from contextlib import suppress

from macule import settings

MB = 2**20
# glibc's mallopt. Left alone, it raises its own thresholds after the first large image and keeps
# up to 64 MB of freed heap, an arena a thread: 122 MB instead of 94 through functions-framework
# after 200 photos of 12 MP, at the same speed (docs/memory.md).
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
ALLOCATOR = {M_ARENA_MAX: 1, M_MMAP_THRESHOLD: MB, M_TRIM_THRESHOLD: 4 * MB}


def configure() -> None:
    """Make malloc give freed image buffers back, BLAS start no threads, and bound libtiff.

    Before any thread begins, as the first that each one allocates makes an arena of its own, and
    before numpy is loaded: its BLAS starts a thread for each core, which spin. Nothing here
    multiplies matrices with it; without them a start takes 0.18 CPU-seconds instead of 0.26.
    A JPEG within a TIFF is decoded in one call of libtiff, and each of its scans takes as long as a
    baseline JPEG: libtiff's bound of 100 scans is lowered to twice what encoders write.
    """
    import ctypes

    settings.set_default("OPENBLAS_NUM_THREADS", "1")
    settings.set_default("LIBTIFF_JPEG_MAX_ALLOWED_SCAN_NUMBER", "20")

    with suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ALLOCATOR.items():
            mallopt(option, value)


def release_memory() -> None:
    """Collect garbage, and return free memory to the system: some milliseconds."""
    import ctypes
    import gc

    gc.collect()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
