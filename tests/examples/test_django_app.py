"""The Django application of examples/ under gunicorn: the model in process, and over HTTP."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from macule.security import api_keys
from PIL import Image
from support.images import close_up, photo, saved
from support.service import GUNICORN, ROOT, Answer, Service, form, running

DJANGO = (
    f"{sys.executable} -m gunicorn --chdir examples/django_app --workers 1 --threads 4 "
    "--bind 127.0.0.1:{port} spots.wsgi"
)
WAYS = ("in process", "over HTTP")
KEY, PAIR = api_keys.create_key("django")
GUIDE = (ROOT / "docs/from-tensorflow.md").read_text()
MB = 2**20


@pytest.fixture(scope="module")
def apps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Service]]:
    """Run the application both ways; over HTTP it uses a macule that requires its key."""
    logs = [tmp_path_factory.mktemp(name) for name in ("macule", "near", "far")]
    with running(GUNICORN, logs[0], API_KEYS=PAIR) as macule:
        environment = {"MACULE_URL": f"http://127.0.0.1:{macule.port}", "MACULE_KEY": KEY}
        lean = {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
        with (
            running(DJANGO, logs[1], **lean) as near,
            running(DJANGO, logs[2], **environment) as far,
        ):
            yield dict(zip(WAYS, (near, far), strict=True))


@pytest.fixture(params=WAYS)
def app(apps: dict[str, Service], request: pytest.FixtureRequest) -> Service:
    return apps[request.param]


def send(app: Service, body: bytes | None, token: bool = True) -> Answer:
    """Submit the form like a browser: with its cookie, its hidden field, and a photo or none."""
    page = app.call("GET", "/")
    cookie = page.headers["set-cookie"].partition(";")[0]
    (hidden,) = re.findall(r'name="csrfmiddlewaretoken" value="(\w+)"', page.body.decode())
    content, headers = form("photo", body or b"", "a.jpg" if body is not None else "")
    boundary = headers["Content-Type"].partition("=")[2]
    field = 'Content-Disposition: form-data; name="csrfmiddlewaretoken"\r\n\r\n'
    first = f"--{boundary}\r\n{field}{hidden}\r\n".encode() if token else b""
    return app.call("POST", "/", first + content, {**headers, "Cookie": cookie})


def shown(page: Answer) -> str:
    """Return the text of a page without its CSRF token."""
    return re.sub(r'name="csrfmiddlewaretoken" value="\w+"', "", page.body.decode())


def test_a_photo_gets_its_answer(app: Service) -> None:
    """The photo is classified; the page shows the answer, its map and the disclaimer."""
    page = send(app, close_up())
    text = page.body.decode()

    assert page.status == 200
    assert "Most like: <strong>Mole (melanocytic nevus)</strong>" in text
    assert re.search(r"<td>0\.\d{3}</td>", text)
    assert 'src="data:image/png;base64,' in text
    assert text.count("not a medical device") == 1
    assert "no-store" in page.headers["cache-control"]


BODIES = {
    "spot": (ROOT / "examples/spot.jpg").read_bytes(),
    "drawn": photo(),
    "plain": saved(Image.new("RGB", (300, 300), (30, 90, 200)), "PNG"),
    "text": b"hello",
    "damaged": photo()[:3000],
}


@pytest.mark.parametrize("name", BODIES)
def test_both_ways_give_the_same_page(apps: dict[str, Service], name: str) -> None:
    """Answers, maps and error texts are the same in process and over HTTP."""
    near, far = (send(apps[way], BODIES[name]) for way in WAYS)

    assert near.status == far.status
    assert shown(near) == shown(far)


@pytest.mark.parametrize(
    ("body", "status", "expected"),
    [
        (None, 400, "Choose a photo first"),
        (b"", 400, "This file is empty"),
        (b"hello", 415, "The bytes are not JPEG, PNG"),
        (photo()[:3000], 422, "The file is cut off"),
        (b"x" * (10 * MB + 1), 413, "too large. Send one of at most 10 MB"),
        (b"x" * (11 * MB), 413, "too large. Send one of at most 10 MB"),
    ],
    ids=["none", "empty", "text", "damaged", "large", "larger"],
)
def test_a_problem_is_shown(app: Service, body: bytes | None, status: int, expected: str) -> None:
    """The form is shown again with the problem, and the response has its status."""
    page = send(app, body)
    text = page.body.decode()

    assert (page.status, expected in text) == (status, True)
    assert 'role="alert"' in text
    assert 'type="file"' in text


def test_a_form_of_another_site_is_rejected(app: Service) -> None:
    """A photo without the CSRF token is not read."""
    assert send(app, photo(), token=False).status == 403


def test_the_form_is_accessible(app: Service) -> None:
    """The form has a language, a label for its field, no script, and a disclaimer."""
    text = app.call("GET", "/").body.decode()

    assert '<html lang="en">' in text
    assert '<label for="id_photo">' in text
    assert 'id="id_photo"' in text
    assert "<script" not in text
    assert "Not a medical device" in text


def test_health_reports_whether_photos_are_answered(app: Service) -> None:
    """Both variants report healthy once they run, and the answer is not cached."""
    answer = app.call("GET", "/health/")

    assert (answer.status, answer.json()) == (200, {"status": "ok"})
    assert "no-store" in answer.headers["cache-control"]


def test_an_unreachable_service_is_reported(tmp_path: Path) -> None:
    """The page and /health/ report it, and the form still works."""
    with running(DJANGO, tmp_path, ready_path="/", MACULE_URL="http://127.0.0.1:1") as app:
        page, health = send(app, photo()), app.call("GET", "/health/")

    assert (page.status, "cannot be reached" in page.body.decode()) == (502, True)
    assert (health.status, health.json()) == (503, {"status": "unavailable"})


def test_a_worker_without_its_model_does_not_start() -> None:
    """gunicorn ends if the folder has no model, and logs the reason."""
    ended = subprocess.run(
        DJANGO.format(port=0).split(),
        cwd=ROOT,
        env={**os.environ, "MACULE_MODEL": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 3  # exit code of gunicorn for a worker that fails to boot
    assert "There is no folder /nowhere" in ended.stderr


@pytest.mark.slow
def test_memory_in_process_matches_the_guide(apps: dict[str, Service]) -> None:
    """Django and the model together take the guide's figure plus a tenth at most."""
    (old,) = re.findall(r"^\| memory after 12 MP photos \| 608 MB \| (\d+) MB", GUIDE, re.MULTILINE)
    (new,) = re.findall(r"Django 6\.1, Django and macule in one process use (\d+) MB", GUIDE)
    figure = int(new if sys.version_info >= (3, 12) else old)  # Django 6 needs 3.12
    large = photo(4000, 3000)
    for _ in range(20):
        assert send(apps["in process"], large).status == 200

    assert held(apps["in process"]) <= figure * 1.1 * MB


def held(app: Service) -> int:
    """Sum the memory of the worker and the private memory of gunicorn's arbiter."""
    arbiter = psutil.Process(app.process.pid)
    (worker,) = arbiter.children()
    own: int = arbiter.memory_full_info().uss
    return own + int(worker.memory_info().rss)
