"""Cloud Run services, and the Terraform of Cloud Run functions with their warm-up ping."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hcl2
import yaml
from hcl2.utils import SerializationOptions

from infra import platforms
from infra.checks.given import dicts, differ, probes, processors, scale, schema, service
from infra.limits import Function, Limits


def cloud_run(text: str, table: Limits) -> Iterator[str]:
    """Check a Cloud Run service."""
    document = yaml.safe_load(text)
    yield from schema(document, "run-service")
    function, spec, container = service(document, table)
    resources = container.get("resources", {}).get("limits", {})
    yield from _run_rules(
        function,
        resources.get("memory"),
        processors(resources.get("cpu")),
        spec.get("containerConcurrency"),
        spec.get("timeoutSeconds"),
    )
    given = {item.get("name"): item.get("value") for item in dicts(container, "env")}
    yield from differ("env", given, _run_variables(function))
    yield from scale(document, function, "maxScale")
    yield from probes(container, "startupProbe", "livenessProbe")


def terraform(text: str, table: Limits) -> Iterator[str]:
    """Check the Terraform of Cloud Run functions, their bucket and their warm-up ping."""
    plain = SerializationOptions(
        with_comments=False, explicit_blocks=False, strip_string_quotes=True
    )
    document = hcl2.loads(text, serialization_options=plain)
    resources = {
        (kind.strip('"'), name.strip('"')): body
        for block in document.get("resource", [])
        for kind, named in block.items()
        for name, body in named.items()
    }
    for function in (table.predict, table.health):
        body = resources.get(("google_cloudfunctions2_function", function.name))
        if body is None:
            yield f"there is no function {function.name}"
            continue
        yield from schema(_camel(body, drop=("location",)), "cf-function")
        build, service = body["build_config"][0], body["service_config"][0]
        if build.get("runtime") != f"python{table.python_minor.replace('.', '')}":
            yield f"{function.name}: runtime is {build.get('runtime')}, not python {table.python}"
        if build.get("entry_point") != function.name:
            yield f"{function.name}: entry_point is {build.get('entry_point')}"
        yield from _run_rules(
            function,
            service.get("available_memory"),
            processors(service.get("available_cpu")),
            service.get("max_instance_request_concurrency"),
            service.get("timeout_seconds"),
        )
        given = service.get("environment_variables", {})
        yield from differ(f"{function.name}: variables", given, _run_variables(function))
        if service.get("max_instance_count") != function.max_instances:
            yield f"{function.name}: max_instance_count is not {function.max_instances}"
    yield from _ping(resources.get(("google_cloud_scheduler_job", "warmup")), table)
    for (kind, name), body in resources.items():
        open_to_all = body.get("member") in ("allUsers", "allAuthenticatedUsers")
        if open_to_all and "var.public" not in str(body.get("count")):
            yield f"{kind}.{name}: open to all, whatever var.public says"
        if open_to_all and body.get("role") != "roles/run.invoker":
            yield f"{kind}.{name}: gives {body.get('role')} to all"
        if kind == "google_storage_bucket" and body.get("public_access_prevention") != "enforced":
            yield f"{kind}.{name}: the bucket may be opened to the public"


def _run_variables(function: Function) -> dict[str, str]:
    """What a function is told on Cloud Run, whose sandbox may not show it its limit."""
    return {
        "MEMORY_LIMIT_MB": str(function.memory_mb),
        "CLOUD_RUN_TIMEOUT_SECONDS": str(function.timeout_s),
        **function.variables(platforms.CLOUD_RUN_IMAGE_BYTES),
    }


def _run_rules(
    function: Function, memory: Any, cpu: float, concurrency: Any, timeout_s: Any
) -> Iterator[str]:
    """Cloud Run's own rules, and the table's figures."""
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


def _ping(job: dict[str, Any] | None, table: Limits) -> Iterator[str]:
    if job is None:
        yield "there is no warm-up ping"
        return
    yield from schema(_camel(job, drop=("region",)), "scheduler-job")
    if job.get("schedule") != table.warmup_cron:
        yield f"warmup: the schedule is {job.get('schedule')}"
    if [retry.get("retry_count") for retry in job.get("retry_config", [])] != [0]:
        yield "warmup: a ping that failed is asked again; retry_count must be 0"
    target = (job.get("http_target") or [{}])[0]
    if "cloudfunctions2_function.predict." not in str(target.get("uri")):
        yield f"warmup: it calls {target.get('uri')}, not predict"
    if not target.get("oidc_token"):
        yield "warmup: it calls without a token"


def _camel(body: Any, drop: tuple[str, ...] = ()) -> Any:
    """Say a Terraform block as the API's JSON: camelCase, and a block alone is no list."""
    if isinstance(body, list):
        return _camel(body[0]) if len(body) == 1 else [_camel(item) for item in body]
    if not isinstance(body, dict):
        return body
    return {
        _camelled(key): value if key == "environment_variables" else _camel(value)
        for key, value in body.items()
        if key not in drop
    }


def _camelled(key: str) -> str:
    first, *rest = key.split("_")
    return first + "".join(part.title() for part in rest)


def _mebibytes(given: Any) -> int:
    text = str(given)
    return int(text[:-2]) if text.endswith("Mi") and text[:-2].isdigit() else 0
