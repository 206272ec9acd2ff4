"""The AWS Lambda adapter, with an event of each service that can call a function."""

import base64
import json
from typing import Any

import pytest
from macule.http.adapters import aws_lambda
from macule.routes import classify, health, open_inference, predictions
from support.images import photo
from support.lambda_events import event

HANDLER = aws_lambda.create_handler(
    {
        "GET /health/": health.alive,
        "GET /warmup/": health.warmup,
        "POST /predict/": classify.classify_image,
        "POST /predictions": predictions.create,
        "GET /v2": open_inference.server,
    }
)
# Payloads of direct calls.
UNKNOWN: list[Any] = ["warmup", "", [], [{"warmup": True}], None, 5, True, {}, {"warmup": "yes"}]


def asking(name: str, path: str, stage: str) -> dict[str, Any]:
    """Return the event *name* for GET *path* at *stage*, as AWS writes it."""
    found, bare = event(name), path.strip("/")
    context = found["requestContext"]
    staged = f"/{stage}{path}"
    if "http" in context:
        context |= {"stage": stage, "http": {**context["http"], "method": "GET"}}
        found["rawPath"] = context["http"]["path"] = path if stage == "$default" else staged
    elif "elb" in context:
        found |= {"path": path, "httpMethod": "GET"}
    else:
        found |= {"resource": "/{proxy+}", "pathParameters": {"proxy": bare}, "httpMethod": "GET"}
        context |= {"stage": stage, "path": staged}
        found["path"] = staged if "version" in found else path
    return {**found, "body": None, "isBase64Encoded": False}


def url_event(method: str, path: str, body: bytes = b"", **headers: str) -> dict[str, Any]:
    return {
        "version": "2.0",
        "rawPath": path,
        "rawQueryString": "top_k=1",
        "headers": headers,
        "requestContext": {"http": {"method": method, "path": path}},
        "body": base64.b64encode(body).decode(),
        "isBase64Encoded": True,
    }


def test_a_function_url_predicts() -> None:
    """A photo in base64, as Lambda passes binary bodies, is classified."""
    answer = HANDLER(url_event("POST", "/predict/", photo()), None)

    assert answer["statusCode"] == 200
    assert len(json.loads(answer["body"])["predictions"]) == 1
    assert answer["isBase64Encoded"] is False


def test_older_events_are_read() -> None:
    """Events of a REST API and a load balancer have method, path and query in other keys."""
    event = {
        "httpMethod": "POST",
        "path": "/predict/",
        "queryStringParameters": {"top_k": "2"},
        "headers": {"Content-Type": "image/jpeg"},
        "body": base64.b64encode(photo()).decode(),
        "isBase64Encoded": True,
    }

    assert len(json.loads(HANDLER(event, None)["body"])["predictions"]) == 2


@pytest.mark.parametrize("stage", ["prod", "predict", "v2", "health", "v"])
@pytest.mark.parametrize(
    "name", ["http-api-2", "http-api-1", "rest-api", "rest-api-domain", "function-url", "alb"]
)
@pytest.mark.parametrize(
    ("path", "status"), [("/health/", 200), ("/v2", 200), ("/predictions", 405)]
)
def test_a_stage_is_no_part_of_the_path(name: str, stage: str, path: str, status: int) -> None:
    """A path that begins with the stage's name is found, behind every kind of API."""
    stage = "$default" if name == "function-url" else stage

    assert HANDLER(asking(name, path, stage), None)["statusCode"] == status


@pytest.mark.parametrize(("stage", "base"), [("prod", "/skin"), ("v2", "/v2"), ("api", "/a/api")])
def test_a_base_path_is_no_part_of_the_path(stage: str, base: str) -> None:
    """The base path of a REST API's custom domain and the stage are removed."""
    found = asking("rest-api-domain", "/v2", stage)
    found["path"] = found["requestContext"]["path"] = f"{base}/v2"
    root = {**found, "resource": "/", "pathParameters": None, "path": base, "httpMethod": "PUT"}

    assert HANDLER(found, None)["statusCode"] == 200
    assert HANDLER(root, None)["statusCode"] == 404


def test_the_default_route_of_an_api_has_the_stage_too() -> None:
    """If a 1.0 event names no resource, the stage before the path is still removed."""
    found = {**asking("http-api-1", "/v2", "prod"), "resource": "$default", "pathParameters": None}
    unnamed = {**found, "path": "/v2", "requestContext": {"stage": "$default"}}

    assert [HANDLER(one, None)["statusCode"] for one in (found, unnamed)] == [200, 200]


@pytest.mark.parametrize(
    "event",
    [
        event("schedule-v2"),
        event("eventbridge"),
        {**event("eventbridge"), "source": "aws.scheduler", "detail": "{}"},
        url_event("GET", "/", **{"x-warmup": "1"}),
        url_event("POST", "/predict", **{"X-CloudScheduler": "true"}),
    ],
)
def test_a_ping_warms_up(event: dict[str, Any]) -> None:
    """Schedules and pings by header load the model and run it once."""
    assert json.loads(HANDLER(event, None)["body"])["state"] == "ready"


@pytest.mark.parametrize(
    "event",
    [*UNKNOWN, *map(event, ["sqs", "sns", "s3", "eventbridge-custom", "websocket"])],
    ids=lambda event: json.dumps(event)[:40],
)
def test_an_unknown_event_is_an_error_of_one_line(event: Any) -> None:
    """Other events raise an error, because a queue would delete what was not processed."""
    with pytest.raises(aws_lambda.UnknownEvent) as raised:
        HANDLER(event, None)

    assert str(raised.value).startswith("The event is ")
    assert "neither an HTTP request nor a warm-up. Send requests" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "source"),
    [("sqs", "aws:sqs"), ("sns", "aws:sns"), ("s3", "aws:s3"), ("eventbridge-custom", "clinic")],
)
def test_the_sender_of_an_unknown_event_is_named(name: str, source: str) -> None:
    """The error names the service that sent the event, and nothing else of it."""
    with pytest.raises(aws_lambda.UnknownEvent, match=f"The event is from {source}") as raised:
        HANDLER(event(name), None)

    assert "photos:21be56ed" not in str(raised.value)


def test_a_ping_of_health_gets_health() -> None:
    """A scheduler that asks for health gets health."""
    assert HANDLER(url_event("GET", "/health/", **{"x-warmup": "1"}), None)["body"] == "ok"


def test_a_body_that_is_not_base64_is_a_bad_request() -> None:
    """A broken event is a malformed request, not a crash."""
    event = {**url_event("POST", "/predict/"), "body": "%%%"}

    assert HANDLER(event, None)["statusCode"] == 400
