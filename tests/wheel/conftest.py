"""The wheel in an environment of its own, which has nothing else of this repository."""

import re
from pathlib import Path

import pytest
from bare import Bare
from service import ROOT

PIN = re.compile(r"^[\w.-]+==[^\s;]+(?: ; [^\\\n]+)?", re.MULTILINE)


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Bare:
    """The wheel with the extras serve and queue, in our pins' versions; `report.json` is pip's."""
    there = Bare(tmp_path_factory.mktemp("installed"), cloned=False)
    pins = there.folder / "pins.txt"
    pins.write_text("\n".join(PIN.findall((ROOT / "requirements/all.txt").read_text())))
    report = there.folder / "report.json"
    command = f"python -m pip install --quiet --report {report} -c {pins}"
    there.run(f"{command} '{wheel}[serve,queue]'", {})
    return there
