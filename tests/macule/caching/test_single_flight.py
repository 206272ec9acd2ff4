"""Concurrent requests with the same key."""

import threading
from collections.abc import Callable

import pytest
from macule.caching.single_flight import PendingCall, SingleFlight
from macule.errors import BadImage, Busy
from support.service import until


def run_threads(count: int, job: Callable[[], object]) -> None:
    threads = [threading.Thread(target=job) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_concurrent_calls_compute_once() -> None:
    """Of fifty concurrent calls one runs the job; the others get its result."""
    single_flight, ran, joined, seen = SingleFlight[str](), [], [], []

    def job() -> str:
        ran.append(1)
        until(lambda: len(joined) == 49)
        return "outcome"

    def one() -> None:
        found = single_flight.run_or_join("key", b"", job)
        if isinstance(found, PendingCall):
            joined.append(found)
            found = found.wait(30)
        seen.append(found)

    run_threads(50, one)

    assert (len(ran), seen) == (1, ["outcome"] * 50)


def test_other_keys_do_not_wait() -> None:
    """A running call of one key does not delay another key."""
    single_flight, end = SingleFlight[str](), threading.Event()

    def long() -> str:
        end.wait(30)
        return "long"

    thread = threading.Thread(target=single_flight.run_or_join, args=("long", b"", long))
    thread.start()
    short = single_flight.run_or_join("short", b"", lambda: "short")
    end.set()
    thread.join()

    assert short == "short"


def test_a_failure_is_not_shared() -> None:
    """A call that waited for a failed one gets no result, its image, and a free key."""
    single_flight, begun, end = SingleFlight[str](), threading.Event(), threading.Event()

    def fail() -> str:
        begun.set()
        end.wait(30)
        raise BadImage("no")

    def run_first() -> None:
        with pytest.raises(BadImage):
            single_flight.run_or_join("key", b"image", fail)

    thread = threading.Thread(target=run_first)
    thread.start()
    begun.wait(30)
    other = single_flight.run_or_join("key", b"image", lambda: "mine")
    assert isinstance(other, PendingCall)
    end.set()
    found = other.wait(30)
    thread.join()

    assert (found, other.image) == (None, b"image")
    assert single_flight.run_or_join("key", b"image", lambda: "mine") == "mine"


def test_the_wait_is_bounded() -> None:
    """A call that takes too long is a 503 for those that wait."""
    with pytest.raises(Busy, match="same image"):
        PendingCall[str](b"").wait(0.01)
