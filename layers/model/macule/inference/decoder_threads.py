"""Threads that decode images: they can open no file, and their callers wait for a bounded time.

Images are read by C libraries that have had bugs. Here they run in threads of their own, which
`sandbox` restricts. A thread cannot be stopped: at the time-out its caller is answered, and what
it holds counts as held until it ends.
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

    Raises: Busy, SlowImage; what that raises.
    """
    decoding.prepare(body)
    return _run(partial(decoding.inspect, body, chosen.max_image_pixels), 0, chosen)


def decode(
    body: bytes, side_px: int | tuple[int, int], resize: str, cost: int, chosen: Settings
) -> decoding.Decoded:
    """Decode *body*, as `decoding.decode` does; *cost* is the bytes that the caller has room for.

    Raises: Busy, SlowImage; what that raises.
    """
    import numpy  # noqa: F401  (its files cannot be opened there)

    decoding.prepare(body)
    job = partial(decoding.decode, body, side_px, resize, chosen.decode_timeout_s)
    return _run(job, cost, chosen)


def _run(job: Callable[[], T], cost: int, chosen: Settings) -> T:
    """Run *job* in a restricted thread; it imports nothing and opens nothing.

    Raises: Busy where none is free in time, SlowImage where it takes too long; what the job raises.
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
        del future  # it holds what the job raised, whose frames hold this one and the image


def _abandon(future: Future[Any], cost: int) -> None:
    """Let a thread end by itself, with *cost* bytes held for it until then."""
    log.warning("an image is still being decoded after its time-out; %d bytes stay held", cost)
    release = admission.current().force_reserve(cost)
    future.add_done_callback(lambda _: release())


@cache
def _threads() -> ThreadPoolExecutor:
    """Return this process's threads; as many decode as may be admitted."""
    from concurrent.futures import ThreadPoolExecutor

    from macule.inference import sandbox

    return ThreadPoolExecutor(
        admission.current().slots, "decode", _initialize_thread, (sandbox.restrict,)
    )


def _initialize_thread(restrict: Callable[[], str]) -> None:
    if why := restrict():
        _log_unrestricted(why)


@cache
def _log_unrestricted(why: str) -> None:
    log.info("decoders may open files and connect: %s", why)
