"""What the platforms offer and allow, looked up 2026-11-23; docs/deploy.md has the sources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from infra.limits import Function, Limits

MB = 2**20
# Newest patch of each Python that all platforms run, looked up 2026-11-26. Lambda's 3.11 has glibc
# 2.26, and LiteRT's library needs 2.27.
PYTHONS = {"3.12": 16, "3.13": 18, "3.14": 10}
PYTHONS_SEEN = "2026-11-26"
# Architectures of a platform, if it does not offer both.
OCI = {"x86_64": "amd64", "arm64": "arm64"}  # their names in images and Kubernetes
X86_ALONE = ("render", "render-queue", "gcp")
# Render: memory in MB and processors of a plan, cheapest first.
RENDER_PLANS = {
    "free": (512, 0.1),
    "starter": (512, 0.5),
    "standard": (2048, 1.0),
    "pro": (4096, 2.0),
    "pro plus": (8192, 4.0),
    "pro max": (16384, 4.0),
}
RENDER_GRACE_S = 300
RENDER_STOP_S = 5  # the time of a service to stop after its last request
# US dollars without tax, in each cloud's cheapest regions; the free tier is subtracted first.
RENDER_MONTH = {"free": 0, "starter": 7, "standard": 25}
CLOUD_RUN_VCPU_S, CLOUD_RUN_GIB_S, CLOUD_RUN_MILLION = 0.000024, 0.0000025, 0.40
CLOUD_RUN_FREE_VCPU_S, CLOUD_RUN_FREE_GIB_S, CLOUD_RUN_FREE_MILLIONS = 180_000, 360_000, 2
CLOUD_RUN_ROUND_S = 0.1  # an instance's time is rounded up to this
LAMBDA_GB_S, LAMBDA_MILLION = 0.0000166667, 0.20
LAMBDA_FREE_GB_S, LAMBDA_FREE_MILLIONS = 400_000, 1
# Cloud Run: below one CPU an instance takes one request at a time; less CPU, less memory.
CLOUD_RUN_CPUS = (0.08, (1, 2, 4, 6, 8))  # between that and one in thousandths, then these
CLOUD_RUN_LEAST_MB = 128
CLOUD_RUN_LEAST_MB_OF = {4: 2048, 6: 4096, 8: 4096}
CLOUD_RUN_MOST_MB = (  # below so many CPUs
    (0.5, 512),
    (1.0, 1024),
    (2.0, 4096),
    (4.0, 8192),
    (6.0, 16384),
    (8.0, 24576),
    (9.0, 32768),
)
CLOUD_RUN_MOST_S = 3600
CLOUD_RUN_MOST_INSTANCES = 1000
MOST_CONCURRENCY = 1000  # of Cloud Run and of Knative
CLOUD_RUN_IMAGE_BYTES = 31 * MB  # a request has 32 MB at most, including the form
SCHEDULER_S = (15, 1800)  # longest wait of Cloud Scheduler for an answer
GITHUB_LEAST_MINUTES = 5  # between runs of a workflow's schedule
# Lambda.
LAMBDA_MB = (128, 10240)
LAMBDA_MB_PER_CPU = 1769
LAMBDA_MOST_S = 900
LAMBDA_UNZIPPED_MB = 250  # of a function with its layers
# A function URL takes an event of 6 MB: base64 makes 4 bytes of 3, and headers take some.
LAMBDA_IMAGE_BYTES = int(4.4 * MB)
# Google's service accounts have 30 characters at most, of which `-scheduler` takes ten.
NAME_LETTERS = 20

Bound = tuple[str, Any, bool, str]  # a key, its value, whether it is valid, what was expected


def render_plan(memory_mb: int) -> str:
    """Return the cheapest plan with that memory.

    Raises: ValueError if none has it.
    """
    for plan, (has_mb, _) in RENDER_PLANS.items():
        if memory_mb <= has_mb:
            return plan
    most_mb, _ = list(RENDER_PLANS.values())[-1]
    raise ValueError(
        f"limits.toml: predict.memory_mb is {memory_mb}; Render's plans end at {most_mb}"
    )


def architecture(platform: str, asked: str) -> str:
    """Return the architecture of *platform*: the one *asked* for, if it is offered."""
    return "x86_64" if platform in X86_ALONE else asked


def check(table: Limits) -> None:
    """Reject a table whose template a platform would not accept.

    Raises: ValueError, naming the key, its value, the bound and the platform.
    """
    for key, value, ok, expected in _bounds(table):
        if not ok:
            raise ValueError(f"limits.toml: {key} is {value!r}, not {expected}")
    render_plan(table.predict.memory_mb)


def _bounds(table: Limits) -> Iterator[Bound]:
    name, ping = table.name, table.warmup_minutes
    yield "name", name, len(name) <= NAME_LETTERS, f"{NAME_LETTERS} letters at most (Google)"
    yield from _python(table)
    least = (
        f"at least {GITHUB_LEAST_MINUTES}: GitHub starts a schedule no more often (Render's ping)"
    )
    yield "warmup_minutes", ping, ping >= GITHUB_LEAST_MINUTES, least
    grace_s, most_s = table.predict.grace_s, RENDER_GRACE_S - RENDER_STOP_S
    yield "predict.grace_s", grace_s, grace_s <= most_s, f"at most {most_s} (Render)"
    for function in (table.predict, table.health):
        for key, value, ok, expected in (*_lambda(function), *_cloud_run(function)):
            yield f"{function.name}.{key}", value, ok, expected


def _python(table: Limits) -> Iterator[Bound]:
    minors = list(PYTHONS)
    newest = PYTHONS.get(table.python_minor, -1)
    expected = f"{minors[0]} to {minors[-1]}: Lambda's and Google's that macule's wheels run on"
    yield "python", table.python, newest >= 0, expected
    patch = int(table.python.rpartition(".")[2])
    expected = f"a release: {table.python_minor}.{newest} is the newest known of {PYTHONS_SEEN}"
    expected += " (Render and the image ask for one; a newer one goes into infra/platforms.py)"
    yield "python", table.python, patch <= newest, expected


def _lambda(function: Function) -> Iterator[Bound]:
    least, most = LAMBDA_MB
    memory_mb, timeout_s = function.memory_mb, function.timeout_s
    yield "memory_mb", memory_mb, least <= memory_mb <= most, f"{least} to {most} (Lambda)"
    yield "timeout_s", timeout_s, timeout_s <= LAMBDA_MOST_S, f"at most {LAMBDA_MOST_S} (Lambda)"


def _cloud_run(function: Function) -> Iterator[Bound]:
    cpu, memory_mb, concurrency = function.cpu, function.memory_mb, function.concurrency
    least, whole = CLOUD_RUN_CPUS
    fits = least <= cpu <= 1 or cpu in whole
    yield "cpu", cpu, fits, f"{least} to 1, or one of {whole} (Cloud Run)"
    bottom_mb = CLOUD_RUN_LEAST_MB_OF.get(int(cpu), CLOUD_RUN_LEAST_MB)
    most_mb = next((mb for below, mb in CLOUD_RUN_MOST_MB if cpu < below), 0)
    expected = f"{bottom_mb} to {most_mb}, which cpu {cpu:g} goes with (Cloud Run)"
    yield "memory_mb", memory_mb, bottom_mb <= memory_mb <= most_mb, expected
    most = 1 if cpu < 1 else MOST_CONCURRENCY
    expected = f"at most {most} with cpu {cpu:g} (Cloud Run)"
    yield "concurrency", concurrency, concurrency <= most, expected
    instances, most = function.max_instances, CLOUD_RUN_MOST_INSTANCES
    yield "max_instances", instances, instances <= most, f"at most {most} (Cloud Run)"
