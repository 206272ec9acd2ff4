"""What is said where a package is missing can be followed."""

import re
import subprocess

import pytest
from macule import packages
from service import ROOT

PYPROJECT = (ROOT / "layers/model/pyproject.toml").read_text()


@pytest.mark.parametrize("extra", packages.EXTRAS.values())
def test_each_is_of_an_extra_of_the_package(extra: packages.Extra) -> None:
    """`pip install './layers/model[EXTRA]'` brings the package that the line names."""
    needed = re.search(rf"^{extra.extra} = \[(.*)\]", PYPROJECT, re.MULTILINE)

    assert needed
    assert re.search(rf'"{extra.package}(\[\w+\])?>=', needed[1])


def test_what_is_installed_is_found_without_importing_it() -> None:
    """The development environment has all of them; none is loaded by asking."""
    code = (
        "import sys; from macule import packages; "
        "print([name for name in packages.EXTRAS if not packages.installed(name)], "
        "{'redis', 'celery', 'boto3', 'pyarrow', 'google.cloud.storage'} & {*sys.modules})"
    )
    command = [str(ROOT / ".venv-dev/bin/python"), "-c", code]

    assert subprocess.check_output(command, text=True).strip() == "[] set()"


def test_what_is_missing_is_said_with_its_remedy() -> None:
    """The serving environment has none of them."""
    code = "from macule import packages; print(packages.missing('REDIS_URL', 'redis'))"
    said = subprocess.check_output([str(ROOT / ".venv/bin/python"), "-c", code], text=True)

    assert said.startswith("REDIS_URL needs the package redis, which is not installed: ")
    assert "pip install './layers/model[queue]'" in said
    assert 'extras = ["redis"] in infra/limits.toml' in said


def test_nothing_tells_to_install_what_is_not_ours() -> None:
    """On the package index the name macule is not this project's: every text installs a folder."""
    tracked = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    wrong = re.compile(r"pip3? install[^\n`]*['\" ]macule(?![\w./-])")
    texts = [ROOT / name for name in tracked if re.search(r"\.(py|md|toml|yaml|json|sh)$", name)]

    assert len(texts) > 100
    assert [str(path) for path in texts if wrong.search(path.read_text(errors="replace"))] == []
