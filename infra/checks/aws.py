"""SAM templates: what they deploy, for each value of their parameters, compared with the table.

The rules read the transformed and evaluated template; then linters read that and the source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from infra import platforms, sam
from infra.checks import aws_rollout
from infra.checks.given import differ
from infra.limits import Function, Limits

# The only managed policy of each service: a function writes its log, CodeDeploy moves the alias.
MANAGED = {
    "lambda.amazonaws.com": "AWSLambdaBasicExecutionRole",
    "codedeploy.amazonaws.com": "AWSCodeDeployRoleForLambda",
}
# Settings that hold a secret, by function.
SECRETS = {
    "predict": ("API_KEYS", "WEBHOOK_SECRETS", "REDIS_URL", "BROKER_URL"),
    "health": ("PREDICT_KEY",),
}
Resources = Mapping[str, Any]


def template(text: str, table: Limits) -> Iterator[str]:
    """Check a SAM template: SAM's schema, what it deploys, and cfn-lint before and after."""
    try:
        document = sam.load(text)
        yield from sam.schema(document)
        yield from _moves_on(document)
        variants = [(values, sam.deployed(document, values)) for values in sam.variants(document)]
    except sam.Refused as error:
        yield f"the transform refuses it: {error}"
        return
    for values, plain in variants:
        found = plain.get("Resources", {})
        defaults = {name: body["Default"] for name, body in document["Parameters"].items()}
        for finding in _deployed(found, {**defaults, **values}, table):
            yield f"with {values or 'the defaults'}: {finding}"
    for values, plain in variants:
        for finding in sam.lint(json.dumps(plain)):
            yield f"with {values or 'the defaults'}: {finding}"
    yield from sam.lint(text)


def _moves_on(document: sam.Document) -> Iterator[str]:
    """Check that the alias follows changes of properties and of the layer, code and model."""
    before = _versions(sam.transform(document))
    for name, key, value in (("Layer", "ContentUri", "new.zip"), ("Predict", "Timeout", 1)):
        changed = json.loads(json.dumps(document))
        changed["Resources"][name]["Properties"][key] = value
        if _versions(sam.transform(changed)) == before:
            yield f"another {key} of {name} publishes no version: the alias stays at the old one"


def _versions(plain: sam.Document) -> list[str]:
    found = plain["Resources"]
    return [name for name in found if found[name]["Type"] == "AWS::Lambda::Version"]


def _deployed(found: Resources, values: sam.Values, table: Limits) -> Iterator[str]:
    for function in (table.predict, table.health):
        yield from _function(found, values, function, table)
        yield from _access(found, values, function.name.title())
    yield from _alias(found, values)
    yield from _least_privilege(found)
    yield from _schedule(found, table)
    yield from aws_rollout.rules(found, table)


def _function(
    found: Resources, values: sam.Values, function: Function, table: Limits
) -> Iterator[str]:
    """Check the table's limits and the secrets of one function."""
    name, body = function.name, _properties(found, function.name.title())
    reserved = function.max_instances if values.get("ReserveConcurrency") == "yes" else None
    wanted = {
        "MemorySize": function.memory_mb,
        "Timeout": function.timeout_s,
        "Runtime": f"python{table.python_minor}",
        "Architectures": [table.architecture],
        "Handler": "main.handler",
        "ReservedConcurrentExecutions": reserved,
        "LoggingConfig": {"LogFormat": "JSON", "LogGroup": {"Ref": f"{name.title()}Log"}},
    }
    yield from differ(name, body, wanted)
    size = body.get("MemorySize")
    least, most = platforms.LAMBDA_MB
    if not isinstance(size, int) or not least <= size <= most:
        yield f"{name}: MemorySize {size} is not {least} to {most}"
    given = body.get("Environment", {}).get("Variables", {})
    limits = function.variables(platforms.LAMBDA_IMAGE_BYTES)
    yield from differ(f"{name}: Variables", given, {key: limits[key] for key in sam.VARIABLES})
    if bool(body.get("Layers")) != (name == "predict"):
        yield f"{name}: Layers are {body.get('Layers')}"
    for key in SECRETS[name]:
        secret = values.get("Secret")
        dynamic = f"{{{{resolve:secretsmanager:{secret}:SecretString:{key}}}}}"
        if given.get(key, "") != (dynamic if secret else ""):
            yield f"{name}: {key} is {given.get(key)!r}, not from the secret"


