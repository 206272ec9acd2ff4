"""Contents and metadata of the wheel before its installation."""

import re
import subprocess
import tarfile
import tomllib
import zipfile
from email import message_from_bytes
from email.message import Message
from pathlib import Path

import pytest
from support.service import ROOT

LINT = ROOT / ".venv-lint/bin"
MOST_BYTES = 6 * 2**20
PYPROJECT = tomllib.loads((ROOT / "layers/model/pyproject.toml").read_text())
EXTRAS = PYPROJECT["project"]["optional-dependencies"]


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^\w.-]", requirement)[0] for requirement in requirements}


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(name))


@pytest.fixture(scope="module")
def sdist(wheel: Path) -> Path:
    (found,) = wheel.parent.glob("*.tar.gz")
    return found


def test_it_is_complete_and_small(wheel: Path) -> None:
    """It has model, card, page, OpenAPI, server, tools and licence, in 6 MB at most."""
    held = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.check_output(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "macule"],
        cwd=ROOT / "layers/model",
        text=True,
    ).split()

    assert set(tracked) == {name for name in held if name.startswith("macule/")}
    assert {"macule/weights/model.tflite", "macule/py.typed"} <= held
    assert any(name.endswith("/licenses/LICENSE") for name in held)
    assert {name.partition("/")[0].partition("-")[0] for name in held} == {"macule"}
    assert wheel.stat().st_size <= MOST_BYTES


def test_the_source_distribution_builds_the_same_wheel(
    wheel: Path, sdist: Path, tmp_path: Path
) -> None:
    """Built from the sdist, the wheel has the same bytes."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    build = [ROOT / ".venv-wheel/bin/python", "-m", "hatchling", "build", "-t", "wheel"]
    subprocess.run([*build, "-d", tmp_path], cwd=folder, check=True, capture_output=True)

    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def test_twine_and_pyroma_find_nothing(wheel: Path, sdist: Path) -> None:
    """An index would accept both files, and pyroma has no complaint."""
    subprocess.run([LINT / "twine", "check", "--strict", wheel, sdist], check=True)
    judged = subprocess.run(
        [LINT / "pyroma", "--min", "10", sdist], capture_output=True, text=True, check=False
    )

    assert judged.returncode == 0, judged.stdout
    assert "10/10" in judged.stdout


def test_pyroma_detects_a_missing_readme(tmp_path: Path, sdist: Path) -> None:
    """Without its readme pyroma complains about the package."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    about = folder / "pyproject.toml"
    about.write_text(about.read_text().replace('readme = "README.md"\n', ""))
    judged = subprocess.run([LINT / "pyroma", "--min", "10", folder], capture_output=True)

    assert judged.returncode != 0


def test_the_classifiers_match_the_supported_pythons(metadata: Message) -> None:
    """Exactly the minor versions from the oldest to the newest have a classifier."""
    least, end = re.findall(r"3\.(\d+)", metadata["Requires-Python"])
    bounds = sorted((int(least), int(end)))
    minors = re.findall(r"Python :: 3\.(\d+)", "\n".join(metadata.get_all("Classifier", [])))

    assert [int(minor) for minor in minors] == list(range(*bounds))


def test_the_licence_is_that_of_the_repository() -> None:
    """The package's LICENSE, which its sdist needs, equals the one at the root."""
    assert (ROOT / "layers/model/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("extra", EXTRAS)
def test_each_extra_is_pinned_with_hashes(extra: str) -> None:
    """requirements/EXTRA.txt has every package of the extra, with a hash for each."""
    text = (ROOT / f"requirements/{extra}.txt").read_text()
    pinned = re.findall(r"^([\w.-]+)==[^\\]*\\\n    --hash=sha256:", text, re.MULTILINE)

    assert names(EXTRAS[extra]) <= set(pinned)
    assert text.count("==") - text.count("sys_platform ==") >= len(pinned) > 0


def test_all_has_every_extra(metadata: Message) -> None:
    """The extra `all` has the packages of the others, and the readme has a row for each."""
    others = [need for extra, needs in EXTRAS.items() if extra != "all" for need in needs]
    readme = str(metadata.get_payload())

    assert names(EXTRAS["all"]) == names(others)
    assert set(metadata.get_all("Provides-Extra", [])) == set(EXTRAS)
    assert [extra for extra in EXTRAS if f"`{extra}`" not in readme] == []
