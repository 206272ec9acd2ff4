"""Decoders of a real service: what a compromised one can reach, and what a hanging one holds."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from macule.inference import sandbox
from support import tiff_files
from support.images import photo
from support.service import GUNICORN_DEV, Service, running, until

# Two more formats: one decoder acts as a compromised one, one hangs until it is released.
HARMFUL = """
import os, socket, sys, types
from macule.functions import predict as main
from macule.http import messages
from macule.http.adapters import wsgi
from macule.inference.decoding import formats
from PIL.ImageFile import ImageFile

found, released = {}, []

def attempt(path, port):
    tries = {
        "read": lambda: open(path),
        "create": lambda: open(path + ".new", "w"),
        "connect": lambda: socket.create_connection(("127.0.0.1", port)).close(),
    }
    for name, action in tries.items():
        try:
            action()
            yield name, "done"
        except OSError as error:
            yield name, type(error).__name__

class HarmfulImageFile(ImageFile):
    format = "HARM"

    def _open(self):
        path, port = self.fp.read()[5:].decode().split("|")
        found.update(attempt(path, int(port)))
        raise ValueError("no image")

class HangingImageFile(ImageFile):
    format = "HANG"

    def _open(self):
        self._size, self._mode = (1000, 1000), "RGB"

    def load(self):
        import time
        while not released:
            time.sleep(0.01)
        raise ValueError("no image")

for name, plugin in (("Harm", HarmfulImageFile), ("Hang", HangingImageFile)):
    formats.PLUGINS[name.upper().encode() + b"!"] = name
    module = sys.modules[f"PIL.{name}ImagePlugin"] = types.ModuleType(name)
    setattr(module, f"{name}ImageFile", plugin)

def show(request):
    attempts = dict(attempt(request.query["path"], int(request.query["port"])))
    return messages.json_response({"decoder": found, "others": attempts})

def release(request):
    released.append(True)
    return messages.json_response({})

ROUTES = {**main.ROUTES, "GET /attempts": show, "GET /release": release}
app = wsgi.create_app(ROUTES)
"""
TIMEOUT_S = 3.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run a service that decodes two more formats."""
    folder = tmp_path_factory.mktemp("harmful")
    (folder / "harmful.py").write_text(HARMFUL)
    command = f"{GUNICORN_DEV} --pythonpath {folder} harmful:app"
    with running(command, folder, DECODE_TIMEOUT_S=str(TIMEOUT_S), LOG="json") as service:
        yield service


def test_a_compromised_decoder_reaches_nothing(
    landlock: int, service: Service, tmp_path: Path
) -> None:
    """A compromised decoder cannot read or create files or connect; the service still can."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        answer = service.predict(f"HARM!{secret}|{port}".encode())
        attempts = service.call("GET", f"/attempts?path={secret}&port={port}").json()

    refused = {"read", "create"} | ({"connect"} if landlock >= min(sandbox.TCP) else set())
    assert answer.json()["type"].endswith(":bad-image")
    assert {
        name for name, end in attempts["decoder"].items() if end == "PermissionError"
    } == refused
    assert set(attempts["others"].values()) == {"done"}
    metrics = [service.predict(photo()).json()["metrics"] for _ in range(2)]
    assert [each["cache"] for each in metrics] == ["miss", "hit"]
    job = service.call("POST", "/predictions", photo(320, 240), {"Prefer": "wait=30"})
    assert job.json()["status"] == "succeeded"
    text = service.log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line[:1] == "{"]
    assert {200, 422} <= {line.get("status") for line in lines}
    assert "decoders may open" not in text


@pytest.mark.parametrize(("more", "status"), [(0, 200), (20, 422)])
def test_a_jpeg_in_a_tiff_has_few_scans(service: Service, more: int, status: int) -> None:
    """A JPEG in a TIFF with more than 20 scans is rejected, as libtiff decodes it in one call."""
    file = photo(320, 240, progressive=True, subsampling=0)
    last = file.rindex(b"\xff\xda")
    strip = file[:last] + file[last:-2] * (1 + more) + file[-2:]

    assert (
        service.predict(tiff_files.in_strips(320, 240, [strip], tiff_files.JPEG)).status == status
    )


def test_a_hanging_decoder_gets_an_answer(service: Service) -> None:
    """At DECODE_TIMEOUT_S the client gets 422; others are answered; its memory stays reserved."""

    def held_mb() -> float:
        return float(service.call("GET", "/memory/").json()["ledger"]["held_mb"])

    answer = service.predict(b"HANG!")

    assert answer.status == 422
    assert answer.json()["type"].endswith(":slow-image")
    assert answer.json()["timeout_s"] == TIMEOUT_S
    assert held_mb() > 0
    assert service.predict(photo(), **{"Cache-Control": "no-cache"}).status == 200
    assert service.call("GET", "/release").status == 200
    until(lambda: held_mb() == 0)
