"""Webhooks: signatures follow the standard, and forbidden addresses are not reached."""

import json
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any, NoReturn

import pytest
from macule.errors import BadRequest
from macule.jobs import EVENTS
from macule.jobs.webhooks import addresses, messages
from support.model_sources import certify
from support.upstreams import closed_port
from support.webhook_receivers import SECRET, Receiver, receiver

OTHER_SECRET = "whsec_" + "QUJD" * 10
NOT_PUBLIC = """
0.0.0.0 0.1.2.3 10.1.2.3 100.64.0.1 100.100.100.200 127.0.0.1 127.8.8.8 168.63.129.16
169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1
198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:a9fe:a9fe ::ffff:0:7f00:1 64:ff9b::a00:1 64:ff9b:1::808:808
100::1 2001::7f00:1 2001:0:53aa:64c::1 2001:20::1 2001:db8::1 2002:7f00:1:: 2002:808:808::1 3fff::1
fc00::1 fd00:ec2::254 fd20:ce::254 fe80::1 fe80::1%1 fec0::1 ff02::1 ff0e::1
"""


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as server:
        yield server


def deliver(url: str, **others: Any) -> messages.Outcome:
    known = {"secrets": [SECRET], "loopback": True, "timeout_s": 0.4} | others
    return messages.deliver(url, "msg_7_completed", b"{}", **known)


def test_the_published_vector() -> None:
    """The standard's example gets the signature of its own libraries."""
    signature = messages.sign(
        [SECRET], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )

    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_each_secret_signs() -> None:
    """During a rotation there is a signature of each secret, the newest first."""
    both = messages.sign([OTHER_SECRET, SECRET], "msg_1", 5, b"{}")

    assert both.split() == [
        messages.sign([key], "msg_1", 5, b"{}") for key in (OTHER_SECRET, SECRET)
    ]


def test_a_message_has_no_pictures() -> None:
    """The job's document is sent without the map's images, which show the photo."""
    explanation = {"kind": "cam", "heatmap": "data:image/png;base64,AA", "faithful": True}
    document = {"id": "7", "output": {"explanation": explanation, "predictions": [{"label": "ä"}]}}
    message_id, body = messages.build_message("prediction.completed", document, 1_600_000_000.25)

    assert message_id == "msg_7_completed"
    assert json.loads(body) == {
        "type": "prediction.completed",
        "timestamp": "2020-09-13T12:26:40.250Z",
        "data": {
            "id": "7",
            "output": {
                "explanation": {"kind": "cam", "faithful": True},
                "predictions": [{"label": "ä"}],
            },
        },
    }


def test_ids_identify_events() -> None:
    """A job has one id for each event, so that receivers can drop repetitions."""
    ids = [messages.build_message(event, {"id": "7"}, now)[0] for event in EVENTS for now in (1, 2)]

    assert (ids[0], ids[2]) == (ids[1], ids[3])
    assert len(set(ids)) == 2
    assert not any("." in message_id for message_id in ids)


@pytest.mark.parametrize(
    "url",
    [
        "https://receiver.example/hook?token=a",
        "https://8.8.8.8:8443/",
        "https://[2606:4700::1111]/",
        "https://xn--bcher-kva.example",
    ],
)
def test_allowed_addresses(url: str) -> None:
    """Names and public addresses over https are allowed, with port, path and query."""
    assert messages.validate_url(url, loopback=False) == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://receiver.example/", "does not start with https"),
        ("ftp://receiver.example/", "does not start with https"),
        ("https://user:word@receiver.example/", "user name"),
        ("https://receiver.example@8.8.8.8/", "user name"),
        ("https://127.0.0.1/", "a public address"),
        ("https://[::ffff:10.0.0.1]/", "a public address"),
        ("https://169.254.169.254/latest/", "a public address"),
        ("https://localhost/", "a public address"),
        ("https://redis:6379/", "a public address"),
        ("https://a.example\\@b.example/", "not a URL"),
        ("https://a.example/\r\nX: y", "not a URL"),
        ("https://a.example/#part", "not a URL"),
        ("https://a.example:99999/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https:///hook", "not a URL"),
        ("https://bücher.example/", "not a URL"),
        ("", "not a URL"),
        ("https://a.example/" + "a" * 2000, "2,018 characters"),
    ],
)
def test_forbidden_addresses(url: str, why: str) -> None:
    """Other addresses are rejected when the job is created, with the reason."""
    with pytest.raises(BadRequest, match=why):
        messages.validate_url(url, loopback=False)


def test_loopback_is_for_tests() -> None:
    """With the setting, plain http to this machine is allowed, and to no other."""
    assert messages.validate_url("http://127.0.0.1:9/", loopback=True)
    with pytest.raises(BadRequest):
        messages.validate_url("http://8.8.8.8/", loopback=True)
    with pytest.raises(BadRequest):
        messages.validate_url("https://10.0.0.1/", loopback=True)


@pytest.mark.parametrize("address", NOT_PUBLIC.split())
def test_addresses_that_are_not_public(address: str) -> None:
    """This machine, its network, metadata and embedded addresses are not public."""
    assert not addresses.is_public(address)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_that_are_public(address: str) -> None:
    """Public addresses are public, also when translated to IPv4."""
    assert addresses.is_public(address)


