"""The contents of a bundle as CycloneDX 1.6: reproducible, without a date or serial number."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from infra import limits, pins

VERSION = re.compile(r'__version__ = "(.+)"')


def text(name: str, root: Path) -> str:
    """List the contents of *root*, the bundle *name*, and what its requirements.txt installs."""
    components = sorted(_components(root), key=lambda part: str(part["bom-ref"]))
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {"type": "application", "name": f"macule-{name}", "bom-ref": name}
        },
        "components": components,
        "dependencies": [{"ref": name, "dependsOn": [part["bom-ref"] for part in components]}],
    }
    return json.dumps(document, indent=1) + "\n"


def _components(root: Path) -> Iterator[dict[str, Any]]:
    for base in {found.parent for found in root.rglob("*.dist-info")}:
        for found in distributions(path=[str(base)]):
            licences = found.metadata.get_all("License-Expression") or [None]
            yield _library(found.metadata["Name"], found.version, licences[0])
    for listed in root.glob("requirements.txt"):
        for pin in pins.parse(listed.read_text(), limits.read().python_minor):
            yield _library(pin.name, pin.version)
    for ours in root.rglob("macule/__init__.py"):
        if version_said := VERSION.search(ours.read_text()):
            yield _library("macule", version_said[1], "Apache-2.0")
    for card_file in root.rglob("macule/weights/model.json"):
        yield _model(json.loads(card_file.read_text()))


def _library(name: str, version: str, licence: str | None = None) -> dict[str, Any]:
    purl = f"pkg:pypi/{re.sub('[-_.]+', '-', name).lower()}@{version}"
    known = {"licenses": [{"expression": licence}]} if licence else {}
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl} | (
        known
    )


def _model(card: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": f"model:{card['name']}@{card['version']}",
        "name": card["name"],
        "version": card["version"],
        "hashes": [{"alg": "SHA-256", "content": card["sha256"]}],
    }
