"""The OpenAPI document of a function: its routes, descriptions and recorded examples."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from macule import __version__, errors
from macule.errors import Macule
from macule.http import draining, routing
from macule.http.messages import Exemptions, RouteTable
from macule.routes.openapi.entry import (
    AUTH_ERRORS,
    EVERY_ERROR,
    EVERY_HEADER,
    EVERY_PARAMETER,
    JSON,
    PROBLEM,
    QUOTA_ERRORS,
    SHUTDOWN_ERRORS,
    Answer,
    Operation,
)
from macule.routes.openapi.operations import FUNCTIONS, TAGS

EXAMPLES_FILE = "examples.json"  # written by tests/support/api_examples.py
SCHEMES = ("Bearer", "X-API-Key")
# Headers of error responses, by the class of the first error of a status.
PROBLEM_HEADERS: Mapping[type[Macule], tuple[str, ...]] = {
    errors.Unavailable: ("Retry-After",),
    errors.MethodNotAllowed: ("Allow",),
    errors.Unauthorized: ("WWW-Authenticate",),
    errors.UnsupportedImage: ("Accept-Encoding.maybe",),
    errors.QuotaExceeded: ("Retry-After", "RateLimit", "RateLimit-Policy"),
}
ABOUT = """A skin-lesion classifier. A research demonstration: **not a medical device and not a \
diagnosis.**

## Keys and quotas

If the service has API keys (`API_KEYS`), every operation with a 401 response needs one, as \
`Authorization: Bearer KEY` or `X-API-Key: KEY`. If it has quotas (`QUOTA`), every operation with \
a 429 response is counted; the `RateLimit` header has the remaining quota.

## Errors

Errors are RFC 9457 problem documents: distinguish them by `type`, show `detail` to people. After \
503 retry after `Retry-After` seconds; after 507 do not retry with the same image.

## Paths and methods

Every path works with and without a trailing slash. HEAD works wherever GET does, OPTIONS \
everywhere. An unknown path gets a 404 `not-found`.

## Web pages of other origins

