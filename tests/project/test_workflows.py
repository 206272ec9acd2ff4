"""The workflows on GitHub: their commands, their permissions, and pinned actions."""

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


def test_the_test_job_runs_the_ci_script(workflow: dict[str, Any]) -> None:
    """The job runs .ci/run on the oldest Python, the newest, and the newest with TensorFlow."""
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
def test_commands_have_no_write_access_and_actions_are_pinned(file: Path) -> None:
    """Jobs that run commands have no write access or secret; each action is pinned by commit."""
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
    """A release is published only after the check, .ci/run and the attestation."""
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
    """pip-audit checks every set of pins that a bundle is built from."""
    from infra import limits

    command = workflow["jobs"]["audit"]["steps"][-1]["run"]
    names = {"serve", "health", "queue", "all", *limits.EXTRAS}

    assert "pip-audit" in command
    assert names <= set(re.findall(r"\w+", command))
    assert workflow[True]["schedule"]  # YAML 1.1 reads `on` as true
