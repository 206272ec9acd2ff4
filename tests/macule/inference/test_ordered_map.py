"""Several items at once in threads: order, limit and end."""

import time
from collections.abc import Iterator
from threading import Event

import pytest
from macule.inference.ordered_map import ordered_map

AHEAD = 16


def test_a_slow_item_delays_a_bounded_number() -> None:
    """While one item is slow the others continue, but only within the window."""
    given: list[int] = []
    seen: list[int] = []
    full = Event()

    def one(item: int) -> int:
        if item == 0:
            full.wait(10)
            time.sleep(0.05)
            seen.append(len(given))
        return item

    def items() -> Iterator[int]:
        for item in range(200):
            given.append(item)
            if len(given) == AHEAD:
                full.set()
            yield item

    assert list(ordered_map(items(), one, 2, AHEAD)) == given
    assert seen == [AHEAD]


def test_closing_stops_running_items_first() -> None:
    """Closing early stops running items and starts no others."""
    stop, begun = Event(), []

    def one(item: int) -> int:
        begun.append(item)
        if item > 0:
            stop.wait(10)
        return item

    results = ordered_map(iter(range(100)), one, 2, 4, stop.set)
    assert next(results) == 0
    began = time.monotonic()
    results.close()  # type: ignore[attr-defined]

    assert stop.is_set()
    assert time.monotonic() - began < 10
    assert len(begun) <= 4


def test_a_failure_keeps_its_place() -> None:
    """Items before a failure are yielded; the failure ends the iteration."""
    results = ordered_map("1234x678", int, 2, 4)

    assert [next(results) for _ in range(4)] == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="'x'"):
        next(results)
    assert list(results) == []