If `ALLOWED_ORIGINS` is set, pages of those origins may call the service and read its responses \
(CORS). Every response has `Referrer-Policy`, `Content-Security-Policy` and \
`Cross-Origin-Resource-Policy`, so that browsers do not embed it elsewhere or load anything for \
it."""

Node = dict[str, Any]


def document(routes: RouteTable, free: Exemptions) -> Node:
    """Describe *routes*, those of the predict function or of the health function.

    *free*: routes exempt from API keys or quotas.
    """
    function = "predict" if "/predict" in routes else "health"
    described, recorded = FUNCTIONS[function], _read(EXAMPLES_FILE)
    used = {operation.tag for operation in described.values()}
    whole = {
        "openapi": "3.1.0",
        "info": {
            "title": f"macule: {function}",
            "version": __version__,
            "summary": "A skin-lesion classifier; not a medical device",
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "tags": [{"name": tag, "description": TAGS[tag]} for tag in TAGS if tag in used],
        "security": [{}, *({scheme: list[str]()} for scheme in SCHEMES)],
        "paths": _paths(described, routes, free, recorded),
    }
    parts = components()
    parts["schemas"]["Photo"]["examples"] = [recorded["photo"]]
    for name, value in _path_examples(recorded).items():
        parts["parameters"][name]["example"] = value
    parts["examples"] = {
        slug: {"summary": problem["title"], "value": problem}
        for slug, problem in recorded["problems"].items()
    }
    schemes = {"securitySchemes": parts["securitySchemes"]}
    return {**whole, "components": {**_referenced(whole, parts), **schemes}}


def _path_examples(recorded: Node) -> Node:
    """Return example values of path parameters: a recorded prediction, the default model."""
    (job,) = recorded["answers"]["createPrediction"]["202"][JSON].values()
    (card,) = recorded["answers"]["model"]["200"][JSON].values()
    return {"id": job["id"], "name": card["name"], "version": card["version"]}


def components() -> Node:
    """Return the components: schemas, parameters, headers, bodies."""
    return _read("components.json")


def _paths(
    described: Mapping[str, Operation], routes: RouteTable, free: Exemptions, recorded: Node
) -> Node:
    """Return the operations of *routes* by path and method."""
    paths: Node = {}
    for route, operation in described.items():
        method, path = route.split(" ")
        plain = routing.normalize_route(route)
        if method not in routes.get(routing.normalize_path(path), {}):
            continue
        public = plain in free.keys
        rejections = () if public else AUTH_ERRORS
        if method == "POST" and plain not in free.quotas:
            rejections += QUOTA_ERRORS
        if routing.normalize_path(path) not in draining.EXEMPT_ROUTES:
            rejections += SHUTDOWN_ERRORS
        whole = operation._replace(errors=(*operation.errors, *rejections))
        paths.setdefault(path, {})[method.lower()] = _operation(whole, recorded, public)
    return paths


def _operation(operation: Operation, recorded: Node, public: bool) -> Node:
    """Return one operation with its responses by status."""
    answers = recorded["answers"].get(operation.id, {})
    responses = {
        str(status): _answer(answer, answers.get(str(status), {}))
        for status, answer in operation.answers.items()
    }
    for status, failures in _by_status((*operation.errors, *EVERY_ERROR)).items():
        responses[status] = _problems(failures, operation.problems, recorded["problems"])
    parameters = (*operation.parameters, *EVERY_PARAMETER)
    return {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.text,
        **({"security": []} if public else {}),
        "parameters": [_ref("parameters", name) for name in parameters],
        **({"requestBody": _ref("requestBodies", operation.body)} if operation.body else {}),
        "responses": dict(sorted(responses.items())),
    }


def _answer(answer: Answer, recorded: Node) -> Node:
    content: Node = {}
    for kind, schema in answer.content.items():
        content[kind] = {"schema": _ref("schemas", schema) if schema else {"type": "string"}}
        if kind in recorded:
            content[kind]["examples"] = {
                name: {"summary": name, "value": value} for name, value in recorded[kind].items()
            }
    links = {
        name: {"operationId": name, "parameters": {"id": "$response.body#/id"}}
        for name in answer.links
    }
    return {
        "description": answer.text,
        "headers": _headers(answer.headers),
        **({"content": content} if content else {}),
        **({"links": links} if links else {}),
    }


def _problems(failures: list[type[Macule]], kind: str, recorded: Node) -> Node:
    """Return the error response of one status: titles, types and examples."""
    names = tuple(
        name
        for failure, named in PROBLEM_HEADERS.items()
        for name in named
        if issubclass(failures[0], failure)
    )
    answer = {
        "description": " ".join(f"{error.title} (`{error.slug}`)." for error in failures),
        "headers": _headers(names),
    }
    if kind != PROBLEM:
        return {**answer, "content": {kind: {"schema": {"type": "string"}}}}
    types = [f"urn:macule:problem:{error.slug}" for error in failures]
    only = {"type": {"enum": types}, "status": {"const": failures[0].status}}
    schema = {"allOf": [_ref("schemas", "Problem"), {"type": "object", "properties": only}]}
    examples = {e.slug: _ref("examples", e.slug) for e in failures if e.slug in recorded}
    content = {"schema": schema, **({"examples": examples} if examples else {})}
    return {**answer, "content": {kind: content}}


def _headers(names: tuple[str, ...]) -> Node:
    """Return header references; a suffix after a dot selects a variant in components.json."""
    return {name.partition(".")[0]: _ref("headers", name) for name in (*EVERY_HEADER, *names)}


def _by_status(failures: tuple[type[Macule], ...]) -> dict[str, list[type[Macule]]]:
    found: dict[str, list[type[Macule]]] = {}
    for error in failures:
        found.setdefault(str(error.status), []).append(error)
    return found


def _referenced(whole: Node, parts: Node) -> Node:
    """Return the *parts* that the document references, directly or indirectly."""
    reached: Node = {}
    wanted = list(_refs(whole))
    while wanted:
        _, _, kind, name = wanted.pop().split("/")
        if name not in reached.setdefault(kind, {}):
            reached[kind][name] = parts[kind][name]
            wanted += _refs(parts[kind][name])
    return {
        kind: {name: value for name, value in parts[kind].items() if name in reached[kind]}
        for kind in parts
        if kind in reached
    }


def _refs(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for part in node.values():
            yield from _refs(part)
    elif isinstance(node, list):
        for part in node:
            yield from _refs(part)


def _ref(kind: str, name: str) -> Node:
    return {"$ref": f"#/components/{kind}/{name}"}


def _read(name: str) -> Node:
    """Return the JSON of a file of this package, uncached."""
    found: Node = json.loads((Path(__file__).parent / name).read_bytes())
    return found
