"""A broker failure is logged with its cause, once a minute, without the password."""

import json
import logging
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread

import pytest
from macule.errors import QueueUnavailable
from macule.jobs.broker.outage import Outage
from macule.jobs.broker.redis_queue import RedisQueue
from redis.exceptions import ReadOnlyError, ResponseError
from support.broker import PASSWORD, Broker, broker
from support.images import photo
from support.load_clients import free_port
from support.service import GUNICORN_DEV, running


@pytest.fixture
def closing() -> Iterator[int]:
    """Return the port of a server that closes each connection after the first data."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(4096)

        Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def log_lines(url: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Ask the broker at *url* five times; return the log lines."""
    caplog.set_level(logging.INFO, "macule")
    queue = RedisQueue(url, 60, 1000)
    for _ in range(5):
        with pytest.raises(QueueUnavailable):
            queue.waiting()
    queue.close()
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://:{wrong}@{host}/0", "authentication fails: wrong user or password"),
        ("redis://me:{wrong}@{host}/0", "authentication fails: wrong user or password"),
        ("redis://{host}/0", "authentication fails: a password is needed"),
        ("redis://:{right}@{host}/99", "it has no database of that number"),
        ("redis://:{right}@127.0.0.1:{free}/0", "Connection refused"),
        ("redis://:{right}@no.such.host.invalid:6379/0", "its name cannot be resolved: "),
        ("unix://:{right}@/nowhere/valkey.sock", "No such file or directory"),
        ("redis://:{right}@127.0.0.1:{closing}/0", "it closes the connection; "),
        ("rediss://:{right}@127.0.0.1:{closing}/0", "TLS fails: "),
    ],
)
def test_one_line_has_the_cause(
    url: str, why: str, server: Broker, closing: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Five failures are one line with address and cause, without any password."""
    wrong = "not-the-password"
    places = {"host": f"127.0.0.1:{server.port}", "free": free_port(), "closing": closing}
    lines = log_lines(url.format(wrong=wrong, right=PASSWORD, **places), caplog)

    assert len(lines) == 1
    assert f" cannot be used: {why}" in lines[0]
    assert lines[0].startswith("the broker ")
    assert wrong not in lines[0]
    assert PASSWORD not in lines[0]


def test_a_cause_is_logged_again_after_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    """Within a minute another cause is another line, the same is not; the end is a line."""
    caplog.set_level(logging.INFO, "macule")
    times = iter([0.0, 1.0, 2.0, 59.0, 61.0])
    outage = Outage("host:1", lambda: next(times))
    other, same = ResponseError("arguments"), ReadOnlyError("arguments")
    for error in (same, other, same, same, same):
        with pytest.raises(QueueUnavailable), outage.watched():
            raise error
    for _ in range(2):
        with outage.watched():
            pass

    lines = [record.getMessage() for record in caplog.records]
    assert [line.rpartition(": ")[2] for line in lines] == [
        "ReadOnlyError",
        "ResponseError",
        "ReadOnlyError",
        "the broker host:1 can be used again",
    ]


def test_a_web_process_logs_its_broker_once(tmp_path: Path) -> None:
    """Many predictions that fail with a dead broker give one line with the cause."""
    with (
        broker(tmp_path) as server,
        running(GUNICORN_DEV, tmp_path, BROKER_URL=server.url, LOG="json") as service,
    ):
        server.kill()
        statuses = {service.call("POST", "/predictions", photo()).status for _ in range(8)}
        server.start()
        after = service.call("POST", "/predictions", photo()).status
        lines = [json.loads(line) for line in service.log.read_text().splitlines()]

    assert (statuses, after) == ({503}, 202)
    broker_lines = [line for line in lines if line.get("event", "").startswith("broker_")]
    assert [line["event"] for line in broker_lines] == ["broker_fails", "broker_back"]
    assert (
        f"127.0.0.1:{server.port} cannot be used: Connection refused" in broker_lines[0]["message"]
    )
    assert PASSWORD not in service.log.read_text()
