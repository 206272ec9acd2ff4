"""What is said where a package is missing can be followed."""

import contextlib
import re
import subprocess
import tomllib

import pytest
from macule import extras
from support.service import ROOT

PYPROJECT = tomllib.loads((ROOT / "layers/model/pyproject.toml").read_text())


@pytest.mark.parametrize("extra", extras.EXTRAS.values())
def test_each_is_of_an_extra_of_the_package(extra: extras.Extra) -> None:
    """`pip install './layers/model[EXTRA]'` brings the package that the line names."""
    needs = PYPROJECT["project"]["optional-dependencies"][extra.extra]

    assert extra.package in [re.split(r"[^\w.-]", need)[0] for need in needs]


def test_what_is_installed_is_found_without_importing_it() -> None:
    """The development environment has them, perhaps without TensorFlow; asking loads none."""
    code = (
        "import sys; from macule import extras; "
        "print([name for name, extra in extras.EXTRAS.items() "
        "if extra.extra != 'convert' and not extras.is_installed(name)], "
        "{'redis', 'celery', 'boto3', 'pyarrow', 'google.cloud.storage'} & {*sys.modules})"
    )
    command = [str(ROOT / ".venv-dev/bin/python"), "-c", code]

    assert subprocess.check_output(command, text=True).strip() == "[] set()"


def test_what_is_missing_is_said_with_its_remedy() -> None:
    """The serving environment has none of them."""
    code = "from macule import extras; print(extras.missing_message('REDIS_URL', 'redis'))"
    said = subprocess.check_output([str(ROOT / ".venv/bin/python"), "-c", code], text=True)

    assert said.startswith("REDIS_URL needs the package redis, which is not installed: ")
    assert "pip install './layers/model[queue]'" in said
    assert 'extras = ["redis"] in infra/limits.toml' in said


# The bare name behind a command that would look it up on an index, or as a requirement.
INSTALLERS = r"(?:pipx?3?|uv|poetry|pdm|conda) (?:\w+ )*?(?:install|add|download|run|wheel)\b"
NAME = r"macule(?![\w/-]|\.\w)"
FROM_AN_INDEX = re.compile(
    rf"{INSTALLERS}(?:[^\n`]|\\\n)*?[\s'\"]{NAME}|\buvx {NAME}"
    rf"|(?<![\w./-])macule\[\w+|^{NAME} *[=~<>]=",
    re.MULTILINE,
)


@pytest.mark.parametrize(
    "text",
    [
        "pip install {}",
        "pip install '{}[queue]'",
        "python -m pip install -U \\\n    {}==1.0",
        "uv pip install --system {}",
        "pipx install {}",
        "uvx {} serve",
        "the extra `{}[s3]` brings it",
        "numpy==2.0\n{}==0.1.0\n",
    ],
)
def test_the_name_alone_is_found(text: str) -> None:
    """Each way to have an index look the name up is one that the rule below finds."""
    assert FROM_AN_INDEX.search(text.format("macule"))


@pytest.mark.parametrize(
    "text",
    [
        "pip install './layers/model[queue]'",
        "pip install dist/macule-0.1.0-py3-none-any.whl",
        "pip install './macule-0.1.0-py3-none-any.whl[serve]'",
        "pip install -r /opt/macule/requirements/serve.txt",
        "run `pip install './layers/model[s3]'` in a checkout of macule",
    ],
)
def test_a_file_or_a_folder_is_no_name(text: str) -> None:
    """What is installed from this repository, or from a file, is not refused."""
    assert not FROM_AN_INDEX.search(text)


def test_nothing_tells_to_install_what_is_not_ours() -> None:
    """On the package index the name is not this project's: no text has an index look it up.

    docs/release.md says when that changes.
    """
    tracked = subprocess.check_output(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True
    ).splitlines()
    allowed = "the documentation may say `pip install macule`"  # after the first release
    found = []
    for name in tracked:
        with contextlib.suppress(UnicodeDecodeError):
            text = (ROOT / name).read_text().replace(allowed, "")
            found += [(name, match[0]) for match in FROM_AN_INDEX.finditer(text)]

    assert len(tracked) > 300
    assert found == []
