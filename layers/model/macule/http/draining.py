"""How a service stops: it says so, finishes what runs, and refuses what still comes with an answer.

gunicorn alone no longer accepts after SIGTERM, but its socket still listens: whoever connects until
the process ends waits for nothing and is cut off. Here a worker goes on accepting for DRAIN_S, and
as long as anything runs. A worker that only makes room for another one refuses nothing.

Under functions-framework gunicorn is not ours to configure: connections that are open are refused
with an answer, new ones are not accepted.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from functools import cache
from select import POLLIN, poll
from threading import Thread
from typing import TYPE_CHECKING, Any

from macule.errors import Draining

if TYPE_CHECKING:
    from mmap import mmap

log = logging.getLogger("macule")

POLL_S = 0.02
SIGNAL_DELAY_S = 0.2  # a signal to the whole process group may reach a worker before the arbiter
MARGIN_S = 1.0  # of the grace, for what comes after the last answer
# Operators look on until the end; the form of the page asks /predict, and says in words what it is.
EXEMPT_ROUTES = frozenset({"/health", "/ready", "/memory", "/metrics", "/page"})
STOPPING, RELOADED, WARM, SIZE = slice(0, 1), slice(8, 16), slice(16, 24), 24


def is_draining() -> bool:
    """Is this service being stopped?"""
    if _shared_page()[STOPPING] != b"\0":
        return True
    # functions-framework: the handler of SIGTERM is gunicorn's own worker's
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(worker, "alive", True) is False


def refuse_if_draining(route: str) -> None:
    """Let nothing new begin in a service that is being stopped.

    Raises: Draining.
    """
    if route not in EXEMPT_ROUTES and is_draining():
        raise Draining("This instance is being stopped; the next one answers in a moment.")


def install_arbiter_handler(server: Any) -> None:
    """Have gunicorn's arbiter tell its workers, before it dismisses them, that all is to stop."""
    _shared_page()  # workers inherit it

    def stop(number: int, frame: object) -> None:
        if os.getpid() == server.pid:  # not a worker that has no handler of its own yet
            _shared_page()[STOPPING] = b"\1"
        server.signal(number, frame)

    signal.signal(signal.SIGTERM, stop)
    os.register_at_fork(after_in_parent=_unblock_sigterm)


def block_sigterm() -> None:
    """Have SIGTERM wait, before a fork, until the worker has its handler: `prepare`.

    Until then a worker has the arbiter's handler, where the signal is lost: the arbiter would wait
    for all of GRACEFUL_TIMEOUT_S.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def record_reload(server: Any) -> None:
    """Note, in the arbiter, which workers are to be replaced by HUP."""
    _write(RELOADED, server.worker_age)


def install_worker_handler(
    worker: Any, drain_s: float, grace_s: float, flush: Callable[[], None]
) -> None:
    """Have gunicorn's *worker* leave in good order at SIGTERM.

    Args:
      flush: what is to be done as the service begins to stop, beside what runs.
    """
    worker.running_requests = set[int]()  # the requests that were let in
    worker.is_draining = False

    def leave(number: int, frame: object) -> None:
        if not worker.is_draining:  # a signal to the whole group comes twice: from the arbiter too
            worker.is_draining = True
            worker.method_queue.defer(begin)  # a handler must not start a thread

    def begin() -> None:
        Thread(target=_drain, args=(worker, drain_s, grace_s, flush), daemon=True).start()

    signal.signal(signal.SIGTERM, leave)
    signal.siginterrupt(signal.SIGTERM, False)
    _unblock_sigterm()


def record_warm(worker: Any) -> None:
    """Note that *worker* is about to accept requests: those before it may go."""
    _write(WARM, max(worker.age, _read(WARM)))


def request_started(worker: Any, request: Any) -> None:
    """Count a request that begins; while the service stops, have its connection closed after it."""
    if is_draining():
        request.force_close()
    else:
        worker.running_requests.add(id(request))


def request_finished(worker: Any, request: Any) -> None:
    """Count a request that was answered."""
    worker.running_requests.discard(id(request))


def _unblock_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _drain(worker: Any, drain_s: float, grace_s: float, flush: Callable[[], None]) -> None:
    """Wait until *worker* may end; it accepts meanwhile."""
    began = time.monotonic()
    end = began + max(0.0, grace_s - MARGIN_S)

    def replaced() -> bool:
        late = time.monotonic() > began + SIGNAL_DELAY_S
        return late and not (worker.age <= _read(RELOADED) and _read(WARM) <= _read(RELOADED))

    while not is_draining() and not replaced() and time.monotonic() < end:
        time.sleep(POLL_S)
    if is_draining():
        log.info("worker %d stops: %d requests run", os.getpid(), len(worker.running_requests))
        flush()
        until = min(end, began + drain_s)
        while time.monotonic() < until or (worker.running_requests and time.monotonic() < end):
            time.sleep(POLL_S)
    worker.method_queue.defer(_close_listeners, worker)


def _close_listeners(worker: Any) -> None:
    """Accept what has connected, close, and leave the rest to gunicorn: it waits for what runs."""
    for listener in worker.sockets if is_draining() else ():
        waiting = poll()
        waiting.register(listener, POLLIN)
        # bounded: more may come as fast as they are accepted, or none be accepted for want of files
        for _ in range(worker.cfg.backlog):
            if not waiting.poll(0):
                break
            worker.accept(listener)
    worker.set_accept_enabled(False)
    for listener in worker.sockets:
        listener.close()
    worker.sockets = []
    worker.alive = False


@cache
def _shared_page() -> mmap:
    """Return memory that an arbiter and its workers share."""
    from mmap import mmap

    return mmap(-1, SIZE)


def _read(place: slice) -> int:
    return int.from_bytes(_shared_page()[place])


def _write(place: slice, value: int) -> None:
    _shared_page()[place] = value.to_bytes(8)
