"""Terraform of alert policies and the uptime check, with and without a public host."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from infra.checks import hcl
from infra.checks.given import differ
from infra.checks.terraform import valid
from infra.limits import Limits

# The kind of each metric, which determines how its points may be aligned.
SHARE = ({"ALIGN_RATE", "ALIGN_DELTA"}, {"REDUCE_SUM"})
PERCENTILE = ({"ALIGN_DELTA"}, {"REDUCE_PERCENTILE_99"})
METRICS = {
    "run.googleapis.com/request_count": SHARE,
    "run.googleapis.com/request_latencies": PERCENTILE,
    "run.googleapis.com/container/memory/utilizations": PERCENTILE,
    "monitoring.googleapis.com/uptime_check/check_passed": (
        {"ALIGN_NEXT_OLDER"},
        {"REDUCE_COUNT_FALSE"},
    ),
}


def policies(text: str, table: Limits) -> Iterator[str]:
    """Check the alert policies, with and without a public host."""
    for host in ("", "host.example"):
        plan = hcl.plan(text, {"service": "the-service", "host": host})
        yield from valid(plan)
        made = {
            address.rpartition(".")[2]: body
            for address, body in plan.resources.items()
            if address.startswith("google_monitoring_alert_policy.")
        }
        checks = [name for name in plan.resources if "uptime_check_config" in name]
        wanted = {"errors", "latency", "memory", "throttled", *(["down"] if host else [])}
        if set(made) != wanted:
            yield f"with the host {host!r} the policies are {sorted(made)}"
        if len(checks) != bool(host):
            yield f"with the host {host!r} the uptime checks are {checks}"
        for name, body in made.items():
            yield from _policy(name, body)
        for name, value in (
            ("latency", table.rollout.p99_ms),
            ("memory", table.predict.bands["critical"]),
        ):
            given = _condition(made.get(name, {})).get("threshold_value")
            if given != value:
                yield f"{name}: threshold_value is {given}, not {value}"
        for name in checks:
            yield from _uptime(plan.resources[name], host)


def _policy(name: str, body: Mapping[str, Any]) -> Iterator[str]:
    """Check that a policy has one metric, aligned as its kind allows."""
    condition = _condition(body)
    text = str(condition.get("filter"))
    metric = next((known for known in METRICS if f'metric.type = "{known}"' in text), None)
    if metric is None:
        yield f"{name}: {text} names no metric that is known here"
        return
    if name != "down" and 'service_name = "the-service"' not in text:
        yield f"{name}: it looks at every service"
    if name == "down" and "google_monitoring_uptime_check_config.health" not in text:
        yield f"{name}: it looks at another uptime check"
    aligners, reducers = METRICS[metric]
    for step in condition.get("aggregations", []) + condition.get("denominator_aggregations", []):
        if step.get("per_series_aligner") not in aligners:
            yield f"{name}: {step.get('per_series_aligner')} does not go with {metric}"
        if step.get("cross_series_reducer") not in reducers:
            yield f"{name}: {step.get('cross_series_reducer')} does not go with {metric}"
    if metric.endswith("/request_count") and not condition.get("denominator_filter"):
        yield f"{name}: a number of requests, not a share of them"


def _uptime(body: Mapping[str, Any], host: str) -> Iterator[str]:
    check = body["http_check"][0]
    wanted = {"path": "/health/", "use_ssl": True, "validate_ssl": True}
    yield from differ("uptime", check, wanted)  # /health/ needs no key
    if body["monitored_resource"][0]["labels"].get("host") != host:
        yield "uptime: it asks another host"


def _condition(body: Mapping[str, Any]) -> dict[str, Any]:
    condition: dict[str, Any] = body.get("conditions", [{}])[0].get("condition_threshold", [{}])[0]
    return condition
