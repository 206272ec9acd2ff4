"""The service's metrics and their Prometheus text format."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from macule.observability.shared_counters import SharedCounters

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "macule_"  # of counted metrics; left out of keys
SEPARATOR = "\x1f"  # of the parts of a key
ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
SUM = "sum"
STAGES = frozenset({"wait", "read", "decode", "infer", "explain"})
FAST_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SLOW_BOUNDS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Family(NamedTuple):
    """One metric.

    `bounds`: upper bounds of a histogram's buckets, in seconds. `initial`: label values that are
    exported as 0 from the start, because Prometheus misses the increase of a counter that starts
    at 1.
    """

    kind: str
    help_text: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    initial: tuple[tuple[str, ...], ...] = ()


# All metrics; docs/api.md has the same table. No label value is caller-supplied text.
FAMILIES = {
    "macule_requests_total": Family("counter", "Requests answered.", ("route", "method", "status")),
    "macule_request_seconds": Family(
        "histogram", "Time from request headers to response.", ("route",), FAST_BOUNDS_S
    ),
    "macule_refusals_total": Family("counter", "Problem documents, by slug.", ("slug",)),
    "macule_stage_seconds": Family(
        "histogram", "Time of each stage of a prediction.", ("stage",), FAST_BOUNDS_S
    ),
    "macule_received_bytes_total": Family("counter", "Bytes of request bodies read."),
    "macule_cache_answers_total": Family("counter", "Predictions, by cache outcome.", ("outcome",)),
    "macule_cache_bytes": Family("gauge", "Cached answers in the memory of all processes."),
    "macule_memory_pss_bytes": Family(
        "gauge", "Memory of all processes; shared pages counted once."
    ),
    "macule_memory_rss_bytes": Family(
        "gauge", "Memory of all processes; shared pages counted in each."
    ),
    "macule_memory_unreclaimable_bytes": Family("gauge", "Memory that the kernel cannot reclaim."),
    "macule_memory_limit_bytes": Family("gauge", "The lowest memory limit."),
    "macule_memory_headroom_bytes": Family("gauge", "Memory left for images."),
    "macule_memory_held_bytes": Family(
        "gauge", "Memory reserved for images being read or decoded."
    ),
    "macule_memory_band": Family("gauge", "1 for the current memory band.", ("band",)),
    "macule_processes": Family("gauge", "Processes of the service."),
    "macule_slots": Family("gauge", "Images that one process handles at once."),
    "macule_images_admitted": Family("gauge", "Images being processed."),
    "macule_images_waiting": Family("gauge", "Images that wait for a slot or for memory."),
    "macule_ladder_steps_total": Family("counter", "Changes to each degradation level.", ("rung",)),
    "macule_recycles_total": Family("counter", "Workers replaced because their memory grew."),
    "macule_cold_start_seconds": Family("histogram", "Time to load a model.", (), SLOW_BOUNDS_S),
    "macule_models_loaded": Family("gauge", "Processes with a loaded model."),
    "macule_model_info": Family(
        "gauge",
        "1 for the model of the responding process.",
        ("name", "version", "sha256", "precision"),
    ),
    "macule_jobs_waiting": Family("gauge", "Predictions of POST /predictions that have not ended."),
    "macule_jobs_limit": Family("gauge", "MAX_JOBS: the most jobs that may wait."),
    "macule_jobs_held_bytes": Family(
        "gauge", "Stored images, outcomes and webhooks, and space reserved for outcomes."
    ),
    "macule_jobs_limit_bytes": Family("gauge", "MAX_JOBS_MB: the most bytes that jobs may take."),
    "macule_jobs_total": Family(
        "counter",
        "Jobs that ended; failed jobs by the slug of their problem.",
        ("status", "slug"),
        initial=(("succeeded", ""), ("failed", "internal"), ("failed", "worker-died")),
    ),
    "macule_webhooks_waiting": Family("gauge", "Webhooks not yet delivered."),
    "macule_webhooks_total": Family(
        "counter",
        "Webhooks delivered or given up.",
        ("outcome",),
        initial=(("delivered",), ("given_up",)),
    ),
    "macule_worker_alive": Family(
        "gauge", "1 while the worker takes jobs; only from `macule worker`."
    ),
    "macule_log_lines_lost_total": Family("counter", "Log lines that could not be written."),
    "macule_build_info": Family("gauge", "1 for the running version.", ("version",)),
    "process_start_time_seconds": Family("gauge", "When the service started, since 1970."),
}
Values = Mapping[tuple[str, ...], float]


process_counters: list[SharedCounters] = []


def counters(workers: int = 1, file: int | None = None) -> SharedCounters:
    """Return the counters of this process and its forks; opened at the first call, before any fork.

    Has rows for twice the workers, because old and new workers overlap during a replacement.
    *file*: see SharedCounters.
    """
    if not process_counters:
        process_counters.append(SharedCounters(2 * workers + 2, file))
    return process_counters[0]


def add(name: str, *labels: str, amount: float = 1.0) -> None:
    counters().add((_key(name, *labels), amount))


def observe(name: str, seconds: float, *labels: str) -> None:
    """Add an observation to a histogram."""
    key, bucket = _key(name, *labels), bisect_left(FAMILIES[name].bounds, seconds)
    counters().add((f"{key}{SEPARATOR}{bucket}", 1.0), (f"{key}{SEPARATOR}{SUM}", seconds))


def register_gauge(name: str, measure: Callable[[], float]) -> None:
    """Register a gauge of this process, measured after each request and summed over processes."""
    counters().register_gauge(_key(name), measure)


def text(measured: Mapping[str, Values]) -> str:
    """Return all metrics in Prometheus's text format, version 0.0.4.

    *measured*: gauges of the whole service, by label values; empty if unknown.
    """
    counters().refresh()
    found: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in FAMILIES}
    for key, value in counters().sums().items():
        name, *labels = key.split(SEPARATOR)
        if PREFIX + name in found:
            found[PREFIX + name][tuple(labels)] = value
    lines = []
    for name, family in FAMILIES.items():
        values = {**dict.fromkeys(family.initial, 0.0), **found[name], **measured.get(name, {})}
        if not family.labels and name not in measured:
            values.setdefault((SUM,) if family.bounds else (), 0.0)
        lines += [f"# HELP {name} {family.help_text}", f"# TYPE {name} {family.kind}"]
        samples = _histogram_samples if family.bounds else _plain_samples
        lines += samples(name, family, values)
    return "\n".join([*lines, ""])


def _key(*parts: str) -> str:
    return SEPARATOR.join(parts).removeprefix(PREFIX)


def _plain_samples(name: str, family: Family, values: Values) -> Iterator[str]:
    for labels, value in sorted(values.items()):
        yield _sample(name, zip(family.labels, labels, strict=True), value)


def _histogram_samples(name: str, family: Family, values: Values) -> Iterator[str]:
    for labels in sorted({key[:-1] for key in values}):
        pairs, count = list(zip(family.labels, labels, strict=True)), 0.0
        for index, bound in enumerate((*family.bounds, math.inf)):
            count += values.get((*labels, str(index)), 0.0)
            le = "+Inf" if bound == math.inf else f"{bound:g}"
            yield _sample(f"{name}_bucket", [*pairs, ("le", le)], count)
        yield _sample(f"{name}_sum", pairs, values.get((*labels, SUM), 0.0))
        yield _sample(f"{name}_count", pairs, count)


def _sample(name: str, pairs: Iterable[tuple[str, str]], value: float) -> str:
    inside = ",".join(f'{label}="{text.translate(ESCAPES)}"' for label, text in pairs)
    number = f"{value:.0f}" if float(value).is_integer() else repr(value)
    return f"{name}{{{inside}}} {number}" if inside else f"{name} {number}"
