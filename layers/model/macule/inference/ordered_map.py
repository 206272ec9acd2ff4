"""Work on several items at once, in threads; the results come in the order of the items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(
    items: Iterable[T],
    one: Callable[[T], R],
    workers: int,
    ahead: int,
    stop: Callable[[], object] = lambda: None,
) -> Iterator[R]:
    """Yield `one(item)` for each item, in their order.

    Args:
      workers: items at once.
      ahead: items taken at most whose results have not been yielded: the memory that this takes.
      stop: called as the iteration ends, before the items that are worked on are waited for.
    Raises: what *one* raises, in its item's place; what has not begun by then never does.
    """
    from collections import deque
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(workers, "ordered")
    window: deque[Future[R]] = deque()
    try:
        for item in items:
            window.append(pool.submit(one, item))
            while window and (window[0].done() or len(window) >= ahead):
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
    finally:
        stop()
        pool.shutdown(cancel_futures=True)
