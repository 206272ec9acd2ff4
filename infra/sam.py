"""A SAM template: loaded, transformed and evaluated as CloudFormation would, and linted."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

REGION = "eu-west-1"  # any region: the linter needs one
VARIABLES = ("MAX_IMAGE_BYTES", "MEMORY_BANDS")  # gunicorn's other limits have no effect on Lambda
Document = dict[str, Any]
Values = Mapping[str, Any]
NOTHING = object()  # the value of AWS::NoValue
STORED = "s3://bundles"  # the folder of local bundles for the transform


class Refused(Exception):
    """The transform's error about an invalid template."""


def load(text: str) -> Document:
    """Read YAML with CloudFormation's tags, as plain JSON."""
    from cfnlint.decode import decode_str

    document, problems = decode_str(text)
    if problems:
        raise Refused("; ".join(str(problem) for problem in problems))
    plain: Document = json.loads(json.dumps(document))
    return plain


def transform(document: Document, values: Values | None = None) -> Document:
    """Return SAM's CloudFormation template of *document*, with unevaluated conditions.

    Raises: Refused.
    """
    from boto3 import Session
    from samtranslator.model.exceptions import InvalidDocumentException
    from samtranslator.parser.parser import Parser
    from samtranslator.translator.translator import Translator

    stored = copy.deepcopy(document)
    for resource in stored.get("Resources", {}).values():
        properties = resource.get("Properties", {})
        for key in ("CodeUri", "ContentUri"):
            if isinstance(properties.get(key), str):
                properties[key] = f"{STORED}/{properties[key].rpartition('/')[2]}"
    translator = Translator({}, Parser(), boto_session=Session(region_name=REGION))
    try:
        plain: Document = translator.translate(stored, dict(values or {}))
    except InvalidDocumentException as error:
        causes = [str(cause.message) for cause in error.causes]
        raise Refused("; ".join(causes) or str(error)) from error
    return plain


def deployed(document: Document, values: Values | None = None) -> Document:
    """Return what is deployed with *values* of the parameters, the others at their defaults.

    Parameters and conditions are evaluated: resources that are not created are absent.
    Raises: Refused.
    """
    plain = transform(document, values)
    given = {name: body.get("Default") for name, body in plain.get("Parameters", {}).items()}
    evaluated = _Evaluated({**given, **(values or {})}, plain.get("Conditions", {}))
    left = {key: plain[key] for key in plain if key not in ("Parameters", "Conditions")}
    found: Document = evaluated.of(left)
    return found


def variants(document: Document) -> list[dict[str, str]]:
    """Return values of the parameters: their defaults, and the opposite of each."""
    changed = {}
    for name, body in document.get("Parameters", {}).items():
        others = [value for value in body.get("AllowedValues", []) if value != body["Default"]]
        changed[name] = others[-1] if others else f"sample-{name}"
    return [{}, changed]


class _Evaluated:
    """CloudFormation's conditions and parameter references, with their values."""

    def __init__(self, values: Values, conditions: Mapping[str, Any]) -> None:
        self._values, self._conditions = values, conditions

    def of(self, node: Any) -> Any:
        """Evaluate a part of the template; NOTHING if a property is left out."""
        if isinstance(node, list):
            return [part for part in map(self.of, node) if part is not NOTHING]
        if not isinstance(node, dict):
            return node
        if set(node) == {"Ref"}:
            name = node["Ref"]
            return NOTHING if name == "AWS::NoValue" else self._values.get(name, node)
        if set(node) == {"Fn::If"}:
            name, then, otherwise = node["Fn::If"]
            return self.of(then if self._holds({"Condition": name}) else otherwise)
        if set(node) == {"Fn::Sub"} and isinstance(node["Fn::Sub"], str):
            return self._substituted(node["Fn::Sub"])
        kept = {
            key: self.of(part)
            for key, part in node.items()
            # a resource's own condition has been used; a policy's, which is an object, has not
            if self._created(part) and not (key == "Condition" and isinstance(part, str))
        }
        return {key: part for key, part in kept.items() if part is not NOTHING}

    def _created(self, part: Any) -> bool:
        """Return whether a resource or an output is created: one without a condition is."""
        name = part.get("Condition") if isinstance(part, dict) else None
        return not isinstance(name, str) or self._holds({"Condition": name})

    def _holds(self, node: Any) -> bool:
        if not isinstance(node, dict) or len(node) != 1:
            raise Refused(f"{node} is no condition")
        ((kind, parts),) = node.items()
        if kind == "Condition":
            if parts not in self._conditions:
                raise Refused(f"there is no condition {parts}")
            return self._holds(self._conditions[parts])
        if kind == "Fn::Equals":
            return bool(self.of(parts[0]) == self.of(parts[1]))
        if kind == "Fn::Not":
            return not self._holds(parts[0])
        if kind in ("Fn::And", "Fn::Or"):
            return (all if kind == "Fn::And" else any)(map(self._holds, parts))
        raise Refused(f"{kind} is no condition")

    def _substituted(self, text: str) -> Any:
        for name, value in self._values.items():
            text = text.replace(f"${{{name}}}", str(value))
        return {"Fn::Sub": text} if "${" in text else text


def schema(document: Document) -> Iterator[str]:
    """Return violations of SAM's own schema: the transform silently drops some unknown keys."""
    from pydantic.v1 import ValidationError
    from samtranslator.internal.schema_source import (
        aws_serverless_function,
        aws_serverless_layerversion,
    )

    models = {
        "AWS::Serverless::Function": aws_serverless_function.Resource,
        "AWS::Serverless::LayerVersion": aws_serverless_layerversion.Resource,
    }
    for name, body in document.get("Resources", {}).items():
        if not str(body.get("Type")).startswith("AWS::Serverless::"):
            continue
        try:
            models[body["Type"]].parse_obj(body)
        except KeyError:
            yield f"{name}: {body['Type']} is none of {sorted(models)}"
        except ValidationError as error:
            for problem in error.errors():
                yield f"{name}.{'.'.join(map(str, problem['loc']))}: {problem['msg']}"


def lint(text: str) -> Iterator[str]:
    """Return cfn-lint's findings, including warnings."""
    from cfnlint.api import lint as lint_text
    from cfnlint.config import ManualArgs

    for match in lint_text(text, config=ManualArgs(regions=[REGION])):
        yield f"{match.rule.id}: {match.message}"
