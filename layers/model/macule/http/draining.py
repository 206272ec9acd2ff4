"""Graceful shutdown: running requests finish, new ones get a 503.

gunicorn itself stops accepting after SIGTERM, but its socket still listens: clients that connect
before the process ends are disconnected without a response. Here a worker accepts for DRAIN_S more,
and as long as requests run. A worker that is only replaced rejects nothing.

Under functions-framework gunicorn cannot be configured: requests on open connections get a 503, new
connections are not accepted.
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
SIGNAL_DELAY_S = 0.2  # a signal to the process group may reach a worker before the arbiter
MARGIN_S = 1.0  # of the grace period, for the time after the last response
# Operators monitor until the end; the page's form calls /predict and explains the error itself.
EXEMPT_ROUTES = frozenset({"/health", "/ready", "/memory", "/metrics", "/page"})
STOPPING, RELOADED, WARM, SIZE = slice(0, 1), slice(8, 16), slice(16, 24), 24


def is_draining() -> bool:
    """Return whether this service is being stopped."""
    if _shared_page()[STOPPING] != b"\0":
        return True
    # functions-framework: the handler of SIGTERM is gunicorn's own worker's
    worker = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return getattr(worker, "alive", True) is False


def refuse_if_draining(route: str) -> None:
    """Raises: Draining, if the service is being stopped and *route* is not exempt."""
    if route not in EXEMPT_ROUTES and is_draining():
        raise Draining("This instance is being stopped. Try again: another instance takes over.")


def install_arbiter_handler(server: Any) -> None:
    """Make gunicorn's arbiter tell its workers that the service stops, before it ends them."""
    _shared_page()  # workers inherit it

    def stop(number: int, frame: object) -> None:
        if os.getpid() == server.pid:  # not a worker that still has the arbiter's handler
            _shared_page()[STOPPING] = b"\1"
        server.signal(number, frame)

    signal.signal(signal.SIGTERM, stop)
    os.register_at_fork(after_in_parent=_unblock_sigterm)


def block_sigterm() -> None:
    """Block SIGTERM before a fork, until `install_worker_handler` has run in the worker.

    Until then a worker has the arbiter's handler, which loses the signal: the arbiter would wait
    for the whole GRACEFUL_TIMEOUT_S.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def record_reload(server: Any) -> None:
    """Record, in the arbiter, which workers a HUP replaces."""
    _write(RELOADED, server.worker_age)


def install_worker_handler(
    worker: Any, drain_s: float, grace_s: float, flush: Callable[[], None]
) -> None:
    """Make gunicorn's *worker* drain at SIGTERM.

    Args:
      flush: called when the service begins to stop, while requests still run.
    """
    worker.running_requests = set[int]()
    worker.is_draining = False

    def on_sigterm(number: int, frame: object) -> None:
        if not worker.is_draining:  # a signal to the process group also comes from the arbiter
            worker.is_draining = True
            worker.method_queue.defer(start_draining)  # a handler must not start a thread

    def start_draining() -> None:
        Thread(target=_drain, args=(worker, drain_s, grace_s, flush), daemon=True).start()

    signal.signal(signal.SIGTERM, on_sigterm)
    signal.siginterrupt(signal.SIGTERM, False)
    _unblock_sigterm()


def record_warm(worker: Any) -> None:
    """Record that *worker* is about to accept requests: older workers may end."""
    _write(WARM, max(worker.age, _read(WARM)))


def request_started(worker: Any, request: Any) -> None:
    """Count a running request; while the service stops, close its connection afterwards."""
    if is_draining():
        request.force_close()
    else:
        worker.running_requests.add(id(request))


def request_finished(worker: Any, request: Any) -> None:
    worker.running_requests.discard(id(request))


def _unblock_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def _drain(worker: Any, drain_s: float, grace_s: float, flush: Callable[[], None]) -> None:
    """Wait until *worker* may end; it still accepts meanwhile."""
    started_at = time.monotonic()
    end = started_at + max(0.0, grace_s - MARGIN_S)

    def replaced() -> bool:
        is_late = time.monotonic() > started_at + SIGNAL_DELAY_S
        return is_late and not (worker.age <= _read(RELOADED) and _read(WARM) <= _read(RELOADED))

    while not is_draining() and not replaced() and time.monotonic() < end:
        time.sleep(POLL_S)
    if is_draining():
        log.info("worker %d stops: %d requests run", os.getpid(), len(worker.running_requests))
        flush()
        drained_at = min(end, started_at + drain_s)
        while time.monotonic() < drained_at or (worker.running_requests and time.monotonic() < end):
            time.sleep(POLL_S)
    worker.method_queue.defer(close_listeners, worker)


def close_listeners(worker: Any) -> None:
    """Accept the connections in the backlog, then close; gunicorn waits for running requests."""
    for listener in worker.sockets if is_draining() else ():
        poller = poll()
        poller.register(listener, POLLIN)
        # limited: more may come as fast as they are accepted, or accepting fails without files
        for _ in range(worker.cfg.backlog):
            if not poller.poll(0):
                break
            worker.accept(listener)
    worker.set_accept_enabled(False)
    for listener in worker.sockets:
        listener.close()
    worker.sockets = []
    worker.alive = False


@cache
def _shared_page() -> mmap:
    """Return the memory that the arbiter and its workers share."""
    from mmap import mmap

    return mmap(-1, SIZE)


def _read(place: slice) -> int:
    return int.from_bytes(_shared_page()[place])


def _write(place: slice, value: int) -> None:
    _shared_page()[place] = value.to_bytes(8)
