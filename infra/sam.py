"""A SAM template: loaded, transformed as CloudFormation would, and linted."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from boto3 import Session
from cfnlint.api import lint as lint_text
from cfnlint.config import ManualArgs
from cfnlint.decode import decode_str
from samtranslator.model.exceptions import InvalidDocumentException
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator

REGION = "eu-west-1"  # some region: the linter asks for one
VARIABLES = ("MAX_IMAGE_BYTES", "MEMORY_BANDS")  # gunicorn's other limits mean nothing on Lambda
STORED = "s3://bundles"  # where the transform is told that local bundles lie


class Refused(Exception):
    """What the transform says of a template that it does not take."""


def load(text: str) -> dict[str, Any]:
    """Read YAML with CloudFormation's tags, as plain JSON."""
    document, problems = decode_str(text)
    if problems:
        raise Refused("; ".join(str(problem) for problem in problems))
    plain: dict[str, Any] = json.loads(json.dumps(document))
    return plain


def transform(document: dict[str, Any]) -> dict[str, Any]:
    """Return the CloudFormation template that SAM makes of *document*."""
    stored = copy.deepcopy(document)
    for resource in stored.get("Resources", {}).values():
        properties = resource.get("Properties", {})
        for key in ("CodeUri", "ContentUri"):
            if isinstance(properties.get(key), str):
                properties[key] = f"{STORED}/{properties[key].rpartition('/')[2]}"
    translator = Translator({}, Parser(), boto_session=Session(region_name=REGION))
    try:
        plain: dict[str, Any] = translator.translate(stored, {})
    except InvalidDocumentException as error:
        causes = [str(cause.message) for cause in error.causes]
        raise Refused("; ".join(causes) or str(error)) from error
    return plain


def lint(text: str) -> Iterator[str]:
    """Say what cfn-lint finds, warnings too."""
    for match in lint_text(text, config=ManualArgs(regions=[REGION])):
        yield f"{match.rule.id}: {match.message}"
