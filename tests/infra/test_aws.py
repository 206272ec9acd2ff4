"""The real zips and the real template on moto's AWS server."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support.service import ROOT

from infra import limits, sam

TABLE = limits.read()
BUCKET = sam.STORED.removeprefix("s3://")
# Ignored by moto's CloudFormation; the API calls below create the schedule.
NO_STACK = ("AWS::Lambda::Alias", "AWS::Lambda::Url", "AWS::Scheduler::Schedule")
TRUST = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": {"Service": "lambda.amazonaws.com"},
            "Action": "sts:AssumeRole",
        }
    ],
}


@cache
def document() -> sam.Document:
    return sam.load((ROOT / "infra/aws/template.yaml").read_text())


@cache
def deployed() -> sam.Document:
    return sam.deployed(document())


def resource(kind: str, name: str = "") -> dict[str, Any]:
    """Return the deployed properties of a resource, by default of the only one of its kind."""
    found = [
        body["Properties"]
        for key, body in deployed()["Resources"].items()
        if body["Type"] == kind and name in key
    ]
    assert len(found) == 1, (kind, name, len(found))
    properties: dict[str, Any] = found[0]
    return properties


@pytest.fixture(scope="module")
def aws() -> Iterator[Any]:
    """Create clients of a local server, with invalid credentials."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()

    def client(service: str, region: str = sam.REGION) -> Any:
        return boto3.client(
            service,
            region_name=region,
            endpoint_url=f"http://{host}:{port}",
            aws_access_key_id="tests",
            aws_secret_access_key="tests",  # noqa: S106
        )

    yield client
    server.stop()


@pytest.fixture(scope="module")
def functions(aws: Any, bundles: Path) -> dict[str, dict[str, Any]]:
    """Create layer and functions from the zips as the template says; return AWS's answers."""
    made = aws("iam").create_role(RoleName="macule", AssumeRolePolicyDocument=json.dumps(TRUST))
    server = aws("lambda")
    about = resource("AWS::Lambda::LayerVersion")
    layer = server.publish_layer_version(
        LayerName=about["LayerName"],
        Content={"ZipFile": (bundles / "aws/layer.zip").read_bytes()},
        CompatibleRuntimes=about["CompatibleRuntimes"],
        CompatibleArchitectures=about["CompatibleArchitectures"],
    )
    found = {}
    for name in ("predict", "health"):
        asked = resource("AWS::Lambda::Function", name.title())
        server.create_function(
            FunctionName=asked["FunctionName"],
            Runtime=asked["Runtime"],
            Architectures=asked["Architectures"],
            Handler=asked["Handler"],
            MemorySize=asked["MemorySize"],
            Timeout=asked["Timeout"],
            Environment={"Variables": {"MAX_IMAGE_BYTES": "1"}},
            Layers=[layer["LayerVersionArn"]] if asked.get("Layers") else [],
            Role=made["Role"]["Arn"],
            Code={"ZipFile": (bundles / f"aws/{name}.zip").read_bytes()},
        )
        server.put_function_concurrency(
            FunctionName=asked["FunctionName"],
            ReservedConcurrentExecutions=asked["ReservedConcurrentExecutions"],
        )
        found[name] = server.get_function_configuration(FunctionName=asked["FunctionName"])
    return found


@pytest.mark.parametrize("name", [pytest.param("predict", marks=pytest.mark.slow), "health"])
def test_functions_match_the_table(
    functions: dict[str, dict[str, Any]], bundles: Path, name: str
) -> None:
    """AWS returns the memory, time-out and runtime of limits.toml, and the zip's digest."""
    deployed_function, bounds = functions[name], TABLE.of(name)
    code = (bundles / f"aws/{name}.zip").read_bytes()

    assert deployed_function["MemorySize"] == bounds.memory_mb
    assert deployed_function["Timeout"] == bounds.timeout_s
    assert deployed_function["Runtime"] == f"python{TABLE.python_minor}"
    assert deployed_function["CodeSize"] == len(code) < 50 * 2**20
    assert (
        deployed_function["CodeSha256"] == base64.b64encode(hashlib.sha256(code).digest()).decode()
    )


def test_only_predict_has_the_layer(functions: dict[str, dict[str, Any]], bundles: Path) -> None:
    """Predict has the layer with the zip's size; health has none."""
    layers = functions["predict"]["Layers"]

    assert len(layers) == 1
    assert layers[0]["CodeSize"] == (bundles / "aws/layer.zip").stat().st_size < 50 * 2**20
    assert not functions["health"].get("Layers")


