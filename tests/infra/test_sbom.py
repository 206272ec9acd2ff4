"""Each bundle's list of its contents is complete and valid."""

import json
from importlib.metadata import distributions
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from infra import bundle


def listed(bundles: Path, name: str) -> str:
    return (bundles / name).with_suffix(".cdx.json").read_text()


@pytest.mark.parametrize("name", bundle.TREES)
def test_a_list_is_valid_cyclonedx(bundles: Path, name: str) -> None:
    """The schema's own validator finds nothing in strict mode."""
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(listed(bundles, name)) is None


@pytest.mark.parametrize("name", bundle.TREES)
def test_the_list_is_complete(bundles: Path, name: str) -> None:
    """Each installed distribution and macule itself are listed with version and purl."""
    root = bundles / name
    components = {part["name"]: part for part in json.loads(listed(bundles, name))["components"]}
    bases = {str(info.parent) for info in root.rglob("*.dist-info")}
    installed = {found.metadata["Name"]: found.version for found in distributions(path=[*bases])}

    assert {found: components[found]["version"] for found in installed} == installed
    wanted = {package for part in bundle.TREES[name].parts for package in bundle.PARTS[part]}
    assert wanted <= {part.lower().replace("_", "-") for part in components}
    assert ("macule" in components) == bool(list(root.rglob("macule/__init__.py")))
    for part in components.values():
        assert part["type"] == "machine-learning-model" or part["purl"].startswith("pkg:pypi/")


def test_what_google_installs_is_listed(bundles: Path) -> None:
    """The pins of requirements.txt for Linux and the model's digest are listed."""
    components = {
        part["name"]: part for part in json.loads(listed(bundles, "gcp/predict"))["components"]
    }

    assert {"functions-framework", "numpy", "gunicorn"} <= components.keys()
    assert "colorama" not in components
    assert components["macule-lite0-isic2017"]["hashes"][0]["alg"] == "SHA-256"
