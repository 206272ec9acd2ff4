"""Terraform of Cloud Run functions, evaluated for each choice of its variables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

from infra.checks import given, hcl
from infra.checks.given import differ
from infra.checks.google import run_rules, run_variables
from infra.limits import Limits

ALARMS = Path(__file__).resolve().parent.parent / "gcp/alarms/main.tf"
# Versions of infra/schemas/terraform.schema.json, and of Terraform itself.
CHECKED = {"google": "6.50.0", "archive": "2.7.1", "terraform": "1.9.0"}
META = {"count", "depends_on", "lifecycle", "source"}
RUNTIME, SCHEDULER = (
    "google_service_account.runtime.email",
    "google_service_account.scheduler.email",
)
MOUNT, FILE = "/etc/secrets", "keys"


def functions(text: str, table: Limits) -> Iterator[str]:
    """Check the functions, their bucket, accounts, secrets and ping, for every choice."""
    found: dict[str, None] = {}
    for public, key, alarms in product((False, True), ("", "secret"), (False, True)):
        chosen = {
            "public": public,
            "api_keys_secret": key and "api",
            "predict_key_secret": key and "ping",
            "alarms": alarms,
        }
        plan = hcl.plan(text, chosen)
        found |= dict.fromkeys(valid(plan))
        found |= dict.fromkeys(_functions(plan, table))
        found |= dict.fromkeys(_secrets(plan, key))
        found |= dict.fromkeys(_access(plan, public, key))
        found |= dict.fromkeys(_ping(plan, table, key))
        found |= dict.fromkeys(_module(plan, public, alarms))
    half = hcl.plan(text, {"api_keys_secret": "api"})
    if _met(half.resources.get("google_cloud_scheduler_job.warmup", {})):
        found["a plan with keys but none for the ping is not refused"] = None
    if hcl.plan(text, {}).variables.get("alarms", {}).get("default") is not table.rollout.alarms:
        found[f"alarms are not {table.rollout.alarms} by default"] = None
    yield from found


def valid(plan: hcl.Plan) -> Iterator[str]:
    """Report what Terraform itself would reject, and unknown versions."""
    yield from plan.faults
    yield from _versions(plan.settings)
    for address, body in plan.resources.items():
        kind, *rest = address.split(".")
        if kind == "module":
            continue
        group = f"data.{rest[0]}" if kind == "data" else f"resource.{kind}"
        arguments = {key: value for key, value in body.items() if key not in META}
        for fault in given.schema(arguments, "terraform", group):
            yield f"{address}: {fault}"


def _versions(settings: Mapping[str, Any]) -> Iterator[str]:
    wanted = {"terraform": settings.get("required_version", "")}
    for block in settings.get("required_providers", []):
        wanted |= {name: body.get("version", "") for name, body in block.items()}
    for name, said in wanted.items():
        bounds, checked = SpecifierSet(said.replace("~>", "~=")), CHECKED.get(name, "0")
        if checked not in bounds:
            yield f"{name}: {said!r} leaves out {checked}, which is checked"
        if f"{int(checked.split('.')[0]) + 1}.0.0" in bounds:
            yield f"{name}: {said!r} has no upper bound"


def _functions(plan: hcl.Plan, table: Limits) -> Iterator[str]:
    for function in (table.predict, table.health):
        body = plan.resources.get(f"google_cloudfunctions2_function.{function.name}")
        if body is None:
            yield f"there is no function {function.name}"
            continue
        build, service = body["build_config"][0], body["service_config"][0]
        yield from differ(
            function.name,
            {**build, **service},
            {
                "runtime": f"python{table.python_minor.replace('.', '')}",
                "entry_point": function.name,
                "max_instance_count": function.max_instances,
                "service_account_email": RUNTIME,
            },
        )
        yield from run_rules(
            function,
            service.get("available_memory"),
            given.processors(service.get("available_cpu")),
            service.get("max_instance_request_concurrency"),
            service.get("timeout_seconds"),
        )
        variables = service.get("environment_variables", {})
        yield from differ(f"{function.name}: variables", variables, run_variables(function))


def _secrets(plan: hcl.Plan, key: str) -> Iterator[str]:
    """Check that keys come only from Secret Manager, if enabled."""
    predict, health = (_service(plan, name) for name in ("predict", "health"))
    mounted = [
        (volume.get("mount_path"), volume.get("secret"), version.get("path"))
        for volume in predict.get("secret_volumes", [])
        for version in volume.get("versions", [])
    ]
    value = predict.get("environment_variables", {}).get("API_KEYS")
    if (value, mounted) != ((f"{MOUNT}/{FILE}", [(MOUNT, "api", FILE)]) if key else ("", [])):
        yield f"predict: API_KEYS is {value!r} and {mounted} are mounted"
    named = [
        (item.get("key"), item.get("secret"))
        for item in health.get("secret_environment_variables", [])
    ]
    if named != ([("PREDICT_KEY", "ping")] if key else []):
        yield f"health: its secrets are {named}"
    if "PREDICT_KEY" in health.get("environment_variables", {}):
        yield "health: PREDICT_KEY is a plain variable"


def _access(plan: hcl.Plan, public: bool, key: str) -> Iterator[str]:
    """Check permissions: nobody has a role of the whole project."""
    allowed = {("roles/run.invoker", f"serviceAccount:${{{SCHEDULER}}}", _name("predict"))}
    if public:
        allowed |= {("roles/run.invoker", "allUsers", _name(one)) for one in ("predict", "health")}
    if key:
        reads = ("roles/secretmanager.secretAccessor", f"serviceAccount:${{{RUNTIME}}}")
        allowed |= {(*reads, "api"), (*reads, "ping")}
    granted = set()
    for address, body in plan.resources.items():
        if "_iam_" in address:
            on = body.get("service") or body.get("secret_id") or "the project"
            granted.add((body.get("role"), body.get("member"), on))
        prevention = body.get("public_access_prevention")
        if address.startswith("google_storage_bucket.") and prevention != "enforced":
            yield f"{address}: the bucket may be opened to the public"
    for role, member, on in sorted(granted - allowed, key=str):
        yield f"public is {public}, and {member} has {role} on {on}"
    for role, member, on in sorted(allowed - granted, key=str):
        yield f"public is {public}, and {member} lacks {role} on {on}"


def _ping(plan: hcl.Plan, table: Limits, key: str) -> Iterator[str]:
    job = plan.resources.get("google_cloud_scheduler_job.warmup")
    if job is None:
        yield "there is no warm-up ping"
        return
    if job.get("schedule") != table.warmup_cron:
        yield f"warmup: the schedule is {job.get('schedule')}"
    if [retry.get("retry_count") for retry in job.get("retry_config", [])] != [0]:
        yield "warmup: a ping that failed is asked again; retry_count must be 0"
    target = (job.get("http_target") or [{}])[0]
    predict = "google_cloudfunctions2_function.predict.service_config[0].uri"
    if target.get("uri") != f"${{{predict}}}/warmup/":
        yield f"warmup: it calls {target.get('uri')}, not predict"
    tokens = target.get("oidc_token", [])
    if tokens != [{"service_account_email": SCHEDULER, "audience": predict}]:
        yield f"warmup: its tokens are {tokens}"
    if bool(target.get("headers", {}).get("X-API-Key")) != bool(key):
        yield f"warmup: with the key {key!r} its headers are {target.get('headers')}"
    if not _met(job):
        yield "warmup: a plan that it should take is refused"


def _met(body: Mapping[str, Any]) -> bool:
    rules = [rule for cycle in body.get("lifecycle", []) for rule in cycle["precondition"]]
    return all(rule.get("condition") is True for rule in rules)


def _module(plan: hcl.Plan, public: bool, alarms: bool) -> Iterator[str]:
    """Check that the alert policies are created on request, with their inputs."""
    module = plan.resources.get("module.alarms")
    if (module is not None) != alarms:
        yield f"alarms is {alarms}, and the module is {module}"
    if module is None:
        return
    takes = hcl.plan(ALARMS.read_text(), {}).variables
    inputs = {key for key in module if key not in META}
    if unknown := inputs - set(takes):
        yield f"module.alarms: it takes no {sorted(unknown)}"
    if missing := {name for name, body in takes.items() if "default" not in body} - inputs:
        yield f"module.alarms: it lacks {sorted(missing)}"
    if module.get("service") != _name("predict") or bool(module.get("host")) != public:
        yield f"module.alarms: it looks at {module.get('service')}, {module.get('host')!r}"


def _service(plan: hcl.Plan, name: str) -> dict[str, Any]:
    body = plan.resources.get(f"google_cloudfunctions2_function.{name}", {})
    service: dict[str, Any] = body.get("service_config", [{}])[0]
    return service


def _name(function: str) -> str:
    return f"google_cloudfunctions2_function.{function}.name"
