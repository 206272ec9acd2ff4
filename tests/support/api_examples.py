"""Recorded answers of real services for the specification; `make openapi` writes them again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
import sys
import tempfile
import zlib
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from macule.inference.decoding.formats import png
from macule.security import api_keys
from PIL import Image, ImageFilter

from support.service import GUNICORN, READS_IN_SLOTS, ROOT, Answer, Service, running, until

FILE = ROOT / "layers/model/macule/routes/openapi/examples.json"
WEIGHTS = ROOT / "layers/model/macule/weights"
PHOTO = (ROOT / "examples/spot.jpg").read_bytes()
ROUTE = "/predictions"
# Fields that differ between runs and machines, by their name in an answer.
PASSING = re.compile(
    r".*(_ms|_mb|_at)|id|request_id|prediction|percent|band|limit_source|threads|images|largest_mp"
)


class Kept:
    """Recorded answers by operation, status, media type and name; problems by their slug."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.problems: dict[str, Any] = {}

    def answer(self, operation: str, name: str, answer: Answer) -> Any:
        kind = answer.headers["content-type"].partition(";")[0]
        by_status = self.answers.setdefault(operation, {}).setdefault(str(answer.status), {})
        by_status.setdefault(kind, {})[name] = shortened(answer.json())
        return answer.json()

    def problem(self, answer: Answer) -> None:
        document = answer.json()
        self.problems.setdefault(document["type"].rpartition(":")[2], document)


def recorded(folder: Path) -> dict[str, Any]:
    """Record the answers of services in many states; takes some seconds."""
    kept = Kept()
    with running(GUNICORN, folder) as service:
        _plain(service, kept)
        _later(service, kept)
        _refusals(service, kept)
        _inference(service, kept)
        _broken(folder, kept, f"http://127.0.0.1:{service.port}")
    _tight(folder, kept)
    _locked(folder, kept)
    _stopping(folder, kept)
    return {"answers": kept.answers, "problems": dict(sorted(kept.problems.items()))}


def shortened(value: Any) -> Any:
    """Shorten images: the two of a map are 100 kB."""
    if isinstance(value, dict):
        return {key: shortened(part) for key, part in value.items()}
    return f"{value[:60]}…" if isinstance(value, str) and value.startswith("data:") else value


def steady(value: Any, name: str = "") -> Any:
    """Remove what differs between recordings, by its name."""
    if PASSING.fullmatch(name):
        return type(value).__name__ if isinstance(value, dict | list | str) else "figure"
    if isinstance(value, dict):
        return {key: steady(part, key) for key, part in value.items()}
    if isinstance(value, list):
        return [steady(part) for part in value]
    if name == "detail":
        return re.sub(r"\d[\d,.]*", "0", value)
    return "figure" if name == "probability" else value


def _plain(service: Service, kept: Kept) -> None:
    """Record operators' routes and predictions."""
    kept.answer(
        "health", "in JSON", service.call("GET", "/health/", None, {"Accept": "application/json"})
    )
    kept.answer("ready", "cold", service.call("GET", "/ready/"))
    kept.answer("warmup", "loaded", service.call("GET", "/warmup/"))
    kept.answer("ready", "ready", service.call("GET", "/ready/"))
    kept.answer("model", "the model that ships", service.call("GET", "/model/"))
    kept.answer("predict", "a photo", service.predict(PHOTO))
    kept.answer("predict", "the same photo again", service.predict(PHOTO))
    mapped = service.predict(small(), "?top_k=1&explain=cam")
    kept.answer("predict", "a small photo, one label and its map", mapped)
    spot = Image.open(BytesIO(PHOTO)).filter(ImageFilter.GaussianBlur(15))
    kept.answer("predict", "a blurred photo", service.predict(png_of(spot.resize((192, 168)))))
    kept.answer("predict", "a prediction set", service.predict(PHOTO, "?sets=90"))
    instances = {"instances": [{"b64": b64encode(PHOTO).decode()}]}
    kind = {"Content-Type": "application/json"}
    batch = service.predict(json.dumps(instances).encode(), "?top_k=1", **kind)
    kept.answer("predict", "a photo in `instances`", batch)
    kept.answer("memory", "a service that has answered", service.call("GET", "/memory/"))


