"""Cloud Run services, and the Python version for Google's buildpacks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from infra import platforms
from infra.checks.given import (
    dicts,
    differ,
    keys,
    probes,
    processors,
    scale,
    schema,
    service,
    traffic,
)
from infra.limits import Function, Limits


def cloud_run(text: str, table: Limits) -> Iterator[str]:
    """Check a Cloud Run service."""
    document = yaml.safe_load(text)
    yield from schema(document, "run-service")
    function, spec, container = service(document, table)
    resources = container.get("resources", {}).get("limits", {})
    yield from run_rules(
        function,
        resources.get("memory"),
        processors(resources.get("cpu")),
        spec.get("containerConcurrency"),
        spec.get("timeoutSeconds"),
    )
    account = f"{table.name}-runtime@PROJECT.iam.gserviceaccount.com"
    yield from differ("spec", spec, {"serviceAccountName": account})
    given = {item.get("name"): item.get("value") for item in dicts(container, "env")}
    yield from differ("env", given, run_variables(function))
    yield from keys(spec, container, function, table, [{"key": "latest", "path": "keys"}])
    yield from scale(document, function, "maxScale")
    yield from traffic(document, table)
    yield from probes(container, "startupProbe", "livenessProbe")


def version(text: str, table: Limits) -> Iterator[str]:
    """Check the .python-version of a source folder; Google chooses the patch."""
    if text.strip() != table.python_minor:
        yield f"python-version is {text.strip()!r}, not {table.python_minor!r}"


def run_variables(function: Function) -> dict[str, str]:
    """Return the variables of a function on Cloud Run, whose sandbox may hide its limit."""
    return {
        "MEMORY_LIMIT_MB": str(function.memory_mb),
        "CLOUD_RUN_TIMEOUT_SECONDS": str(function.timeout_s),
        **function.variables(platforms.CLOUD_RUN_IMAGE_BYTES),
    }


def run_rules(
    function: Function, memory: Any, cpu: float, concurrency: Any, timeout_s: Any
) -> Iterator[str]:
    """Check Cloud Run's own rules, and the table's values."""
    name, memory_mb = function.name, _mebibytes(memory)
    if memory_mb != function.memory_mb:
        yield f"{name}: memory is {memory}, not {function.memory_mb}Mi"
    if cpu != function.cpu:
        yield f"{name}: CPU is {cpu:g}, not {function.cpu:g}"
    if concurrency != function.concurrency:
        yield f"{name}: concurrency is {concurrency}, not {function.concurrency}"
    if timeout_s != function.timeout_s:
        yield f"{name}: the time-out is {timeout_s}, not {function.timeout_s}"
    if concurrency != 1 and cpu < 1:
        yield f"{name}: concurrency {concurrency} needs at least one processor, not {cpu:g}"
    most_mb = next((mb for below, mb in platforms.CLOUD_RUN_MOST_MB if cpu < below), None)
    if most_mb is None or not platforms.CLOUD_RUN_LEAST_MB <= memory_mb <= most_mb:
        yield f"{name}: {memory} do not go with {cpu:g} processors"
    if not isinstance(timeout_s, int) or not 1 <= timeout_s <= platforms.CLOUD_RUN_MOST_S:
        yield f"{name}: Cloud Run has no time-out of {timeout_s}"


def _mebibytes(given: Any) -> int:
    text = str(given)
    return int(text[:-2]) if text.endswith("Mi") and text[:-2].isdigit() else 0
