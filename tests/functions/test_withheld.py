"""Clients that withhold their body or do not read: they hold no thread and get the reason."""

import hashlib
import http.client
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest
from support.images import photo
from support.load_clients import workers
from support.service import FRAMEWORK, GUNICORN, Service, running, until

THREADS = 4
CROWD = 48  # twelve for each thread
KEY = "mk_honest"
KEYS = f"honest:{hashlib.sha256(KEY.encode()).hexdigest()}"
LARGE = "Content-Length: 99999999\r\n"
PHOTO = "Content-Length: 100000\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"
EXPECTS = "Expect: 100-continue\r\n"
# What is sent, and the status that arrives although the body does not.
REFUSED = {
    "a GET with a body": ("GET /health/", LARGE, 200),
    "too large": ("POST /predict/", LARGE + f"X-API-Key: {KEY}\r\n", 413),
    "a wrong key": ("POST /predict/", PHOTO + "X-API-Key: mk_other\r\n", 401),
    "no route": ("POST /nowhere", PHOTO + f"X-API-Key: {KEY}\r\n", 404),
    "no such method": ("POST /health/", PHOTO + f"X-API-Key: {KEY}\r\n", 405),
    "no such method, in chunks": ("POST /health/", f"{CHUNKED}X-API-Key: {KEY}\r\n", 405),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("logs")
    with running(GUNICORN, folder, THREADS=str(THREADS), API_KEYS=KEYS) as service:
        predict_normally(service)
        yield service


def predict_normally(service: Service) -> None:
    """Send a normal request."""
    assert service.call("GET", "/health/").status == 200
    assert service.predict(photo(), **{"X-API-Key": KEY, "Cache-Control": "no-cache"}).status == 200


@contextmanager
def open_connections(
    service: Service, head: str, count: int = CROWD, receive_bytes: int = 0
) -> Iterator[list[socket.socket]]:
    """Open connections that send only a head."""
    with ExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(stack.enter_context(socket.socket()))
            if receive_bytes:
                opened[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            opened[-1].settimeout(20)
            opened[-1].connect(("127.0.0.1", service.port))
            opened[-1].sendall(head.encode())
        yield opened


def head_of(line: str, headers: str) -> str:
    return f"{line} HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\n{headers}\r\n"


def threads(service: Service) -> int:
    (worker,) = workers(service)
    return psutil.Process(worker).num_threads()


@pytest.mark.parametrize("expects", ["", EXPECTS], ids=["", "expects 100"])
@pytest.mark.parametrize("what", REFUSED)
def test_a_refusal_by_the_head_waits_for_no_body(service: Service, what: str, expects: str) -> None:
    """The status arrives first, with `Connection: close` and without a 100."""
    line, headers, status = REFUSED[what]
    with open_connections(service, head_of(line, headers + expects)) as withheld:
        heads = [connection.recv(2**16).partition(b"\r\n\r\n")[0] for connection in withheld]
        predict_normally(service)

    assert {head.split()[1] for head in heads} == {b"%d" % status}
    assert all(b"\r\nConnection: close" in head for head in heads)


@pytest.mark.parametrize("headers", [PHOTO, CHUNKED], ids=["of a length", "in chunks"])
@pytest.mark.parametrize("path", ["/predict/", "/predictions", "/page/"])
def test_an_awaited_body_holds_no_thread(service: Service, path: str, headers: str) -> None:
    """With twelve missing bodies for each thread, other requests are answered."""
    headers += f"{EXPECTS}X-API-Key: {KEY}\r\n"
    before = threads(service)
    with open_connections(service, head_of(f"POST {path}", headers)) as withheld:
        invited = [connection.recv(2**16) for connection in withheld]
        predict_normally(service)
        after = threads(service)

    assert set(invited) == {b"HTTP/1.1 100 Continue\r\n\r\n"}
    assert after <= before + THREADS


def test_late_bodies_are_answered(service: Service) -> None:
    """A late photo is a prediction, in pieces of any size and in chunks."""
    body = photo()
    chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in body[:200])
    chunked += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body) - 200, body[200:])
    key, answers = f"X-API-Key: {KEY}\r\n", []
    for sent, framing in (
        (body, f"Content-Length: {len(body)}\r\n"),
        (chunked, CHUNKED),
    ):
        with open_connections(service, head_of("POST /predict/", framing + EXPECTS + key), 1) as (
            sender,
        ):
            sender.recv(2**16)
            for start in range(0, len(sent), 1000):
                sender.sendall(sent[start : start + 1000])
            sender.sendall(head_of("GET /health/", "Connection: close\r\n").encode())
            answers.append(sender.makefile("rb").read())

    assert [answer.count(b"HTTP/1.1 200 OK") for answer in answers] == [2, 2]


