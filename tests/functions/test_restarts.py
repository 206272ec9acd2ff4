"""A service that is stopped, reloaded or killed under load, as its clients see it."""

import http.client
import json
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from gunicorn.config import Config
from gunicorn.workers.gthread import STOP_KEEPALIVE_LINGER
from macule.http.draining import close_listeners
from macule.server.worker import PollingWorker
from support.images import photo
from support.load_clients import SERVE, Crowd, Passed, Place, children, free_port
from support.service import FRAMEWORK, GUNICORN, ROOT, Service, running, until

pytestmark = pytest.mark.slow


@pytest.fixture
def photos() -> list[bytes]:
    return [(ROOT / "examples/spot.jpg").read_bytes(), photo()]


@pytest.fixture
def draining(tmp_path: Path) -> Iterator[Service]:
    with running(GUNICORN, tmp_path, DRAIN_S="3") as service:
        yield service


def stop(service: Service) -> None:
    os.killpg(service.process.pid, signal.SIGTERM)
    until(lambda: service.call("GET", "/ready/").json()["state"] == "draining")


@pytest.mark.parametrize(("kind", "way"), [(Place, "overlap"), (Passed, "same_port")])
def test_restarts_under_load_fail_no_request(
    tmp_path: Path, photos: list[bytes], kind: type[Place], way: str
) -> None:
    """In two restarts by SIGTERM eight clients get answers, or 503 and then an answer."""
    place = kind(tmp_path / "log")
    clients = Crowd(lambda: place.port, photos)

    with clients.running():
        for _ in range(2):
            time.sleep(0.3)
            getattr(place, way)()
    place.close()

    assert clients.failures() == {}
    assert clients.counts["refused"] == 0
    assert clients.counts["ok"] > 20
    assert clients.counts["retried"] > 0