def _later(service: Service, kept: Kept) -> None:
    """Record a background prediction from its creation to its end; its photo takes a second."""
    key = {"Idempotency-Key": "7d0e6c1a"}
    slow = plain(8000, 6000)
    made = service.call("POST", ROUTE, slow, key)
    job = kept.answer("createPrediction", "taken in", made)
    path = f"{ROUTE}/{job['id']}"
    kept.problem(service.call("POST", ROUTE, slow, key))
    kept.problem(service.call("POST", ROUTE, PHOTO, key))
    until(lambda: service.call("GET", path).json()["status"] == "processing")
    kept.answer("showPrediction", "going on", service.call("GET", path))
    kept.answer("cancelPrediction", "canceled", service.call("POST", f"{path}/cancel"))
    kept.problem(service.call("POST", f"{path}/cancel"))
    waited = service.call("POST", ROUTE, PHOTO, {"Prefer": "wait=30"})
    done = kept.answer("createPrediction", "ended within the wait", waited)
    broken = service.call("POST", ROUTE, PHOTO[:4000], {"Prefer": "wait=30"})
    kept.answer("createPrediction", "failed within the wait", broken)
    shown = service.call("GET", f"{ROUTE}/{done['id']}")
    kept.answer("showPrediction", "ended well", shown)
    kept.problem(service.call("GET", f"{ROUTE}/0123456789abcdef01234567"))
    body = json.dumps({"image": b64encode(small()).decode(), "webhook": "https://a.example/"})
    kept.problem(service.call("POST", ROUTE, body.encode(), {"Content-Type": "application/json"}))


def _refusals(service: Service, kept: Kept) -> None:
    """Record errors of a request or its photo."""
    large = blank(20_000, 20_000)
    for body in (b"", b"\0" * 11_000_000, large, b"no photo", PHOTO[:4000]):
        kept.problem(service.predict(body))
    kept.problem(service.predict(PHOTO, **{"Content-Encoding": "br"}))
    kept.problem(service.call("GET", "/nowhere"))
    kept.problem(service.call("DELETE", "/health/"))


def _inference(service: Service, kept: Kept) -> None:
    """Record the routes for clients of KServe and Triton."""
    card = service.call("GET", "/model/").json()
    model = f"/v2/models/{card['name']}"
    kept.answer("serverMetadata", "what serves", service.call("GET", "/v2"))
    kept.answer("serverLive", "alive", service.call("GET", "/v2/health/live"))
    kept.answer("serverReady", "ready", service.call("GET", "/v2/health/ready"))
    kept.answer("modelMetadata", "the model that ships", service.call("GET", model))
    kept.answer("modelReady", "ready", service.call("GET", f"{model}/ready"))
    photo = b64encode(small()).decode()
    tensor = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [photo]}
    asked = json.dumps({"id": "a", "inputs": [tensor]}).encode()
    kind = {"Content-Type": "application/json"}
    kept.answer("modelInfer", "a photo", service.call("POST", f"{model}/infer", asked, kind))
    kept.problem(service.call("GET", "/v2/models/another"))


def _locked(folder: Path, kept: Kept) -> None:
    """Record a service with keys, of which one is revoked, and with a quota."""
    (key, pair), (old, revoked) = api_keys.create_key("clinic"), api_keys.create_key("old")
    guards = {"API_KEYS": f"{pair},{revoked}:revoked", "QUOTA": "1/day"}
    with running(GUNICORN, folder, **guards) as service:
        kept.problem(service.predict(PHOTO))
        kept.problem(service.predict(PHOTO, **{"X-API-Key": old}))
        for _ in range(2):
            answer = service.predict(PHOTO, **{"X-API-Key": key})
        kept.problem(answer)


def _stopping(folder: Path, kept: Kept) -> None:
    """Record a service that is stopping and still accepts requests."""
    with running(GUNICORN, folder, DRAIN_S="3") as service:
        os.killpg(service.process.pid, signal.SIGTERM)
        until(lambda: service.call("GET", "/ready/").json()["state"] == "draining")
        kept.answer("ready", "being stopped", service.call("GET", "/ready/"))
        kept.problem(service.predict(PHOTO))


