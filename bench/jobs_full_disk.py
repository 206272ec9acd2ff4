"""10,000 predictions with maps offered to a queue on a small disk, which others fill meanwhile.

    .venv-dev/bin/python bench/jobs_full_disk.py

Needs root, for its own tmpfs. Clients do not retry: each job is accepted or rejected. Once in
between another process fills the disk and the worker is killed. Writes
bench/results/jobs-full-disk.json.
"""

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import harness

sys.path[:0] = [str(harness.ROOT / "tests")]
from jobs_embedded import ask
from support.mounts import fill

DISK_MB = 24
TTL_S = 20  # so that results expire during the run; each is read before


def offer(port: int, photo: bytes) -> tuple[str, str]:
    """Return the status and slug of one offer, and the id if it was accepted."""
    with contextlib.suppress(OSError):
        status, answer = ask(port, "POST", "/predictions?explain=cam", photo)
        slug = answer.get("type", "").rpartition(":")[2]
        return f"{status} {slug}".strip(), answer["id"] if status == 202 else ""
    return "no answer", ""


def end(port: int, job_id: str) -> str:
    """Poll until a job has ended; `stuck` after two minutes, `unread` if it expired before."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError):
            status, answer = ask(port, "GET", f"/predictions/{job_id}")
            if status == 410:
                return "unread"
            if answer["status"] in ("succeeded", "failed", "canceled"):
                return str(answer["status"])
        time.sleep(0.1)
    return "stuck"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--jobs", type=int, default=10_000)
    options = parser.parse_args()
    photos = [harness.photo(megapixels) for megapixels in (1, 2)]
    slugs: Counter[str] = Counter()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        mount = f"mount -t tmpfs -o size={DISK_MB}m tmpfs {folder}"
        serve = "exec .venv/bin/python -m infra.serve"
        settings = {"DATA_DIR": folder, "JOB_TTL_S": str(TTL_S)}
        command = ["unshare", "-m", "sh", "-c", f"{mount} && {serve}"]
        service = stack.enter_context(harness.serving(command, settings))
        readers = stack.enter_context(ThreadPoolExecutor(64))
        ends = []

        def fill_and_kill() -> None:
            """Fill the disk, kill the worker, and free the space after a while."""
            filler = Path(f"/proc/{service.process.pid}/root{folder}/filler")
            fill(filler)
            os.kill(max(service.pids()), signal.SIGKILL)  # the youngest is the worker
            time.sleep(10)
            filler.unlink()

        thread = threading.Thread(target=fill_and_kill)
        for number in range(options.jobs):
            if number == options.jobs // 2:
                thread.start()
            answer, job_id = offer(service.port, photos[number % 2])
            slugs[answer] += 1
            if job_id:
                ends.append(readers.submit(end, service.port, job_id))
        thread.join()
        ended = Counter(future.result() for future in ends)
    harness.record(
        "jobs-full-disk",
        harness.installed("ai-edge-litert", "gunicorn", "pillow"),
        jobs=options.jobs,
        disk_mb=DISK_MB,
        offers=dict(slugs),
        ended=dict(ended),
        stuck=ended["stuck"],
        took_s=round(time.perf_counter() - began, 1),
    )


if __name__ == "__main__":
    main()
