"""Chunked bodies: valid ones are read, malformed ones rejected, on every route with a body."""

import random
import re
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest
from support.images import photo
from support.malformed_chunks import bodies, chunk, split
from support.service import FRAMEWORK, GUNICORN, Service, retry_while_busy, running

SEED = 7
COUNTS = {GUNICORN: 1000, FRAMEWORK.replace("{name}", "predict"): 200}
ROUTES = ("/predict/", "/", "/page/", "/predictions", "/v2/models/{name}/infer")
HIDDEN = b"GET /memory/ HTTP/1.1\r\nHost: x\r\n\r\n"  # must never be answered as a request
KIND = {"/v2/models/{name}/infer": "application/json"}


@pytest.fixture(scope="module", params=COUNTS, ids=["gunicorn", "framework"])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    with running(request.param, tmp_path_factory.mktemp("logs"), THREADS="32") as service:
        service.predict(photo())
        yield service


def send(service: Service, path: str, body: bytes, *, ends: bool = True) -> list[int]:
    """Send a body with the given chunks; return the statuses of all answers."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        f"Content-Type: {KIND.get(path, 'image/jpeg')}\r\n\r\n"
    ).encode()
    got = b""
    with socket.create_connection(("127.0.0.1", service.port), timeout=30) as connection:
        try:
            connection.sendall(head + body)
            if ends:
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(2**16):
                got += piece
        except OSError:  # rejected and closed before all of it was sent
            pass
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", got)]


def paths(service: Service) -> list[str]:
    name = service.call("GET", "/model/").json()["name"]
    return [path.format(name=name) for path in ROUTES]


def test_malformed_bodies_are_bad_requests(
    service: Service, request: pytest.FixtureRequest
) -> None:
    """Each malformed body is one 400, on every route, and what follows is not answered.

    A busy service answers 503 before it reads, and a reset that overtakes an answer loses it:
    such a body is sent again, as clients do.
    """
    count = COUNTS[request.node.callspec.params["service"]]
    cases = list(islice(bodies(SEED, photo(64, 48)), count))
    routes = paths(service)

    def one(number: int) -> tuple[str, tuple[int, ...]]:
        what, body = cases[number]
        path = routes[number % len(routes)]
        statuses = retry_while_busy(
            lambda: send(service, path, body + HIDDEN), lambda statuses: statuses in ([], [503])
        )
        return what, tuple(statuses)

    with ThreadPoolExecutor(8) as pool:
        found = Counter(pool.map(one, range(count)))

    wrong = {case: count for case, count in found.items() if case[1] != (400,)}
    assert not wrong
    assert "Traceback" not in Path(service.log).read_text()
    assert service.predict(photo()).status == 200


def test_a_complete_body_in_chunks_is_a_photo(service: Service) -> None:
    """Chunks of any size, with extensions and trailers, are read completely."""
    draw, body = random.Random(SEED), photo(300, 200)
    plain = b"".join(map(chunk, split(body, draw)))
    dressed = b'%X;a=b;c="d"\r\n%b\r\n' % (len(body), body)

    statuses = [
        send(service, "/predict/", plain + b"0\r\n\r\n"),
        send(service, "/predict/", dressed + b"0\r\nX: y\r\n\r\n"),
        send(service, "/predict/", plain + b"000\r\n\r\n" + HIDDEN),
    ]

    assert statuses == [[200], [200], [200, 200]]


def test_chunks_with_excessive_extensions_are_rejected(tmp_path: Path) -> None:
    """A megabyte of extensions around 260 bytes of data is rejected."""
    each = b"1;" + b"a" * 4000 + b"\r\nx\r\n"
    with running(GUNICORN, tmp_path) as service:
        assert send(service, "/predict/", each * 260 + b"0\r\n\r\n" + HIDDEN) == [400]


def test_an_oversized_chunked_body_is_rejected_early(tmp_path: Path) -> None:
    """The announced chunk sizes count before the data has arrived."""
    with running(GUNICORN, tmp_path, MAX_IMAGE_BYTES="100000") as service:
        assert send(service, "/predict/", b"f4240\r\n" + bytes(1000), ends=False) == [413]
