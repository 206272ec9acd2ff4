"""A minute of faults under a steady load: each request is answered and each job ends once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.service import ROOT


@pytest.mark.slow
def test_a_minute_of_faults_loses_nothing(tmp_path: Path) -> None:
    """After kills, stops, a full disk, stalled senders and clock jumps, no rule is broken."""
    report = tmp_path / "report.json"
    command = [sys.executable, "bench/chaos", "--seconds", "60", "--seed", "1", "--out", report]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert report.exists(), run.stderr[-2000:]
    found = json.loads(report.read_text())
    assert found["violations"] == []
    assert found["answered"] == found["predictions"] > 0
    assert found["jobs"] > 0
    assert found["faults"]