def _broken(folder: Path, kept: Kept, predict_url: str) -> None:
    """Record a service that has lost its model, disk or card, and a health function."""
    model, data = folder / "lost-model", folder / "lost-data"
    model.mkdir()
    shutil.copy(WEIGHTS / "model.json", model)
    with running(GUNICORN, folder, MODEL_DIR=str(model), DATA_DIR=str(data)) as service:
        data.rmdir()
        data.touch()
        kept.problem(service.predict(PHOTO))
        kept.answer("ready", "failed", service.call("GET", "/ready/"))
        kept.problem(service.call("POST", ROUTE, PHOTO))
        (model / "model.json").unlink()
        kept.problem(service.call("GET", "/model/"))
    watching = {"FUNCTION_TARGET": "health", "PREDICT_URL": predict_url}
    with running(GUNICORN, folder, **watching) as service:
        kept.answer("reports", "both", service.call("GET", "/memory/"))


def _tight(folder: Path, kept: Kept) -> None:
    """Record a service with little memory, time and queue."""
    little = {"BODY_TIMEOUT_S": "2", "MAX_WAITING": "0", "JOB_TTL_S": "1", "MAX_JOBS": "1"}
    with running(GUNICORN, folder, DATA_DIR=str(folder / "tight"), **little) as service:
        job = service.call("POST", ROUTE, plain(8000, 6000)).json()
        kept.problem(service.call("POST", ROUTE, PHOTO))
        service.call("POST", f"{ROUTE}/{job['id']}/cancel")
        gone = f"{ROUTE}/{job['id']}"
        until(lambda: service.call("GET", gone).status == 410)
        kept.problem(service.call("GET", gone))
    with running(READS_IN_SLOTS, folder, THREADS="16", **little) as service:
        slots = service.call("GET", "/memory/").json()["slots"]["images"]
        with ExitStack() as stack:
            senders = [stack.enter_context(stalled(service)) for _ in range(slots)]
            until(lambda: service.call("GET", "/memory/").json()["slots"]["admitted"] == slots)
            kept.problem(service.predict(PHOTO))
            kept.problem(_received(senders[0]))
    with running(GUNICORN, folder, MEMORY_LIMIT_MB="128", DECODE_TIMEOUT_S="0.01") as service:
        kept.problem(service.predict(plain(8000, 6000)))
        kept.problem(service.predict(blank(8000, 6000)))


@contextmanager
def stalled(service: Service) -> Iterator[socket.socket]:
    """Send half a photo and then nothing."""
    with closing(socket.create_connection(("127.0.0.1", service.port), 30)) as sender:
        head = f"POST /predict/ HTTP/1.1\r\nHost: a\r\nContent-Length: {len(PHOTO)}\r\n\r\n"
        sender.sendall(head.encode() + PHOTO[:1000])
        yield sender


def _received(sender: socket.socket) -> Answer:
    with closing(sender.makefile("rb")) as file:
        status = int(file.readline().split()[1])
        lines = iter(file.readline, b"\r\n")
        pairs = (line.decode().strip().partition(": ") for line in lines)
        headers = {name.lower(): value for name, _, value in pairs}
        return Answer(status, headers, file.read(int(headers["content-length"])))


def small() -> bytes:
    """Return a small copy of the example photo, so that its map is a short text."""
    return png_of(Image.open(BytesIO(PHOTO)).resize((24, 21)))


def png_of(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def plain(width: int, height: int) -> bytes:
    """Return a PNG of one colour: a small file that takes long to decode."""
    row = b"\0" + b"\xcd\xa0\x87" * width
    return blank(width, height, 0, row * height)


def blank(width: int, height: int, interlaced: int = 1, rows: bytes = b"") -> bytes:
    """Return a PNG; without *rows* it has only a header."""
    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlaced)
    chunks = {b"IHDR": size, b"IDAT": zlib.compress(rows, 1)}
    return png.SIGNATURE + b"".join(png.chunk(kind, content) for kind, content in chunks.items())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = recorded(Path(folder))
    found["photo"] = b64encode(small()).decode()
    FILE.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    sizes = {slug: document["status"] for slug, document in found["problems"].items()}
    sys.stdout.write(f"{FILE.relative_to(ROOT)}: {FILE.stat().st_size:,} bytes, {sizes}\n")


if __name__ == "__main__":
    main()
