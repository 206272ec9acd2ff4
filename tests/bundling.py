"""Bundles for the tests, made for the Python that runs them: their tools have no other."""

import subprocess
import sys
from pathlib import Path

from service import ROOT


def bundle(out: Path, *platforms: str) -> str:
    """Make bundles below *out*; return what was said of them."""
    command = [sys.executable, "-m", "infra.bundle", *platforms]
    command += ["--out", str(out), "--python", sys.executable]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
