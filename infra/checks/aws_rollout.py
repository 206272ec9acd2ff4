"""How a new version of predict replaces the old one on AWS: a canary, and alarms that stop it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from infra.checks.given import differ
from infra.limits import Limits

# CodeDeploy ends a deployment of Lambda after two days.
MOST_MINUTES = 2880
# By alarm: its metric, and how the values of a minute are combined.
ALARMS = {
    "ErrorsAlarm": ("AWS/Lambda", "Errors", "Sum"),
    "FaultsAlarm": ("", "Faults", "Sum"),
    "ThrottlesAlarm": ("AWS/Lambda", "Throttles", "Sum"),
    "SlowAlarm": ("AWS/Lambda", "Duration", "p99"),
    "MemoryAlarm": ("", "MaxMemoryUsed", "Maximum"),
}
# Metrics from the log: the pattern of a line, and its value.
FILTERS = {
    "Faults": ('{ $.event = "request" && ($.status = 500 || $.status = 503) }', "1"),
    "MaxMemoryUsed": ('{ $.type = "platform.report" }', "$.record.metrics.maxMemoryUsedMB"),
}


def rules(found: Mapping[str, Any], table: Limits) -> Iterator[str]:
    """Compare the canary and the alarms of an evaluated template with the table's [rollout]."""
    yield from _canary(found, table)
    alarms = {name for name in found if found[name].get("Type") == "AWS::CloudWatch::Alarm"}
    wanted = set(ALARMS) if table.rollout.alarms else set()
    if alarms != wanted:
        yield f"alarms are {sorted(alarms)}, not {sorted(wanted)}"
    for name in sorted(alarms & wanted):
        yield from _alarm(name, found[name]["Properties"], table)
    if wanted:
        yield from _filters(found, table)


def _canary(found: Mapping[str, Any], table: Limits) -> Iterator[str]:
    rollout = table.rollout
    group = found.get("PredictDeploymentGroup", {}).get("Properties")
    alias = json.dumps(found.get("PredictAliaslive", {}).get("UpdatePolicy"))
    if rollout.canary_percent == 0:
        if group or "CodeDeploy" in alias:
            yield "a canary, although rollout.canary_percent is 0"
        return
    if group is None or "PredictDeploymentGroup" not in alias:
        yield "the alias takes a new version at once: there is no canary"
        return
    config = found.get("Canary", {}).get("Properties", {})
    shifts = {"CanaryPercentage": rollout.canary_percent, "CanaryInterval": rollout.canary_minutes}
    routing = {"Type": "TimeBasedCanary", "TimeBasedCanary": shifts}
    yield from differ("Canary", config, {"TrafficRoutingConfig": routing})
    if rollout.canary_minutes > MOST_MINUTES:
        yield f"rollout.canary_minutes is above {MOST_MINUTES}, CodeDeploy's two days"
    if group.get("DeploymentConfigName") != {"Ref": "Canary"}:
        yield f"the deployment is by {group.get('DeploymentConfigName')}, not by Canary"
    listed = {
        json.dumps(alarm.get("Name"))
        for alarm in (group.get("AlarmConfiguration") or {}).get("Alarms", [])
    }
    wanted = {json.dumps({"Ref": name}) for name in ALARMS} if rollout.alarms else set()
    if listed != wanted:
        yield f"alarms that roll back are {sorted(listed)}, not {sorted(wanted)}"


def _alarm(name: str, alarm: Mapping[str, Any], table: Limits) -> Iterator[str]:
    space, metric, statistic = ALARMS[name]
    function = table.predict
    key = "ExtendedStatistic" if statistic.startswith("p") else "Statistic"
    threshold = {
        "SlowAlarm": table.rollout.p99_ms,
        "MemoryAlarm": int(function.memory_mb * function.bands["oom_imminent"]),
    }.get(name, 1)
    wanted = {
        "Namespace": space or table.name,
        "MetricName": metric,
        key: statistic,
        "Threshold": threshold,
        "ComparisonOperator": "GreaterThanOrEqualToThreshold",
        "TreatMissingData": "notBreaching",
    }
    yield from differ(name, alarm, wanted)
    of_alias = [
        {"Name": "FunctionName", "Value": {"Ref": "Predict"}},
        {"Name": "Resource", "Value": {"Fn::Sub": "${Predict}:live"}},
    ]
    if alarm.get("Dimensions") != (of_alias if space else None):
        yield f"{name}: Dimensions are {alarm.get('Dimensions')}, not the alias"


def _filters(found: Mapping[str, Any], table: Limits) -> Iterator[str]:
    given = {}
    for body in found.values():
        if body.get("Type") == "AWS::Logs::MetricFilter":
            properties = body["Properties"]
            (made,) = properties.get("MetricTransformations") or [{}]
            key = (made.get("MetricNamespace"), made.get("MetricName"))
            given[key] = (properties.get("LogGroupName"), properties.get("FilterPattern"), made)
    for metric, (pattern, value) in FILTERS.items():
        group, found_pattern, made = given.get((table.name, metric), (None, None, {}))
        if group != {"Ref": "PredictLog"} or found_pattern != pattern:
            yield f"{metric}: read from {group} by {found_pattern}, not from the log by {pattern}"
        if made.get("MetricValue") != value:
            yield f"{metric}: its value is {made.get('MetricValue')}, not {value}"
