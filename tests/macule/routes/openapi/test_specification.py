"""The specification is valid, complete, and matches the served routes and errors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from macule import errors
from macule.functions import health, predict
from macule.http import messages, routing
from macule.http.body import Body
from macule.http.messages import Request
from macule.routes import openapi, page
from macule.routes.openapi import entry, operations, specification
from openapi_spec_validator import OpenAPIV31SpecValidator
from support.api_examples import FILE
from support.service import ROOT

ROUTES = {"predict": predict.ROUTES, "health": health.ROUTES}
FREE = {
    "predict": routing.parse_exemptions(predict.PUBLIC_ROUTES, predict.UNMETERED_ROUTES),
    "health": routing.parse_exemptions(health.PUBLIC_ROUTES, ()),
}
DOCUMENTS = {
    name: specification.document(routing.build_table(it), FREE[name]) for name, it in ROUTES.items()
}
# Errors of no operation: of the command line, and of the result of a prediction.
ELSEWHERE = {errors.NoMaps, errors.Unreadable, errors.WorkerDied}
PARENTS = {errors.Unavailable}  # never raised itself


def classes(kind: type[errors.Macule] = errors.Macule) -> set[type[errors.Macule]]:
    return {kind}.union(*(classes(child) for child in kind.__subclasses__()))


def closed(node: Any) -> Any:
    """Return schemas that reject undescribed members."""
    if isinstance(node, list):
        return [closed(part) for part in node]
    if not isinstance(node, dict):
        return node
    shut = {key: closed(part) for key, part in node.items()}
    described = node.get("type") == "object" and "properties" in node
    return {**shut, "unevaluatedProperties": False} if described else shut


def shown(document: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the location of each example, its schema and its value."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            for status, answer in operation["responses"].items():
                for form in answer.get("content", {}).values():
                    for name, example in form.get("examples", {}).items():
                        found = document["components"]["examples"].get(name, example)
                        where = f"{method} {path} {status} {name}"
                        yield where, form["schema"], found["value"]


@pytest.mark.parametrize("function", ROUTES)
def test_it_is_openapi_3_1(function: str) -> None:
    """openapi-spec-validator finds nothing wrong with either function's document."""
    OpenAPIV31SpecValidator(DOCUMENTS[function]).validate()


@pytest.mark.parametrize("function", ROUTES)
def test_it_has_exactly_the_served_routes(function: str) -> None:
    """Each route of main.py has one description, and each description a route."""
    described = {
        f"{method.upper()} {path}"
        for path, methods in DOCUMENTS[function]["paths"].items()
        for method in methods
    }

    assert described == set(ROUTES[function]) == set(operations.FUNCTIONS[function])


def test_every_http_error_is_described() -> None:
    """Each class of errors.py is named by an operation, or known not to occur over HTTP."""
    named = {
        error
        for described in operations.FUNCTIONS.values()
        for operation in described.values()
        for error in (
            *operation.errors,
            *entry.EVERY_ERROR,
            *entry.AUTH_ERRORS,
            *entry.QUOTA_ERRORS,
            *entry.SHUTDOWN_ERRORS,
        )
    }

    assert named == classes() - ELSEWHERE - PARENTS


def test_no_operation_describes_a_status_twice() -> None:
    """An operation's own answers and its problems have different statuses."""
    for described in operations.FUNCTIONS.values():
        for operation in described.values():
            problems = {error.status for error in (*operation.errors, *entry.EVERY_ERROR)}

            assert not problems & operation.answers.keys(), operation.id


def test_nothing_is_unused() -> None:
    """Each component is used by a function's document, and each example is shown."""
    components = specification.components()
    kept = json.loads(FILE.read_text())
    for kind, named in components.items():
        reached = [document["components"].get(kind, {}).keys() for document in DOCUMENTS.values()]
        assert set().union(*reached) == named.keys(), kind
    ids = {operation.id for each in operations.FUNCTIONS.values() for operation in each.values()}

    assert kept["answers"].keys() <= ids
    assert kept["problems"].keys() == DOCUMENTS["predict"]["components"]["examples"].keys()


@pytest.mark.parametrize("function", ROUTES)
def test_every_member_of_an_example_is_described(function: str) -> None:
    """Recorded answers match their schemas, even without additional properties."""
    document = DOCUMENTS[function]
    components = {"schemas": closed(document["components"]["schemas"])}
    for where, schema, value in shown(document):
        parts = schema.get("allOf", [schema])
        for part in parts[:1]:
            whole = {**part, "components": components}
            assert list(Draft202012Validator(whole).iter_errors(value)) == [], where
        for part in parts[1:]:
            assert Draft202012Validator(part).is_valid(value), where


def test_health_and_predict_have_their_own_documents() -> None:
    """Neither document describes the other function's routes."""
    assert "/predict/" not in DOCUMENTS["health"]["paths"]
    assert set(DOCUMENTS["health"]["paths"]["/"]) == {"get"}
    assert set(DOCUMENTS["predict"]["paths"]["/"]) == {"get", "post"}
    assert "status" not in {it["operationId"] for it in DOCUMENTS["predict"]["paths"]["/"].values()}


def test_the_files_of_the_page_are_described() -> None:
    """The specification names each file of the page, and no other."""
    parameter = DOCUMENTS["predict"]["components"]["parameters"]["file"]

    assert parameter["schema"]["enum"] == list(page.FILES)


def test_authentication_and_quotas_are_described() -> None:
    """401, 403 and 429 are described exactly where a key or a quota applies."""
    paths = DOCUMENTS["predict"]["paths"]
    statuses = {
        route: {"401", "403", "429"}
        & set(paths[route.split()[1]][route.split()[0].lower()]["responses"])
        for route in predict.ROUTES
    }

    assert statuses["GET /health/"] == set()
    assert statuses["GET /memory/"] == {"401", "403"}
    assert statuses["POST /predict/"] == {"401", "403", "429"}
    assert statuses["POST /predictions/{id}/cancel"] == {"401", "403"}
    assert paths["/health/"]["get"]["security"] == []


@pytest.mark.parametrize("handler", [openapi.document, openapi.docs])
def test_it_is_cached_by_its_etag(handler: messages.Handler) -> None:
    """A client with the answer gets 304 by its ETag."""
    request = Request("GET", "/", {}, {}, Body(None, 0), routes=routing.build_table(predict.ROUTES))  # type: ignore[arg-type]
    first = handler(request)
    again = handler(request._replace(headers={"if-none-match": first.headers["ETag"]}))

    assert (first.status, again.status, again.body) == (200, 304, b"")
    assert again.headers["ETag"] == first.headers["ETag"]
    assert first.headers["Cache-Control"] == "no-cache"


def test_it_is_loaded_on_the_first_request() -> None:
    """Both functions start without the descriptions, the page, or their code."""
    code = (
        "import sys, macule.functions.predict, macule.functions.health;"
        "names = (name for name in sys.modules if name.startswith('macule.routes.openapi.'));"
        "print(*names, 'html')"
    )
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT)

    assert loaded.split() == ["html"]


def test_every_schema_is_valid() -> None:
    """The schemas are JSON Schema 2020-12."""
    for name, schema in DOCUMENTS["predict"]["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert json.dumps(schema), name
