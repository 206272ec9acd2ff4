"""The OpenAPI document of a door: its routes, their descriptions, and answers that were real."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from macule import __version__
from macule.errors import (
    Macule,
    MethodNotAllowed,
    QuotaExceeded,
    Unauthorized,
    Unavailable,
    UnsupportedImage,
)
from macule.http import draining, routing
from macule.http.messages import Exempt, Table
from macule.routes.openapi.entry import (
    AUTHENTICATION,
    EVERY_ERROR,
    EVERY_HEADER,
    EVERY_PARAMETER,
    JSON,
    PROBLEM,
    QUOTA,
    SHUTDOWN,
    Answer,
    Operation,
)
from macule.routes.openapi.operations import FUNCTIONS, TAGS

EXAMPLES_FILE = "examples.json"  # written by tests/answers.py
SCHEMES = ("Bearer", "X-API-Key")
# The headers of problems, by the class of the first of a status.
PROBLEM_HEADERS: Mapping[type[Macule], tuple[str, ...]] = {
    Unavailable: ("Retry-After",),
    MethodNotAllowed: ("Allow",),
    Unauthorized: ("WWW-Authenticate",),
    UnsupportedImage: ("Accept-Encoding.maybe",),
    QuotaExceeded: ("Retry-After", "RateLimit", "RateLimit-Policy"),
}
ABOUT = """A skin-lesion classifier. A research demonstration: **not a medical device and not a \
diagnosis.**

## Keys and quotas

Where the service has keys (`API_KEYS`), every operation that may answer 401 needs one, as \
`Authorization: Bearer KEY` or `X-API-Key: KEY`. Where it has quotas (`QUOTA`), every operation \
that may answer 429 is counted, and its answers say in `RateLimit` what is left.

## Errors

Errors are RFC 9457 problem documents: tell them apart by `type`, show people `detail`. After 503 \
try again when `Retry-After` says; after 507 never with the same image.

## Paths and methods

Every path answers with and without its trailing slash. HEAD works wherever GET does, OPTIONS \
everywhere. A path that does not exist is 404 `not-found`.

## Web pages of other origins

Where the service has `ALLOWED_ORIGINS`, pages of those origins may call it and read its answers \
(CORS). `Referrer-Policy`, `Content-Security-Policy` and \
`Cross-Origin-Resource-Policy` stand on every answer, so that browsers neither embed it elsewhere \
nor load anything for it."""

Node = dict[str, Any]


def document(routes: Table, free: Exempt) -> Node:
    """Describe *routes*, those of the predict function or of the health function.

    *free*: those that need no key where there are keys, or are counted against no quota.
    """
    function = "predict" if "/predict" in routes else "health"
    described, kept = FUNCTIONS[function], _read(EXAMPLES_FILE)
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
        "paths": _paths(described, routes, free, kept),
    }
    parts = components()
    parts["schemas"]["Photo"]["examples"] = [kept["photo"]]
    for name, value in _path_examples(kept).items():
        parts["parameters"][name]["example"] = value
    parts["examples"] = {
        slug: {"summary": problem["title"], "value": problem}
        for slug, problem in kept["problems"].items()
    }
    schemes = {"securitySchemes": parts["securitySchemes"]}
    return {**whole, "components": {**_referenced(whole, parts), **schemes}}


def _path_examples(kept: Node) -> Node:
    """Return what stands in the paths of examples: a prediction that was, the model that ships."""
    (job,) = kept["answers"]["createPrediction"]["202"][JSON].values()
    (card,) = kept["answers"]["model"]["200"][JSON].values()
    return {"id": job["id"], "name": card["name"], "version": card["version"]}


def components() -> Node:
    """Read the parts that documents refer to by name: schemas, parameters, headers, bodies."""
    return _read("components.json")


def _paths(described: Mapping[str, Operation], routes: Table, free: Exempt, kept: Node) -> Node:
    """Write the operations of *routes* by path and method, paths as *described* has them."""
    paths: Node = {}
    for route, operation in described.items():
        method, path = route.split(" ")
        plain = routing.plain(route)
        if method not in routes.get(routing.bare(path), {}):
            continue
        unlocked = plain in free.keys
        refusals = () if unlocked else AUTHENTICATION
        if method == "POST" and plain not in free.quotas:
            refusals += QUOTA
        if routing.bare(path) not in draining.OPEN:
            refusals += SHUTDOWN
        whole = operation._replace(errors=(*operation.errors, *refusals))
        paths.setdefault(path, {})[method.lower()] = _operation(whole, kept, unlocked)
    return paths


def _operation(operation: Operation, kept: Node, unlocked: bool) -> Node:
    """Write one operation: its answers and its problems, by status."""
    answers = kept["answers"].get(operation.id, {})
    responses = {
        str(status): _answer(answer, answers.get(str(status), {}))
        for status, answer in operation.answers.items()
    }
    for status, errors in _by_status((*operation.errors, *EVERY_ERROR)).items():
        responses[status] = _problems(errors, operation.problems, kept["problems"])
    parameters = (*operation.parameters, *EVERY_PARAMETER)
    return {
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": operation.text,
        **({"security": []} if unlocked else {}),
        "parameters": [_ref("parameters", name) for name in parameters],
        **({"requestBody": _ref("requestBodies", operation.body)} if operation.body else {}),
        "responses": dict(sorted(responses.items())),
    }


def _answer(answer: Answer, kept: Node) -> Node:
    content: Node = {}
    for kind, schema in answer.content.items():
        content[kind] = {"schema": _ref("schemas", schema) if schema else {"type": "string"}}
        if kind in kept:
            content[kind]["examples"] = {
                name: {"summary": name, "value": value} for name, value in kept[kind].items()
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


def _problems(errors: list[type[Macule]], kind: str, kept: Node) -> Node:
    """Write the problems of one status: their titles, types and examples."""
    names = tuple(
        name
        for failure, named in PROBLEM_HEADERS.items()
        for name in named
        if issubclass(errors[0], failure)
    )
    answer = {
        "description": " ".join(f"{error.title} (`{error.slug}`)." for error in errors),
        "headers": _headers(names),
    }
    if kind != PROBLEM:
        return {**answer, "content": {kind: {"schema": {"type": "string"}}}}
    types = [f"urn:macule:problem:{error.slug}" for error in errors]
    only = {"type": {"enum": types}, "status": {"const": errors[0].status}}
    schema = {"allOf": [_ref("schemas", "Problem"), {"type": "object", "properties": only}]}
    examples = {e.slug: _ref("examples", e.slug) for e in errors if e.slug in kept}
    content = {"schema": schema, **({"examples": examples} if examples else {})}
    return {**answer, "content": {kind: content}}


def _headers(names: tuple[str, ...]) -> Node:
    """Name headers; what stands behind a dot tells two of one name apart in components.json."""
    return {name.partition(".")[0]: _ref("headers", name) for name in (*EVERY_HEADER, *names)}


def _by_status(errors: tuple[type[Macule], ...]) -> dict[str, list[type[Macule]]]:
    found: dict[str, list[type[Macule]]] = {}
    for error in errors:
        found.setdefault(str(error.status), []).append(error)
    return found


def _referenced(whole: Node, parts: Node) -> Node:
    """Return those of *parts* that the document refers to, from wherever."""
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
    """Read a file of this package; nothing of it is kept."""
    found: Node = json.loads((Path(__file__).parent / name).read_bytes())
    return found
