"""A file that crashes its processes is recognised by their markers, and then rejected."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from macule.errors import ModelUnavailable
from macule.registry import local, trial_run

DIGEST = "ab" * 32
RUN = """
import os, sys, tempfile, time
tempfile.tempdir = sys.argv[1]
from macule.registry import trial_run
trial_run.MAX_TRIAL_S = 0.3
with trial_run.guard("/models/m.tflite", sys.argv[2]):
    exec(sys.argv[3])
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path / f"macule-{os.geteuid()}"


def die_during_trial(tmp_path: Path, how: str = "os.abort()", digest: str = DIGEST) -> int:
    """Let a process do something while it tries a file; return how it ended."""
    words = [sys.executable, "-c", RUN, str(tmp_path), digest, how]
    return subprocess.run(words, stderr=subprocess.DEVNULL, check=False).returncode


def run_trial(digest: str = DIGEST, first_run: bool = False) -> None:
    with trial_run.guard("/models/m.tflite", digest, first_run):
        pass


def test_a_file_that_crashed_two_processes_is_rejected(tmp_path: Path) -> None:
    """After two crashes it is rejected with the reason; another file is not."""
    for _ in range(2):
        run_trial()
        assert die_during_trial(tmp_path) < 0

    with pytest.raises(ModelUnavailable, match=r"m\.tflite ended 2 processes"):
        run_trial()
    run_trial("cd" * 32)


def test_it_is_tried_again_later(tmp_path: Path, folder: Path) -> None:
    """The pause ends some time after the last crash, and doubles after another one."""
    for _ in range(2):
        die_during_trial(tmp_path)

    def age(seconds: float) -> None:
        for mark in folder.iterdir():
            os.utime(mark, (time.time() - seconds,) * 2)

    age(trial_run.PAUSE_S + 1)
    run_trial()
    assert die_during_trial(tmp_path) < 0
    age(trial_run.PAUSE_S + 1)
    with pytest.raises(ModelUnavailable, match="3 processes"):
        run_trial()


def test_a_clock_that_went_back_rejects_nothing(tmp_path: Path, folder: Path) -> None:
    """Crashes in the future are ignored."""
    for _ in range(2):
        die_during_trial(tmp_path)
    for mark in folder.iterdir():
        os.utime(mark, (time.time() + 1e6,) * 2)

    run_trial()


def test_a_successful_run_clears_the_crashes(tmp_path: Path, folder: Path) -> None:
    """The first successful run clears earlier crashes; Python errors are not crashes."""
    die_during_trial(tmp_path)
    assert die_during_trial(tmp_path, "raise ValueError") == 1
    run_trial()
    run_trial(first_run=True)

    assert list(folder.iterdir()) == []


def test_concurrent_loads_are_no_crashes(tmp_path: Path) -> None:
    """Other workers that load the same file at the same time are not counted."""
    with trial_run.guard("/models/m.tflite", DIGEST), trial_run.guard("/models/m.tflite", DIGEST):
        run_trial()


def test_a_hanging_load_is_ended(tmp_path: Path) -> None:
    """The kernel ends a process that loads for too long, whatever lock it holds."""
    hold = "import ctypes; ctypes.PyDLL(None).sleep(20)"  # with the interpreter's lock

    began = time.monotonic()
    ended = die_during_trial(tmp_path, hold)

    assert ended == -14
    assert time.monotonic() - began < 10


def test_the_default_model_writes_no_marker(folder: Path) -> None:
    """The default model is trusted, and its start writes nothing."""
    with trial_run.guard(os.path.join(local.DEFAULT_MODEL_DIR, "model.tflite"), DIGEST):
        assert not folder.exists()
