"""The page's routes, without a browser: languages, files, the plain form, all doors."""

import json
import re
import shutil
import subprocess
import sys
import zlib
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from browser import CARD, WORDS
from draw import photo
from macule import errors
from macule.http.adapters import aws_lambda
from macule.inference import classification
from macule.routes import page
from service import FRAMEWORK, GUNICORN, ROOT, Service, form, running

ROUTES = {"GET /": page.view, "GET /page/{file}": page.file}


def failures(kind: type[errors.Macule] = errors.Macule) -> list[type[errors.Macule]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in failures(child))]


def keys(words: object, path: str = "") -> set[str]:
    """Name all texts of a language, at any depth."""
    if isinstance(words, dict):
        return {key for name, part in words.items() for key in keys(part, f"{path}.{name}")}
    return {path}


def test_both_languages_say_the_same() -> None:
    """Every text is there in each language, with the same figures in it."""
    slots = [re.findall(r"\{\w+\}", json.dumps(WORDS[name])) for name in page.LANGUAGES]

    assert keys(WORDS["en"]) == keys(WORDS["vi"])
    assert sorted(slots[0]) == sorted(slots[1])
    assert classification.DISCLAIMER.partition(".")[0] in WORDS["en"]["disclaimer"]


@pytest.mark.parametrize("failure", failures(), ids=lambda failure: failure.__name__)
def test_every_problem_has_words(failure: type[errors.Macule]) -> None:
    """Each failure that a photo can meet is told by its own words, or at least by its status."""
    problems, statuses = WORDS["en"]["problems"], WORDS["statuses"]
    never = {404, 405, 409, 410, 501}  # of jobs, their webhooks and of other routes

    assert failure.slug in problems or str(failure.status) in statuses or failure.status in never


@pytest.mark.parametrize(
    ("accepted", "query", "language"),
    [
        ("", "", "en"),
        ("vi", "", "vi"),
        ("vi-VN,vi;q=0.9,en;q=0.8", "", "vi"),
        ("en-US,en;q=0.9,vi;q=0.8", "", "en"),
        ("fr,de;q=0.5", "", "en"),
        ("fr;q=1,vi;q=0.3,en;q=0.2", "", "vi"),
        ("vi;q=0", "", "en"),
        ("vi;q=lots,;;,", "", "en"),
        ("en", "?lang=vi", "vi"),
        ("vi", "?lang=xx", "vi"),
    ],
)
def test_the_language_is_the_readers(
    service: Service, accepted: str, query: str, language: str
) -> None:
    """`lang` decides, else Accept-Language by its weights, else it is English."""
    answer = service.call("GET", f"/{query}", headers={"Accept-Language": accepted})

    assert f'<html lang="{language}">' in answer.body.decode()
    assert WORDS[language]["heading"] in answer.body.decode()
    assert "Accept-Language" in answer.headers["vary"]


@pytest.mark.parametrize("path", ["/", "/page/style.css"])
def test_what_is_known_is_not_sent_again(service: Service, path: str) -> None:
    """An ETag gets 304; gzip is for who takes it, and another ETag."""
    plain = service.call("GET", path)
    packed = service.call("GET", path, headers={"Accept-Encoding": "br, gzip"})
    refused = service.call("GET", path, headers={"Accept-Encoding": "gzip;q=0"})
    known = service.call(
        "GET", path, headers={"Accept-Encoding": "gzip", "If-None-Match": packed.headers["etag"]}
    )

    assert zlib.decompress(packed.body, 31) == plain.body == refused.body
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["etag"] != plain.headers["etag"]
    assert "Accept-Encoding" in packed.headers["vary"]
    assert (known.status, known.body) == (304, b"")
    assert service.call("HEAD", path).body == b""


def test_a_file_is_kept_by_its_version(service: Service) -> None:
    """At the address that the page gives it is immutable, at any other it is asked for anew."""
    html = service.call("GET", "/").body.decode()
    address = html.partition('rel="stylesheet" href="')[2].partition('"')[0]
    controls = [
        service.call("GET", path).headers["cache-control"]
        for path in (f"/{address}", "/page/style.css", "/page/style.css?v=old")
    ]

    assert controls == ["public, max-age=31536000, immutable", "no-cache", "no-cache"]
    assert service.call("GET", "/").headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "name", ["__init__.py", "page.html", "words.json", "..%2f__init__.py", "../http.py", "x"]
)
def test_nothing_else_is_served(service: Service, name: str) -> None:
    """Only the page's own files have addresses."""
    assert service.call("GET", f"/page/{name}").status == 404


