"""Run one LiteRT file in this process, as serving does, and write its figures as JSON.

`python -m macule.convert.quantization.memory_probe FILE` imports numpy and the runtime, nothing else: the peak is the
file's.
"""

import json
import os
import statistics
import sys
import time
from typing import Any

from macule.memory import allocator, budget, processes

RUNS = 15
MAX_TOTAL_S = 5.0  # a network of a second an image is timed on few runs
THREADS = (1, 2)


def probe(path: str) -> dict[str, Any]:
    """Load and run the file at *path*.

    Returns: `load_ms` (file to ready), `p50_ms` by number of threads, `peak_mb` of this process
      with one thread, imports included.
    """
    allocator.configure()
    import ai_edge_litert.interpreter  # noqa: F401, before the clock starts: imports are not load

    p50_ms, load_ms, peak_mb = {}, 0.0, 0.0
    for threads in THREADS:
        began = time.perf_counter()
        interpreter = load_interpreter(path, threads)
        if threads == 1:
            load_ms = (time.perf_counter() - began) * 1e3
        p50_ms[threads] = median_latency_ms(interpreter)
        if threads == 1:
            # not rusage's figure: a child's begins with the peak of the parent that forked it
            peak_mb = processes.usage([os.getpid()]).peak / budget.MB
        del interpreter
    return {"load_ms": load_ms, "p50_ms": p50_ms, "peak_mb": peak_mb}


def load_interpreter(path: str, threads: int) -> Any:
    """Map the file and make it ready, its input full of zeros."""
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=path, num_threads=threads)
    interpreter.allocate_tensors()
    source = interpreter.get_input_details()[0]
    interpreter.set_tensor(source["index"], np.zeros(source["shape"], source["dtype"]))
    return interpreter


def median_latency_ms(interpreter: Any) -> float:
    """Median of a few runs in milliseconds; the first, which warms the caches, is left out."""
    interpreter.invoke()
    taken: list[float] = []
    while len(taken) < RUNS and (sum(taken) < MAX_TOTAL_S or not taken):
        began = time.perf_counter()
        interpreter.invoke()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e3


if __name__ == "__main__":
    json.dump(probe(sys.argv[1]), sys.stdout)
