"""The workflow on GitHub is what .ci/run is, by actions that nobody can exchange."""

import re
from typing import Any

import pytest
import yaml
from service import ROOT

FILE = ROOT / ".github/workflows/ci.yml"


@pytest.fixture
def workflow() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return read


def test_it_runs_what_ci_runs(workflow: dict[str, Any]) -> None:
    """One step is .ci/run, on the package's oldest Python and the newest that TensorFlow takes."""
    job = workflow["jobs"]["test"]
    versions = job["strategy"]["matrix"]["python"]
    package = (ROOT / "layers/model/pyproject.toml").read_text()
    oldest = re.search(r'requires-python = ">=(.+),', package)
    newest = re.search(
        r"^\.venv-dev/ready.*: NEWEST = (\d+)", (ROOT / "Makefile").read_text(), re.M
    )

    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o100
    assert oldest
    assert newest
    assert versions == [oldest[1], f"3.{newest[1]}"]


def test_it_may_read_alone_and_its_actions_are_pinned(workflow: dict[str, Any]) -> None:
    """No job may write, and each action is named by its commit."""
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]

    assert workflow["permissions"] == {"contents": "read"}
    assert not any("permissions" in job for job in workflow["jobs"].values())
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)] == []


def test_the_pins_are_audited_every_week(workflow: dict[str, Any]) -> None:
    """What is deployed is looked up by pip-audit: each set of pins that a bundle is made of."""
    from infra import limits

    told = workflow["jobs"]["audit"]["steps"][-1]["run"]
    names = {"serve", "health", "queue", *limits.EXTRAS}

    assert "pip-audit" in told
    assert names <= set(re.findall(r"\w+", told))
    assert workflow[True]["schedule"]  # YAML 1.1 reads `on` so
