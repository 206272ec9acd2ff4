"""Shared parts of the benches: a service as a process tree, its memory, a load, a memory limit."""

import contextlib
import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import psutil

MB = 2**20
ROOT = Path(__file__).resolve().parent.parent
ALONE = {"HOST": "127.0.0.1", "CACHE_MB": "0", "REDIS_URL": "", "DRAIN_S": "0"}


class Call(NamedTuple):
    """One request; *kind* is its Content-Type."""

    method: str
    path: str
    body: bytes | None = None
    kind: str = "image/jpeg"


class Load(NamedTuple):
    """Answers by status, and times in milliseconds."""

    answers: dict[str, int]
    p50_ms: float
    p99_ms: float
    per_s: float


class Service:
    """A server on a loopback port, with its processes."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, began: float) -> None:
        self.process, self.port, self.began = process, port, began

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str = "image/jpeg",
        **headers: str,
    ) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, {"Content-Type": kind, **headers})
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    def pids(self) -> list[int]:
        """Return the processes of its session that run Python."""
        found = []
        for each in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                program = Path(each.exe()).name
                if os.getsid(each.pid) == self.process.pid and program.startswith("python"):
                    found.append(each.pid)
        return found

    def cpu_s(self) -> float:
        """Return the processor time of all its processes so far, including ended ones."""
        total_s = 0.0
        for pid in self.pids():
            with contextlib.suppress(psutil.Error):
                total_s += sum(psutil.Process(pid).cpu_times()[:4])
        return total_s

    def pss_mb(self) -> float:
        """Return the proportional set size of all its processes."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(psutil.Error):
                total += psutil.Process(pid).memory_full_info().pss
        return total / 2**20


class Cgroup:
    """A memory limit and a share of the processors; v1 or v2, needs root."""

    def __init__(self, limit_mb: float, cpus: float | None = None) -> None:
        root, name = Path("/sys/fs/cgroup"), f"macule-bench-{uuid.uuid4().hex[:8]}"
        self.v1 = (root / "memory").is_dir()
        self.folder = (root / "memory" if self.v1 else root) / name
        self.folders = [self.folder]
        if cpus and self.v1:
            self.folders.append(root / "cpu" / name)
        for folder in self.folders:
            folder.mkdir()
        limit = "memory.limit_in_bytes" if self.v1 else "memory.max"
        (self.folder / limit).write_text(str(int(limit_mb * MB)))
        if cpus:
            quota = str(int(cpus * 100_000))
            file, text = ("cpu.cfs_quota_us", quota) if self.v1 else ("cpu.max", f"{quota} 100000")
            (self.folders[-1] / file).write_text(text)

    def join(self) -> None:
        for folder in self.folders:
            (folder / "cgroup.procs").write_text(str(os.getpid()))

    def kills(self) -> int:
        file = self.folder / ("memory.oom_control" if self.v1 else "memory.events")
        rows = dict(row.split() for row in file.read_text().splitlines())
        return int(rows.get("oom_kill", 0))

    def peak_mb(self) -> float:
        file = self.folder / ("memory.max_usage_in_bytes" if self.v1 else "memory.peak")
        return int(file.read_text()) / MB

    def anonymous_mb(self) -> float:
        """Return anonymous memory: unlike a PSS, it does not change when other services end."""
        rows = dict(row.split() for row in (self.folder / "memory.stat").read_text().splitlines())
        return int(rows["total_rss" if self.v1 else "anon"]) / MB

    def close(self) -> None:
        for folder in self.folders:
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def limited(limit_mb: float | None, cpus: float | None = None) -> Iterator[Cgroup | None]:
    """Create a cgroup for the time of a bench; None without a limit."""
    group = Cgroup(limit_mb, cpus) if limit_mb else None
    try:
        yield group
    finally:
        if group:
            group.close()


@contextlib.contextmanager
def serving(
    command: Sequence[str], environment: Mapping[str, str], group: Cgroup | None = None
) -> Iterator[Service]:
    """Start a server with PORT set, wait until it answers, end it.

    Its cache is off unless *environment* says otherwise: benches repeat the same photo.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            [word.format(port=port) for word in command],
            cwd=ROOT,
            env={**os.environ, **ALONE, "PORT": str(port), **environment},
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=group.join if group else None,
        )
        service = Service(process, port, began)
        try:
            while process.poll() is None and time.perf_counter() - began < 120:
                with contextlib.suppress(OSError):
                    if service.call("GET", "/health/") == 200:
                        break
                time.sleep(0.005)
            yield service
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def drive(service: Service, calls: Sequence[Call], clients: int) -> Load:
    """Make *calls* by *clients* at once; failures are counted by name."""

    def one(call: Call) -> tuple[str, float]:
        began = time.perf_counter()
        try:
            status = str(service.call(*call))
        except (OSError, http.client.HTTPException) as error:
            status = type(error).__name__
        return status, (time.perf_counter() - began) * 1e3

    began = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        done = list(pool.map(one, calls))
    spent = time.perf_counter() - began
    times = sorted(ms for _, ms in done)
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    return Load(
        dict(Counter(status for status, _ in done)),
        statistics.median(times),
        p99,
        len(calls) / spent,
    )


def record(name: str, versions: Mapping[str, str], **figures: Any) -> dict[str, Any]:
    """Write figures to bench/results, with the command, the day and the versions; print them.

    Of an absolute path in the command only the name is written: the rest is about this machine.
    """
    words = [Path(word).name if os.path.isabs(word) else word for word in sys.argv[1:]]
    results = {
        "command": " ".join([f"bench/{Path(sys.argv[0]).name}", *words]),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": dict(versions),
        **figures,
    }
    text = json.dumps(results, indent=2) + "\n"
    (ROOT / f"bench/results/{name}.json").write_text(text)
    print(text, end="")
    return results


def installed(*packages: str) -> dict[str, str]:
    """Return the versions of the packages beside the bench."""
    return {package: version(package) for package in packages}


def photo(megapixels: int = 12) -> bytes:
    """Draw a JPEG as large as a phone's: smooth skin with grain and a spot."""
    import io

    import numpy as np
    from PIL import Image, ImageDraw

    height = int((megapixels * 1e6 * 3 / 4) ** 0.5)
    width = height * 4 // 3
    grain = np.random.default_rng(megapixels).normal(0, 11, (height // 4, width // 4, 1))
    base = np.clip(np.array([215, 170, 145]) + grain, 0, 255).astype(np.uint8)
    image = Image.fromarray(base).resize((width, height), Image.Resampling.BICUBIC)
    box = (width * 0.42, height * 0.4, width * 0.58, height * 0.6)
    ImageDraw.Draw(image).ellipse(box, fill=(92, 60, 48))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()
