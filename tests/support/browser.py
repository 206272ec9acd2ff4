"""A real browser for the tests: Debian's Chromium, and a visitor of the page."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserType, ConsoleMessage, Page, Request, sync_playwright

from support.service import ROOT, need

PACKAGE = ROOT / "layers/model/macule"
WORDS = json.loads((PACKAGE / "routes/page/words.json").read_text())
CARD = json.loads((PACKAGE / "weights/model.json").read_text())
QUIET = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
FAKE_CAMERA = "--use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
# What a browser logs for any answer of 400 and above, expected or not.
FAILED = "Failed to load resource"
# WCAG 2.0 to 2.2, A and AA, and axe's best practices.
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
# Playwright does not show the bytes of a sent Blob; the page's own call does.
KEEP_SENT = """
const send = XMLHttpRequest.prototype.send;
XMLHttpRequest.prototype.send = function (body) {
  window.sent = body;
  return send.call(this, body);
};
"""
READ_SENT = """
() => new Promise((done) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result.split(",")[1]);
  reader.readAsDataURL(window.sent);
})
"""


@contextmanager
def launched(kind: BrowserType | None = None, arguments: str = FAKE_CAMERA) -> Iterator[Browser]:
    """Run Chromium; *kind* belongs to a running Playwright, which can start only once."""
    options = {
        "executable_path": need("chromium", "chromium", "google-chrome"),
        "args": [*QUIET.split(), *arguments.split()],
    }
    if kind:
        with kind.launch(**options) as browser:
            yield browser
        return
    with sync_playwright() as playwright, playwright.chromium.launch(**options) as browser:
        yield browser


def faults(page: Page) -> list[str]:
    """Return axe's findings on the page in its present state."""
    options = {"runOnly": RULES, "resultTypes": ["violations"]}
    found = Axe().run(page, options=options).response["violations"]
    return [f"{fault['id']}: {[node['html'][:100] for node in fault['nodes']]}" for fault in found]


def too_wide(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth > innerWidth"))


def most_like(language: str = "en", label: str = "nevus") -> str:
    """Return the page's text for a photo that is classified as *label*."""
    name = CARD["names"][language][CARD["labels"].index(label)]
    return f"{WORDS[language]['classified']}\n{name}"


class Visit:
    """A visitor: a page, its console messages and its requests."""

    def __init__(self, page: Page, origin: str) -> None:
        self.page, self.origin = page, origin
        self.messages: list[str] = []
        self.asked: list[str] = []
        page.on("console", self._record_message)
        page.on("pageerror", lambda error: self.messages.append(f"uncaught: {error}"))
        page.on("request", self._record_request)

    def _record_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.messages.append(message.text)

    def _record_request(self, request: Request) -> None:
        if not request.url.startswith(("data:", "blob:")):
            self.asked.append(request.url)

    def sent(self) -> bytes:
        """Return the last request body."""
        return b64decode(self.page.evaluate(READ_SENT))

    def choose(self, *files: tuple[str, str, bytes]) -> None:
        """Choose files, each a name, a media type and its bytes."""
        self.page.set_input_files(
            "#file",
            [{"name": name, "mimeType": kind, "buffer": body} for name, kind, body in files],
        )

    def analyse(self) -> None:
        self.page.click("#analyse")

    def verdict(self) -> str:
        """Wait for the result and return its heading."""
        self.page.wait_for_selector("#verdict:visible")
        return self.page.inner_text("#verdict")

    def problem(self) -> str:
        """Wait for a failure and return its text."""
        self.page.wait_for_selector("#problem-head:visible")
        return self.page.inner_text(".in-problem")


@contextmanager
def visiting(
    browser: Browser, url: str, *, path: str = "", failures: bool = False, **context: Any
) -> Iterator[Visit]:
    """Open a page of *url*; its console must stay empty, and it must request nothing elsewhere.

    Args:
      path: path of the page below *url*.
      failures: whether answers of 400 and above are part of the test.
    """
    with browser.new_context(**{"locale": "en-GB", **context}) as visitor:
        visitor.set_default_timeout(20_000)
        page = visitor.new_page()
        if context.get("java_script_enabled", True):
            page.add_init_script(KEEP_SENT)
        visit = Visit(page, url)
        page.goto(url + path)
        yield visit
        messages = [text for text in visit.messages if not (failures and text.startswith(FAILED))]
        elsewhere = [asked for asked in visit.asked if not asked.startswith(url)]

        assert (messages, elsewhere) == ([], [])
