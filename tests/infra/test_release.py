"""The checks before a release, and its contents."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from macule import __version__
from support.service import ROOT

from infra import release

CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [1.2.0] - 2026-11-27\n\n### Added\n- a\n"
ABOUT = 'Homepage = "https://lesions.org/"\n'


def test_a_consistent_release_passes() -> None:
    """A tag of the version with its changelog section and the owner's addresses has no fault."""
    assert list(release.faults("v1.2.0", "1.2.0", CHANGELOG, ABOUT)) == []


@pytest.mark.parametrize(
    ("tag", "changelog", "about", "expected"),
    [
        ("v1.2.1", CHANGELOG, ABOUT, "the tag is v1.2.1"),
        ("1.2.0", CHANGELOG, ABOUT, "the tag is 1.2.0"),
        ("v1.2.0", CHANGELOG.replace("1.2.0", "1.1.0"), ABOUT, "has no section"),
        ("v1.2.0", CHANGELOG.replace(" - 2026-11-27", ""), ABOUT, "has no section"),
        ("v1.2.0", CHANGELOG.replace("d]\n", "d]\n- b\n"), ABOUT, "under [Unreleased]"),
        ("v1.2.0", CHANGELOG, ABOUT.replace(".org", ".example"), "https://lesions.example"[8:]),
    ],
)
def test_inconsistencies_are_named(tag: str, changelog: str, about: str, expected: str) -> None:
    """A wrong tag, changelog or address stops a release, with one line."""
    (fault,) = release.faults(tag, "1.2.0", changelog, about)

    assert expected in fault


def test_the_repository_cannot_be_released_as_it_is() -> None:
    """The repository has placeholder addresses, so its own tag is rejected."""
    command = [sys.executable, "-m", "infra.release", "check", f"v{__version__}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "macule.example" in done.stderr
    assert all(line.startswith("release: ") for line in done.stderr.splitlines())


def test_the_sbom_has_wheel_model_and_every_extra(wheel: Path) -> None:
    """CycloneDX lists macule once, its model, and the packages of each extra."""
    command = [sys.executable, "-m", "infra.release", "sbom", str(wheel)]
    document = json.loads(subprocess.check_output(command, cwd=ROOT, text=True))
    found = [part["name"] for part in document["components"]]

    assert found.count("macule") == 1
    assert "machine-learning-model" in {part["type"] for part in document["components"]}
    assert {"numpy", "gunicorn", "celery", "boto3", "pyarrow"} <= set(found)
