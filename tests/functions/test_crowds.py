"""Idle connections and exhausted file descriptors, beside clients that send photos."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from support.images import photo
from support.load_clients import workers
from support.service import GUNICORN, Service, running, until

SLOW_HEAD = b"GET /health/ HTTP/1.1\r\nHost: x\r\nX-Slow: "
LAST = b"GET /health/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
MALFORMED = b"GET /health/ HTTP/1.1\r\nHost: x\r\nX\r\n\r\n"
BARE_ENDS = b"GET /health/ HTTP/1.1\nHost: x\n\n"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(GUNICORN, tmp_path) as service:
        service.predict(photo())
        yield service


@contextmanager
def connected(service: Service, count: int, head: bytes = b"") -> Iterator[list[socket.socket]]:
    """Open connections that send only *head*."""
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(socket.create_connection(("127.0.0.1", service.port), timeout=20))
            stack.enter_context(opened[-1])
            opened[-1].sendall(head)
        yield opened


def answered(service: Service, clients: int = 4, rounds: int = 10) -> float:
    """Predict with several clients at once; return the longest time. Each must succeed."""

    def one(_: int) -> float:
        began = time.monotonic()
        assert service.predict(photo(), **{"Cache-Control": "no-cache"}).status == 200
        return time.monotonic() - began

    with ThreadPoolExecutor(clients) as pool:
        return max(pool.map(one, range(clients * rounds)))


@pytest.mark.slow
def test_idle_connections_and_slow_heads_block_nothing(service: Service) -> None:
    """With 500 idle connections and 300 unfinished heads, photos are answered."""
    with connected(service, 500), connected(service, 300, SLOW_HEAD) as slow:
        for connection in slow:
            connection.sendall(b"a")
        spent_s = answered(service)
        threads = psutil.Process(worker(service)).num_threads()

    assert spent_s < 3
    assert threads < 100


@pytest.mark.slow
def test_slow_bodies_block_nothing(tmp_path: Path) -> None:
    """Four missing bodies hold no slot: other requests are answered, and these get 408."""
    head = b"POST /predict/ HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n\xff\xd8"
    with (
        running(GUNICORN, tmp_path, BODY_TIMEOUT_S="1") as service,
        connected(service, 200, SLOW_HEAD),
        connected(service, 4, head) as slow,
    ):
        spent_s = answered(service)
        ends = [connection.recv(20) for connection in slow]

    assert spent_s < 8
    assert ends == [b"HTTP/1.1 408 Request"] * 4


def test_the_longest_idle_connection_is_closed(tmp_path: Path) -> None:
    """Out of file descriptors, the same worker closes idle connections and answers."""
    with running(f"prlimit --nofile=128 {GUNICORN}", tmp_path) as service:
        service.predict(photo())
        before = worker(service)
        with connected(service, 200):
            statuses = [service.predict(photo()).status for _ in range(5)]
        statuses.append(service.predict(photo()).status)

        assert statuses == [200] * 6
        assert worker(service) == before


def test_an_endless_head_is_closed(service: Service) -> None:
    """A client has ten seconds for a head, however many bytes arrive meanwhile."""
    began = time.monotonic()
    with connected(service, 1, SLOW_HEAD) as (slow,):
        slow.settimeout(0.5)
        ended = False
        while not ended and time.monotonic() - began < 20:
            try:
                slow.sendall(b"a")
                ended = slow.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True

    assert 8 < time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("sent", "status"),
    [(LAST, b"200"), (MALFORMED, b"400"), (BARE_ENDS, b"400"), (LAST + SLOW_HEAD, b"200")],
    ids=["the last request", "a malformed one", "bare ends", "half a request behind another"],
)
def test_clients_that_stay_connected_block_nothing(
    service: Service, sent: bytes, status: bytes
) -> None:
    """Clients that never close get an answer with `Connection: close` and block nothing."""
    with connected(service, 8, sent) as staying:
        spent_s = answered(service, clients=1, rounds=3)
        answers = [whole(connection) for connection in staying]

    assert spent_s < 2
    assert [answer.split()[1] for answer in answers] == [status] * 8


def test_a_client_that_sends_after_an_error_is_answered(service: Service) -> None:
    """A megabyte behind a malformed head is dropped, so that its sender can read the error."""
    with connected(service, 1, MALFORMED) as (sender,):
        for _ in range(64):
            sender.sendall(bytes(2**14))
            time.sleep(0.002)
        answer = whole(sender)

    assert answer.split()[1] == b"400"


@pytest.mark.slow
def test_a_connection_may_become_readable_while_it_is_closed(tmp_path: Path) -> None:
    """A connection that sends while it is closed does not end the worker."""
    with running(f"prlimit --nofile=128 {GUNICORN}", tmp_path) as service:
        before = worker(service)
        with connected(service, 63) as idle:
            time.sleep(1)
            os.kill(before, signal.SIGSTOP)
            with connected(service, 8):
                for connection in idle:
                    connection.sendall(b"GET")
                os.kill(before, signal.SIGCONT)
                status = service.predict(photo()).status

        assert status == 200
        assert worker(service) == before


def test_a_head_may_come_in_pieces(service: Service) -> None:
    """A head that arrives byte by byte is valid, and the connection stays open."""
    with connected(service, 1) as (slow,):
        for _ in range(2):
            for byte in b"GET /health/ HTTP/1.1\r\nHost: x\r\n\r\n":
                slow.sendall(bytes([byte]))
                time.sleep(0.005)
            answer = b""
            while not answer.endswith(b"ok"):
                answer += slow.recv(1000)

            assert answer.startswith(b"HTTP/1.1 200 ")


def whole(connection: socket.socket) -> bytes:
    """Read an answer up to the end of the connection."""
    got = b""
    while piece := connection.recv(2**16):
        got += piece
    head, _, body = got.partition(b"\r\n\r\n")
    assert f"content-length: {len(body)}".encode() in head.lower()
    return got


def worker(service: Service) -> int:
    until(lambda: len(workers(service)) == 1)
    return workers(service).pop()
