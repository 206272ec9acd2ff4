"""The wheel in an environment of its own, which has nothing else of this repository."""

import re
from pathlib import Path

import pytest
from bare import Bare
from service import ROOT

PIN = re.compile(r"^[\w.-]+==[^\s;]+(?: ; [^\\\n]+)?", re.MULTILINE)


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Bare:
    """The wheel with the extras serve and queue, in our pins' versions; pip's log is `pip.log`."""
    there = Bare(tmp_path_factory.mktemp("installed"), cloned=False)
    pins = there.folder / "pins.txt"
    pins.write_text("\n".join(PIN.findall((ROOT / "requirements/all.txt").read_text())))
    log = there.run(f"python -m pip install -vv -c {pins} '{wheel}[serve,queue]'", {})
    (there.folder / "pip.log").write_text(log)
    return there
