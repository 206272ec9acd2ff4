"""The example receiver accepts what the service signs, and nothing else."""

import http.client
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from types import ModuleType

import pytest
from macule.jobs.webhooks import messages
from support.service import ROOT
from support.webhook_receivers import SECRET

FILE = ROOT / "examples/verify_webhook.py"
OTHER_SECRET = "whsec_" + "QUJD" * 10
UNKNOWN_SECRET = "whsec_" + "WFla" * 10
NOW = 1614265330
BODY = b'{"test": 2432232314}'
SIGNED = {  # the standard's published example
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": str(NOW),
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
WRONG = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc="


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verify_webhook", FILE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def running() -> Iterator[tuple["subprocess.Popen[str]", str]]:
    environment = {**os.environ, "WEBHOOK_SECRETS": f"{OTHER_SECRET}, {SECRET}"}
    with subprocess.Popen(
        [sys.executable, FILE, "0"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr
        yield process, process.stderr.readline().split()[-1]
        process.terminate()


@pytest.mark.parametrize("late_s", [-300, 0, 300])
def test_the_published_vector_is_accepted(example: ModuleType, late_s: int) -> None:
    """The standard's example is accepted within five minutes of its time, before or after."""
    assert example.verify([SECRET], SIGNED, BODY, NOW + late_s) == SIGNED["webhook-id"]


@pytest.mark.parametrize(
    "signatures",
    [
        f"{WRONG} {SIGNED['webhook-signature']}",
        f"{SIGNED['webhook-signature']} {WRONG}",
        f"v1a,AAAA v2 {WRONG} ü {SIGNED['webhook-signature']}",
    ],
)
def test_one_valid_signature_of_several_is_enough(example: ModuleType, signatures: str) -> None:
    """During a key rotation there are several signatures; unknown kinds are ignored."""
    headers = {**SIGNED, "webhook-signature": signatures}

    assert example.verify([OTHER_SECRET, SECRET], headers, BODY, NOW)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"webhook-signature": WRONG}, "no signature fits"),
        ({"webhook-signature": SIGNED["webhook-signature"].replace("v1,", "v2,")}, "no signature"),
        ({"webhook-signature": ""}, "no signature fits"),
        ({"webhook-id": "msg_another"}, "no signature fits"),
        ({"webhook-timestamp": str(NOW + 1)}, "no signature fits"),
        ({"webhook-timestamp": str(NOW - 301)}, "five minutes"),
        ({"webhook-timestamp": str(NOW + 301)}, "five minutes"),
        ({"webhook-timestamp": "hello"}, "no number"),
        ({"webhook-timestamp": "9" * 5000}, "no number"),
    ],
)
def test_a_changed_message_is_rejected(
    example: ModuleType, change: dict[str, str], why: str
) -> None:
    """A change of id, time or signature makes the message invalid."""
    with pytest.raises(example.Forged, match=why):
        example.verify([SECRET], {**SIGNED, **change}, BODY, NOW)


@pytest.mark.parametrize("name", SIGNED)
def test_a_missing_header_is_rejected(example: ModuleType, name: str) -> None:
    """All three headers are required."""
    headers = {key: value for key, value in SIGNED.items() if key != name}
    with pytest.raises(example.Forged, match=name):
        example.verify([SECRET], headers, BODY, NOW)


def test_another_body_or_secret_is_rejected(example: ModuleType) -> None:
    """An extra space and another secret both make the message invalid."""
    for secrets, body in (([SECRET], BODY + b" "), ([OTHER_SECRET], BODY), ([], BODY)):
        with pytest.raises(example.Forged, match="no signature fits"):
            example.verify(secrets, SIGNED, body, NOW)


def test_a_verified_message_is_printed_once(running: tuple["subprocess.Popen[str]", str]) -> None:
    """A repeated delivery is printed once; a forged message gets 401."""
    process, url = running
    message_id, body = messages.build_message("prediction.completed", {"id": "7"}, time.time())
    sent = [
        messages.deliver(url, message_id, body, secrets, loopback=True, timeout_s=5)
        for secrets in ([SECRET], [UNKNOWN_SECRET, OTHER_SECRET], [UNKNOWN_SECRET])
    ]
    last, empty = messages.build_message("prediction.completed", {"id": "8"}, time.time())
    messages.deliver(url, last, empty, [SECRET], loopback=True, timeout_s=5)

    assert process.stdout
    printed = [json.loads(process.stdout.readline()) for _ in range(2)]
    assert [outcome.state for outcome in sent] == ["delivered", "delivered", "retry"]
    assert sent[-1].why == "answered 401"
    assert [line["data"]["id"] for line in printed] == ["7", "8"]
    assert printed[0] == {"id": message_id, **json.loads(body)}


def test_unbounded_bodies_are_rejected(running: tuple["subprocess.Popen[str]", str]) -> None:
    """A body without a length or above a megabyte is rejected unread."""
    host = running[1].split("/")[2]
    for length in ("", "nine", str(2**20 + 1)):
        with closing(http.client.HTTPConnection(host, timeout=5)) as connection:
            connection.putrequest("POST", "/")
            connection.putheader("Content-Length", length)
            connection.endheaders()

            assert connection.getresponse().status == 413


def test_it_does_not_start_without_a_secret() -> None:
    """The receiver rejects an empty secret at start, because anybody could sign with it."""
    environment = {key: value for key, value in os.environ.items() if key != "WEBHOOK_SECRETS"}
    ended = subprocess.run(
        [sys.executable, FILE, "0"], env=environment, capture_output=True, text=True, timeout=20
    )

    assert ended.returncode == 1
    assert "WEBHOOK_SECRETS" in ended.stderr
