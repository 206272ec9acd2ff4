"""The page in Chromium with a slow, sleeping, busy, broken or missing service."""

import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from threading import Event

import pytest
from macule.registry import local
from macule.security import api_keys
from playwright.sync_api import Browser, Request, expect
from support import model_sources
from support.browser import WORDS, Visit, most_like, visiting
from support.images import close_up
from support.model_sources import Handler
from support.service import GUNICORN, READS_IN_SLOTS, Service, running

pytestmark = pytest.mark.slow

Open = Callable[..., AbstractContextManager[Visit]]
EXAMPLE = ("mole.jpg", "image/jpeg", close_up())
NEVUS = most_like()
PROBLEMS = WORDS["en"]["problems"]
SLOW_BYTES_PER_S = 40_000


@contextmanager
def frozen(service: Service) -> Iterator[None]:
    """Stop the service's processes temporarily."""
    group = os.getpgid(service.process.pid)
    os.killpg(group, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(group, signal.SIGCONT)


@contextmanager
def all_slots_taken(service: Service) -> Iterator[None]:
    """Occupy all image slots with senders that do not send their bodies."""
    images = service.call("GET", "/memory/").json()["slots"]["images"]
    with ExitStack() as senders:
        for _ in range(images):
            sender = senders.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            sender.sendall(b"POST /predict/ HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n-")
        slots = {"admitted": 0}
        while slots["admitted"] < images:
            slots = service.call("GET", "/memory/").json()["slots"]
        yield


def limit_bandwidth(visitor: Visit) -> None:
    """Limit the visitor's network to SLOW_BYTES_PER_S."""
    session = visitor.page.context.new_cdp_session(visitor.page)
    session.send(
        "Network.emulateNetworkConditions",
        {
            "offline": False,
            "latency": 20,
            "downloadThroughput": -1,
            "uploadThroughput": SLOW_BYTES_PER_S,
        },
    )


def address(service: Service) -> str:
    return f"http://127.0.0.1:{service.port}/"


def test_a_slow_upload_shows_its_progress_and_can_be_canceled(visit: Open) -> None:
    """A slow network shows percentages; Cancel returns to the photo, which can be sent."""
    with visit() as visitor:
        limit_bandwidth(visitor)
        visitor.choose(EXAMPLE)
        visitor.page.check("#original")
        visitor.analyse()
        focused = visitor.page.evaluate("document.activeElement.id")
        expect(visitor.page.locator("#phase")).to_have_text(re.compile(r"Sending… [1-9]\d?%"))
        visitor.page.click("#cancel")
        visitor.page.wait_for_selector("#analyse:visible")
        visitor.page.uncheck("#original")
        visitor.analyse()

        assert visitor.verdict() == NEVUS
    assert focused == "cancel"


def test_the_page_waits_for_a_sleeping_service(browser: Browser, tmp_path: Path) -> None:
    """Without an answer the page says that the service wakes up, and how long it takes."""
    with (
        running(GUNICORN, tmp_path) as service,
        visiting(browser, address(service)) as visitor,
    ):
        visitor.choose(EXAMPLE)
        visitor.page.wait_for_selector("#analyse:visible")
        with frozen(service):
            visitor.analyse()
            note = visitor.page.locator("#phase-note:not(:empty)").inner_text()
            text = visitor.page.inner_text("#said")

        assert visitor.verdict() == NEVUS
    assert "about 30 seconds" in note
    assert note in text


def test_a_cold_start_is_shown(browser: Browser, tmp_path: Path) -> None:
    """While the first request's model is loaded, the page says how long it takes."""
    free = Event()

    def late(handler: Handler, content: bytes) -> None:
        free.wait(20)
        handler.head(len(content))
        handler.wfile.write(content)

    with model_sources.web() as web:
        web.hold(local.DEFAULT_MODEL_DIR, "/lesions")
        web.turns["/lesions/model.json"] = [late]
        settings = {"MODEL_URI": f"{web.url}/lesions", "MODEL_CACHE_DIR": str(tmp_path / "cache")}
        with (
            running(GUNICORN, tmp_path, **settings) as service,
            visiting(browser, address(service)) as visitor,
        ):
            visitor.choose(EXAMPLE)
            visitor.analyse()
            note = visitor.page.locator("#phase-note:not(:empty)").inner_text()
            free.set()

            assert visitor.verdict() == NEVUS
    assert "about 5 seconds" in note


def test_a_busy_service_is_retried(browser: Browser, tmp_path: Path) -> None:
    """A 503 with Retry-After counts down and is retried automatically."""
    settings = {"MAX_WAITING": "0", "ADMISSION_TIMEOUT_S": "0.1", "BODY_TIMEOUT_S": "60"}
    with (
        running(READS_IN_SLOTS, tmp_path, THREADS="32", **settings) as service,
        visiting(browser, address(service), failures=True) as visitor,
    ):
        visitor.choose(EXAMPLE)
        visitor.page.wait_for_selector("#analyse:visible")
        with all_slots_taken(service):
            visitor.analyse()
            visitor.page.wait_for_selector("#phase:has-text('The service is busy')")
            note = visitor.page.inner_text("#phase-note")

        assert visitor.verdict() == NEVUS
    assert note == "Trying again in 1 s"


def test_a_restarted_service_is_found_again(browser: Browser, tmp_path: Path) -> None:
    """A photo sent while the service is down is answered once it is back."""
    with ExitStack() as first:
        service = first.enter_context(running(GUNICORN, tmp_path))
        with visiting(browser, address(service), failures=True) as visitor:
            visitor.choose(EXAMPLE)
            visitor.page.wait_for_selector("#analyse:visible")
            first.close()
            visitor.analyse()
            visitor.page.wait_for_selector(f'#phase:text-is("{PROBLEMS["network"][0]}")')
            with running(GUNICORN, tmp_path, port=service.port):
                assert visitor.verdict() == NEVUS


def test_a_network_failure_is_shown_and_can_be_retried(visit: Open) -> None:
    """Retries end with advice, and the same photo can be sent once the network is back."""
    with visit(failures=True) as visitor:
        visitor.page.clock.install()
        visitor.page.reload()
        visitor.choose(EXAMPLE)
        visitor.page.wait_for_selector("#analyse:visible")
        visitor.page.context.set_offline(True)
        visitor.analyse()
        for _ in range(20):
            visitor.page.clock.run_for(1000)
        problem = visitor.problem()
        visitor.page.context.set_offline(False)
        visitor.page.click("#retry")

        assert visitor.verdict() == NEVUS
    assert "Check your connection" in problem


def test_a_time_out_is_shown(browser: Browser, tmp_path: Path) -> None:
    """A service that never answers is given up after two minutes."""
    with (
        running(GUNICORN, tmp_path) as service,
        visiting(browser, address(service)) as visitor,
    ):
        visitor.page.clock.install()
        visitor.page.reload()
        visitor.choose(EXAMPLE)
        visitor.page.wait_for_selector("#analyse:visible")
        with frozen(service):
            visitor.analyse()
            visitor.page.wait_for_selector(f"#phase:text-is('{WORDS['en']['waking']}')")
            visitor.page.clock.run_for(130_000)
            problem = visitor.problem()

    assert "no answer in time" in problem


def test_a_smaller_copy_is_offered_for_a_large_original(browser: Browser, tmp_path: Path) -> None:
    """An original above MAX_IMAGE_BYTES shows the limit, and one click sends the copy."""
    with (
        running(GUNICORN, tmp_path, MAX_IMAGE_BYTES="200000") as service,
        visiting(browser, address(service), failures=True) as visitor,
    ):
        visitor.choose(EXAMPLE)
        visitor.page.check("#original")
        visitor.analyse()
        text = visitor.problem()
        visitor.page.click("#smaller")

        assert visitor.verdict() == NEVUS
        assert len(visitor.sent()) < 200_000 < len(EXAMPLE[2])
    assert "limit is 0.191 MB" in text


def test_a_key_is_requested_and_kept_for_the_visit(browser: Browser, tmp_path: Path) -> None:
    """The page opens without a key; the key goes with every request and is not stored.

    A wrong key is reported.
    """
    key, pair = api_keys.create_key("clinic")
    sent: list[str | None] = []

    def note(asked: Request) -> None:
        if "/predict/" in asked.url:
            sent.append(asked.headers.get("authorization"))

    with (
        running(GUNICORN, tmp_path, API_KEYS=pair) as service,
        visiting(browser, address(service), failures=True) as visitor,
    ):
        visitor.page.on("request", note)
        visitor.choose(EXAMPLE)
        visitor.analyse()
        asked = visitor.problem()
        visitor.page.fill("#key", "wrong")
        visitor.page.press("#key", "Enter")
        visitor.page.wait_for_selector("text=This key is not accepted")
        visitor.page.fill("#key", key)
        visitor.page.press("#key", "Enter")

        assert visitor.verdict() == NEVUS
        stored = visitor.page.evaluate(
            "[localStorage.length, sessionStorage.length, document.cookie]"
        )
    assert PROBLEMS["unauthorized"][0] in asked
    assert sent == [None, "Bearer wrong", f"Bearer {key}"]
    assert stored == [0, 0, ""]


def test_the_form_without_scripts_reports_a_missing_key(browser: Browser, tmp_path: Path) -> None:
    """Its answer is a page with the reason and the status of /predict/."""
    pair = api_keys.create_key("clinic")[1]
    with (
        running(GUNICORN, tmp_path, API_KEYS=pair) as service,
        visiting(browser, address(service), failures=True, java_script_enabled=False) as visitor,
    ):
        visitor.choose(EXAMPLE)
        with visitor.page.expect_navigation() as answered:
            visitor.page.click("noscript button")

        assert answered.value.status == 401
        assert PROBLEMS["unauthorized"][0] in visitor.problem()
