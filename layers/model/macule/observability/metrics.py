"""What is counted and measured of the service, and Prometheus's text of it."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from macule.observability.shared_counters import Cells

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "macule_"  # of what is counted; no key has it
BETWEEN = "\x1f"  # the parts of a key
ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})
SUM = "sum"
STAGES = frozenset({"wait", "read", "decode", "infer", "explain"})
MS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Family(NamedTuple):
    """One metric.

    `bounds` are those of a histogram's buckets, in seconds. `known` are values of its labels that
    are 0 from the start: Prometheus does not see the step of a counter that begins at 1.
    """

    kind: str
    text: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    known: tuple[tuple[str, ...], ...] = ()


# Every metric there is; docs/api.md has the same table. No label takes a caller's words.
FAMILIES = {
    "macule_requests_total": Family("counter", "Requests answered.", ("route", "method", "status")),
    "macule_request_seconds": Family(
        "histogram", "From a request's head to its answer.", ("route",), MS
    ),
    "macule_refusals_total": Family("counter", "Problem documents, by their slug.", ("slug",)),
    "macule_stage_seconds": Family("histogram", "What parts of the work took.", ("stage",), MS),
    "macule_received_bytes_total": Family("counter", "Bytes of bodies that were read."),
    "macule_cache_answers_total": Family(
        "counter", "Predictions, by whether their answer was kept.", ("outcome",)
    ),
    "macule_cache_bytes": Family("gauge", "Answers kept in the processes' memory."),
    "macule_memory_pss_bytes": Family("gauge", "Memory of all processes, what is shared once."),
    "macule_memory_rss_bytes": Family(
        "gauge", "Memory of all processes, what is shared each time."
    ),
    "macule_memory_unreclaimable_bytes": Family("gauge", "What counts against the limit for good."),
    "macule_memory_limit_bytes": Family("gauge", "The tightest limit."),
    "macule_memory_headroom_bytes": Family("gauge", "What is left for images."),
    "macule_memory_held_bytes": Family("gauge", "Promised to images being read or decoded."),
    "macule_memory_band": Family("gauge", "1 for the band that memory is in.", ("band",)),
    "macule_processes": Family("gauge", "Processes of the service."),
    "macule_slots": Family("gauge", "Images that one process works on at once."),
    "macule_images_admitted": Family("gauge", "Images being worked on."),
    "macule_images_waiting": Family("gauge", "Images that wait for a turn or for memory."),
    "macule_ladder_steps_total": Family(
        "counter", "Steps to each rung of what memory allows.", ("rung",)
    ),
    "macule_recycles_total": Family("counter", "Workers replaced because they were worn."),
    "macule_cold_start_seconds": Family("histogram", "What loading a model took.", (), S),
    "macule_models_loaded": Family("gauge", "Processes that have a model loaded."),
    "macule_model_info": Family(
        "gauge",
        "1 for the model of the process that answers.",
        ("name", "version", "sha256", "precision"),
    ),
    "macule_jobs_waiting": Family("gauge", "Predictions of POST /predictions that have not ended."),
    "macule_jobs_limit": Family("gauge", "MAX_JOBS: with so many waiting the next is refused."),
    "macule_jobs_held_bytes": Family(
        "gauge", "Images, outcomes and webhooks that are kept, and the room to finish."
    ),
    "macule_jobs_limit_bytes": Family("gauge", "What they may take: MAX_JOBS_MB."),
    "macule_jobs_total": Family(
        "counter",
        "Those that ended; failed ones by the slug of their problem.",
        ("status", "slug"),
        known=(("succeeded", ""), ("failed", "internal"), ("failed", "worker-died")),
    ),
    "macule_webhooks_waiting": Family("gauge", "Webhooks to be delivered yet."),
    "macule_webhooks_total": Family(
        "counter",
        "Webhooks that are over.",
        ("outcome",),
        known=(("delivered",), ("given_up",)),
    ),
    "macule_worker_alive": Family(
        "gauge", "1 while a worker takes jobs; of `macule worker` alone."
    ),
    "macule_log_lines_lost_total": Family("counter", "Lines that the log did not take."),
    "macule_build_info": Family("gauge", "1 for what serves.", ("version",)),
    "process_start_time_seconds": Family("gauge", "When the service started, since 1970."),
}
Values = Mapping[tuple[str, ...], float]


_opened: list[Cells] = []


def share(workers: int = 1, file: int | None = None) -> Cells:
    """Return what this process and its forks count in; opened at the first call, before any fork.

    There is room for as many processes again: those that end, beside those that take their place.
    *file*: as Cells has it.
    """
    if not _opened:
        _opened.append(Cells(2 * workers + 2, file))
    return _opened[0]


def add(name: str, *labels: str, amount: float = 1.0) -> None:
    """Count."""
    share().add((_key(name, *labels), amount))


def observe(name: str, seconds: float, *labels: str) -> None:
    """Add to a histogram."""
    key, bucket = _key(name, *labels), bisect_left(FAMILIES[name].bounds, seconds)
    share().add((f"{key}{BETWEEN}{bucket}", 1.0), (f"{key}{BETWEEN}{SUM}", seconds))


def live(name: str, measure: Callable[[], float]) -> None:
    """Have a gauge of this process measured after each request; the service's is their sum."""
    share().live(_key(name), measure)


def text(measured: Mapping[str, Values]) -> str:
    """Write all there is in Prometheus's text format, version 0.0.4.

    *measured*: gauges of the service as a whole, by their labels; none where it is not known.
    """
    share().look()
    found: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in FAMILIES}
    for key, value in share().sums().items():
        name, *labels = key.split(BETWEEN)
        if PREFIX + name in found:
            found[PREFIX + name][tuple(labels)] = value
    lines = []
    for name, family in FAMILIES.items():
        values = {**dict.fromkeys(family.known, 0.0), **found[name], **measured.get(name, {})}
        if not family.labels and name not in measured:
            values.setdefault((SUM,) if family.bounds else (), 0.0)
        lines += [f"# HELP {name} {family.text}", f"# TYPE {name} {family.kind}"]
        lines += _buckets(name, family, values) if family.bounds else _plain(name, family, values)
    return "\n".join([*lines, ""])


def _key(*parts: str) -> str:
    return BETWEEN.join(parts).removeprefix(PREFIX)


def _plain(name: str, family: Family, values: Values) -> Iterator[str]:
    for labels, value in sorted(values.items()):
        yield _sample(name, zip(family.labels, labels, strict=True), value)


def _buckets(name: str, family: Family, values: Values) -> Iterator[str]:
    for labels in sorted({key[:-1] for key in values}):
        pairs, count = list(zip(family.labels, labels, strict=True)), 0.0
        for place, bound in enumerate((*family.bounds, math.inf)):
            count += values.get((*labels, str(place)), 0.0)
            le = "+Inf" if bound == math.inf else f"{bound:g}"
            yield _sample(f"{name}_bucket", [*pairs, ("le", le)], count)
        yield _sample(f"{name}_sum", pairs, values.get((*labels, SUM), 0.0))
        yield _sample(f"{name}_count", pairs, count)


def _sample(name: str, pairs: Iterable[tuple[str, str]], value: float) -> str:
    inside = ",".join(f'{label}="{text.translate(ESCAPES)}"' for label, text in pairs)
    number = f"{value:.0f}" if float(value).is_integer() else repr(value)
    return f"{name}{{{inside}}} {number}" if inside else f"{name} {number}"
