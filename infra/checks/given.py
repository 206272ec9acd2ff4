"""What a template gives beside what it should give."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator

from infra.limits import Function, Limits

SCHEMAS = Path(__file__).resolve().parent.parent / "schemas"
HEALTH_PATHS = ("/health/", "/warmup/")  # routes that answer at once once a model is warm


def schema(document: Any, name: str) -> Iterator[str]:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    for error in Draft7Validator(schema).iter_errors(document):
        yield f"{'.'.join(map(str, error.absolute_path)) or 'the document'}: {error.message}"


def differ(where: str, given: Mapping[Any, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for key, value in wanted.items():
        if given.get(key) != value:
            yield f"{where}: {key} is {given.get(key)!r}, not {value!r}"


def dicts(body: Any, key: str) -> list[dict[str, Any]]:
    items = body.get(key) if isinstance(body, dict) else None
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def processors(given: Any) -> float:
    text = str(given)
    try:
        return float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    except ValueError:
        return 0.0


def service(document: Any, table: Limits) -> tuple[Function, dict[str, Any], dict[str, Any]]:
    """Find the function that a service is of, its revision, and its container."""
    name = str(document.get("metadata", {}).get("name", ""))
    function = table.health if name.endswith("-health") else table.predict
    spec = document.get("spec", {}).get("template", {}).get("spec", {})
    containers = dicts(spec, "containers")
    return function, spec, containers[0] if containers else {}


def scale(document: Any, function: Function, key: str) -> Iterator[str]:
    annotations = document["spec"]["template"].get("metadata", {}).get("annotations", {})
    wanted = {f"autoscaling.knative.dev/{key}": str(function.max_instances)}
    yield from differ("annotations", annotations, wanted)


def probes(container: Mapping[str, Any], *names: str) -> Iterator[str]:
    for name in names:
        path = container.get(name, {}).get("httpGet", {}).get("path")
        if path not in HEALTH_PATHS:
            yield f"{name}: {path} is no route that answers without work"
