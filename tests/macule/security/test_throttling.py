"""The queue of refused requests."""

import threading
import time

from macule.security.throttling import Pacer


def test_the_first_does_not_wait_and_others_are_paced() -> None:
    """One is answered at once; ten at once, one each 5 ms; a pause empties the queue."""
    now, slept = [100.0], list[float]()
    line = Pacer(0.005, 32, lambda: now[0], lambda wait_s: slept.append(round(wait_s, 6)))
    for _ in range(10):
        line.wait()
    now[0] += 1
    line.wait()

    assert slept == [round(place * 0.005, 6) for place in range(10)] + [0]


def test_requests_above_the_limit_do_not_wait() -> None:
    """A flood takes a limited number of threads; when they end, others may wait."""
    here, go = threading.Semaphore(0), threading.Event()

    def sleep(wait_s: float) -> None:
        here.release()
        go.wait(20)

    line = Pacer(0.005, 3, time.monotonic, sleep)
    threads = [threading.Thread(target=line.wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in threads:
        here.acquire(timeout=20)
    line.wait()  # would not return
    waited = here.acquire(blocking=False)
    go.set()
    for thread in threads:
        thread.join(20)
    line.wait()

    assert waited is False
    assert here.acquire(blocking=False)