def _access(found: Resources, values: sam.Values, title: str) -> Iterator[str]:
    """Check who may call a URL: its authentication, and both permissions if it is open."""
    url = _properties(found, f"{title}Url")
    target = url.get("TargetFunctionArn")
    is_open = values.get("UrlAuth") == "NONE"
    expected = {("lambda:InvokeFunctionUrl", "NONE", None), ("lambda:InvokeFunction", None, True)}
    given = sorted(
        (
            properties.get("Action"),
            properties.get("FunctionUrlAuthType"),
            properties.get("InvokedViaFunctionUrl"),
        )
        for properties in _of(found, "AWS::Lambda::Permission")
        if properties.get("Principal") == "*" and properties.get("FunctionName") == target
    )
    if given != sorted(expected if is_open else [], key=str):
        yield f"{title}Url: UrlAuth is {values.get('UrlAuth')}, and anyone is permitted {given}"
    if url.get("AuthType") != values.get("UrlAuth"):
        yield f"{title}Url: AuthType is {url.get('AuthType')}, not UrlAuth"
    seen = _properties(found, "Health").get("Environment", {}).get("Variables", {})
    address = {"Fn::GetAtt": ["PredictUrl", "FunctionUrl"]} if is_open else ""
    if title == "Health" and seen.get("PREDICT_URL") != address:
        yield f"health: PREDICT_URL is {seen.get('PREDICT_URL')!r}, not {address!r}"


def _alias(found: Resources, values: sam.Values) -> Iterator[str]:
    """Check that predict is called by its alias, which moves with every change."""
    targets = {
        "PredictUrl": _properties(found, "PredictUrl").get("TargetFunctionArn"),
        "the schedule": next(_of(found, "AWS::Scheduler::Schedule"), {})
        .get("Target", {})
        .get("Arn"),
    }
    for name, target in targets.items():
        if target != {"Ref": "PredictAliaslive"}:
            yield f"{name} calls {target}, not the alias of predict"
    version = next(_of(found, "AWS::Lambda::Version"), {})
    description = str(version.get("Description"))
    for parameter in ("SnapStart", "Secret", "Revision"):
        if str(values.get(parameter)) not in description:
            yield f"a new {parameter} publishes no version: its description is {description!r}"
    if description != _properties(found, "Predict").get("Description"):
        yield "the descriptions of predict and of its version differ"
    applied = _properties(found, "Predict").get("SnapStart", {}).get("ApplyOn")
    wanted = "PublishedVersions" if values.get("SnapStart") == "yes" else "None"
    if applied != wanted:
        yield f"SnapStart: ApplyOn is {applied}, not {wanted}"


def _least_privilege(found: Resources) -> Iterator[str]:
    """Check that a function may only write its log, and the schedule only call predict."""
    for name, body in found.items():
        properties = body.get("Properties", {})
        if body.get("Type") == "AWS::IAM::Role":
            trusted = json.dumps(properties.get("AssumeRolePolicyDocument"))
            allowed = next((MANAGED[service] for service in MANAGED if service in trusted), "none")
            for managed in json.dumps(properties.get("ManagedPolicyArns", [])).split("arn:")[1:]:
                if not managed.partition('"')[0].endswith(f"/{allowed}"):
                    yield f"{name}: a managed policy beyond {allowed}"
            for policy in properties.get("Policies", []):
                for statement in policy.get("PolicyDocument", {}).get("Statement", []):
                    actions = statement.get("Action")
                    if actions != "lambda:InvokeFunction" or statement.get("Resource") == "*":
                        yield f"{name}: may {actions} on {statement.get('Resource')}"
        if body.get("Type") == "AWS::Lambda::Permission" and properties.get("Principal") == "*":
            action = properties.get("Action")
            by_url = properties.get("FunctionUrlAuthType") or properties.get(
                "InvokedViaFunctionUrl"
            )
            if not by_url or action not in ("lambda:InvokeFunctionUrl", "lambda:InvokeFunction"):
                yield f"{name}: anyone may {action}"
        if body.get("Type") == "AWS::S3::Bucket":
            yield f"{name}: a bucket; nothing here needs one that is written to"


def _schedule(found: Resources, table: Limits) -> Iterator[str]:
    pings = list(_of(found, "AWS::Scheduler::Schedule"))
    if len(pings) != 1:
        yield f"there are {len(pings)} schedules, not one"
        return
    (ping,) = pings
    unit = "minute" if table.warmup_minutes == 1 else "minutes"
    if ping.get("ScheduleExpression") != f"rate({table.warmup_minutes} {unit})":
        yield f"the schedule is {ping.get('ScheduleExpression')}"
    target = ping.get("Target", {})
    if target.get("Input") != '{"warmup": true}':
        yield f"the schedule sends {target.get('Input')}, which is no warm-up"
    if target.get("RetryPolicy", {}).get("MaximumRetryAttempts") != 0:
        yield "a ping that failed is asked again; MaximumRetryAttempts must be 0"


def _properties(found: Resources, name: str) -> Mapping[str, Any]:
    properties: Mapping[str, Any] = found.get(name, {}).get("Properties", {})
    return properties


def _of(found: Resources, kind: str) -> Iterator[Mapping[str, Any]]:
    for body in found.values():
        if body.get("Type") == kind:
            yield body.get("Properties", {})
