"""The Lambda door; the WSGI door is tested behind real servers."""

import base64
import json
from typing import Any

import pytest
from draw import photo
from macule import classify, doors, health

HANDLER = doors.lambda_handler(
    {
        "GET /health/": health.alive,
        "GET /warmup/": health.warmup,
        "POST /predict/": classify.photo,
    }
)


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
    """A photo in base64, as Lambda passes binary bodies, is answered."""
    answer = HANDLER(url_event("POST", "/predict/", photo()), None)

    assert answer["statusCode"] == 200
    assert len(json.loads(answer["body"])["predictions"]) == 1
    assert answer["isBase64Encoded"] is False


def test_older_events_are_read_too() -> None:
    """A REST API's and a balancer's event name method, path and query in other keys."""
    event = {
        "httpMethod": "POST",
        "path": "/predict/",
        "queryStringParameters": {"top_k": "2"},
        "headers": {"Content-Type": "image/jpeg"},
        "body": base64.b64encode(photo()).decode(),
        "isBase64Encoded": True,
    }

    assert len(json.loads(HANDLER(event, None)["body"])["predictions"]) == 2


@pytest.mark.parametrize(
    "event",
    [
        {"source": "warmup"},
        {"source": "aws.scheduler", "detail": {}},
        url_event("GET", "/", **{"x-warmup": "1"}),
        url_event("POST", "/predict", **{"X-CloudScheduler": "true"}),
    ],
)
def test_a_ping_warms(event: dict[str, Any]) -> None:
    """Schedules and pings by header load the model and run it once."""
    assert json.loads(HANDLER(event, None)["body"])["state"] == "ready"


def test_a_ping_of_health_stays_health() -> None:
    """A scheduler that only asks for health gets health."""
    assert HANDLER(url_event("GET", "/health/", **{"x-warmup": "1"}), None)["body"] == "ok"


def test_a_body_that_is_not_base64_is_no_image() -> None:
    """A broken event is a malformed request, not a crash."""
    event = {**url_event("POST", "/predict/"), "body": "%%%"}

    assert HANDLER(event, None)["statusCode"] == 400
