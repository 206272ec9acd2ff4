"""The web application of examples/, started as its first lines say, with a real macule."""

import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep

import pytest
from macule import errors
from macule.security import api_keys
from support.images import photo
from support.loopback import Handler, Loopback, serving
from support.service import GUNICORN, ROOT, Answer, Service, form, running

FLASK = f"{sys.executable} -m flask --app examples/web_app/app.py run --port {{port}}"


KEY, PAIR = api_keys.create_key("web")


@pytest.fixture(scope="module")
def macule(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(GUNICORN, tmp_path_factory.mktemp("macule"), API_KEYS=PAIR) as service:
        yield service


@pytest.fixture(scope="module")
def app(macule: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    url = f"http://127.0.0.1:{macule.port}"
    environment = {"MACULE_URL": url, "MACULE_KEY": KEY}
    with running(FLASK, tmp_path_factory.mktemp("app"), ready_path="/", **environment) as service:
        yield service


class Model(Handler):
    """A model service that answers with `turns` in order, then repeats the last."""

    turns: list[tuple[int, dict[str, str], bytes]]
    url: str

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        status, headers, body = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def model() -> Iterator[type[Model]]:
    with serving(Loopback(Model)) as server:
        Model.url = server.url
        yield Model


def send(app: Service, body: bytes, path: str = "/") -> Answer:
    content, headers = form("photo", body)
    return app.call("POST", path, content, headers)


def test_a_photo_gets_its_answer(app: Service) -> None:
    """The photo goes to macule; the page shows its answer and the disclaimer."""
    page = send(app, (ROOT / "examples/spot.jpg").read_bytes())
    text = page.body.decode()

    assert page.status == 200
    assert "Mole (melanocytic nevus)" in text
    assert re.search(r"\d\d\.\d %", text)
    assert "not a medical device" in text
    assert page.headers["cache-control"] == "no-store"


def test_the_form_is_accessible(app: Service) -> None:
    """The form has a language, a title, a label for its field, no script, and a disclaimer."""
    page = app.call("GET", "/")
    text = page.body.decode()

    assert '<html lang="en">' in text
    assert '<label for="photo">' in text
    assert 'id="photo"' in text
    assert "<script" not in text
    assert "Not a medical device" in text
    assert "default-src 'none'" in page.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (b"", 400, "Choose a photo first"),
        (b"hello", 415, "not a photo that can be read here"),
        (photo()[:3000], 422, "damaged or unusual"),
        (b"x" * (10 * 2**20 + 1), 413, "too large"),
        (b"x" * (11 * 2**20), 413, "too large"),
    ],
)
def test_a_problem_is_shown(app: Service, body: bytes, status: int, expected: str) -> None:
    """The page has macule's status and a sentence that says what to do."""
    page = send(app, body)

    assert (page.status, expected in page.body.decode()) == (status, True)


def test_a_missing_key_is_reported(macule: Service, tmp_path: Path) -> None:
    """The visitor sees that the application is at fault, with macule's status."""
    url = f"http://127.0.0.1:{macule.port}"
    with running(FLASK, tmp_path, ready_path="/", MACULE_URL=url) as app:
        page = send(app, photo())

    assert (page.status, "does not know this application" in page.body.decode()) == (401, True)


def test_every_problem_has_a_text() -> None:
    """Each status with which macule may answer a photo has a sentence."""
    source = (ROOT / "examples/web_app/app.py").read_text()
    statuses = {int(status) for status in re.findall(r"^    (\d{3}): ", source, re.MULTILINE)}
    ours = {errors.MethodNotAllowed, errors.JobEnded, errors.KeyInUse}  # faults of this client

    assert {e.status for e in everything(errors.Macule) - ours if e.status != 500} <= statuses


def everything(kind: type[errors.Macule]) -> set[type[errors.Macule]]:
    return {kind}.union(*(everything(child) for child in kind.__subclasses__()))


def test_a_busy_service_is_retried_after_retry_after(model: type[Model], tmp_path: Path) -> None:
    """After a 503 and a 429 the application waits and sends the whole photo again."""
    good = (
        b'{"status": "succeeded", "decision": "inconclusive", "disclaimer": "<b>",'
        b' "predictions": [{"label": "a", "name": "<script>", "probability": 0.5}]}'
    )
    kind = {"Content-Type": "application/json"}
    model.turns = [(503, {"Retry-After": "1"}, b""), (429, {}, b""), (200, kind, good)]
    with running(FLASK, tmp_path, ready_path="/", MACULE_URL=model.url) as app:
        began = monotonic()
        page = send(app, photo())

    assert page.status == 200
    assert monotonic() - began >= 1
    assert "<script" not in page.body.decode()
    assert html.escape("<script>") in page.body.decode()


def test_an_unavailable_service_is_reported(model: type[Model], tmp_path: Path) -> None:
    """Retries are bounded; an invalid answer and a closed port are 502."""
    model.turns = [(503, {"Retry-After": "0"}, b"")]
    with running(FLASK, tmp_path, ready_path="/", MACULE_URL=model.url) as app:
        assert send(app, photo()).status == 503
        model.turns = [(200, {"Content-Type": "application/json"}, b"<html>")]
        assert send(app, photo()).status == 502
        model.turns = [(200, {"Content-Type": "text/html"}, b"<html>")]
        assert send(app, photo()).status == 502
    with running(FLASK, tmp_path, ready_path="/", MACULE_URL="http://127.0.0.1:1") as app:
        assert send(app, photo()).status == 502


def test_invalid_poll_addresses_are_not_requested(app: Service) -> None:
    """An address without a valid id and ETag is not requested."""
    assert app.call("GET", "/later/..%2F..%2Fmodel").status == 404
    assert app.call("GET", "/later/a%20b").status == 404
    assert app.call("GET", "/later/abc?seen=%0d%0aX:1").status == 404


def test_a_queued_answer_is_polled(app: Service) -> None:
    """The page of a queued photo reloads itself until the answer is there."""
    first = send(app, photo(), "/later")
    assert first.status == 303
    assert send(app, photo(), "/later").headers["location"] == first.headers["location"]
    address, end = first.headers["location"], monotonic() + 20
    while again := re.search(r'content="\d+; url=(.*?)"', text := ask(app, address)):
        assert monotonic() < end
        address = html.unescape(again[1])
        sleep(0.1)

    assert "Mole (melanocytic nevus)" in text
    assert app.call("GET", "/later/0123456789abcdef").status == 404
    assert send(app, b"hello", "/later").status == 415


def ask(app: Service, path: str) -> str:
    page = app.call("GET", path)
    assert page.status == 200
    return page.body.decode()
