"""The `macule` command, as a shell runs it."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from macule.cli import main
from support.images import photo
from support.small_model import colour_photo

MACULE = [sys.executable, "-m", "macule.cli"]


def macule(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MACULE, *arguments], capture_output=True, text=True, check=False, timeout=60, **options
    )  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "spot.jpg"
    path.write_bytes(photo())
    return path


def test_a_pipe_gets_one_json_line_for_each_file(file: Path) -> None:
    """Each image is one line of JSON with the answer of POST /predict/ and the file's name."""
    done = macule("predict", str(file), str(file), "--top-k", "1")
    answers = [json.loads(line) for line in done.stdout.splitlines()]

    assert done.returncode == 0
    assert [answer["file"] for answer in answers] == [str(file)] * 2
    assert len(answers[0]["predictions"]) == 1
    assert answers[0]["predictions"] == answers[1]["predictions"]


def test_standard_input_is_a_file(file: Path) -> None:
    """`-` reads the image from standard input."""
    done = subprocess.run(
        [*MACULE, "predict", "-"], input=file.read_bytes(), capture_output=True, check=True
    )

    assert json.loads(done.stdout)["status"] == "succeeded"


def on_a_terminal(*arguments: str) -> str:
    """Run a command that must succeed on a terminal, and return what it shows."""
    leader, follower = pty.openpty()
    subprocess.run([*MACULE, *arguments], stdout=follower, check=True, timeout=60)
    os.close(follower)
    shown = os.read(leader, 10_000).decode()
    os.close(leader)
    return shown


def test_a_terminal_gets_a_table(file: Path) -> None:
    """On a terminal the answer is a table of names and percentages."""
    shown = on_a_terminal("predict", str(file))

    assert "Melanoma" in shown
    assert "%" in shown
    assert "not a medical device" in shown


def test_a_table_has_the_reason_and_the_set(colours: Path, tmp_path: Path) -> None:
    """The title has the decision and, if it is inconclusive, why; a set is the last row."""
    path = tmp_path / "phone.png"
    path.write_bytes(colour_photo((10, 10, 200)))

    options = ["--tta", "4", "--sets", "90"]
    shown = on_a_terminal("predict", str(path), "--model", str(colours), *options)

    assert "phone.png: inconclusive, not_dermoscopic (" in shown
    assert "90% set: blue" in shown


def test_one_bad_file_does_not_stop_the_others(file: Path, tmp_path: Path) -> None:
    """Each failure is one line on standard error; the others are classified; the exit code is 1."""
    text = tmp_path / "notes.txt"
    text.write_text("hello")

    done = macule("predict", str(tmp_path / "missing.jpg"), str(text), str(file))

    assert done.returncode == 1
    assert len(done.stdout.splitlines()) == 1
    assert "missing.jpg: No such file or directory." in done.stderr
    assert "notes.txt: The bytes are not JPEG" in done.stderr
    assert "Traceback" not in done.stderr


def test_misuse_exits_with_2(file: Path, tmp_path: Path) -> None:
    """A wrong option, an invalid setting and no command are misuse, reported in one line."""
    assert macule().returncode == 2
    assert macule("predict", str(file), "--top-k", "none").returncode == 2
    assert macule("predict", str(file), "--tta", "2").returncode == 2
    assert macule("predict", str(file), "--sets", "100").returncode == 2
    environment = {**os.environ, "MAX_IMAGE_BYTES": "ten"}
    done = macule("predict", str(file), env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert "MAX_IMAGE_BYTES='ten'" in done.stderr


def test_a_missing_model_is_reported(file: Path, tmp_path: Path) -> None:
    """--model names a folder; the error says that it has no card."""
    done = macule("predict", str(file), "--model", str(tmp_path))

    assert done.returncode == 1
    assert "There is no model.json" in done.stderr


def test_help_groups_commands_by_task() -> None:
    """Every command is listed exactly once, below a task."""
    listed = [name for names in main.TASKS.values() for name in names]
    done = macule("--help")
    shown = re.findall(r"^  (\w+) ", done.stdout, re.MULTILINE)

    assert done.returncode == 0
    assert shown == listed
    assert all(f"\n{task}:\n" in done.stdout for task in main.TASKS)
    assert set(listed) == set(main.parser([]).summaries)


@pytest.mark.parametrize(
    ("typed", "meant"), [("serv", "`serve`"), ("evalute", "`evaluate`"), ("xyzzy", "--help")]
)
def test_an_unknown_command_names_the_nearest(typed: str, meant: str) -> None:
    """A misspelled command is misuse, reported in one line with the nearest command."""
    done = macule(typed, "x")

    assert done.returncode == 2
    assert meant in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("command", ["predict", "plan"])
def test_nothing_precedes_the_output(file: Path, command: str) -> None:
    """Messages of the runtime while a model loads are not shown."""
    done = macule(command, *([str(file)] if command == "predict" else ["--limit", "512"]))

    assert (done.returncode, done.stderr) == (0, "")
