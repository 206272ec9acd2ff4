"""Render Blueprints, and the workflow that pings the deployed service."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from infra import platforms
from infra.checks.given import HEALTH_PATHS, dicts, differ, schema
from infra.limits import Limits


def blueprint(text: str, table: Limits) -> Iterator[str]:
    """Check a Render Blueprint."""
    document = yaml.safe_load(text)
    yield from schema(document, "render")
    for service in dicts(document, "services"):
        name, plan = service.get("name"), service.get("plan")
        if service.get("type") == "keyvalue":
            continue
        memory_mb, _ = platforms.RENDER_PLANS.get(str(plan), (0, 0))
        if memory_mb < table.predict.memory_mb:
            yield f"{name}: plan {plan} has less than {table.predict.memory_mb} MB"
        if service.get("maxShutdownDelaySeconds", 30) <= table.predict.grace_s:
            yield f"{name}: maxShutdownDelaySeconds is not above grace_s {table.predict.grace_s}"
        variables = {item.get("key"): item.get("value") for item in dicts(service, "envVars")}
        wanted = table.predict.variables() | {"PYTHON_VERSION": table.python}
        yield from differ(f"{name}: envVars", variables, wanted)
        if service.get("type") == "web" and service.get("healthCheckPath") not in HEALTH_PATHS:
            yield f"{name}: healthCheckPath is no route that answers without work"


def ping(text: str, table: Limits) -> Iterator[str]:
    """Check a workflow: the table's schedule, an idempotent route, no permissions."""
    document = yaml.safe_load(text)
    started = document.get(True, document.get("on")) or {}  # YAML 1.1 reads on as true
    crons = [item.get("cron") for item in dicts(started, "schedule")]
    if crons != [table.warmup_cron]:
        yield f"warmup: the schedule is {crons}"
    if document.get("permissions") != {}:
        yield "warmup: it has permissions; it needs none"
    for job in document.get("jobs", {}).values():
        for step in dicts(job, "steps"):
            if "/warmup/" not in str(step.get("run")):
                yield f"warmup: {step.get('run')} does not ask for /warmup/"
