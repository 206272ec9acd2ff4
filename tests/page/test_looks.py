"""The page for all users: languages, keyboard, screen readers, small screens, no JavaScript."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image, ImageFilter
from playwright.sync_api import Browser, Route
from support.browser import CARD, WORDS, Visit, faults, most_like, too_wide, visiting
from support.images import close_up, photo, saved, unclear
from support.service import GUNICORN, ROOT, Service, running
from support.small_model import colour_photo

Open = Callable[..., AbstractContextManager[Visit]]
EXAMPLE = ("mole.jpg", "image/jpeg", close_up())
UNCLEAR = ("unclear.jpg", "image/jpeg", unclear())
VIEWS: list[tuple[str, Literal["light", "dark"], int]] = [
    ("vi", "light", 320),
    ("en", "dark", 320),
    ("vi", "dark", 1280),
    ("en", "light", 768),
]
NOT_SKIN = ("drawn.jpg", "image/jpeg", photo())
OPACITY = "document.getElementById('overlay').style.opacity"
FOCUSED = "document.activeElement.id + document.activeElement.className"
TEXT = ("renamed.jpg", "image/jpeg", b"no photo")


def blurred() -> tuple[str, str, bytes]:
    """Return a version of the example photo that is too blurred."""
    spot = Image.open(BytesIO(EXAMPLE[2]))
    return "blurred.jpg", "image/jpeg", saved(spot.filter(ImageFilter.GaussianBlur(15)), quality=90)


def to_answer(*file: tuple[str, str, bytes]) -> Callable[[Visit], object]:
    def go(visitor: Visit) -> None:
        visitor.choose(*file)
        visitor.analyse()
        visitor.verdict()

    return go


def to_chosen(visitor: Visit) -> None:
    visitor.choose(EXAMPLE)
    visitor.page.wait_for_selector("#analyse:visible")


def to_sending(visitor: Visit) -> None:
    visitor.page.route("**/predict/**", lambda _: None)
    to_chosen(visitor)
    visitor.analyse()


def to_problem(visitor: Visit) -> None:
    visitor.choose(TEXT)
    visitor.analyse()
    visitor.problem()


def to_key(visitor: Visit) -> None:
    visitor.page.route("**/predict/**", lambda route: route.fulfill(status=401, json={}))
    to_chosen(visitor)
    visitor.analyse()
    visitor.problem()


def to_camera(visitor: Visit) -> None:
    visitor.page.click("#camera")
    visitor.page.wait_for_selector("#shutter:enabled")


def to_flaws(visitor: Visit) -> None:
    visitor.choose(blurred())
    visitor.page.wait_for_selector("#flaws:visible")


def to_operators(visitor: Visit) -> None:
    visitor.page.goto(f"{visitor.origin}?ops")
    visitor.page.wait_for_selector("#gauge dd")


STATES: dict[str, Callable[[Visit], object]] = {
    "choose": lambda _: None,
    "chosen": to_flaws,
    "sending": to_sending,
    "problem": to_problem,
    "key": to_key,
    "classified": to_answer(EXAMPLE),
    "inconclusive": to_answer(UNCLEAR),
    "not_skin": to_answer(NOT_SKIN),
    "camera": to_camera,
    "operators": to_operators,
}


def assert_a_kind(row: str, language: str) -> str:
    """Check that a row of a result has the card's name and sentence, and a rounded figure.

    Returns: the label.
    """
    names = CARD["names"][language]
    place = next(place for place, name in enumerate(names) if row.startswith(name))

    assert row.endswith(CARD["descriptions"][language][place])
    assert re.search(r"(<5|>95|\b\d[05]?)%", row)
    return str(CARD["labels"][place])


@pytest.mark.parametrize(
    "views",
    [VIEWS[:1], pytest.param(VIEWS[1:], marks=pytest.mark.slow)],
    ids=["a phone", "others"],
)
@pytest.mark.parametrize("state", STATES)
def test_each_state_is_accessible(
    state: str, views: list[tuple[str, Literal["light", "dark"], int]], visit: Open
) -> None:
    """axe finds nothing, whatever the colours, language and width, and nothing overflows."""
    with visit(failures=True, reduced_motion="reduce") as visitor:
        STATES[state](visitor)
        page, found = visitor.page, {}
        for language, scheme, width in views:
            page.evaluate(f"document.querySelector('nav a[lang={language}]').click()")
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 640})
            found[language, scheme] = faults(page) + ["too wide"] * too_wide(page)

    assert {where: what for where, what in found.items() if what} == {}


def test_unusable_results_have_no_figures(visit: Open) -> None:
    """`not_skin` shows neither bars nor a map; `inconclusive` says not to rely on its figures."""
    with visit() as visitor:
        STATES["not_skin"](visitor)
        strange = visitor.page.inner_text(".in-result.panel")
        visitor.page.click(".in-result .another")
        STATES["inconclusive"](visitor)
        unclear = visitor.page.inner_text(".in-result.panel")

    assert "%" not in strange
    assert "Heat map" not in strange
    assert "says nothing about your skin" in strange
    assert "No clear answer" in unclear
    assert "Do not rely on them" in unclear


def test_a_phone_photo_is_named(colours: Path, browser: Browser, tmp_path: Path) -> None:
    """`not_dermoscopic` has its own words in both languages and the advice of `inconclusive`.

    They fit the first screen of a phone, and axe finds nothing.
    """
    body = colour_photo((10, 10, 200))
    bottom = "document.getElementById('next').getBoundingClientRect().bottom"
    with running(GUNICORN, tmp_path, MODEL_DIR=str(colours)) as service:
        viewport = {"width": 360, "height": 640}
        url = f"http://127.0.0.1:{service.port}/"
        with visiting(browser, url, viewport=viewport, reduced_motion="reduce") as visitor:
            visitor.choose(("phone.png", "image/png", body))
            visitor.analyse()
            visitor.verdict()
            page = visitor.page
            for language in ("en", "vi"):
                page.click(f"nav a[lang={language}]")
                words = WORDS[language]

                assert page.inner_text("#verdict").strip() == words["not_dermoscopic"]
                assert page.inner_text("#meaning") == words["not_dermoscopic_meaning"]
                assert page.inner_text("#soon") == words["soon_inconclusive"]
                assert words["figures_weak"] in page.inner_text(".in-result.panel")
                assert words["not_dermoscopic"] in page.inner_text("#past")
                assert page.evaluate(bottom) <= 640
                assert faults(page) == []
        for language in ("en", "vi"):
            form = service.call("POST", f"/page/?lang={language}", body)
            words = WORDS[language]

            for key in ("not_dermoscopic", "not_dermoscopic_meaning", "soon_inconclusive"):
                assert words[key] in form.body.decode()
            assert 'data-decision="inconclusive"' in form.body.decode()


def test_a_phone_first_shows_what_to_do(visit: Open) -> None:
    """The first screen of any result says what to do now; `inconclusive` also how soon."""
    bottom = "document.getElementById('next').getBoundingClientRect().bottom"
    with visit(viewport={"width": 360, "height": 640}) as visitor:
        page = visitor.page
        for state in ("classified", "inconclusive", "not_skin"):
            STATES[state](visitor)
            for language in ("en", "vi"):
                page.click(f"nav a[lang={language}]")
                words = WORDS[language]

                assert page.inner_text("#next") == words["next"]
                assert page.evaluate("scrollY") == 0
                assert page.evaluate(bottom) <= 640
                assert bool(page.inner_text("#soon")) == (state == "inconclusive")
                assert words["phone"] in page.inner_text("#disclaimer")
            page.click(".in-result .another")


def test_the_page_says_how_soon_to_see_a_doctor(visit: Open) -> None:
    """Soon if the card calls the likeliest label urgent, later if the result is inconclusive."""

    def urgent(route: Route) -> None:
        route.fulfill(json={**route.fetch().json(), "urgent": ["nevus"]})

    with visit() as visitor:
        visitor.page.route("**/model/", urgent)
        STATES["classified"](visitor)

        assert visitor.page.inner_text("#soon") == WORDS["en"]["soon_urgent"]
    with visit() as visitor:
        STATES["inconclusive"](visitor)

        assert visitor.page.inner_text("#soon") == WORDS["en"]["soon_inconclusive"]


def test_a_result_prints_on_one_page(visit: Open) -> None:
    """The print-out is one page: the photo, the map, the result and its date."""
    with visit() as visitor:
        page, sheets = visitor.page, []
        for state in ("inconclusive", "classified"):
            STATES[state](visitor)
            for language in ("en", "vi"):
                page.click(f"nav a[lang={language}]")
                sheets.append(len(re.findall(rb"/Type\s*/Page\b", page.pdf(format="A4"))))
            page.click("nav a[lang=en]")
            page.emulate_media(media="print")
            printed = page.inner_text("body")
            boxes = [page.locator(name).bounding_box() for name in ("#photo", "#overlay")]
            shown = [page.is_visible(name) for name in ("#print", ".another", "#strength", "nav")]
            page.emulate_media(media="null")
            page.click(".in-result .another")

    assert sheets == [1, 1, 1, 1]
    assert WORDS["en"]["notes"] in printed
    assert str(date.today().year) in printed
    assert most_like() in printed
    assert all(boxes)
    assert boxes[0]
    assert boxes[1]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    assert not any(shown)


def test_the_page_uses_the_browsers_language(visit: Open) -> None:
    """A Vietnamese browser gets Vietnamese; a switch translates a result without a request."""
    with visit(locale="vi-VN") as visitor:
        heading = visitor.page.inner_text("h1")
        STATES["classified"](visitor)
        verdict, asked = visitor.verdict(), len(visitor.asked)
        rows = visitor.page.locator("#bars li").all_inner_texts()
        visitor.page.click("nav a[lang=en]")
        switched = visitor.verdict()
        language = visitor.page.get_attribute("html", "lang")

        assert len(visitor.asked) == asked
        visitor.page.reload()
        assert visitor.page.inner_text("h1") == WORDS["en"]["heading"]
    assert heading == WORDS["vi"]["heading"]
    assert verdict == most_like("vi")
    assert sorted(assert_a_kind(row, "vi") for row in rows) == sorted(CARD["labels"])
    assert (switched, language) == (most_like(), "en")


def test_the_keyboard_is_enough(visit: Open) -> None:
    """Tab, Enter and arrows lead from the page to a result, its map and the next photo."""
    with visit() as visitor:
        press, active = visitor.page.keyboard.press, "document.activeElement.id"
        visitor.page.on("filechooser", lambda box: box.set_files(ROOT / "examples/spot.jpg"))
        for _ in range(3):
            press("Tab")
        assert visitor.page.evaluate(active) == "file"
        press("Enter")
        visitor.page.wait_for_selector("#analyse:focus")
        press("Enter")
        visitor.page.wait_for_selector("#verdict:focus")
        tabs = ["print", "another", "heat-on", "compare", "strength"]
        for name in tabs:
            press("Tab")
            assert name in visitor.page.evaluate(FOCUSED)
        before = visitor.page.evaluate(OPACITY)
        press("ArrowRight")
        after = visitor.page.evaluate(OPACITY)
        press("Shift+Tab")
        visitor.page.keyboard.down("Space")
        held = visitor.page.evaluate(OPACITY)
        visitor.page.keyboard.up("Space")
        released = visitor.page.evaluate(OPACITY)
        press("Shift+Tab")
        press("Space")
        off = visitor.page.evaluate(OPACITY)
        press("Shift+Tab")
        press("Enter")

        assert visitor.page.evaluate(active) == "file"
    assert (before, after) == ("0.75", "0.8")
    assert (held, released, off) == ("0", "0.8", "0")


def test_results_of_a_visit_can_be_seen_again(visit: Open) -> None:
    """Results of this visit can be opened again until they are deleted."""
    with visit() as visitor:
        STATES["classified"](visitor)
        visitor.page.click(".in-result .another")
        STATES["not_skin"](visitor)
        visitor.page.click("#past button >> nth=1")
        again = visitor.verdict()
        kept = visitor.page.locator("#past button").count()
        visitor.page.click("#forget")

        assert not visitor.page.is_visible("#visit")
    assert (again, kept) == (most_like(), 2)


def test_operators_data_is_loaded_only_on_request(visit: Open) -> None:
    """/memory/ and /ready/ are requested only at `?ops`; the gauge shows their time."""
    with visit() as visitor:
        to_chosen(visitor)
        assert not visitor.page.is_visible("#operators")
        before = [url for url in visitor.asked if "memory" in url or "ready" in url]
        to_operators(visitor)
        shown = visitor.page.inner_text("#gauge")

    assert before == []
    assert "ready" in shown
    assert "MB" in shown
    assert re.search(r"Read at\s+\d+:\d\d:\d\d", shown)


def test_the_first_view_is_small(visit: Open, service: Service) -> None:
    """It is one page and at most 4 files, 60 kB compressed in all, under a strict policy."""
    with visit() as visitor:
        asked = list(visitor.asked)
    weights = {}
    for url in asked:
        path = url.removeprefix(f"http://127.0.0.1:{service.port}")
        answer = service.call("GET", path, headers={"Accept-Encoding": "gzip"})
        weights[path.partition("?")[0]] = len(answer.body)
    print(f"first view: {sum(weights.values())} bytes compressed: {weights}")  # noqa: T201
    policy = service.call("GET", "/").headers["content-security-policy"]

    assert len(asked) <= 5
    assert sum(weights.values()) <= 60_000
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("language", ["en", "vi"])
def test_the_form_works_without_javascript(language: str, visit: Open) -> None:
    """Without JavaScript the form gets a page: an accessible result or problem."""
    with visit(java_script_enabled=False, locale=language, failures=True) as visitor:
        page = visitor.page
        name, kind, body = EXAMPLE
        page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": body})
        with page.expect_navigation() as answered:
            page.click("form button:visible")
        verdict, rows = visitor.verdict(), page.locator("#bars li").all_inner_texts()
        status = answered.value.status
        page.click(".in-result .another")
        page.set_input_files("#file", ROOT / "README.md")
        with page.expect_navigation() as refused:
            page.click("form button:visible")
        problem = visitor.problem()

        assert not page.is_visible("#strength")
    assert (status, verdict) == (200, most_like(language))
    assert sorted(assert_a_kind(row, language) for row in rows) == sorted(CARD["labels"])
    assert refused.value.status == 415
    assert WORDS[language]["problems"]["unsupported-image"][0] in problem
