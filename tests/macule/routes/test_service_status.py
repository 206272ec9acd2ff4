"""The status page and its report are safe, whatever the other service answers."""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO

import pytest
from macule import settings
from macule.http import application, routing
from macule.http.body import Body
from macule.http.messages import Request, Response
from macule.routes import service_status
from support.upstreams import REPORT, Upstream

TABLE = routing.build_table({"GET /memory/": service_status.memory, "GET /": service_status.page})
Ask = Callable[..., Response]


@pytest.fixture
def ask(other: Upstream, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ask]:
    """Return a function that asks a health function whose upstream misbehaves in one way."""

    def ask(path: str, way: str, **headers: str) -> Response:
        monkeypatch.setenv("PREDICT_URL", f"{other.url}/{way}")
        settings.current.cache_clear()
        return application.respond(TABLE, Request("GET", path, {}, headers, Body(BytesIO(), 0)))

    yield ask
    settings.current.cache_clear()


def test_a_report_is_passed_on_unchanged(ask: Ask) -> None:
    """`predict` is the other service's document, key by key."""
    assert json.loads(ask("/memory/", "fine").body)["predict"] == REPORT


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        ("busy", "answered 503"),
        ("list", "answered JSON that is not a memory report"),
        ("error", "answered JSON that is not a memory report"),
        ("infinity", "answered something other than JSON"),
        ("surrogate", "answered something other than JSON"),
        ("deep-90000", "answered something other than JSON"),
    ],
)
def test_an_invalid_report_is_reported(ask: Ask, way: str, reason: str) -> None:
    """An answer that cannot be written as JSON is no failure of this service."""
    answer, page = ask("/memory/", way), ask("/", way)

    assert (answer.status, page.status) == (200, 200)
    assert json.loads(answer.body)["predict"] == {"error": reason}
    assert f"predict {reason}." in page.body.decode()


@pytest.mark.parametrize("way", [f"deep-{depth}" for depth in range(940, 1000, 4)])
def test_deep_nesting_is_answered(ask: Ask, way: str) -> None:
    """At any depth around Python's recursion limit the answer is 200."""
    assert ask("/memory/", way).status == ask("/", way).status == 200


def test_health_checks_do_not_chain(ask: Ask, other: Upstream) -> None:
    """Two health functions that check each other end."""
    before = len(other.asked)
    answer = ask("/memory/", "fine", **{"user-agent": service_status.USER_AGENT})

    assert "predict" not in json.loads(answer.body)
    assert other.paths(before) == []


def test_the_page_escapes_and_truncates_the_report(ask: Ask) -> None:
    """Scripts, lists and very long numbers of a report are text in a table."""
    page = ask("/", "script").body.decode()

    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "0" * 41 not in page
    assert "unknown" in page


def test_the_page_is_self_contained(ask: Ask) -> None:
    """No script, no link, no reload; the policy allows only its own style."""
    page = ask("/", "fine")
    text = page.body.decode()
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    policy = page.headers["Content-Security-Policy"]

    assert "default-src 'none'" in policy
    assert f"'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'" in policy
    assert re.search(r"<script|<link|http-equiv|\b(src|href|style|on\w+)=", text) is None


def test_the_page_has_its_time(ask: Ask) -> None:
    """The time is there for people and programs, in UTC."""
    before = datetime.now(UTC).replace(microsecond=0)
    text = ask("/", "fine").body.decode()
    (read,) = re.findall(r'<time datetime="(.*?)">', text)

    assert before <= datetime.fromisoformat(read) <= datetime.now(UTC)
    assert f">{read.removesuffix('Z')} UTC</time>" in text


def test_the_page_works_with_a_screen_reader(ask: Ask) -> None:
    """It has a language and a title; each row and column has a header."""
    text = ask("/", "fine").body.decode()

    assert '<html lang="en">' in text
    assert text.count("<h1>") == text.count("<title>") == text.count("<caption>") == 1
    assert text.count('scope="col"') == 3
    assert text.count('scope="row"') == text.count("<tr>") - 1 == len(service_status.ROWS)
