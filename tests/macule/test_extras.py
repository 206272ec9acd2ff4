"""Messages about a missing package name the right extra."""

import contextlib
import re
import subprocess
import tomllib

import pytest
from macule import extras
from support.service import ROOT

PYPROJECT = tomllib.loads((ROOT / "layers/model/pyproject.toml").read_text())


@pytest.mark.parametrize("extra", extras.EXTRAS.values())
def test_each_package_belongs_to_an_extra(extra: extras.Extra) -> None:
    """`pip install './layers/model[EXTRA]'` installs the package that the message names."""
    needs = PYPROJECT["project"]["optional-dependencies"][extra.extra]

    assert extra.package in [re.split(r"[^\w.-]", need)[0] for need in needs]


def test_installed_packages_are_found_without_an_import() -> None:
    """The development environment has them, perhaps without TensorFlow; the check loads none."""
    code = (
        "import sys; from macule import extras; "
        "print([name for name, extra in extras.EXTRAS.items() "
        "if extra.extra != 'convert' and not extras.is_installed(name)], "
        "{'redis', 'celery', 'boto3', 'pyarrow', 'google.cloud.storage'} & {*sys.modules})"
    )
    command = [str(ROOT / ".venv-dev/bin/python"), "-c", code]

    assert subprocess.check_output(command, text=True).strip() == "[] set()"


def test_a_missing_package_is_reported_with_a_fix() -> None:
    """The serving environment has none of them."""
    code = "from macule import extras; print(extras.missing_message('REDIS_URL', 'redis'))"
    output = subprocess.check_output([str(ROOT / ".venv/bin/python"), "-c", code], text=True)

    assert output.startswith("REDIS_URL needs the package redis, which is not installed: ")
    assert "pip install './layers/model[queue]'" in output
    assert 'extras = ["redis"] in infra/limits.toml' in output


# The name alone, after a command that would look it up on an index, or as a requirement.
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
def test_the_name_alone_is_detected(text: str) -> None:
    """The rule below detects each way to look the name up on an index."""
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
def test_a_file_or_folder_is_not_the_name(text: str) -> None:
    """Installations from this repository or from a file are allowed."""
    assert not FROM_AN_INDEX.search(text)


def test_no_text_installs_from_an_index() -> None:
    """The name on the package index is not this project's, so no text looks it up there.

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