def test_a_client_that_does_not_read_holds_no_thread(service: Service) -> None:
    """Complete answers wait for such clients, and other requests are answered meanwhile."""
    ask = head_of("GET /openapi.json", f"X-API-Key: {KEY}\r\n")
    whole = service.call("GET", "/openapi.json", headers={"X-API-Key": KEY}).body
    with open_connections(service, ask, receive_bytes=4096) as readers:
        predict_normally(service)
        got = []
        for connection in readers:
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            got.append(answer.read())

    assert set(got) == {whole}


@pytest.mark.parametrize("command", [GUNICORN, FRAMEWORK.replace("{name}", "predict")])
def test_clients_that_send_everything_first_get_the_error(command: str, tmp_path: Path) -> None:
    """http.client sends 24 MB and then reads the 413."""
    with running(command, tmp_path, THREADS="8") as service:
        answer = service.predict(bytes(24 * 2**20))

    assert answer.status == 413


def test_an_unread_body_is_never_a_request(service: Service) -> None:
    """A request inside the body of another one is dropped, however late it arrives."""
    hidden = head_of("GET /health/", "").encode()
    with open_connections(
        service, head_of("GET /health/", f"Content-Length: {len(hidden)}\r\n"), 1
    ) as (one,):
        first = one.recv(2**16)
        one.sendall(hidden)
        rest = one.makefile("rb").read()

    assert first.startswith(b"HTTP/1.1 200")
    assert rest.count(b"HTTP/1.1") == 0


def test_a_small_unread_body_keeps_its_connection(service: Service) -> None:
    """A 405 with a body of twenty bytes is answered, and so is the next request."""
    sent = head_of("POST /health/", f"Content-Length: 20\r\nX-API-Key: {KEY}\r\n") + "x" * 20
    with open_connections(service, sent + head_of("GET /health/", "Connection: close\r\n"), 1) as (
        one,
    ):
        statuses = re.findall(rb"HTTP/1\.1 (\d{3}) ", one.makefile("rb").read())

    assert statuses == [b"405", b"200"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run a service that allows 10 MB for bodies in transit."""
    folder = tmp_path_factory.mktemp("small")
    with running(GUNICORN, folder, MEMORY_LIMIT_MB="160", CACHE_MB="0") as service:
        assert service.predict(photo()).status == 200
        yield service


def test_half_bodies_take_bounded_memory(small: Service) -> None:
    """Of thirty senders that stop inside a megabyte the slowest get 408, others an answer."""
    before = small.call("GET", "/memory/").json()["memory"]["rss_mb"]
    with open_connections(
        small, head_of("POST /predict/", "Content-Length: 1000000\r\n"), 30
    ) as stopped:
        for connection in stopped:
            connection.sendall(bytes(500_000))
        for connection in stopped:
            connection.setblocking(False)
        until(lambda: any(is_answered(connection) for connection in stopped))
        assert small.predict(photo()).status == 200
        after = small.call("GET", "/memory/").json()["memory"]["rss_mb"]

    assert after < before + 16


def is_answered(connection: socket.socket) -> bool:
    try:
        return connection.recv(12, socket.MSG_PEEK) == b"HTTP/1.1 408"
    except BlockingIOError:
        return False


def test_many_large_photos_at_once_wait_for_one_another(small: Service) -> None:
    """Sixteen photos of 1.5 MB exceed the limit together, and all are answered."""
    body = photo(4032, 3024)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: small.predict(body).status, range(16)))

    assert answers == [200] * 16


def test_a_body_above_the_transfer_limit_is_received(tmp_path: Path) -> None:
    """One body is always received, however small the limit is."""
    body = photo() + bytes(9 * 2**20)
    with running(GUNICORN, tmp_path, MEMORY_LIMIT_MB="72", CACHE_MB="0") as service:
        status = service.predict(body).status

    assert status in (200, 503, 507)