def test_the_plain_form_answers_as_the_api_does(service: Service) -> None:
    """POST /page/ has the status and headers of POST /predict/, in the form of a page."""
    body, kind = form("image", photo())
    good = service.call("POST", "/page/?lang=vi&explain=cam", body, {**kind, "X-Request-Id": "me"})
    text, kind = form("image", b"<script>alert(1)</script>")
    bad = service.call("POST", "/page/?top_k=<b>", text, {**kind, "X-Request-Id": "me"})
    none = service.call("POST", "/page/", b"", {"Content-Type": "text/plain"})
    instances = json.dumps({"instances": [b64encode(photo()).decode()]}).encode()
    listed = service.call("POST", "/page/?lang=vi", instances, {"Content-Type": "application/json"})

    assert [answer.status for answer in (good, bad, none, listed)] == [200, 400, 400, 200]
    for answer in (good, bad, none, listed):
        assert answer.headers["content-type"] == page.HTML
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
        assert b"alert(1)" not in answer.body
    assert good.headers["x-request-id"] == "me"
    assert "total;dur=" in good.headers["server-timing"]
    assert WORDS["vi"]["not_skin"] in good.body.decode()
    assert WORDS["vi"]["not_skin"] in listed.body.decode()
    assert "Request me" in bad.body.decode()


def test_a_refusal_says_when_to_come_back(tmp_path: Path) -> None:
    """A 503 of the plain form has Retry-After and its seconds in words; figures come too."""
    body, kind = form("image", photo())
    model = shutil.copytree(ROOT / "layers/model/macule/weights", tmp_path / "model")
    (model / "model.tflite").write_bytes(b"damaged")
    settings = {"MODEL_DIR": str(model), "MAX_IMAGE_BYTES": "100000"}
    with running(GUNICORN, tmp_path, **settings) as broken:
        later = broken.call("POST", "/page/", body, kind)
        large = broken.call("POST", "/page/", bytes(200_000))

    assert (later.status, later.headers["retry-after"]) == (503, "5")
    assert "Try again in 5 s." in later.body.decode()
    assert large.status == 413
    assert "limit is 0.0954 MB" in large.body.decode()


def test_the_lambda_adapter_serves_it() -> None:
    """Behind a stage of an API the page is text, what is compressed base64, and addresses fit."""
    handler = aws_lambda.handler(ROUTES)

    def get(path: str, **headers: str) -> dict[str, object]:
        about = {"stage": "prod", "http": {"method": "GET"}}
        event = {"version": "2.0", "requestContext": about, "rawPath": f"/prod{path}"}
        return handler({**event, "rawQueryString": "", "headers": headers}, None)

    plain, packed = get("/"), get("/", **{"accept-encoding": "gzip"})
    style = get("/page/style.css")

    assert (plain["isBase64Encoded"], packed["isBase64Encoded"]) == (False, True)
    assert zlib.decompress(b64decode(str(packed["body"])), 31).decode() == plain["body"]
    assert 'href="/' not in str(plain["body"])
    assert style["body"] == (ROOT / "layers/model/macule/routes/page/style.css").read_text()


def test_the_flask_door_serves_it(tmp_path: Path) -> None:
    """functions-framework answers with the page, its files and the plain form, by its card."""
    body, kind = form("image", (ROOT / "examples/spot.jpg").read_bytes())
    model = shutil.copytree(ROOT / "layers/model/macule/weights", tmp_path / "model")
    (model / "model.json").write_text(json.dumps({**CARD, "urgent": ["nevus"]}))
    settings = {"MODEL_DIR": str(model)}
    with running(FRAMEWORK.replace("{name}", "predict"), tmp_path, **settings) as service:
        answers = [
            service.call("GET", "/", headers={"Accept-Encoding": "gzip"}),
            service.call("GET", "/page/page.js"),
            service.call("POST", "/page/", body, kind),
        ]

    assert [answer.status for answer in answers] == [200, 200, 200]
    assert WORDS["en"]["soon_urgent"] in answers[2].body.decode()
    assert b"<!doctype html>" in zlib.decompress(answers[0].body, 31)


def test_a_view_loads_nothing_heavy() -> None:
    """The page is served without model, numpy, Pillow or TLS."""
    code = (
        "import sys; from macule.http.adapters import wsgi; from macule.routes import page; "
        "app = wsgi.app({'GET /': page.view}); "
        "from io import BytesIO; "
        "b = app({'REQUEST_METHOD': 'GET', 'PATH_INFO': '/', 'wsgi.input': BytesIO()}, print); "
        "assert b'<!doctype' in b[0]; "
        "print({'numpy', 'PIL', 'ssl', '_hashlib', 'gzip', 'macule.inference.runtime'} & set(sys.modules))"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)

    assert said.splitlines()[-1] == "set()"


def test_a_view_is_written_once() -> None:
    """The second reader of a language gets the same bytes, and no file is opened for them."""
    code = (
        "import sys; from macule.routes import page; from macule.http.body import Body; "
        "from macule.http.messages import Request; from io import BytesIO; "
        "ask = lambda: page.view(Request('GET', '/', {}, {}, Body(BytesIO(), 0), 0.0)).body; "
        "one = ask(); "
        "sys.addaudithook(lambda event, given: event == 'open' and print(event, given)); "
        "print(ask() == one)"
    )
    said = subprocess.check_output([sys.executable, "-c", code], text=True)

    assert said == "True\n"
