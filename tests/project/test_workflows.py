"""The workflows on GitHub: what .ci/run is, and releases; by actions that nobody can exchange."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.service import ROOT

FOLDER = ROOT / ".github/workflows"
FILE = FOLDER / "ci.yml"


@pytest.fixture
def workflow() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return read


def test_it_runs_what_ci_runs(workflow: dict[str, Any]) -> None:
    """One step is .ci/run, on the oldest Python, the newest, and the newest for TensorFlow."""
    job = workflow["jobs"]["test"]
    versions = job["strategy"]["matrix"]["python"]
    package = (ROOT / "layers/model/pyproject.toml").read_text()
    oldest = re.search(r'requires-python = ">=(.+),', package)
    newest = re.findall(r"^\.venv.*: NEWEST = (\d+)", (ROOT / "Makefile").read_text(), re.M)

    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o100
    assert oldest
    assert versions == [oldest[1], *(f"3.{minor}" for minor in sorted(newest))]


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yml")), ids=lambda file: file.name)
def test_code_may_read_alone_and_actions_are_pinned(file: Path) -> None:
    """No job that runs a command may write or has a secret; each action is named by its commit."""
    workflow = yaml.safe_load(file.read_text())
    jobs = list(workflow["jobs"].values())
    used = [step["uses"] for job in jobs for step in job["steps"] if "uses" in step]
    writing = [job for job in jobs if "permissions" in job]

    assert workflow["permissions"] == {"contents": "read"}
    assert not any("run" in step for job in writing for step in job["steps"])
    assert "secrets." not in file.read_text()
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action)] == []


def test_a_release_is_checked_tested_and_attested_before_it_is_published() -> None:
    """What the index gets by trusted publishing went through the check, .ci/run and attestation."""
    jobs = yaml.safe_load((FOLDER / "release.yml").read_text())["jobs"]
    commands = [step["run"] for step in jobs["build"]["steps"] if "run" in step]
    attested = [step["uses"].partition("@")[0] for step in jobs["attest"]["steps"]]
    (publish,) = [step for step in jobs["publish"]["steps"] if "pypi-publish" in step["uses"]]

    assert commands[:3] == [
        'python -m infra.release check "$GITHUB_REF_NAME"',
        ".ci/run",
        "make wheel",
    ]
    assert {"actions/attest-build-provenance", "actions/attest-sbom"} <= set(attested)
    assert (jobs["publish"]["needs"], jobs["attest"]["needs"]) == ("attest", "build")
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["environment"] == "pypi"
    assert publish["with"] == {"packages-dir": "dist", "attestations": True}


def test_the_pins_are_audited_every_week(workflow: dict[str, Any]) -> None:
    """What is deployed is looked up by pip-audit: each set of pins that a bundle is made of."""
    from infra import limits

    told = workflow["jobs"]["audit"]["steps"][-1]["run"]
    names = {"serve", "health", "queue", "all", *limits.EXTRAS}

    assert "pip-audit" in told
    assert names <= set(re.findall(r"\w+", told))
    assert workflow[True]["schedule"]  # YAML 1.1 reads `on` so
