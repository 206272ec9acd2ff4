"""Differences between a template's values and the expected ones."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator
from jsonschema.validators import extend

from infra.checks.hcl import Unknown
from infra.limits import Function, Limits

SCHEMAS = Path(__file__).resolve().parent.parent / "schemas"
HEALTH_PATHS = ("/health/", "/warmup/")  # routes that answer at once when a model is warm


def _or_unknown(kind: str) -> Callable[[Any, Any], bool]:
    known = Draft7Validator.TYPE_CHECKER
    return lambda _, value: isinstance(value, Unknown) or known.is_type(value, kind)


# Values known after apply may have any type.
KINDS = ("array", "boolean", "number", "object")
Validator = extend(
    Draft7Validator,
    type_checker=Draft7Validator.TYPE_CHECKER.redefine_many(
        {kind: _or_unknown(kind) for kind in KINDS}
    ),
)


def schema(document: Any, name: str, part: str = "") -> Iterator[str]:
    """Check *document* with a schema, or with one *part* of its definitions."""
    schema = _read(name)
    if part and part not in schema["definitions"]:
        yield f"there is no schema of {part}"
        return
    if part:
        schema = schema | {"$ref": f"#/definitions/{part}"}
    for error in Validator(schema).iter_errors(document):
        yield f"{'.'.join(map(str, error.absolute_path)) or 'the document'}: {error.message}"


@cache
def _read(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    return read


def differ(where: str, given: Mapping[Any, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for key, value in wanted.items():
        if given.get(key) != value:
            yield f"{where}: {key} is {given.get(key)!r}, not {value!r}"


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile and their arguments, in order."""
    text = re.sub(r"^#.*\n", "", dockerfile, flags=re.MULTILINE).replace("\\\n", " ")
    parts = (line.partition(" ") for line in text.splitlines())
    return [(word, rest.strip()) for word, _, rest in parts]


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
    """Return the function of a service, its revision, and its container."""
    name = str(document.get("metadata", {}).get("name", ""))
    function = table.health if name.endswith("-health") else table.predict
    spec = document.get("spec", {}).get("template", {}).get("spec", {})
    containers = dicts(spec, "containers")
    return function, spec, containers[0] if containers else {}


def scale(document: Any, function: Function, key: str) -> Iterator[str]:
    annotations = document["spec"]["template"].get("metadata", {}).get("annotations", {})
    wanted = {f"autoscaling.knative.dev/{key}": str(function.max_instances)}
    yield from differ("annotations", annotations, wanted)


def keys(
    spec: Mapping[str, Any],
    container: Mapping[str, Any],
    function: Function,
    table: Limits,
    items: list[dict[str, str]] | None = None,
) -> Iterator[str]:
    """Check that API_KEYS is a file of the secret, for predict and if the table enables keys."""
    name, mount = f"{table.name}-keys", "/etc/secrets"
    wanted = table.api_keys and function.name == "predict"
    values = [item for item in dicts(container, "env") if item.get("name") == "API_KEYS"]
    if values != ([{"name": "API_KEYS", "value": f"{mount}/keys"}] if wanted else []):
        yield f"env: API_KEYS is {values}"
    held = [item["secret"] for item in dicts(spec, "volumes") if "secret" in item]
    if held != ([{"secretName": name} | ({"items": items} if items else {})] if wanted else []):
        yield f"volumes: the secrets are {held}"
    mounted = [item for item in dicts(container, "volumeMounts") if item.get("name") == "keys"]
    if [item.get("mountPath") for item in mounted] != ([mount] if wanted else []):
        yield f"volumeMounts: the keys are {mounted}"


def traffic(document: Any, table: Limits) -> Iterator[str]:
    """Check a canary's share, and the rest for the previous revision; nothing without a canary."""
    share = table.rollout.canary_percent
    wanted = [
        {"revisionName": "PREVIOUS", "percent": 100 - share},
        {"latestRevision": True, "percent": share, "tag": "candidate"},
    ]
    found = document.get("spec", {}).get("traffic")
    if found != (wanted if share else None):
        yield f"traffic is {found}"


def probes(container: Mapping[str, Any], *names: str) -> Iterator[str]:
    for name in names:
        path = container.get(name, {}).get("httpGet", {}).get("path")
        if path not in HEALTH_PATHS:
            yield f"{name}: {path} is no route that answers without work"
