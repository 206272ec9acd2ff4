"""The files below .github match the schemas that check-jsonschema ships."""

import subprocess
import sys
from pathlib import Path

import pytest
from support.service import ROOT

SCHEMAS = {
    "dependabot": ["dependabot.yml"],
    "github-issue-forms": ["ISSUE_TEMPLATE/bug.yml", "ISSUE_TEMPLATE/feature.yml"],
    "github-issue-config": ["ISSUE_TEMPLATE/config.yml"],
    "github-workflows": ["workflows/ci.yml", "workflows/release.yml"],
}


@pytest.mark.parametrize("schema", SCHEMAS)
def test_each_file_matches_its_published_schema(schema: str) -> None:
    """Dependabot's configuration, the issue forms and the workflows match their schemas."""
    program = Path(sys.executable).with_name("check-jsonschema")
    files = [ROOT / ".github" / name for name in SCHEMAS[schema]]

    subprocess.run([program, "--builtin-schema", f"vendor.{schema}", *files], check=True)


def test_no_file_lacks_a_schema() -> None:
    """Each YAML file below .github is checked against a schema."""
    files = {str(file.relative_to(ROOT / ".github")) for file in (ROOT / ".github").rglob("*.yml")}

    assert files == {name for names in SCHEMAS.values() for name in names}