def test_a_delivery_is_signed_when_it_is_sent(there: Receiver) -> None:
    """It is a POST of JSON with the standard's three headers and the current time."""
    assert deliver(f"{there.url}/204?token=a") == messages.Outcome("delivered")

    (call,) = there.calls
    sent = int(call.headers["webhook-timestamp"])
    assert (call.path, call.body) == ("/204?token=a", b"{}")
    assert call.headers["content-type"] == "application/json"
    assert call.headers["webhook-id"] == "msg_7_completed"
    assert call.headers["webhook-signature"] == messages.sign(
        [SECRET], "msg_7_completed", sent, b"{}"
    )
    assert abs(time.time() - sent) < 5


@pytest.mark.parametrize(
    ("way", "state", "why"),
    [
        ("200", "delivered", ""),
        ("endless", "delivered", ""),
        ("410", "failed", "answered 410"),
        ("302", "retry", "answered 302"),
        ("400", "retry", "answered 400"),
        ("500", "retry", "answered 500"),
        ("stalls", "retry", "timed out after 0.4 s"),
        ("drips", "retry", "timed out after 0.4 s"),
    ],
)
def test_results_of_an_attempt(there: Receiver, way: str, state: str, why: str) -> None:
    """2xx is delivered with any body, 410 ends it, other results are retried, all in time."""
    there.says = {"Location": f"{there.url}/200"}
    began = time.monotonic()
    outcome = deliver(f"{there.url}/{way}")

    assert (outcome.state, outcome.why) == (state, why)
    assert time.monotonic() - began < 1
    assert [call.path for call in there.calls] == [f"/{way}"]


@pytest.mark.parametrize(
    ("says", "least_s", "most_s"),
    [
        ("7", 7, 7),
        ("in ten minutes", 550, 601),
        ("9" * 400, 36000, 36000),
        ("-5", 0, 0),
        ("soon", 0, 0),
        ("Mon, 01 Jan 0001 00:00:00 GMT", 0, 0),
    ],
)
def test_retry_after_is_respected(
    there: Receiver, says: str, least_s: float, most_s: float
) -> None:
    """Seconds or a date are used within limits; invalid values are ignored."""
    if says == "in ten minutes":
        says = formatdate(time.time() + 600, usegmt=True)
    there.says = {"Retry-After": says}
    outcome = deliver(f"{there.url}/429")

    assert outcome.state == "retry"
    assert least_s <= outcome.after_s <= most_s


def test_an_unreachable_receiver_is_retried() -> None:
    """A closed port and an unknown host may be temporary."""
    assert deliver(f"http://127.0.0.1:{closed_port()}/").state == "retry"
    assert deliver("https://no-such-host.invalid/").why == "has a name without an address"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "0"])
def test_loopback_is_not_connected_to(there: Receiver, host: str) -> None:
    """Every spelling of this machine is rejected permanently before a connection."""
    outcome = deliver(f"http://{host}:{there.port}/", loopback=False)

    assert outcome == messages.Outcome("failed", "has no public address")
    assert there.calls == []


def test_dns_rebinding_fails(there: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to the address that was checked."""
    answers, reached = ["93.184.215.14", "127.0.0.1", "127.0.0.1"], []

    def resolve(_: str, port: int, *__: int) -> list[Any]:
        return [(2, 1, 6, "", (answers.pop(0), port))]

    def dial(place: tuple[str, int], _: float) -> NoReturn:
        reached.append(place[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(addresses, "create_connection", dial)
    url = f"http://rebinds.example:{there.port}/"
    first = deliver(url, loopback=False, resolve=resolve)
    left = len(answers)
    second = deliver(url, loopback=False, resolve=resolve)

    assert (first.state, left) == ("retry", 2)
    assert second == messages.Outcome("failed", "has no public address")
    assert (reached, there.calls) == (["93.184.215.14"], [])


def test_only_allowed_addresses_are_tried(there: Receiver) -> None:
    """Private addresses are skipped; one that fails does not hide the next."""
    places = [("10.0.0.1", 9), ("127.0.0.1", closed_port()), ("127.0.0.1", there.port)]
    found = [(2, 1, 6, "", place) for place in places]

    assert deliver("http://many.example/", resolve=lambda *_: found).state == "delivered"


def test_tls_is_checked_against_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An untrusted certificate, or one of another name, is rejected."""
    pem, context = certify(tmp_path)
    with receiver(tls=context) as server:
        untrusted = deliver(f"{server.url}/", timeout_s=5)
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        trusted = deliver(f"{server.url}/", timeout_s=5)
        here = [(2, 1, 6, "", ("127.0.0.1", server.port))]
        misnamed = deliver("https://a.example/", timeout_s=5, resolve=lambda *_: here)

    assert (untrusted.state, trusted.state, misnamed.state) == ("retry", "delivered", "retry")
    assert "not trusted" in untrusted.why
    assert "not valid for 'a.example'" in misnamed.why
    assert len(server.calls) == 1


def test_the_schedule() -> None:
    """Nine attempts in 18 hours, each pause within a fifth of its value."""
    pauses = [messages.retry_delay_s(attempts, lambda: 0.5) for attempts in range(1, 10)]
    least, most = (messages.retry_delay_s(3, lambda end=end: end) for end in (0.0, 1.0))

    assert pauses == [*messages.RETRY_DELAYS_S, None]
    assert (least, most) == (pytest.approx(96), pytest.approx(144))
