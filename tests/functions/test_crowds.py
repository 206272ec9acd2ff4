"""Connections that only wait, and files that run out, beside callers who mean it."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from draw import photo
from service import GUNICORN, Service, running, until

SLOW_HEAD = b"GET /health/ HTTP/1.1\r\nHost: x\r\nX-Slow: "


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(GUNICORN, tmp_path) as service:
        service.predict(photo())
        yield service


@contextmanager
def connected(service: Service, count: int, head: bytes = b"") -> Iterator[list[socket.socket]]:
    """Open connections that send *head*, and no more."""
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(socket.create_connection(("127.0.0.1", service.port), timeout=20))
            stack.enter_context(opened[-1])
            opened[-1].sendall(head)
        yield opened


def answered(service: Service, clients: int = 4, rounds: int = 10) -> float:
    """Predict by some clients at once, which must all be answered; return the longest time."""

    def one(_: int) -> float:
        began = time.monotonic()
        assert service.predict(photo(), **{"Cache-Control": "no-cache"}).status == 200
        return time.monotonic() - began

    with ThreadPoolExecutor(clients) as pool:
        return max(pool.map(one, range(clients * rounds)))


def test_idle_connections_and_slow_heads_hold_nobody_up(service: Service) -> None:
    """500 connections that say nothing and 300 that never end their head: photos are answered."""
    with connected(service, 500), connected(service, 300, SLOW_HEAD) as slow:
        for connection in slow:
            connection.sendall(b"a")
        spent_s = answered(service)
        threads = len(list(Path(f"/proc/{worker(service)}/task").iterdir()))

    assert spent_s < 3
    assert threads < 100


def test_slow_bodies_beside_them_neither(tmp_path: Path) -> None:
    """Four bodies that never come hold a slot for their time; then the others go on."""
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


def test_who_waits_longest_makes_room(tmp_path: Path) -> None:
    """With few files a service closes idle connections, answers, and is the same worker after."""
    with running(f"prlimit --nofile=128 {GUNICORN}", tmp_path) as service:
        service.predict(photo())
        before = worker(service)
        with connected(service, 200):
            statuses = [service.predict(photo()).status for _ in range(5)]
        statuses.append(service.predict(photo()).status)

        assert statuses == [200] * 6
        assert worker(service) == before


def test_a_head_that_never_ends_is_hung_up_on(service: Service) -> None:
    """A caller has ten seconds for a head, however many bytes come meanwhile."""
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


def test_a_head_may_come_in_pieces(service: Service) -> None:
    """A byte at a time is slow, and no mistake; the connection serves on."""
    with connected(service, 1) as (slow,):
        for _ in range(2):
            for byte in b"GET /health/ HTTP/1.1\r\nHost: x\r\n\r\n":
                slow.sendall(bytes([byte]))
                time.sleep(0.005)
            answer = b""
            while not answer.endswith(b"ok"):
                answer += slow.recv(1000)

            assert answer.startswith(b"HTTP/1.1 200 ")


def worker(service: Service) -> int:
    from crowd import children

    def found() -> set[int]:
        (arbiter,) = children(service.process.pid) or {service.process.pid}
        return children(arbiter)

    until(lambda: len(found()) == 1)
    return found().pop()
