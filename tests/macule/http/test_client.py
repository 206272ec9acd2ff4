"""Requests to another service: an answer or a reason, always in time."""

import subprocess
import threading
import time
from pathlib import Path

import pytest
from macule.http import client
from support.loopback import Handler, Loopback, serving
from support.upstreams import Upstream, closed_port

TIMEOUT_S = 0.4
REASONS = {
    "stalls": "timed out after 0.4 s",
    "drips": "timed out after 0.4 s",
    "drips-headers": "timed out after 0.4 s",
    "drips-continue": "timed out after 0.4 s",
    "huge": "answered with more than 262,144 bytes",
    "closes": "closed the connection before it answered",
    "noise": "does not speak HTTP there",
}


def test_an_answer_is_complete(other: Upstream) -> None:
    """Status, headers in lower case and body are returned."""
    reply = client.request(f"{other.url}/fine/memory/?a=b", 5)

    assert (reply.status, int(reply.headers["content-length"])) == (200, len(reply.body))
    assert other.asked[-1].startswith("GET /fine/memory/?a=b HTTP/1.1")


@pytest.mark.parametrize("way", REASONS)
def test_requests_end_in_time_with_a_reason(other: Upstream, way: str) -> None:
    """A server that stalls, drips or never ends holds the client for the time-out at most."""
    began = time.monotonic()
    with pytest.raises(client.Unreachable) as caught:
        client.request(f"{other.url}/{way}/", TIMEOUT_S)

    assert str(caught.value) == REASONS[way]
    assert time.monotonic() - began < TIMEOUT_S + 0.3


def test_an_abandoned_thread_ends(other: Upstream) -> None:
    """The connection of a timed-out request is shut down, so its thread ends."""
    before = set(threading.enumerate())
    with pytest.raises(client.Unreachable):
        client.request(f"{other.url}/drips/", TIMEOUT_S)
    left = [thread for thread in set(threading.enumerate()) - before if "talk" in thread.name]
    for thread in left:
        thread.join(2)

    assert not any(thread.is_alive() for thread in left)


def test_a_redirect_is_an_answer(other: Upstream) -> None:
    """A redirect is not followed."""
    before = len(other.asked)

    assert client.request(f"{other.url}/redirects/", 5).status == 302
    assert other.paths(before) == ["/redirects/"]


def test_proxies_of_the_environment_are_not_used(
    other: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """http_proxy of the environment is ignored."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")

    assert client.request(f"{other.url}/fine/", 5).status == 200


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:{closed}/", "refused the connection"),
        ("http://no-such-host.invalid/", "has a name without an address"),
        (f"http://{'a' * 64}.example/", "has a name without an address"),
    ],
)
def test_connection_failures_are_distinguished(url: str, reason: str) -> None:
    """A closed port and an unknown host have different reasons."""
    with pytest.raises(client.Unreachable, match=reason):
        client.request(url.format(closed=closed_port()), 5)


def test_tls_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """https needs a trusted certificate."""
    import ssl

    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost "
        f"-addext subjectAltName=DNS:localhost -keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )

    class Empty(Handler):
        def do_GET(self) -> None:
            self.send_response(204)
            self.end_headers()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with serving(Loopback(Empty), context) as server:
        url = f"https://localhost:{server.port}/"
        with pytest.raises(client.Unreachable, match="certificate that is not trusted: self-sign"):
            client.request(url, 5)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        status = client.request(url, 5).status

    assert status == 204


def test_plain_http_at_a_tls_address_is_reported(other: Upstream) -> None:
    """https to a port of plain HTTP is a reason too."""
    with pytest.raises(client.Unreachable, match=r"does not agree on TLS|closed the connection"):
        client.request(other.url.replace("http:", "https:"), TIMEOUT_S)
