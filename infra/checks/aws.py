"""SAM templates: linted before and after their transform, and held to the table of limits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from infra import platforms, sam
from infra.checks.given import differ
from infra.limits import Limits

# The only managed policy that a function needs: it writes its log.
LOGS = "AWSLambdaBasicExecutionRole"


def template(text: str, table: Limits) -> Iterator[str]:
    """Check a SAM template: linted before and after its transform, then against the table."""
    yield from sam.lint(text)
    document = sam.load(text)
    try:
        plain = sam.transform(document)
    except sam.Refused as error:
        yield f"the transform refuses it: {error}"
        return
    yield from sam.lint(json.dumps(plain))
    found = plain.get("Resources", {})
    for function in (table.predict, table.health):
        body = found.get(function.name.title(), {}).get("Properties", {})
        yield from differ(
            function.name,
            body,
            {
                "MemorySize": function.memory_mb,
                "Timeout": function.timeout_s,
                "Runtime": f"python{table.python_minor}",
                "Architectures": [table.architecture],
                "Handler": "main.handler",
            },
        )
        size = body.get("MemorySize")
        least, most = platforms.LAMBDA_MB
        if not isinstance(size, int) or not least <= size <= most:
            yield f"{function.name}: MemorySize {size} is not {least} to {most}"
        given = body.get("Environment", {}).get("Variables", {})
        wanted = function.variables(platforms.LAMBDA_IMAGE_BYTES)
        yield from differ(
            f"{function.name}: Variables", given, {key: wanted[key] for key in sam.VARIABLES}
        )
        if bool(body.get("Layers")) != (function.name == "predict"):
            yield f"{function.name}: Layers are {body.get('Layers')}"
    yield from _least_privilege(found)
    yield from _schedule(found, table)


def _least_privilege(found: Mapping[str, Any]) -> Iterator[str]:
    """A function may write its log; the schedule may call predict; nobody may do everything."""
    for name, body in found.items():
        properties = body.get("Properties", {})
        if body.get("Type") == "AWS::IAM::Role":
            policies = json.dumps(properties.get("ManagedPolicyArns", []))
            for managed in policies.split("arn:")[1:]:
                if LOGS not in managed:
                    yield f"{name}: a managed policy beyond {LOGS}"
            for statement in _statements(properties.get("Policies", [])):
                actions = statement.get("Action")
                if actions != "lambda:InvokeFunction" or statement.get("Resource") == "*":
                    yield f"{name}: may {actions} on {statement.get('Resource')}"
        if body.get("Type") == "AWS::Lambda::Permission" and properties.get("Principal") == "*":
            action = properties.get("Action")
            closed = properties.get("FunctionUrlAuthType") or properties.get(
                "InvokedViaFunctionUrl"
            )
            if not closed or action not in ("lambda:InvokeFunctionUrl", "lambda:InvokeFunction"):
                yield f"{name}: anyone may {action}"
        if body.get("Type") == "AWS::S3::Bucket":
            yield f"{name}: a bucket; nothing here needs one that is written to"


def _statements(policies: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for policy in policies:
        yield from policy.get("PolicyDocument", {}).get("Statement", [])


def _schedule(found: Mapping[str, Any], table: Limits) -> Iterator[str]:
    pings = [body for body in found.values() if body.get("Type") == "AWS::Scheduler::Schedule"]
    if len(pings) != 1:
        yield f"there are {len(pings)} schedules, not one"
        return
    properties = pings[0]["Properties"]
    if properties.get("ScheduleExpression") != f"rate({table.warmup_minutes} minutes)":
        yield f"the schedule is {properties.get('ScheduleExpression')}"
    target = properties.get("Target", {})
    if "Predict" not in json.dumps(target.get("Arn")):
        yield f"the schedule calls {target.get('Arn')}, not predict"
    if target.get("RetryPolicy", {}).get("MaximumRetryAttempts") != 0:
        yield "a ping that failed is asked again; MaximumRetryAttempts must be 0"