@pytest.mark.filterwarnings("ignore:Tried to parse:UserWarning")
def test_cloudformation_accepts_the_template(aws: Any, bundles: Path) -> None:
    """The transformed template becomes a stack with the expected resources and limits."""
    template = {**sam.transform(document()), "Outputs": {}}  # the URLs
    region = "us-east-1"  # same names as the functions above
    aws("s3", region).create_bucket(Bucket=BUCKET)
    for archive in (bundles / "aws").glob("*.zip"):
        aws("s3", region).upload_file(str(archive), BUCKET, archive.name)
    formation = aws("cloudformation", region)
    formation.create_stack(
        StackName="macule-stack",
        TemplateBody=json.dumps(template),
        Capabilities=["CAPABILITY_IAM"],
        Parameters=[{"ParameterKey": "UrlAuth", "ParameterValue": "AWS_IAM"}],
    )
    stack = formation.describe_stacks(StackName="macule-stack")["Stacks"][0]
    made = formation.list_stack_resources(StackName="macule-stack")["StackResourceSummaries"]
    server = aws("lambda", region)
    names = {part["PhysicalResourceId"] for part in made}
    memory_mb = {
        item["FunctionName"]: item["MemorySize"]
        for item in server.list_functions()["Functions"]
        if item["FunctionName"] in names
    }
    reserved = {
        name: server.get_function_concurrency(FunctionName=name)["ReservedConcurrentExecutions"]
        for name in memory_mb
    }

    assert stack["StackStatus"] == "CREATE_COMPLETE"
    kinds = {body["Type"] for body in deployed()["Resources"].values()}
    assert {item["ResourceType"] for item in made if item["ResourceType"]} == kinds - set(NO_STACK)
    for function in (TABLE.predict, TABLE.health):
        name = f"{TABLE.name}-{function.name}"
        assert (memory_mb[name], reserved[name]) == (function.memory_mb, function.max_instances)


def test_an_open_url_allows_everybody(aws: Any, functions: dict[str, dict[str, Any]]) -> None:
    """The API accepts both permissions of each URL, and the alias has its own policy."""
    opened = sam.deployed(document(), {"UrlAuth": "NONE"})["Resources"]
    server = aws("lambda")
    server.publish_version(FunctionName=functions["predict"]["FunctionName"])
    server.create_alias(
        FunctionName=functions["predict"]["FunctionName"], Name="live", FunctionVersion="1"
    )
    asked = {
        name: body["Properties"]
        for name, body in opened.items()
        if body["Type"] == "AWS::Lambda::Permission"
    }
    for name, permitted in asked.items():
        whose = "health" if name.startswith("Health") else "predict"
        server.add_permission(
            StatementId=name,
            **{**permitted, "FunctionName": functions[whose]["FunctionName"]},
            **({"Qualifier": "live"} if whose == "predict" else {}),
        )
    statements_by_url = {
        whose: json.loads(server.get_policy(FunctionName=name, **qualified)["Policy"])["Statement"]
        for whose, name, qualified in (
            ("predict", functions["predict"]["FunctionName"], {"Qualifier": "live"}),
            ("health", functions["health"]["FunctionName"], {}),
        )
    }

    assert len(asked) == 4
    for statements in statements_by_url.values():
        assert {one["Action"] for one in statements} == {
            "lambda:InvokeFunctionUrl",
            "lambda:InvokeFunction",
        }


def test_the_schedule_calls_predict(aws: Any, functions: dict[str, dict[str, Any]]) -> None:
    """The template's ping, created through the API, keeps its settings and targets predict."""
    asked = resource("AWS::Scheduler::Schedule")
    scheduler = aws("scheduler")
    scheduler.create_schedule(
        Name=f"{asked['Name']}-api",
        ScheduleExpression=asked["ScheduleExpression"],
        FlexibleTimeWindow=asked["FlexibleTimeWindow"],
        Target={
            "Arn": functions["predict"]["FunctionArn"],
            "RoleArn": functions["predict"]["Role"],
            "Input": asked["Target"]["Input"],
            "RetryPolicy": asked["Target"]["RetryPolicy"],
        },
    )
    schedule = scheduler.get_schedule(Name=f"{asked['Name']}-api")

    assert schedule["ScheduleExpression"] == f"rate({TABLE.warmup_minutes} minutes)"
    assert schedule["Target"]["Arn"].endswith(":function:macule-predict")
    assert schedule["Target"]["RetryPolicy"]["MaximumRetryAttempts"] == 0
    assert "Predict" in json.dumps(asked["Target"]["Arn"])
