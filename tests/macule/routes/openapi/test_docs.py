"""The documentation in a real browser: search, copying, choices and forms."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

import pytest
from playwright.sync_api import Page, expect
from support.browser import Visit, faults, too_wide
from support.service import ROOT

Open = Callable[..., AbstractContextManager[Visit]]
SPOT = ROOT / "examples/spot.jpg"
SCREEN_PX = 900
WIDE = {"viewport": {"width": 1280, "height": SCREEN_PX}}
PHONE = {"viewport": {"width": 360, "height": 740}}
HEIGHTS = "routes => routes.map(it => [it.id, it.getBoundingClientRect().height])"
UNFOLD = "folded => folded.forEach(it => it.open = true)"
STORED = """async () => [
  localStorage.length, sessionStorage.length, document.cookie, (await indexedDB.databases()).length
]"""


def answer_of(page: Page, route: str) -> str:
    """Send the form of *route* and return the displayed answer."""
    page.click(f"#{route} .try button:text('Send')")
    page.wait_for_selector(f"#{route} .answer:focus")
    return page.inner_text(f"#{route} .answer")


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 320), pytest.param("dark", 1280, marks=pytest.mark.slow)]
)
def test_it_is_accessible(visit: Open, scheme: Literal["light", "dark"], width: int) -> None:
    """axe finds nothing, also in folded parts; nothing is wider than a phone or a screen."""
    with visit(viewport={"width": width, "height": 800}, color_scheme=scheme) as visitor:
        page = visitor.page
        page.keyboard.press("/")
        page.fill("#query", "top_k")
        for part in ("#createPrediction", "#problem-busy", "#schema-Prediction"):
            page.eval_on_selector_all(f"{part} details", UNFOLD)

        assert faults(page) == []
        page.eval_on_selector_all("details", UNFOLD)
        assert not too_wide(page)
        assert len(visitor.asked) == 3


def test_a_route_fits_a_screen(visit: Open) -> None:
    """Each route fits a screen, because long parts are folded or scroll; on a phone, two."""
    with visit(**WIDE) as visitor:
        wide = dict(visitor.page.eval_on_selector_all(".route", HEIGHTS))
    with visit(**PHONE) as visitor:
        narrow = dict(visitor.page.eval_on_selector_all(".route", HEIGHTS))

    assert len(wide) > 20
    assert {name: px for name, px in wide.items() if px > SCREEN_PX} == {}
    assert {name: px for name, px in narrow.items() if px > 2 * 740} == {}


def test_it_is_readable_without_javascript(visit: Open) -> None:
    """Contents and samples of every language are there; controls that need JavaScript are not."""
    with visit(java_script_enabled=False, **PHONE) as visitor:
        page = visitor.page
        samples = page.locator("#predict .sample").all()

        assert len(samples) == 3
        assert all(sample.is_visible() for sample in samples)
        assert page.is_visible("nav a[href='#predict']")
        for scripted in ("#search", "#menu", "#predict .try"):
            assert not page.is_visible(scripted)


@pytest.mark.parametrize(
    ("words", "kind", "target"),
    [
        ("predictions cancel", "Route", "cancelPrediction"),
        ("idempotency-key", "Parameter", "createPrediction.Idempotency-Key"),
        ("heatmap", "Field", "schema-Explanation.heatmap"),
        ("retry-after", "Header", "ready.Retry-After"),
        ("quota-exceeded", "Problem", "problem-quota-exceeded"),
        ("api_keys", "Setting", "keys-and-quotas"),
    ],
)
def test_search_leads_to_its_results(visit: Open, words: str, kind: str, target: str) -> None:
    """`/`, words, arrows and Enter lead to a route, a field or a setting, also if folded."""
    with visit(**WIDE) as visitor:
        page = visitor.page
        page.keyboard.press("/")
        page.keyboard.type(words)
        hits = page.locator("#found a")
        places = [hit.get_attribute("href") for hit in hits.all()]
        place = places.index(f"#{target}")

        assert kind in hits.nth(place).inner_text()
        assert page.inner_text("#count").startswith(f"{len(places)} result")
        for _ in range(place + 1):
            page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        expect(page.locator(f"[id='{target}']")).to_be_in_viewport(ratio=1)


def test_search_reports_no_results(visit: Open) -> None:
    """Without results it says so; Escape restores the contents."""
    with visit(**WIDE) as visitor:
        page = visitor.page
        page.fill("#query", "no such words")

        assert page.inner_text("#count") == "No results"
        assert not page.is_visible("nav a[href='#predict']")
        page.keyboard.press("Escape")
        assert page.is_visible("nav a[href='#predict']")


def test_the_contents_mark_the_current_section(visit: Open) -> None:
    """The visible section is marked, and its link is in view."""
    with visit(**WIDE) as visitor:
        for name in ("showPrediction", "schemas", "predict"):
            visitor.page.evaluate(f"document.getElementById('{name}').scrollIntoView()")
            expect(visitor.page.locator("nav [aria-current]")).to_have_attribute("href", f"#{name}")
            link = visitor.page.locator(f"nav a[href='#{name}']")
            top = link.evaluate("it => it.getBoundingClientRect().top")

            assert 0 <= top <= SCREEN_PX


def test_a_phone_has_a_button_for_the_contents(visit: Open) -> None:
    """It opens them; a link closes them and goes to its section."""
    with visit(**PHONE) as visitor:
        page = visitor.page
        hidden = page.is_visible("nav a[href='#model']")
        page.click("#menu")
        page.click("nav a[href='#model']")

        assert not hidden
        assert not page.is_visible("nav a[href='#model']")
        assert page.get_attribute("#menu", "aria-expanded") == "false"
        expect(page.locator("#model")).to_be_in_viewport()


def test_a_language_is_chosen_for_all_routes(visit: Open) -> None:
    """By click or arrow; samples show the service's own address, and the page does not jump."""
    with visit(**WIDE) as visitor:
        page = visitor.page
        tab = page.locator("#createPrediction [role=tab]:text('Python')")
        tab.scroll_into_view_if_needed()
        before = tab.bounding_box()
        tab.click()
        after = tab.bounding_box()
        shown = page.locator(".sample:visible").all_inner_texts()
        page.keyboard.press("ArrowRight")
        scripts = page.locator(".sample:visible").all_inner_texts()

        assert page.evaluate("document.activeElement.textContent") == "JavaScript"
    assert before
    assert after
    assert abs(before["y"] - after["y"]) < 2
    assert len(shown) == len(scripts) > 20
    assert all("import requests" in sample for sample in shown)
    assert all("await fetch" in sample for sample in scripts)
    assert all(visitor.origin in sample for sample in [*shown, *scripts])


