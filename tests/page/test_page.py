"""The page's routes without a browser: languages, files, the plain form, all adapters."""

import json
import re
import shutil
import subprocess
import sys
import zlib
from base64 import b64decode, b64encode
from pathlib import Path

import pytest
from macule import errors
from macule.http.adapters import aws_lambda
from macule.inference import classification
from macule.routes import page
from support.browser import CARD, WORDS
from support.images import photo
from support.service import FRAMEWORK, GUNICORN, ROOT, Service, form, running

ROUTES = {"GET /": page.view, "GET /page/{file}": page.file}


def failures(kind: type[errors.Macule] = errors.Macule) -> list[type[errors.Macule]]:
    return [kind, *(leaf for child in kind.__subclasses__() for leaf in failures(child))]


def keys(words: object, path: str = "") -> set[str]:
    """Return the keys of all texts of a language, at any depth."""
    if isinstance(words, dict):
        return {key for name, part in words.items() for key in keys(part, f"{path}.{name}")}
    return {path}


def test_both_languages_match() -> None:
    """Every text exists in each language, with the same figures."""
    slots = [re.findall(r"\{\w+\}", json.dumps(WORDS[name])) for name in page.LANGUAGES]

    assert keys(WORDS["en"]) == keys(WORDS["vi"])
    assert sorted(slots[0]) == sorted(slots[1])
    assert classification.DISCLAIMER.partition(".")[0] in WORDS["en"]["disclaimer"]


@pytest.mark.parametrize("failure", failures(), ids=lambda failure: failure.__name__)
def test_every_problem_has_a_text(failure: type[errors.Macule]) -> None:
    """Each error of a photo has a text of its own, or at least one of its status."""
    problems, statuses = WORDS["en"]["problems"], WORDS["statuses"]
    never = {404, 405, 409, 410, 501}  # of jobs, their webhooks and other routes

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
def test_the_language_is_negotiated(
    service: Service, accepted: str, query: str, language: str
) -> None:
    """`lang` decides, else Accept-Language by its weights, else English."""
    answer = service.call("GET", f"/{query}", headers={"Accept-Language": accepted})

    assert f'<html lang="{language}">' in answer.body.decode()
    assert WORDS[language]["heading"] in answer.body.decode()
    assert "Accept-Language" in answer.headers["vary"]


@pytest.mark.parametrize("path", ["/", "/page/style.css"])
def test_etags_and_gzip_work(service: Service, path: str) -> None:
    """A known ETag gets 304; gzip needs Accept-Encoding and has its own ETag."""
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


def test_a_versioned_file_is_immutable(service: Service) -> None:
    """With the page's version a file is immutable, with another one it is revalidated."""
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
def test_no_other_file_is_served(service: Service, name: str) -> None:
    """Only the page's own files have addresses."""
    assert service.call("GET", f"/page/{name}").status == 404


def test_the_plain_form_answers_as_the_api_does(service: Service) -> None:
    """POST /page/ has the status and headers of POST /predict/, and an HTML body."""
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


def test_a_503_of_the_form_has_retry_after(tmp_path: Path) -> None:
    """A 503 of the plain form has Retry-After, and the page shows the seconds and the figures."""
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
    """Behind an API's stage the page is text, compressed files are base64, and links work."""
    handler = aws_lambda.create_handler(ROUTES)

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


def test_the_flask_adapter_serves_it(tmp_path: Path) -> None:
    """functions-framework serves the page, its files and the plain form, with its card."""
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
        "app = wsgi.create_app({'GET /': page.view}); "
        "from io import BytesIO; "
        "b = app({'REQUEST_METHOD': 'GET', 'PATH_INFO': '/', 'wsgi.input': BytesIO()}, print); "
        "assert b'<!doctype' in b[0]; "
        "heavy = {'numpy', 'PIL', 'ssl', '_hashlib', 'gzip', 'macule.inference.runtime'}; "
        "print(heavy & set(sys.modules))"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)

    assert output.splitlines()[-1] == "set()"


def test_a_view_is_rendered_once() -> None:
    """The second request in a language gets the same bytes without opening a file."""
    code = (
        "import sys; from macule.routes import page; from macule.http.body import Body; "
        "from macule.http.messages import Request; from io import BytesIO; "
        "ask = lambda: page.view(Request('GET', '/', {}, {}, Body(BytesIO(), 0), 0.0)).body; "
        "one = ask(); "
        "sys.addaudithook(lambda event, given: event == 'open' and print(event, given)); "
        "print(ask() == one)"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)

    assert output == "True\n"
