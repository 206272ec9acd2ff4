"""The wheel in an environment without anything else of this repository."""

import re
from pathlib import Path

import pytest
from support.bare_environment import Bare
from support.once import once
from support.service import ROOT

PIN = re.compile(r"^[\w.-]+==[^\s;]+(?: ; [^\\\n]+)?", re.MULTILINE)


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Bare:
    """Install the wheel as the README says, with queue and our pins; `report.json` is pip's."""

    def make(folder: Path) -> None:
        there = Bare(folder, cloned=False)
        pins = folder / "pins.txt"
        pins.write_text("\n".join(PIN.findall((ROOT / "requirements/all.txt").read_text())))
        (there.clone / "dist").symlink_to(wheel.parent)
        (line,) = re.findall(r"^v/bin/pip (install .*)$", (ROOT / "README.md").read_text(), re.M)
        options = f"--quiet --report {folder}/report.json -c {pins}"
        there.run(f"python -m pip {line} {options}".replace("[serve]", "[serve,queue]"), {})

    return Bare(once(tmp_path_factory, "installed", make), cloned=False)
