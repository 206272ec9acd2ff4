"""Find the smallest instance that is enough for a model, by running the real service under limits.

    .venv-dev/bin/python bench/fit.py --model DIR --cpus 1 0.1

For each share of the processors memory falls step by step until a request fails, a process is
killed, or the p99 is too long. The cache is off (CACHE_MB=0). Needs root and a memory cgroup;
without them it measures the peak instead. Writes bench/results/fit.json and docs/fit.svg.
"""

import argparse
import os
import time
from typing import Any

import harness
from harness import Call

PLOT = harness.ROOT / "docs/fit.svg"
LIMITS_MB = (512, 256, 192, 160, 144, 128, 112, 96, 80, 72, 64, 60, 56, 52, 48, 44)
SERVE = ["make", "--no-print-directory", "serve"]


def attempt(
    environment: dict[str, str],
    limit_mb: float | None,
    cpus: float,
    calls: list[Call],
    clients: int,
) -> dict[str, Any]:
    """Start the service under a limit and drive it."""
    with (
        harness.limited(limit_mb, cpus) as group,
        harness.serving(SERVE, environment, group) as service,
    ):
        try:
            first = service.call(*calls[0])
        except OSError:
            first = 0
        cold_s = time.perf_counter() - service.began
        load = harness.drive(service, calls, clients) if first == 200 else None
        return {
            "limit_mb": limit_mb,
            "cpus": cpus,
            "cold_start_s": round(cold_s, 2),
            "answers": load.answers if load else {str(first): 1},
            "p50_ms": round(load.p50_ms, 1) if load else None,
            "p99_ms": round(load.p99_ms, 1) if load else None,
            "per_s": round(load.per_s, 1) if load else None,
            "peak_mb": round(group.peak_mb() if group else service.pss_mb(), 1),
            "kills": group.kills() if group else 0,
        }


def holds(row: dict[str, Any], most_ms: float) -> bool:
    """Return whether all requests were answered in time and nothing was killed."""
    return set(row["answers"]) == {"200"} and not row["kills"] and row["p99_ms"] <= most_ms


def descend(
    environment: dict[str, str], cpus: float, calls: list[Call], clients: int, most_ms: float
) -> list[dict[str, Any]]:
    """Lower the limit until it is not enough; the last row is the one that failed."""
    rows: list[dict[str, Any]] = []
    for limit_mb in LIMITS_MB:
        row = attempt(environment, limit_mb, cpus, calls, clients)
        row["holds"] = holds(row, most_ms)
        rows.append(row)
        print(line(row), flush=True)
        if not row["holds"]:
            break
    return rows


def line(row: dict[str, Any]) -> str:
    limit = f"{row['limit_mb']:>4} MB" if row["limit_mb"] else "no limit"
    verdict = "holds" if row["holds"] else "fails"
    return (
        f"{limit}, {row['cpus']:g} CPU: {verdict}, first answer after {row['cold_start_s']} s, "
        f"{row['answers']}, p99 {row['p99_ms']} ms, {row['per_s']}/s, peak {row['peak_mb']} MB"
    )


def plot(rows: list[dict[str, Any]]) -> None:
    """Plot the p99 against the limit."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"svg.hashsalt": "fit", "svg.fonttype": "none", "font.size": 11}):
        figure = Figure((6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for cpus, marker in zip(sorted({row["cpus"] for row in rows}), "osD^v", strict=False):
            part = [row for row in rows if row["cpus"] == cpus and row["p99_ms"]]
            x, y = [row["limit_mb"] for row in part], [row["p99_ms"] for row in part]
            axes.plot(x, y, f"{marker}-", label=f"{cpus:g} CPU")
            failed = [row for row in part if not row["holds"]]
            axes.plot(
                [row["limit_mb"] for row in failed], [row["p99_ms"] for row in failed], "rx", ms=12
            )
        axes.set(xscale="log", yscale="log", xlabel="memory limit, MB", ylabel="p99, ms")
        axes.set_xticks(LIMITS_MB[::2], [str(limit) for limit in LIMITS_MB[::2]])
        axes.minorticks_off()
        axes.legend(frameon=False)
        figure.savefig(PLOT, metadata={"Date": None, "Creator": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--model", metavar="DIR", help="default: the model in use")
    parser.add_argument("--cpus", type=float, nargs="+", default=[1.0, 0.1])
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument(
        "--photos", type=int, nargs="+", default=[12, 1], help="megapixels, in turn"
    )
    parser.add_argument("--p99-s", type=float, default=20.0, help="the slowest hundredth may take")
    options = parser.parse_args()
    environment = {"MODEL_DIR": os.path.abspath(options.model)} if options.model else {}
    photos = [harness.photo(megapixels) for megapixels in options.photos]
    calls = [
        Call("POST", "/predict/", photos[place % len(photos)]) for place in range(options.requests)
    ]
    attempt(environment, None, 0, calls[:4], 1)  # everything installed, files warm
    try:
        harness.Cgroup(512).close()
    except OSError as error:
        print(f"No cgroup can be made here ({error.strerror}): measured without a limit.")
        row = attempt(environment, None, 0, calls, options.clients)
        print(line(row | {"holds": holds(row, options.p99_s * 1e3)}))
        return
    rows = [
        row
        for cpus in options.cpus
        for row in descend(environment, cpus, calls, options.clients, options.p99_s * 1e3)
    ]
    least = {
        f"{cpus:g}": min(
            (row["limit_mb"] for row in rows if row["cpus"] == cpus and row["holds"]), default=None
        )
        for cpus in options.cpus
    }
    harness.record(
        "fit",
        harness.installed("ai-edge-litert", "gunicorn", "pillow"),
        least_mb_by_cpus=least,
        rows=rows,
    )
    plot(rows)
    for cpus, limit_mb in least.items():
        found = f"infra/limits.toml may say memory_mb = {limit_mb}" if limit_mb else "nothing holds"
        print(f"{cpus} CPU: {found}")


if __name__ == "__main__":
    main()