def test_a_sample_can_be_copied(visit: Open) -> None:
    """The clipboard has exactly the displayed text."""
    granted = ["clipboard-read", "clipboard-write"]
    with visit(**WIDE, permissions=granted) as visitor:
        page = visitor.page
        page.click("#predict .samples .copy:visible")
        page.wait_for_selector("#predict .copy:text('Copied')")
        copied = page.evaluate("navigator.clipboard.readText()")

        assert copied == page.inner_text("#predict .sample:visible")
    assert copied.startswith(f"curl {visitor.origin}predict/")


def test_a_photo_is_sent_with_the_key(visit: Open, key: str) -> None:
    """The real service answers 401 without a key and 200 with it; the key is stored nowhere."""
    with visit(failures=True, **WIDE) as visitor:
        page = visitor.page
        page.click("#predict .try summary")
        page.set_input_files("#predict [type=file]", SPOT)
        refused = answer_of(page, "predict")
        page.fill("#predict .key", key)
        page.fill("#predict .try [name=top_k]", "1")
        answered = answer_of(page, "predict")

        assert page.input_value("#createPrediction .key") == key
        assert page.evaluate(STORED) == [0, 0, "", 0]
        page.reload()
        assert page.input_value("#predict .key") == ""
    assert refused.startswith("401 ")
    assert "www-authenticate" in refused
    assert "urn:macule:problem:unauthorized" in refused
    assert answered.startswith("200 OK")
    assert "x-request-id" in answered
    assert '"decision": "' in answered
    assert answered.count('"label"') == 1


def test_every_form_works(visit: Open, key: str) -> None:
    """Each form, with its photo, gets a successful answer of its route."""
    with visit(**WIDE, failures=True) as visitor:
        page = visitor.page
        page.eval_on_selector_all(".try", UNFOLD)
        page.fill("#predict .key", key)
        for picker in page.locator("[type=file]").all():
            picker.set_input_files(SPOT)
        routes = page.eval_on_selector_all(".route", "routes => routes.map(it => it.id)")
        found = {route: answer_of(page, route) for route in routes}

    ended = found.pop("cancelPrediction")
    assert {route: text for route, text in found.items() if text[:3] not in ("200", "202")} == {}
    assert ended[:3] in ("200", "409")
    assert '"outputs"' in found["modelInfer"]
    assert '"status": "s' in found["showPrediction"]


def test_headers_are_sent_as_typed(visit: Open) -> None:
    """With If-None-Match the answer is a 304 without a body."""
    with visit(**WIDE) as visitor:
        page = visitor.page
        page.click("#openapi .try summary")
        page.fill("#openapi .try [name=If-None-Match]", "*")

        assert answer_of(page, "openapi").startswith("304 Not Modified")
        assert page.locator("#openapi .answer pre").count() == 0


def test_a_missing_answer_is_reported(visit: Open) -> None:
    """Without an answer the form says so and can be sent again."""
    with visit(**WIDE, failures=True) as visitor:
        page = visitor.page
        page.route("**/health/", lambda route: route.abort())
        page.click("#health .try summary")

        assert answer_of(page, "health").startswith("No answer came")
        page.unroute("**/health/")
        assert answer_of(page, "health").startswith("200 OK")


def test_the_keyboard_is_enough(visit: Open, key: str) -> None:
    """Tab leads from a route's link to its tabs, the form and its button; Enter sends."""
    with visit(**WIDE) as visitor:
        page, press = visitor.page, visitor.page.keyboard.press
        press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        page.focus("nav a[href='#model']")
        press("Enter")
        passed = []
        for _ in range(40):
            press("Tab")
            passed.append(page.evaluate("document.activeElement.textContent.trim()"))
            if passed[-1] == "Try it":
                press("Enter")
            if page.evaluate("document.activeElement.className") == "key":
                page.keyboard.type(key)
            if passed[-1] == "Send":
                break
        press("Enter")
        page.wait_for_selector("#model .answer:focus")

        assert page.inner_text("#model .answer").startswith("200 OK")
    assert "curl" in passed
    assert "Copy" in passed


def test_a_link_leads_back_to_the_upload_page(visit: Open) -> None:
    """The link at the top leads to the upload page."""
    with visit(**WIDE) as visitor:
        visitor.page.click(".back")

        visitor.page.wait_for_selector("#file", state="attached")
        assert visitor.page.url == visitor.origin
