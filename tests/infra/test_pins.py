"""Pins are evaluated for the bundle's Python and machine, not for those that pip runs on."""

import pytest
from support.service import ROOT

from infra import limits, pins, platforms

FILES = ("serve", "queue", *limits.EXTRAS)
MARKED = """\
one==1.0 ; python_full_version < '3.12' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
one==2.0 ; python_full_version >= '3.12' \\
    --hash=sha256:cc
two==1.0 ; sys_platform == 'win32' \\
    --hash=sha256:dd
three==1.0 ; platform_machine == 'aarch64' \\
    --hash=sha256:ee
"""


@pytest.mark.parametrize("minor", platforms.PYTHONS)
@pytest.mark.parametrize("architecture", pins.MACHINES)
def test_all_files_agree(minor: str, architecture: str) -> None:
    """No two files pin different versions of a package, because a bundle may need all of them."""
    found = pins.read(FILES, minor, architecture)

    assert {"numpy", "celery", "redis", "boto3", "opentelemetry-sdk"} <= found.keys()
    assert all(pin.hashes for pin in found.values())


@pytest.mark.parametrize("file", limits.EXTRAS)
def test_deployed_versions_are_tested_versions(file: str) -> None:
    """The tests' environment has the same version of each package of an extra."""
    tested = pins.read(["dev"], "3.13")

    for name, pin in pins.read([file], "3.13").items():
        assert tested[name].version == pin.version


def test_markers_are_evaluated_for_the_target() -> None:
    """The same text gives other versions for another Python or machine, each with its hashes."""
    old = {pin.name: pin for pin in pins.parse(MARKED, "3.11")}
    new = {pin.name: pin for pin in pins.parse(MARKED, "3.14", "arm64")}

    assert (old["one"].version, new["one"].version) == ("1.0", "2.0")
    assert old["one"].hashes == ("--hash=sha256:aa", "--hash=sha256:bb")
    assert (set(old), set(new)) == ({"one"}, {"one", "three"})
    assert str(new["one"]) == "one==2.0 \\\n    --hash=sha256:cc\n"


def test_a_merged_file_is_valid_on_every_python() -> None:
    """Google's requirements keep their markers and pin what the files pin, for each Python."""
    merged = pins.merge(FILES)

    for minor in platforms.PYTHONS:
        assert {pin.name: pin.version for pin in pins.parse(merged, minor)} == {
            name: pin.version for name, pin in pins.read(FILES, minor).items()
        }
    assert str(ROOT) not in merged
