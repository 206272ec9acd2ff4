"""The documentation page as the server sends it: its samples run, and it is self-contained."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import zlib
from html import unescape
from pathlib import Path

import pytest
import requests
from macule.routes.openapi import page
from support.service import ROOT, Service, need

SAMPLE = re.compile(
    r'<figcaption>(\w+)</figcaption><div class="code"><pre class="sample">(.*?)</pre>', re.DOTALL
)
VERSIONS = {"docs.css": "1", "docs.js": "1"}
LANGUAGES = ("curl", "Python", "JavaScript")


def text(service: Service) -> str:
    return service.call("GET", "/docs/").body.decode()


def document(service: Service) -> dict:
    return service.call("GET", "/openapi.json").json()


@pytest.fixture
def samples(
    service: Service, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, list[str]]:
    """Return the samples by language, with the test's address and an existing id.

    They find a photo and a key in the usual places.
    """
    shutil.copy(ROOT / "examples/spot.jpg", tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MACULE_API_KEY", key)
    headers = {"X-API-Key": key, "Prefer": "wait=60"}
    photo = (tmp_path / "photo.jpg").read_bytes()
    made = service.call("POST", "/predictions", photo, headers).json()["id"]
    printed = document(service)["components"]["parameters"]["id"]["example"]
    found: dict[str, list[str]] = {}
    for language, sample in SAMPLE.findall(text(service)):
        here = unescape(sample).replace(printed, made)
        address = f"http://127.0.0.1:{service.port}"
        found.setdefault(language, []).append(here.replace("http://localhost:8080", address))
    return found


def assert_answered(outcomes: dict[str, str]) -> None:
    """Check that each sample got an answer; only a cancel of a finished prediction may fail."""
    wrong = {sample: outcome for sample, outcome in outcomes.items() if outcome != "ok"}

    assert all("/cancel" in sample for sample in wrong), wrong
    assert all("409" in outcome for outcome in wrong.values()), wrong


def test_every_operation_has_samples(service: Service) -> None:
    """Each operation of the document has one sample in each language."""
    counts = [language for language, _ in SAMPLE.findall(text(service))]
    operations = [it for methods in document(service)["paths"].values() for it in methods]

    assert [counts.count(language) for language in LANGUAGES] == [len(operations)] * 3


def test_the_commands_run_as_printed(samples: dict[str, list[str]]) -> None:
    """Each curl command gets a successful answer."""
    assert_answered(
        {
            sample: "ok" if status in ("200", "202") else status
            for sample in samples["curl"]
            for status in [
                subprocess.check_output(
                    ["sh", "-c", f"{sample} -s -o answer -w '%{{http_code}}'"], text=True
                )
            ]
        }
    )


def test_the_python_runs_as_printed(samples: dict[str, list[str]]) -> None:
    """Each sample prints an answer without an exception."""
    outcomes = {}
    for sample in samples["Python"]:
        try:
            exec(compile(sample, "sample", "exec"), {})  # noqa: S102
            outcomes[sample] = "ok"
        except requests.HTTPError as error:
            outcomes[sample] = str(error)

    assert_answered(outcomes)


def test_the_javascript_runs_as_printed(samples: dict[str, list[str]], tmp_path: Path) -> None:
    """Each sample is a Node module that prints an answer without an exception."""
    node = need("nodejs", "node")
    names = [f"./{place}.mjs" for place, _ in enumerate(samples["JavaScript"])]
    for name, sample in zip(names, samples["JavaScript"], strict=True):
        (tmp_path / name).write_text(sample)
    (tmp_path / "all.mjs").write_text(
        "console.log = () => {}; const outcomes = [];"
        f"for (const name of {json.dumps(names)})"
        ' await import(name).then(() => outcomes.push("ok"), (e) => outcomes.push(e.message));'
        "process.stdout.write(JSON.stringify(outcomes));"
    )
    outcomes = json.loads(subprocess.check_output([node, "all.mjs"], env={**os.environ}))

    assert_answered(dict(zip(samples["JavaScript"], outcomes, strict=True)))


def test_it_loads_only_its_own_files(service: Service) -> None:
    """Style and script are its own files, nothing is inline, and its links work."""
    answer = service.call("GET", "/docs/")
    html, policy = answer.body.decode(), answer.headers["content-security-policy"]
    links = set(re.findall(r'(?:href|src|action)="(.*?)"', html))
    anchors = {f"#{name}" for name in re.findall(r' id="(.*?)"', html)}
    files = {link for link in links if link.startswith("../docs/")}

    assert "<style" not in html
    assert not re.search(r"<script(?![^>]* src=)| style=| on\w+=", html)
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert {link for link in links - anchors - files if not link.startswith("data:image/")} == {
        "../",
        "../openapi.json",
    }
    for link in files:
        assert "immutable" in service.call("GET", link[2:]).headers["cache-control"]


def test_ids_are_unique(service: Service) -> None:
    """Every link to a part of the page has exactly one target."""
    ids = re.findall(r' id="(.*?)"', text(service))

    assert len(ids) == len(set(ids))


def test_it_is_small(service: Service) -> None:
    """The page and its files are at most 300 kB, compressed."""
    paths = ["/docs/", "/docs/docs.css", "/docs/docs.js"]
    packed = [service.call("GET", path, headers={"Accept-Encoding": "gzip"}) for path in paths]
    sizes = {path: len(answer.body) for path, answer in zip(paths, packed, strict=True)}
    print(f"documentation: {sum(sizes.values())} bytes compressed: {sizes}")  # noqa: T201

    assert zlib.decompress(packed[0].body, 31).decode() == text(service)
    assert sum(sizes.values()) <= 300_000


def test_routes_come_first_and_cors_last(service: Service) -> None:
    """Routes come before schemas; the CORS section ends the page."""
    headings = re.findall(
        r'<section id="([\w-]+)"|<section class="route" id="(predict)"', text(service)
    )
    order = [first or second for first, second in headings]

    assert order.index("predict") < order.index("schemas")
    assert "CORS" in text(service).partition(f'<section id="{order[-1]}"')[2]
    assert text(service).count("CORS") == 1


def test_text_of_the_document_is_escaped(service: Service) -> None:
    """Text of a document, such as a card's name, is not markup on its page."""
    given = document(service)
    given["info"]["title"] = given["info"]["description"] = "<b>`<i>`"
    given["components"]["examples"]["busy"]["value"]["detail"] = "</pre><script>"
    given["components"]["parameters"]["name"]["example"] = '"><b>'
    written = page.html(given, VERSIONS)

    assert "<b>" not in written
    assert "<i>" not in written
    assert "<script>" not in written
