"""A file that ends the processes which run it: told by their marks, and then let alone."""

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


def die(tmp_path: Path, how: str = "os.abort()", digest: str = DIGEST) -> int:
    """Let a process do something while it tries a file; return how it ended."""
    words = [sys.executable, "-c", RUN, str(tmp_path), digest, how]
    return subprocess.run(words, stderr=subprocess.DEVNULL, check=False).returncode


def tried(digest: str = DIGEST, first_run: bool = False) -> None:
    with trial_run.guard("/models/m.tflite", digest, first_run):
        pass


def test_a_file_that_two_processes_died_of_is_let_alone(tmp_path: Path) -> None:
    """After two deaths it is refused with the reason; another file is not."""
    for _ in range(2):
        tried()
        assert die(tmp_path) < 0

    with pytest.raises(ModelUnavailable, match=r"m\.tflite ended 2 processes"):
        tried()
    tried("cd" * 32)


def test_it_is_tried_again_after_a_while(tmp_path: Path, folder: Path) -> None:
    """The pause is over some time after the last death, and twice as long after another."""
    for _ in range(2):
        die(tmp_path)

    def age(seconds: float) -> None:
        for mark in folder.iterdir():
            os.utime(mark, (time.time() - seconds,) * 2)

    age(trial_run.PAUSE_S + 1)
    tried()
    assert die(tmp_path) < 0
    age(trial_run.PAUSE_S + 1)
    with pytest.raises(ModelUnavailable, match="3 processes"):
        tried()


def test_a_clock_that_went_back_refuses_nothing(tmp_path: Path, folder: Path) -> None:
    """Deaths that lie in the future are no reason to wait for it."""
    for _ in range(2):
        die(tmp_path)
    for mark in folder.iterdir():
        os.utime(mark, (time.time() + 1e6,) * 2)

    tried()


def test_a_file_that_was_run_is_trusted_again(tmp_path: Path, folder: Path) -> None:
    """Its first run makes forgotten who died of it; errors of Python are no deaths."""
    die(tmp_path)
    assert die(tmp_path, "raise ValueError") == 1
    tried()
    tried(first_run=True)

    assert list(folder.iterdir()) == []


def test_who_is_at_it_is_not_dead(tmp_path: Path) -> None:
    """Other workers that load the same file at the same time are no deaths."""
    with trial_run.guard("/models/m.tflite", DIGEST), trial_run.guard("/models/m.tflite", DIGEST):
        tried()


def test_what_takes_for_ever_is_ended(tmp_path: Path) -> None:
    """The kernel ends a process that loads for too long, whatever it holds."""
    hold = "import ctypes; ctypes.PyDLL(None).sleep(20)"  # with the interpreter's lock

    began = time.monotonic()
    ended = die(tmp_path, hold)

    assert ended == -14
    assert time.monotonic() - began < 10


def test_what_ships_leaves_no_mark(folder: Path) -> None:
    """The default model is not doubted, and its start writes nothing."""
    with trial_run.guard(os.path.join(local.DEFAULT_MODEL_DIR, "model.tflite"), DIGEST):
        assert not folder.exists()
