"""The AWS Lambda adapter: an event to a `Request`, and a `Response` back."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from macule import settings
from macule.http import application, routing
from macule.http.adapters import wsgi
from macule.http.body import Body
from macule.http.messages import Handler, Request, Response
from macule.memory import processes

SCHEDULE = "schedule"  # the caller of a request that did not come over HTTP
SCHEDULERS = ("aws.events", "aws.scheduler")  # EventBridge rules and EventBridge Scheduler
DEFAULT_STAGE = "$default"  # an HTTP API's default stage and its catch-all route
Event = Mapping[str, Any]
TEXT_TYPES = ("text/", "application/json", "application/problem+json")


class UnknownEvent(Exception):
    """The event is neither an HTTP request nor a warm-up.

    It is raised, not returned: a queue or a bus that gets a result regards its message as processed
    and deletes it.
    """


def create_handler(
    routes: Mapping[str, Handler], public: Iterable[str] = (), unmetered: Iterable[str] = ()
) -> Callable[[Any, object], dict[str, Any]]:
    """Return the handler that Lambda calls; for the arguments see `wsgi.create_app`.

    It accepts events of function URLs, HTTP APIs (1.0 and 2.0), REST APIs, load balancers and
    warm-up schedules.
    Raises: UnknownEvent, from the handler, for any other event.
    """
    table, boot_ms = routing.build_table(routes), processes.age_ms()
    exemptions = routing.parse_exemptions(public, unmetered)

    def handle(event: Any, context: object) -> dict[str, Any]:
        request = wsgi.rewrite_ping(_request(event, boot_ms))
        answer = _to_event(application.respond(table, request, exemptions), request.method)
        if "headers" not in event and "multiValueHeaders" in event:  # a balancer's setting
            answer["multiValueHeaders"] = {k: [v] for k, v in answer.pop("headers").items()}
        return answer

    if settings.makes_snapshot() and "/warmup" in table:
        from macule.http.adapters import snapstart

        warmup = _warmup(boot_ms)._replace(routes=table, exemptions=exemptions)
        # dispatch, not respond: the snapshot must have no log line, count or span of it
        snapstart.register(lambda: application.dispatch(warmup, warmup.path))
    return handle


def _request(event: Any, boot_ms: float) -> Request:
    fields = event if isinstance(event, Mapping) else {}
    context = fields.get("requestContext")
    context = context if isinstance(context, Mapping) else {}
    about = context.get("http")
    method = about.get("method") if isinstance(about, Mapping) else fields.get("httpMethod")
    if isinstance(method, str):
        return _from_event(fields, context, method, boot_ms)
    if _is_warmup(fields):
        return _warmup(boot_ms)
    raise UnknownEvent(
        f"The event is {_describe(event)}: neither an HTTP request nor a warm-up. Send requests "
        "through a function URL, an API or a load balancer; warm up with "
        '{"warmup": true} or an EventBridge schedule.'
    )


def _is_warmup(event: Event) -> bool:
    """Return whether *event* is a warm-up: the template's or an EventBridge schedule's."""
    scheduled = event.get("detail-type") == "Scheduled Event" and event.get("source") in SCHEDULERS
    return scheduled or event.get("warmup") is True


def _warmup(boot_ms: float) -> Request:
    """Return a request for /warmup/ that needs no key: the sender may invoke the function."""
    return Request("GET", "/warmup/", {}, {}, Body(BytesIO(), 0), boot_ms, caller=SCHEDULE)


def _describe(event: Any) -> str:
    """Describe an event without quoting its data."""
    if not isinstance(event, Mapping):
        kinds = {type(None): "null", str: "a string", list: "a list", bool: "true or false"}
        return kinds.get(type(event), "a number")
    records = event.get("Records")
    first = records[0] if isinstance(records, list) and records else event
    source = first.get("eventSource") or first.get("EventSource") or first.get("source")
    return f"from {source[:40]}" if isinstance(source, str) else "an object of another kind"


def _from_event(event: Event, context: Event, method: str, boot_ms: float) -> Request:
    """Convert events of a function URL or HTTP API (2.0), of an API or a load balancer (1.0)."""
    balancer = "elb" in context
    query = event.get("rawQueryString")
    if query is None:
        lists = event.get("multiValueQueryStringParameters")
        pairs = lists or event.get("queryStringParameters") or {}
        # a load balancer passes the query percent-encoded, an API decoded
        query = urlencode(pairs, doseq=True, quote_via=_unquoted if balancer else quote)
    lists = event.get("multiValueHeaders") or {}
    headers = event.get("headers") or {name: values[-1] for name, values in lists.items()}
    headers = {name.lower(): value for name, value in headers.items()}
    body = _body(event)
    # a load balancer appends the client's address to the header
    appended = headers.get("x-forwarded-for", "").rpartition(",")[2].strip() if balancer else ""
    about = context.get("http") or context.get("identity") or {}
    return Request(
        method,
        _path(event, context),
        dict(parse_qsl(query, keep_blank_values=True)),
        headers,
        Body(BytesIO(body), len(body)),
        boot_ms,
        address=about.get("sourceIp") or appended,
    )


def _path(event: Event, context: Event) -> str:
    """Return the path without the prefix that an API adds.

    | event | its path |
    |---|---|
    | 2.0 of a named stage, on a custom domain too | `rawPath` is /STAGE/path |
    | 2.0 of $default, function URL, load balancer | path |
    | REST API | path; on a custom domain with its base path and perhaps the stage before it |
    | 1.0 of an HTTP API | /STAGE/path; on a custom domain /BASE/path |

    `resource` of the last two, with its parameters filled in, is the path that the API matched.
    """
    path: str = event.get("rawPath") or event.get("path") or "/"
    matched = event.get("resource") or DEFAULT_STAGE
    if "rawPath" not in event and matched != DEFAULT_STAGE:
        values = event.get("pathParameters") or {}
        filled = re.sub(r"\{([^}+]+)\+?\}", lambda name: str(values.get(name[1], "")), matched)
        return (filled or "/") if path.rstrip("/").endswith(filled.rstrip("/")) else path
    stage = context.get("stage") or DEFAULT_STAGE
    is_named = "version" in event and stage != DEFAULT_STAGE
    has_stage = is_named and f"{path}/".startswith(f"/{stage}/")
    return (path.removeprefix(f"/{stage}") or "/") if has_stage else path


def _body(event: Event) -> bytes:
    text = event.get("body") or ""
    try:
        return b64decode(text, validate=True) if event.get("isBase64Encoded") else text.encode()
    except Base64Error:
        return b""


def _unquoted(text: Any, *how: object) -> str:
    return str(text)


def _to_event(response: Response, method: str) -> dict[str, Any]:
    is_encoded = "Content-Encoding" in response.headers
    text = not is_encoded and response.headers.get("Content-Type", "text/").startswith(TEXT_TYPES)
    body = b"" if method == "HEAD" else response.body
    return {
        "statusCode": response.status,
        "headers": response.headers,
        "isBase64Encoded": not text,
        "body": body.decode() if text else b64encode(body).decode("ascii"),
    }
