"""All parts of the service at once under one memory limit: what is killed, lost, kept?

    .venv-dev/bin/python bench/everything.py --seconds 600 [--hostile]

8 clients with photos of 12 MP and one with jobs and webhooks, the page's own request, keys, a
quota, and reads of /metrics and /memory/, in a cgroup of --limit-mb. With --hostile one in seven
requests is malicious. Memory is read each second: the proportional set size of all processes, and
the anonymous memory of their cgroup. Growth is that of the latter: the last tenth of the run is
compared with the tenth after the warm-up.
Writes bench/results/everything.json, or everything-hostile.json. Needs root.
"""

import argparse
import contextlib
import hashlib
import io
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import harness

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench/chaos"), str(ROOT / "tests")]

from clients import Load, Receiver, ask, form
from ledger import Ledger
from support.webhook_receivers import SECRET

KEY = "mk_everything"
CLIENTS = 8
WARM_UP = 0.2  # of the run
HEADERS = {"X-API-Key": KEY}


def hostile(rng: random.Random, photo: bytes) -> tuple[str, bytes, dict[str, str]]:
    """Draw a malicious request: its path, body and headers."""
    bomb = png(30_000, 30_000)
    return rng.choice(
        [
            ("/predict/", photo[: len(photo) // 2], HEADERS),
            ("/predict/", bomb, HEADERS),
            ("/predict/", b"<html>" * 1000, HEADERS),
            ("/predict/", bytes(11 * 2**20), HEADERS),
            ("/predict/", b"{" * 100_000, {**HEADERS, "Content-Type": "application/json"}),
            ("/predict/", photo, {"X-API-Key": "mk_stranger"}),
            ("/v2/models/x/infer", b"[" * 100_000, HEADERS),
            ("/predictions", *forbidden_webhook(photo)),
        ]
    )


def png(width: int, height: int) -> bytes:
    """Write a small PNG whose header says that it is large."""
    header = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 0, 0, 0, 0])
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(2**20))), (b"IEND", b"")]
    parts = [
        len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def forbidden_webhook(photo: bytes) -> tuple[bytes, dict[str, str]]:
    """Write a job whose webhook would go to a cloud's metadata."""
    body, kind = form(photo, "http://169.254.169.254/latest/meta-data/")
    return body, {**HEADERS, "Content-Type": kind}


class Others:
    """Requests beside predictions and jobs, until `end`."""

    def __init__(self, port: int, photo: bytes, page_photo: bytes, harm: bool) -> None:
        self.answers, self._over = Counter[str](), threading.Event()
        self._port, self._photo, self._page_photo = port, photo, page_photo
        work = [
            self._page,
            self._read_operator_routes,
            *([self._send_malicious, self._stall] if harm else []),
        ]
        self._threads = [threading.Thread(target=each) for each in work]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _page(self) -> None:
        while not self._over.wait(0.5):
            self._ask("page", "POST", "/predict/?explain=cam", self._page_photo, HEADERS)

    def _read_operator_routes(self) -> None:
        while not self._over.wait(1.0):
            for path in ("/metrics", "/memory/", "/health/", "/"):
                self._ask(path, "GET", path, None, HEADERS)

    def _send_malicious(self) -> None:
        rng = random.Random(0)  # noqa: S311
        while not self._over.wait(0.5):
            path, body, headers = hostile(rng, self._photo)
            self._ask("hostile", "POST", path, body, headers)

    def _stall(self) -> None:
        head = (
            b"POST /predict/ HTTP/1.1\r\nHost: x\r\nX-API-Key: %b\r\nContent-Length: 900000\r\n\r\n"
        )
        while not self._over.wait(1.0):
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", self._port), timeout=5) as sender:
                    sender.sendall(head % KEY.encode() + b"\xff\xd8")
                    self._over.wait(2.0)
                self.answers["stalled"] += 1

    def _ask(
        self, name: str, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> None:
        try:
            found = str(ask(self._port, method, path, body, headers).status)
        except ValueError:
            found = "200"  # a page or metrics: not JSON
        except OSError as error:
            found = type(error).__name__
        self.answers[f"{name} {found}"] += 1


def page_photo() -> bytes:
    """Return the photo as the page sends it: 1,024 px."""
    from PIL import Image

    image = Image.open(io.BytesIO(harness.photo(12)))
    image.thumbnail((1024, 1024))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def growth(read_mb: list[float]) -> dict[str, float]:
    """Compare the tenth after the warm-up with the last one, by their medians."""
    warm = read_mb[int(len(read_mb) * WARM_UP) :]
    tenth = max(1, len(read_mb) // 10)
    before, after = statistics.median(warm[:tenth]), statistics.median(warm[-tenth:])
    return {
        "after_warm_up": round(before, 1),
        "at_the_end": round(after, 1),
        "grown": round(after - before, 1),
        "most": round(max(read_mb), 1),
    }


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    ledger, photo = Ledger(), harness.photo(12)
    environment = {
        "API_KEYS": f"everything:{hashlib.sha256(KEY.encode()).hexdigest()}",
        "QUOTA": "1000000/minute",
        "WEBHOOK_SECRETS": SECRET,
        "WEBHOOK_LOOPBACK": "true",
        "DATA_DIR": str(folder),
        "CACHE_MB": "2",
    }
    used_mb: list[float] = []
    anonymous_mb: list[float] = []
    with (
        contextlib.closing(harness.Cgroup(options.limit_mb)) as group,
        harness.serving(["make", "--no-print-directory", "serve"], environment, group) as service,
    ):
        receiver = Receiver(ledger, 0)
        began = time.monotonic()
        load = Load(
            "all", service.port, [photo], receiver.url, ledger, 0, HEADERS, predicting=CLIENTS
        )
        others = Others(service.port, photo, page_photo(), options.hostile)
        while time.monotonic() < began + options.seconds:
            time.sleep(1.0)
            used_mb.append(service.pss_mb())
            anonymous_mb.append(group.anonymous_mb())
        others.end()
        load.end()
        end = time.monotonic() + 60
        while len(ledger.delivered) < len(ledger.accepted) and time.monotonic() < end:
            time.sleep(0.2)
        kills = group.kills()
    return {
        "limit_mb": options.limit_mb,
        "seconds": options.seconds,
        "killed": kills,
        **ledger.figures(),
        "others": dict(sorted(others.answers.items())),
        "pss_mb": growth(used_mb),
        "anonymous_mb": growth(anonymous_mb),
        "violations": ledger.verdict(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--limit-mb", type=float, default=96.0)
    parser.add_argument("--hostile", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(options, Path(folder))
    name = "everything-hostile" if options.hostile else "everything"
    harness.record(name, harness.installed("ai-edge-litert", "gunicorn", "pillow"), **figures)
    return int(bool(figures["violations"] or figures["killed"]))


if __name__ == "__main__":
    sys.exit(main())
