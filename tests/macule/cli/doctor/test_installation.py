"""Checks of the interpreter, the C library and the wheels."""

import compileall
import re
import sys
import tomllib
from pathlib import Path

import pytest
from macule.cli.doctor import installation
from macule.cli.doctor.check_result import FAIL, OK, WARN
from macule.cli.doctor.installation import WheelPlatform
from support.service import ROOT

NEEDS = [WheelPlatform((2, 27), "x86_64"), WheelPlatform((2, 28), "x86_64")]
PYPROJECT = (ROOT / "layers/model/pyproject.toml").read_text()


def test_the_python_versions_match_the_package() -> None:
    """pyproject.toml allows the same versions."""
    (least, end) = (".".join(map(str, version)) for version in installation.PYTHONS)

    assert f'requires-python = ">={least},<{end}"' in PYPROJECT


def test_the_wheels_match_the_package() -> None:
    """Each dependency on Linux is checked, and the optional one of `heic`."""
    needed = tomllib.loads(PYPROJECT)["project"]["dependencies"]
    names = {re.split(r"[^\w-]", need)[0] for need in needed if "!= 'linux'" not in need}

    assert names == set(installation.WHEELS) - set(installation.OPTIONAL)


@pytest.mark.parametrize(
    ("version", "largest", "level"),
    [
        ((3, 10, 9), 2**63 - 1, FAIL),
        ((3, 11, 0), 2**63 - 1, OK),
        ((3, 13, 5), 2**31 - 1, FAIL),
        ((3, 14, 0), 2**63 - 1, OK),
        ((3, 15, 0), 2**63 - 1, FAIL),
    ],
)
def test_interpreters_are_checked(version: tuple[int, ...], largest: int, level: str) -> None:
    """Python 3.11 to 3.14 in 64 bits pass."""
    assert installation.check_python(version, largest).level == level


@pytest.mark.parametrize(
    ("found", "machine", "expected"),
    [
        (("glibc", "2.36"), "x86_64", "2.36, x86_64"),
        (("glibc", "2.28"), "x86_64", "2.28, x86_64"),
        (("glibc", "2.17"), "x86_64", "the wheels need 2.28"),
        (("glibc", "2.36"), "aarch64", "the wheels are for x86_64, this is aarch64"),
        (("musl", "1.2.5"), "x86_64", "not Alpine"),
        (("", ""), "x86_64", "not Alpine"),
    ],
)
def test_c_libraries_are_checked(found: tuple[str, str], machine: str, expected: str) -> None:
    """An old glibc, musl, and wheels for another processor are reported with a fix."""
    finding = installation.check_libc(found, machine, NEEDS)

    assert expected in finding.text
    assert (finding.level == OK) == (expected == f"{found[1]}, {machine}")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no manylinux wheels")
def test_wheel_tags_are_read() -> None:
    """numpy's tags name glibc and processor; pure Python and missing packages name none."""
    (built,) = installation.wheel_platforms("numpy")

    assert (2, 5) < built.glibc < (3, 0)
    assert (
        installation.wheel_platforms("multipart")
        == installation.wheel_platforms("no-such-wheel")
        == []
    )


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os; os.kill(os.getpid(), 4)", "CPU lacks an instruction"),
        ("import os; os.kill(os.getpid(), 9)", "memory ran out"),
        ("import os; os.kill(os.getpid(), 11)", "a crash in compiled code"),
        ("raise ImportError('libm.so: no version GLIBC_2.99')", "GLIBC_2.99"),
    ],
)
def test_a_dying_child_is_reported(code: str, expected: str) -> None:
    """An illegal instruction, a kill, a crash and an error in a child are reported."""
    lived, message = installation.run_child(code, "")

    assert not lived
    assert expected in message


def test_a_missing_wheel_fails_unless_it_is_optional() -> None:
    """The line names the module, or the format that is not supported without it."""
    missing = installation.check_wheel("no-such-wheel", "no_such_module")

    assert missing.level == FAIL
    assert "No module named 'no_such_module'" in missing.text
    assert installation.check_wheel("pillow-heif", "no_such_module").level in (OK, FAIL)


def test_missing_byte_code_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line has the command that writes it; a start without it takes three times as long."""
    (tmp_path / "uncompiled").mkdir()
    (tmp_path / "uncompiled/__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(installation, "SERVICE_MODULES", ("uncompiled",))
    missing = installation.check_bytecode()
    compileall.compile_dir(tmp_path, quiet=1)

    assert missing.level == WARN
    assert f"python -m compileall -q {tmp_path / 'uncompiled'}" in missing.text
    assert installation.check_bytecode().level == OK
