"""A map over items in several threads that yields the results in the order of the items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(
    items: Iterable[T],
    function: Callable[[T], R],
    workers: int,
    ahead: int,
    stop: Callable[[], object] = lambda: None,
) -> Iterator[R]:
    """Yield `function(item)` for each item, in order.

    Args:
      workers: number of threads.
      ahead: maximum number of items taken whose results are not yielded yet; it bounds memory.
      stop: called when the iteration ends, before waiting for the items in progress.
    Raises: errors of *function*, in the place of the item; items not started then never start.
    """
    from collections import deque
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(workers, "ordered")
    window: deque[Future[R]] = deque()
    try:
        for item in items:
            window.append(pool.submit(function, item))
            while window and (window[0].done() or len(window) >= ahead):
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        stop()
        pool.shutdown(cancel_futures=True)
