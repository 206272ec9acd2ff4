"""Decoding in sandboxed threads, with a time-out for the caller.

C libraries that read images have had vulnerabilities; `sandbox` restricts the threads that run
them. A thread cannot be stopped: after the time-out the caller gets an error, and the thread's
memory stays reserved until it ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache, partial
from threading import Event
from typing import TYPE_CHECKING, Any, TypeVar

from macule.errors import Busy
from macule.inference import decoding
from macule.memory import admission
from macule.settings import Settings

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

T = TypeVar("T")
log = logging.getLogger("macule")


def inspect(body: bytes, chosen: Settings) -> decoding.Header:
    """Read the header of *body*, as `decoding.inspect` does.

    Raises: Busy, SlowImage; the errors of `decoding.inspect`.
    """
    decoding.prepare(body)
    return _run(partial(decoding.inspect, body, chosen.max_image_pixels), 0, chosen)


def decode(
    body: bytes, side_px: int | tuple[int, int], resize: str, cost: int, chosen: Settings
) -> decoding.Decoded:
    """Decode *body*, as `decoding.decode` does; *cost* is the bytes that the caller has reserved.

    Raises: Busy, SlowImage; the errors of `decoding.decode`.
    """
    decoding.prepare(body)
    job = partial(decoding.decode, body, side_px, resize, chosen.decode_timeout_s)
    return _run(job, cost, chosen)


def _run(job: Callable[[], T], cost: int, chosen: Settings) -> T:
    """Run *job* in a sandboxed thread; the job must not import modules or open files.

    Raises: Busy if no thread is free in time; SlowImage after the time-out; errors of the job.
    """
    from concurrent.futures import wait

    begun = Event()

    def run() -> T:
        begun.set()
        return job()

    future = _threads().submit(run)
    try:
        if not begun.wait(chosen.admission_timeout_s) and future.cancel():
            raise Busy("Other images are being decoded. Try again.")
        if not wait([future], chosen.decode_timeout_s).done:
            _abandon(future, cost)
            raise decoding.slow_image(chosen.decode_timeout_s)
        return future.result()
    finally:
        del future  # its exception's frames reference this frame and the image


def _abandon(future: Future[Any], cost: int) -> None:
    """Leave a thread running, with *cost* bytes reserved until it ends."""
    log.warning("an image is still being decoded after its time-out; %d bytes stay reserved", cost)
    release = admission.current().force_reserve(cost)
    future.add_done_callback(lambda _: release())


@cache
def _threads() -> ThreadPoolExecutor:
    """Return the thread pool of this process, with one thread for each admission slot."""
    from concurrent.futures import ThreadPoolExecutor

    from macule.inference import sandbox

    slots = admission.current().slots
    return ThreadPoolExecutor(slots, "decode", _initialize_thread, (sandbox.restrict,))


def _initialize_thread(restrict: Callable[[], str]) -> None:
    if reason := restrict():
        _log_unrestricted(reason)


@cache
def _log_unrestricted(reason: str) -> None:
    log.info("decoders may open files and connect: %s", reason)
