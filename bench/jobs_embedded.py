"""1,000 predictions on the embedded queue with ten kills of its worker: what is lost?"""

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import harness

SERVE = ["make", "--no-print-directory", "serve"]


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, {"Content-Type": "image/jpeg"} if body else {})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def ask_until_answered(port: int, method: str, path: str, body: bytes | None = None) -> dict:
    """Ask until it is answered: the service may be down, or its queue full."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            status, document = ask(port, method, path, body)
            if status < 500:
                return document
        except (OSError, http.client.HTTPException, ValueError):
            pass
        time.sleep(0.05)
    raise TimeoutError(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=10)
    options = parser.parse_args()
    photos = [harness.photo(megapixels) for megapixels in (1, 2, 3, 12)]
    kills, over = 0, threading.Event()
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(tempfile.TemporaryDirectory())
        settings = {"DATA_DIR": data, "MAX_JOBS": "2000"}
        service = stack.enter_context(harness.serving(SERVE, settings))
        port = service.port

        def killer() -> None:
            nonlocal kills
            while kills < options.kills and not over.wait(random.uniform(1, 3)):  # noqa: S311
                os.kill(max(service.pids()), signal.SIGKILL)  # the youngest is the worker
                kills += 1

        began = time.perf_counter()
        thread = threading.Thread(target=killer)
        thread.start()

        def make(number: int) -> str:
            return ask_until_answered(port, "POST", "/predictions", photos[number % len(photos)])[
                "id"
            ]

        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(make, range(options.jobs)))
        put_s = time.perf_counter() - began
        done = {}
        for job_id in made:
            while (
                document := ask_until_answered(port, "GET", f"/predictions/{job_id}")
            ) and document["status"] in ("starting", "processing"):
                time.sleep(0.05)
            done[job_id] = document["status"]
        took_s = time.perf_counter() - began
        over.set()
        thread.join()
        after_mb = service.pss_mb()
    statuses = list(done.values())
    harness.record(
        "jobs-embedded",
        harness.installed("ai-edge-litert", "gunicorn", "pillow"),
        jobs=options.jobs,
        kills=kills,
        ended={status: statuses.count(status) for status in set(statuses)},
        lost=options.jobs - len(done),
        put_s=round(put_s, 1),
        took_s=round(took_s, 1),
        pss_mb=round(after_mb, 1),
    )


if __name__ == "__main__":
    main()
