"""The page of the specification, as a server gives it: its commands run, and it stands alone."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from base64 import b64encode
from html import unescape
from pathlib import Path

import pytest
from answers import small
from browser import faults, too_wide, visiting
from macule.openapi import page
from playwright.sync_api import Browser
from service import GUNICORN, ROOT, Service, running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    with running(GUNICORN, tmp_path_factory.mktemp("logs")) as service:
        yield service


def address(service: Service) -> str:
    return f"http://127.0.0.1:{service.port}/"


def text(service: Service) -> str:
    return service.call("GET", "/docs/").body.decode()


def test_the_commands_run_as_printed(service: Service, tmp_path: Path) -> None:
    """Each printed curl gets an answer that its operation describes, and none is left out."""
    shutil.copy(ROOT / "examples/spot.jpg", tmp_path / "photo.jpg")
    made = service.call("POST", "/predictions", (tmp_path / "photo.jpg").read_bytes()).json()
    card = service.call("GET", "/model/").json()
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [1],
        "data": [b64encode(small()).decode()],
    }
    (tmp_path / "request.json").write_text(json.dumps({"inputs": [tensor]}))
    environment = {
        "URL": f"http://127.0.0.1:{service.port}",
        "ID": made["id"],
        "FILE": "style.css",
        "NAME": card["name"],
        "VERSION": card["version"],
    }
    commands = re.findall(r'<pre class="curl">(.*?)</pre>', text(service))
    document = service.call("GET", "/openapi.json").json()
    operations = [it for methods in document["paths"].values() for it in methods.values()]
    found = {}
    for command in map(unescape, commands):
        asked = f"{command} -s -o /dev/null -w '%{{http_code}}'"
        found[command] = subprocess.check_output(
            ["sh", "-c", asked], cwd=tmp_path, env={**os.environ, **environment}, text=True
        )

    assert len(commands) == len(operations)
    assert set(found.values()) <= {"200", "202", "409"}  # what has ended cannot be canceled


def test_it_stands_alone(service: Service) -> None:
    """No script and no other file is named in it; its policy allows its own style alone."""
    answer = service.call("GET", "/docs/")
    html = answer.body.decode()
    (style,) = re.findall(r"<style>(.*?)</style>", html, re.DOTALL)
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    links = set(re.findall(r'(?:href|src|action)="(.*?)"', html))
    anchors = {f"#{name}" for name in re.findall(r'id="(.*?)"', html)}

    assert "<script" not in html
    assert " style=" not in html
    assert f"'sha256-{digest}'" in answer.headers["content-security-policy"]
    assert links - anchors == {"../openapi.json"}


def test_what_the_document_says_is_text(service: Service) -> None:
    """Whatever is in a document, a card's name say, is no markup on its page."""
    document = service.call("GET", "/openapi.json").json()
    document["info"]["title"] = document["info"]["description"] = "<b>`<i>`"
    document["components"]["examples"]["busy"]["value"]["detail"] = "</pre><script>"
    written = page.html(document)

    assert "<b>" not in written
    assert "<i>" not in written
    assert "<script" not in written


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it(service: Service, browser: Browser, scheme: str) -> None:
    """In Chromium axe finds no violation, and nothing is wider than a phone of 320 px."""
    with visiting(
        browser,
        f"{address(service)}docs/",
        viewport={"width": 320, "height": 800},
        color_scheme=scheme,
    ) as visitor:
        assert faults(visitor.page) == []
        assert not too_wide(visitor.page)
        assert len(visitor.asked) == 1
