"""Bundles for the tests, built for the Python and machine that run them."""

import platform
import subprocess
import sys
from pathlib import Path

from support.service import ROOT

HERE = "arm64" if platform.machine() == "aarch64" else platform.machine()


def bundle(out: Path, *platforms: str) -> str:
    """Build bundles below *out*; return the output."""
    command = [sys.executable, "-m", "infra.bundle", *platforms]
    command += ["--out", str(out), "--python", sys.executable, "--machine", HERE]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