def test_a_stop_during_the_start_is_fast(tmp_path: Path) -> None:
    """SIGTERM before there is a worker ends the service without the grace period."""
    environment = {**os.environ, "PORT": str(free_port()), "GRACEFUL_TIMEOUT_S": "90"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        for _ in range(5):  # each time at another moment of the worker's start
            process = subprocess.Popen(SERVE, cwd=ROOT, env=environment, start_new_session=True)
            try:
                manager.recv(1000)  # gunicorn is ready, its worker is not
                process.terminate()

                assert process.wait(60) == 0
            finally:
                process.kill()


def test_reloads_under_load_fail_no_request(tmp_path: Path, photos: list[bytes]) -> None:
    """In two reloads by HUP other workers answer, and no request is rejected."""
    place = Place(tmp_path / "log")
    clients = Crowd(lambda: place.port, photos)

    with clients.running():
        for _ in range(2):
            time.sleep(0.3)
            before = place.workers()
            os.kill(place.process.pid, signal.SIGHUP)
            until(lambda before=before: place.workers() and not place.workers() & before)  # type: ignore[misc]
    place.close()

    assert clients.failures() == {}
    assert clients.counts.keys() == {"ok"}


def test_a_reload_keeps_the_worker_until_another_is_warm(tmp_path: Path) -> None:
    """While a new worker cannot load its model, the old one answers."""
    with running(GUNICORN, tmp_path) as service:
        service.predict(photo())
        (arbiter,) = children(service.process.pid)
        (before,) = children(arbiter)
        os.kill(arbiter, signal.SIGHUP)
        until(lambda: len(children(arbiter)) == 2)
        (after,) = children(arbiter) - {before}
        os.kill(after, signal.SIGSTOP)  # it is slow
        time.sleep(0.5)
        statuses = [service.predict(photo()).status for _ in range(5)]
        os.kill(after, signal.SIGCONT)
        until(lambda: children(arbiter) == {after})
        statuses.append(service.predict(photo()).status)

    assert statuses == [200] * 6


def test_a_replaced_worker_waits_for_slow_heads(tmp_path: Path) -> None:
    """A slow head that began at a replaced worker is answered."""
    with running(GUNICORN, tmp_path) as service:
        service.predict(photo())
        (arbiter,) = children(service.process.pid)
        (before,) = children(arbiter)
        with ExitStack() as opened:
            slow = [
                opened.enter_context(socket.create_connection(("127.0.0.1", service.port), 20))
                for _ in range(3)
            ]
            slow[0].sendall(b"GET /health/ HT")
            service.call("GET", "/health/")  # all earlier ones were accepted
            os.kill(arbiter, signal.SIGHUP)
            until(lambda: len(children(arbiter)) == 2)
            (after,) = children(arbiter) - {before}
            until(lambda: not sockets(before) & sockets(arbiter))  # it no longer listens
            time.sleep(STOP_KEEPALIVE_LINGER + 1)
            slow[0].sendall(b"TP/1.1\r\nHost: x\r\n\r\n")
            for connection in slow[1:]:
                connection.sendall(b"GET /health/ HTTP/1.1\r\nHost: x\r\n\r\n")
            answers = [connection.recv(2**16)[:12] for connection in slow]
        until(lambda: children(arbiter) == {after})

    assert answers == [b"HTTP/1.1 200"] * 3


def sockets(pid: int) -> set[str]:
    """Return the sockets of a process by their names in Linux."""
    found = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(os.readlink(file))
    return {name for name in found if name.startswith("socket:")}


def test_a_reload_keeps_the_log_format(tmp_path: Path) -> None:
    """After HUP gunicorn's lines are JSON too, without a traceback of its formatter."""
    place = Place(tmp_path / "log")
    before = place.workers()
    os.kill(place.process.pid, signal.SIGHUP)
    until(lambda: place.workers() and not place.workers() & before)
    (worker,) = place.workers()
    os.kill(worker, signal.SIGKILL)
    until(lambda: place.workers() - {worker})
    place.close()
    log = (tmp_path / "log").read_text()

    assert "Traceback" not in log
    assert f'"message":"Worker (pid:{worker}) was sent SIGKILL!' in log


def test_killed_workers_lose_only_running_requests(tmp_path: Path, photos: list[bytes]) -> None:
    """After each of three kills at most one request a client fails; another worker answers."""
    place = Place(tmp_path / "log")
    clients = Crowd(lambda: place.port, photos)

    with clients.running():
        for _ in range(3):
            time.sleep(0.3)
            for worker in place.workers():
                os.kill(worker, signal.SIGKILL)
            clients.back_after(time.monotonic())
    place.close()

    assert sum(clients.failures().values()) <= 3 * 8
    assert clients.counts["ok"] > 20


def test_new_requests_are_rejected_while_draining(draining: Service) -> None:
    """Open and new connections get 503 `draining` with Retry-After, and are closed."""
    kept = http.client.HTTPConnection("127.0.0.1", draining.port, timeout=10)
    kept.request("GET", "/health/")
    kept.getresponse().read()
    stop(draining)
    kept.request("POST", "/predict/", photo())
    answer = kept.getresponse()
    document = json.loads(answer.read())
    kept.close()
    other = draining.predict(photo())

    assert (answer.status, document["type"]) == (503, "urn:macule:problem:draining")
    assert (answer.headers["Retry-After"], answer.headers["Connection"]) == ("1", "close")
    assert (other.status, other.headers["connection"]) == (503, "close")
    assert draining.call("GET", "/ready/").headers["retry-after"] == "1"
    for path in ("/health/", "/memory/"):
        assert draining.call("GET", path).status == 200
    draining.process.wait(10)


def test_running_requests_finish_after_draining(draining: Service) -> None:
    """A photo that is being sent when the stop begins is answered, also after DRAIN_S."""
    body = photo()
    with socket.create_connection(("127.0.0.1", draining.port)) as connection:
        head = f"POST /predict/ HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n"
        connection.sendall(head.encode() + b"Expect: 100-continue\r\n\r\n")
        invited = connection.recv(2000)
        connection.sendall(body[:1000])
        stop(draining)
        time.sleep(3.5)
        refused = draining.predict(photo()).status
        connection.sendall(body[1000:])
        answer = connection.recv(2000)
    draining.process.wait(10)

    assert invited.startswith(b"HTTP/1.1 100")
    assert refused == 503
    assert answer.startswith(b"HTTP/1.1 200")


def test_prefer_wait_ends_when_the_service_stops(draining: Service) -> None:
    """`Prefer: wait` ends with 202 at the stop; the next service has the result."""
    folder = draining.log.parent
    large = photo(4032, 3024, progressive=True)
    for _ in range(8):
        draining.call("POST", "/predictions", large)
    waiting = http.client.HTTPConnection("127.0.0.1", draining.port, timeout=30)
    waiting.request("POST", "/predictions", photo(), {"Prefer": "wait=30"})
    until(lambda: draining.call("GET", "/memory/").json()["ledger"].get("jobs", 0) >= 2)
    time.sleep(0.2)
    began = time.monotonic()
    stop(draining)
    answer = waiting.getresponse()
    where = json.loads(answer.read())["id"]
    waiting.close()
    draining.process.wait(15)

    assert answer.status in (200, 202)
    assert time.monotonic() - began < 12
    with running(GUNICORN, folder, DATA_DIR=str(folder / "data")) as service:
        until(lambda: service.call("GET", f"/predictions/{where}").json()["status"] == "succeeded")


def test_a_connection_at_the_end_of_draining_is_left_to_the_next_worker() -> None:
    """A connection in the same batch of events as the worker's end does not break the worker."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker = PollingWorker(1, os.getppid(), [listener.dup()], None, 30, Config(), None)
        worker.tpool, worker.poller = worker.get_thread_pool(), selectors.DefaultSelector()
        worker.method_queue.init()
        worker.method_queue.defer(close_listeners, worker)
        with socket.create_connection(listener.getsockname()):
            worker.run()
            listener.settimeout(5)
            listener.accept()[0].close()
        worker.tmp.close()


def test_functions_framework_rejects_on_open_connections(tmp_path: Path) -> None:
    """Under functions-framework's gunicorn running requests finish and open connections get 503."""
    body = photo()
    with running(FRAMEWORK.replace("{name}", "predict"), tmp_path) as service:
        service.predict(body)
        kept = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
        kept.request("GET", "/health/")
        kept.getresponse().read()
        with socket.create_connection(("127.0.0.1", service.port)) as running_one:
            head = f"POST /predict/ HTTP/1.1\r\nHost: t\r\nContent-Length: {len(body)}\r\n\r\n"
            running_one.sendall(head.encode() + body[:1000])
            time.sleep(0.3)
            os.killpg(service.process.pid, signal.SIGTERM)
            time.sleep(0.3)
            kept.request("GET", "/ready/")
            answer = kept.getresponse()
            state = json.loads(answer.read())["state"]
            running_one.sendall(body[1000:])
            answered = running_one.recv(2000)
        kept.close()

    assert (answer.status, state) == (503, "draining")
    assert answer.headers["Connection"] == "close"
    assert answered.startswith(b"HTTP/1.1 200")
