"""The cost of keys and quotas at start and when idle, beside the same service without them.

    .venv-dev/bin/python bench/guarded.py [--beside CHECKOUT]

Each is started anew, in turn: its idle memory, the time and the processor time until it has
answered a photo of 12 MP, and its memory then. CHECKOUT is an older one with its own .venv.
Writes bench/results/guarded.json.
"""

import argparse
import hashlib
import statistics
import time

import harness

KEY = "mk_bench"
PLAIN = {"CACHE_MB": "2"}  # the default, set explicitly: its digests load what keys need too
GUARDS = {
    **PLAIN,
    "API_KEYS": f"bench:{hashlib.sha256(KEY.encode()).hexdigest()}",
    "QUOTA": "1000/minute",
}
SERVE = "exec .venv/bin/python -m infra.serve"
SETTLE_S = 0.5


def once(folder: str, guards: dict[str, str], photo: bytes) -> dict[str, float]:
    """Start a service, let it idle, then ask it once; start another and ask at once."""
    command = ["sh", "-c", f"cd {folder} && {SERVE}"]
    with harness.serving(command, guards) as service:
        time.sleep(SETTLE_S)
        idle_mb = service.pss_mb()
    with harness.serving(command, guards) as service:
        status = service.call("POST", "/predict/", photo, **{"X-API-Key": KEY})
        first_s, cpu_s = time.perf_counter() - service.began, service.cpu_s()
        if status != 200:
            raise SystemExit(f"{folder}: the first photo was answered {status}")
        time.sleep(SETTLE_S)
        return {
            "idle_mb": idle_mb,
            "first_ms": first_s * 1e3,
            "cpu_ms": cpu_s * 1e3,
            "warm_mb": service.pss_mb(),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--beside", metavar="CHECKOUT", help="an older one, made by make serve")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    kinds = {"open": (".", PLAIN), "guarded": (".", GUARDS)}
    if options.beside:
        kinds["before"] = (options.beside, PLAIN)
    photo = harness.photo(12)
    runs = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, (folder, guards) in kinds.items():
            runs[name].append(once(folder, guards, photo))
    rows = {
        name: {
            figure: round(statistics.median(run[figure] for run in found), 1) for figure in found[0]
        }
        for name, found in runs.items()
    }
    ratios = {
        name: {figure: round(value / rows["open"][figure], 3) for figure, value in row.items()}
        for name, row in rows.items()
    }
    harness.record(
        "guarded",
        harness.installed("ai-edge-litert", "gunicorn", "pillow"),
        rounds=options.rounds,
        rows=rows,
        ratios=ratios,
    )


if __name__ == "__main__":
    main()
