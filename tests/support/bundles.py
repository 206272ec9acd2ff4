"""Bundles for the tests, made for the Python and machine that run them: there is no other here."""

import platform
import subprocess
import sys
from pathlib import Path

from support.service import ROOT

HERE = "arm64" if platform.machine() == "aarch64" else platform.machine()


def bundle(out: Path, *platforms: str) -> str:
    """Make bundles below *out*; return what was said of them."""
    command = [sys.executable, "-m", "infra.bundle", *platforms]
    command += ["--out", str(out), "--python", sys.executable, "--machine", HERE]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
