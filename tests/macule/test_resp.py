"""Redis's protocol, spoken with a real Valkey and with what only seems to be one."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from keeper import PASSWORD, valkey
from macule import resp

pytestmark = pytest.mark.filterwarnings("error::ResourceWarning")


@contextmanager
def client(url: str, timeout_s: float = 5.0, most_bytes: int = 2**16) -> Iterator[resp.Client]:
    made = resp.Client(resp.address(url), timeout_s, most_bytes)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def saying(*replies: bytes, pause_s: float = 0.0) -> Iterator[str]:
    """Listen as no Redis does: each connection is sent *replies*, whatever it asks."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    sender, _ = listener.accept()
                except OSError:
                    return
                with sender:
                    try:
                        sender.recv(1000)
                        for reply in replies:
                            sender.sendall(reply)
                            time.sleep(pause_s)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            thread.join()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://", resp.Address("localhost", 6379, "", False, "", "", "")),
        ("redis://cache:7000/2", resp.Address("cache", 7000, "", False, "", "", "2")),
        ("rediss://me:a%40b@[::1]:1", resp.Address("::1", 1, "", True, "me", "a@b", "")),
        ("redis://:p@h/0?db=3", resp.Address("h", 6379, "", False, "", "p", "3")),
        ("unix:///r.sock?db=1", resp.Address("localhost", 6379, "/r.sock", False, "", "", "1")),
    ],
)
def test_an_address_is_read_as_other_clients_read_it(url: str, expected: resp.Address) -> None:
    """Host, port, path, TLS, user, password and database stand where redis-py looks for them."""
    assert resp.address(url) == expected


def test_values_come_back_as_they_went(tmp_path: Path) -> None:
    """Bytes of every kind, nothing, numbers and refusals, over TCP and over a socket's path."""
    path = tmp_path / "socket"
    value = bytes(range(256)) * 100 + b"\r\n"
    with valkey(tmp_path, "--unixsocket", str(path)) as server:
        for url in (server.url, f"unix://:{PASSWORD}@{path}?db=2"):
            with client(url) as asked:
                assert asked.ask(b"SET", b"key", value) == b"OK"
                assert asked.ask(b"GET", b"key") == value
                assert asked.ask(b"GET", b"none") is None
                assert asked.ask(b"DEL", b"key") == 1
                asked.ask(b"LPUSH", b"list", b"a")
                with pytest.raises(resp.Refused, match=r"^WRONGTYPE$"):
                    asked.ask(b"GET", b"list")
                assert asked.ask(b"PING") == b"PONG"


def test_a_wrong_password_is_refused_without_being_named(tmp_path: Path) -> None:
    """What is raised is the server's one word."""
    with valkey(tmp_path) as server:
        wrong = server.url.replace(PASSWORD, "guessed")
        with client(wrong) as asked, pytest.raises(resp.Refused, match=r"^WRONGPASS$"):
            asked.ask(b"PING")


def test_a_restart_is_not_noticed(tmp_path: Path) -> None:
    """Connections that the server ended are made anew within the same question."""
    with valkey(tmp_path) as server, client(server.url) as asked:
        asked.ask(b"PING")
        server.kill()
        server.start()

        assert asked.ask(b"PING") == b"PONG"


def test_the_time_covers_a_server_that_trickles() -> None:
    """A byte now and then does not begin the time anew."""
    trickle = [b"$100\r\n", *[b"x"] * 40]
    with saying(*trickle, pause_s=0.05) as url, client(url, timeout_s=0.2) as asked:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            asked.ask(b"GET", b"key")

    assert time.monotonic() - began < 1.0


@pytest.mark.parametrize(
    "reply", [b"HTTP/1.1 400 No\r\n\r\n", b"$many\r\n", b"\r\n", b"*1\r\n:1\r\n", b"", b"$5\r\nab"]
)
def test_what_is_no_answer_is_a_broken_connection(reply: bytes) -> None:
    """Another protocol, nonsense and an early end are an OSError."""
    with saying(reply) as url, client(url) as asked, pytest.raises(OSError, match=r"\w"):
        asked.ask(b"GET", b"key")


def test_more_than_the_bound_is_not_read() -> None:
    """A server that sends without end is left."""
    endless = [b"$99999999\r\n", *[bytes(2**16)] * 40]
    refused = pytest.raises(ConnectionError, match="too much")
    with saying(*endless) as url, client(url, most_bytes=2**16) as asked, refused:
        asked.ask(b"GET", b"key")
