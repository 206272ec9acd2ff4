"""Monthly costs of the limits in limits.toml, by measured times: a table for docs/deploy.md.

`python -m infra.costs`. Each request is a 12 MP photo, day and night; outgoing traffic is excluded.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from infra import limits, platforms

RESULTS = Path(__file__).resolve().parent.parent / "bench/results"
MONTH_S = 365.25 / 12 * 86400
RATES = (0, 1, 10, 100)  # requests a second
BUSY = 0.7  # planned utilisation of an instance


class Times(NamedTuple):
    """Seconds for a 12 MP photo: of one processor, and of a warm Lambda with that memory."""

    cpu_s: float
    lambda_s: float


def measured(memory_mb: int) -> Times:
    """Read the times from the results of the benches.

    Raises: ValueError if no Lambda with that memory was measured.
    """
    beside = json.loads((RESULTS / "side-by-side.json").read_text())
    cpu_s = beside["services"]["macule"]["ms_a_photo"] / 1e3 * beside["cpus"]
    for row in json.loads((RESULTS / "lambda-start.json").read_text())["rows"]:
        if row["limit_mb"] == memory_mb and row["cpus"]:
            return Times(cpu_s, row["warm_s"])
    raise ValueError(f"run bench/lambda_start.py --limit-mb {memory_mb} first")


def render(per_s: float, times: Times, function: limits.Function) -> str:
    """Return the cheapest plan with the memory, and the number of instances."""
    best = ("", math.inf)
    for plan, month in platforms.RENDER_MONTH.items():
        memory_mb, cpu = platforms.RENDER_PLANS[plan]
        if memory_mb < function.memory_mb:
            continue
        count = max(1, math.ceil(per_s * times.cpu_s / (cpu * BUSY)))
        if (plan != "free" or count == 1) and count * month < best[1]:
            best = (f"{count} {plan}", count * month)
    return f"{_dollars(best[1])} ({best[0]})" if best[0] else "see its plans"


def cloud_run(per_s: float, times: Times, function: limits.Function) -> str:
    """Return the price of the time that instances are busy: concurrent requests share it."""
    alone_s = max(times.cpu_s / function.cpu, platforms.CLOUD_RUN_ROUND_S)
    busy = max(per_s * times.cpu_s / (function.cpu * BUSY), min(1.0, per_s * alone_s))
    seconds = busy * MONTH_S
    vcpu_s = max(0, seconds * function.cpu - platforms.CLOUD_RUN_FREE_VCPU_S)
    gib_s = max(0, seconds * function.memory_mb / 1024 - platforms.CLOUD_RUN_FREE_GIB_S)
    millions = max(0, per_s * MONTH_S / 1e6 - platforms.CLOUD_RUN_FREE_MILLIONS)
    return _dollars(
        vcpu_s * platforms.CLOUD_RUN_VCPU_S
        + gib_s * platforms.CLOUD_RUN_GIB_S
        + millions * platforms.CLOUD_RUN_MILLION
    )


def aws(per_s: float, times: Times, function: limits.Function) -> str:
    """Return the price of each request's own time."""
    requests = per_s * MONTH_S
    gb_s = requests * times.lambda_s * function.memory_mb / 1024
    millions = max(0, requests / 1e6 - platforms.LAMBDA_FREE_MILLIONS)
    paid_gb_s = max(0, gb_s - platforms.LAMBDA_FREE_GB_S)
    return _dollars(paid_gb_s * platforms.LAMBDA_GB_S + millions * platforms.LAMBDA_MILLION)


def lines(predict: limits.Function) -> Iterator[str]:
    """Return the table: a row for each rate."""
    times = measured(predict.memory_mb)
    cpu, memory = f"{predict.cpu:g} processor", f"{predict.memory_mb} MB"
    yield f"| requests a second | Render | Cloud Run functions, {cpu} | Lambda, {memory} |"
    yield "|---|---|---|---|"
    for rate in RATES:
        month = (
            render(rate, times, predict),
            cloud_run(rate, times, predict),
            aws(rate, times, predict),
        )
        yield f"| {rate or 'none'} | {' | '.join(month)} |"


def _dollars(amount: float) -> str:
    return f"${amount:,.0f}"


if __name__ == "__main__":
    print("\n".join(lines(limits.read().predict)))
