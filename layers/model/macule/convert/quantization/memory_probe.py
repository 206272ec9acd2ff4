"""Measure load time, latency and peak memory of a LiteRT file in this process.

`python -m macule.convert.quantization.memory_probe FILE` writes JSON. It imports only the runtime,
so the peak is that of the file.
"""

import json
import os
import statistics
import sys
import time
from typing import Any

from macule.inference.runtime import litert
from macule.inference.runtime.litert import Session
from macule.memory import allocator, budget, processes

RUNS = 15
MAX_TOTAL_S = 5.0  # slow networks get fewer runs
THREADS = (1, 2)


def probe(path: str) -> dict[str, Any]:
    """Load and run the file at *path*.

    Returns: `load_ms`, `p50_ms` by number of threads, and `peak_mb` of this process with one
      thread, including imports.
    """
    allocator.configure()
    litert.library()  # so that load_ms does not include it
    p50_ms, load_ms, peak_mb = {}, 0.0, 0.0
    for threads in THREADS:
        start = time.perf_counter()
        session = Session(litert.map_file(path), threads)
        if threads == 1:
            load_ms = (time.perf_counter() - start) * 1e3
        p50_ms[threads] = median_latency_ms(session)
        if threads == 1:
            # rusage is not used: for a child it starts with the peak of its parent
            peak_mb = processes.usage([os.getpid()]).peak / budget.MB
        del session
    return {"load_ms": load_ms, "p50_ms": p50_ms, "peak_mb": peak_mb}


def median_latency_ms(session: Session) -> float:
    """Return the median of several runs in milliseconds, without the first one."""
    zeros = bytes(session.inputs[0].bytes)
    session.run(zeros)
    durations: list[float] = []
    while len(durations) < RUNS and (sum(durations) < MAX_TOTAL_S or not durations):
        start = time.perf_counter()
        session.run(zeros)
        durations.append(time.perf_counter() - start)
    return statistics.median(durations) * 1e3


if __name__ == "__main__":
    json.dump(probe(sys.argv[1]), sys.stdout)
