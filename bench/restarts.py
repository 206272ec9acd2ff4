"""Restarts by SIGTERM, reloads by HUP and killed workers, under 8 clients: what do they lose?

    .venv-dev/bin/python bench/restarts.py

Clients send real and drawn photos on persistent connections, wait for Retry-After and try again.
Restarts are of three kinds: `overlap`, the next service starts at another port and clients are sent
there a moment after the old one got SIGTERM, the worst case of a cloud; `passed`, the listening
socket outlives the service, as with systemd's socket activation; `plain`, the next one starts at
the same port after the old one has ended: connections in between are refused, and counted so.
Writes bench/results/restarts.json.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness

sys.path[:0] = [str(harness.ROOT / "tests")]

from support import load_clients

CALM_S = 0.5  # between two disturbances


def run_with_disturbances(
    place: load_clients.Place, times: int, disturb: Callable[[], None]
) -> load_clients.Crowd:
    """Run 8 clients while *disturb* is done so often."""
    photos = [(harness.ROOT / "examples/spot.jpg").read_bytes(), harness.photo(1)]
    clients = load_clients.Crowd(lambda: place.port, photos)
    with clients.running():
        time.sleep(CALM_S)
        for _ in range(times):
            disturb()
            time.sleep(CALM_S)
    place.close()
    return clients


def restarts(place: load_clients.Place, times: int, overlap: bool = False) -> dict[str, Any]:
    seen = run_with_disturbances(place, times, place.overlap if overlap else place.same_port)
    return {"restarts": times, **seen.counts, "failures": seen.failures()}


def reloads(log: Path, times: int) -> dict[str, Any]:
    place = load_clients.Place(log)

    def reload() -> None:
        before = place.workers()
        os.kill(place.process.pid, signal.SIGHUP)
        while not place.workers() or place.workers() & before:
            time.sleep(0.02)

    seen = run_with_disturbances(place, times, reload)
    return {"reloads": times, **seen.counts, "failures": seen.failures()}


def kills(log: Path, times: int) -> dict[str, Any]:
    place = load_clients.Place(log)
    back: list[float] = []
    photos = [(harness.ROOT / "examples/spot.jpg").read_bytes(), harness.photo(1)]
    seen = load_clients.Crowd(lambda: place.port, photos)
    with seen.running():
        time.sleep(CALM_S)
        for _ in range(times):
            for worker in place.workers():
                os.kill(worker, signal.SIGKILL)
            back.append(seen.back_after(time.monotonic()))
            time.sleep(CALM_S)
    place.close()
    back.sort()
    return {
        "kills": times,
        "clients": 8,
        **seen.counts,
        "failures": seen.failures(),
        "back_s": {"median": round(back[len(back) // 2], 3), "most": round(back[-1], 3)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--restarts", type=int, default=20)
    parser.add_argument("--reloads", type=int, default=5)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        figures = {
            "overlap": restarts(load_clients.Place(log), options.restarts, overlap=True),
            "passed": restarts(load_clients.Passed(log), options.restarts),
            "plain": restarts(load_clients.Place(log), options.restarts),
            "reload": reloads(log, options.reloads),
            "kill": kills(log, options.kills),
        }
    harness.record("restarts", harness.installed("ai-edge-litert", "gunicorn"), **figures)


if __name__ == "__main__":
    main()
