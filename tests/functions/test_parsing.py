"""Invalid HTTP, and HTTP that two servers may read differently: nothing is smuggled."""

import re
import socket
from collections.abc import Iterator

import pytest
from support.service import GUNICORN, Service, running

HIDDEN = b"GET /memory/ HTTP/1.1\r\nHost: x\r\n\r\n"  # must never be answered as a request
POST = b"POST /health/ HTTP/1.1\r\nHost: x\r\n"
GET = b"GET /health/ HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(GUNICORN, tmp_path_factory.mktemp("logs")) as service:
        yield service


def answers(service: Service, sent: bytes, wait_s: float = 1.0) -> list[int]:
    """Send bytes on one connection; return the statuses of all answers."""
    got = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=wait_s) as connection:
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(2**16):
                got += piece
        except OSError:
            pass
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", got)]


def test_two_requests_at_once_are_two_answers(service: Service) -> None:
    """Two valid requests on one connection get two answers, which proves how this file counts."""
    assert answers(service, GET + b"\r\n" + HIDDEN) == [200, 200]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (GET.replace(b"/health/", b"/" + b"a" * 5000) + b"\r\n", 414),
        (GET + b"".join(b"X-%d: 1\r\n" % n for n in range(80)) + b"\r\n", 431),
        (GET + b"X-Long: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (GET + b"X-Endless: " + b"a" * 2**17, 431),
    ],
    ids=["a long line", "many headers", "a large header", "an endless header"],
)
def test_oversized_heads_are_rejected(service: Service, sent: bytes, status: int) -> None:
    """Each limit of a head has its own status, and one answer."""
    assert answers(service, sent) == [status]
    assert service.call("GET", "/health/").status == 200


@pytest.mark.parametrize(
    "sent",
    [
        POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: chunked\r\nContent-Length: 70\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Content-Length: 0\r\nContent-Length: 35\r\n\r\n" + HIDDEN,
        POST + b"Content-Length: 0, 35\r\n\r\n" + HIDDEN,
        POST + b"Content-Length: +0\r\n\r\n" + HIDDEN,
        POST + b"Content-Length: 0x0\r\n\r\n" + HIDDEN,
        POST + b"Content-Length : 0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"X: a\r\n Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        GET + b"X: a\rb\r\n\r\n" + HIDDEN,
        GET + b"X: a\0b\r\n\r\n" + HIDDEN,
        GET + b"Host: y\r\n\r\n" + HIDDEN,
        GET + b": a\r\n\r\n" + HIDDEN,
        GET + b"X\r\n\r\n" + HIDDEN,
        b"GET /health/ HTTP/1.1\nHost: x\n\n" + HIDDEN,
        b"GET /health/\r\n\r\n" + HIDDEN,
        b"GET /health/ HTTP/0.9\r\n\r\n" + HIDDEN,
        b"GET /health/ HTTP/3.0\r\nHost: x\r\n\r\n" + HIDDEN,
        b"GET  /health/ HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN,
        b"GET /he\0alth/ HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN,
        b"get /health/ HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n" + HIDDEN,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
    ],
)
def test_ambiguous_requests_are_rejected(service: Service, sent: bytes) -> None:
    """Two lengths, odd encodings, folded lines and bare line ends get one 400 or 501."""
    found = answers(service, sent)

    assert found in ([400], [501], [505]), found
    assert service.call("GET", "/health/").status == 200


@pytest.mark.parametrize(
    "sent",
    [
        POST + b"Transfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\nx\r\n0\r\n\r\n" + HIDDEN,
    ],
)
def test_nothing_is_answered_after_a_malformed_body(service: Service, sent: bytes) -> None:
    """A route without a body says so, and the connection ends if the body is ambiguous."""
    assert answers(service, sent) == [405]
    assert service.call("GET", "/health/").status == 200


def test_a_body_is_not_a_request(service: Service) -> None:
    """What a request announces as its body is never answered as a request."""
    sent = POST + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN

    assert answers(service, sent) == [405]


def test_an_absolute_url_names_the_same_route(service: Service) -> None:
    """A request line with scheme and host is one request, with any host."""
    found = answers(service, b"GET http://elsewhere/health/ HTTP/1.1\r\nHost: x\r\n\r\n")

    assert found == [200]


def test_forwarded_schemes_are_ignored(service: Service) -> None:
    """Forwarded headers are neither used nor rejected; names with _ are dropped."""
    headers = {"X-Forwarded-Proto": "https", "X_Forwarded_For": "1.2.3.4", "Forwarded": "for=1"}

    assert service.call("GET", "/health/", headers=headers).status == 200
