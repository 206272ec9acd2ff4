"""`macule doctor` on a working environment, and on each kind of broken one."""

import json
import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from macule.cli import doctor
from macule.cli.doctor.check_result import FAIL, OK
from support.service import GUNICORN, ROOT, running
from support.upstreams import Upstream, closed_port

MACULE = ROOT / ".venv/bin/macule"
WEIGHTS = ROOT / "layers/model/macule/weights"


def examine(*arguments: str, **environment: str) -> tuple[int, dict[str, str]]:
    """Return the exit code, and each line by its check."""
    done = subprocess.run(
        [MACULE, "doctor", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PORT": str(closed_port()), **environment},
    )
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    return done.returncode, {line[5:].split(":")[0]: line for line in lines}


def test_this_environment_passes() -> None:
    """The environment of `make serve` passes, with one line for each check."""
    code, lines = examine()

    assert code == 0
    assert all(line[:5] in ("ok   ", "warn ") for line in lines.values())
    checks = {"python", "pillow", "settings", "processors", "model", "memory", "port"}
    assert checks <= lines.keys()
    assert "matches its card" in lines["model"]


def test_it_reports_whether_decoders_are_restricted(landlock: int) -> None:
    """On a kernel with Landlock the line has its version."""
    _, lines = examine()

    assert lines["decoders"] == f"ok   decoders: cannot open files (Landlock {landlock})"


def test_json_output() -> None:
    """--json prints one object for each check, with the same exit code."""
    done = subprocess.run(
        [MACULE, "doctor", "--json"],
        capture_output=True,
        check=False,
        env={**os.environ, "MEMORY_LIMIT_MB": "20"},
    )
    found = {line["check"]: line for line in map(json.loads, done.stdout.splitlines())}

    assert done.returncode == 1
    assert found["memory"].keys() == {"level", "check", "text"}
    assert found["memory"]["level"] == FAIL


def test_a_damaged_model_fails(tmp_path: Path) -> None:
    """A file that does not match its card is reported, and memory is not checked."""
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(WEIGHTS / "model.json", folder)
    (folder / "model.tflite").write_bytes(b"damaged")
    code, lines = examine(MODEL_DIR=str(folder))

    assert code == 1
    assert lines["model"].startswith("FAIL model: model.tflite is not the file its card describes")
    assert lines["memory"].startswith("warn ")


def test_a_low_memory_limit_fails() -> None:
    """The line names the source of the limit, what the service needs and what is missing."""
    code, lines = examine(MEMORY_LIMIT_MB="50")

    assert code == 1
    assert lines["memory"].startswith("FAIL memory: 50 MB by MEMORY_LIMIT_MB; the service needs ")


def test_an_invalid_setting_fails_and_other_checks_continue() -> None:
    """The variable is named, and the model is checked."""
    code, lines = examine(THREADS="many")

    assert code == 1
    assert lines["settings"].startswith("FAIL settings: THREADS='many' is not ")
    assert lines["model"].startswith("ok ")


def test_a_busy_port_fails() -> None:
    """Another program on PORT is reported."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        finding = doctor.check_port(f"127.0.0.1:{taken.getsockname()[1]}")

    assert finding.level == FAIL
    assert "Address already in use" in finding.text


def test_a_port_of_macule_passes(tmp_path: Path) -> None:
    """After a deployment the check finds the service itself on its port."""
    with running(GUNICORN, tmp_path) as service:
        finding = doctor.check_port(f"0.0.0.0:{service.port}")

    assert finding == (OK, "port", f"macule listens on 0.0.0.0:{service.port}")


def test_a_missing_temporary_folder_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """gunicorn would not start without one."""
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")

    assert doctor.check_temporary_files().level == FAIL


def test_a_configured_predict_service_is_asked(other: Upstream) -> None:
    """PREDICT_URL must answer with a report."""
    well, ill = (doctor.check_predict_function(f"{other.url}/{way}", 2) for way in ("fine", "busy"))

    assert well.level == OK
    assert (ill.level, "answered 503" in ill.text) == (FAIL, True)
