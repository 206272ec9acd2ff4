"""A service with unusable settings does not start, and one line says why, on every platform."""

import os
import shutil
import signal
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import awslambdaric
import pytest
from macule.registry import local
from macule.security.api_keys import create_key
from macule.server import startup
from macule.settings import read
from support.lambda_runtime_api import CLIENT
from support.service import ROOT, running, until
from support.upstreams import closed_port

PYTHON = str(ROOT / ".venv/bin/python")  # without redis, celery, OpenTelemetry, boto3
SERVE = [PYTHON, "-m", "infra.serve"]
# What prevents a start, and a word of its line; FOLDER is an empty folder, FILE a file.
BAD = {
    "WEB_CONCURRENCY=x": "a whole number",
    "THREADS=many": "a whole number",
    "HOST=unix:/run/macule.sock": "an address or a name",
    "DECODE_TIMEOUT_S=0": "seconds",
    "ALLOWED_ORIGINS=https://a.example/path": "without a path",
    "API_KEYS=,": "it has none",
    "API_KEYS=/nowhere/keys": "cannot be read",
    "MODEL_DIR=/nowhere": "it does not exist",
    "MODEL_DIR=FOLDER": "no model.json",
    "MODEL_DIR=FILE": "is not a folder",
    "MODEL_URI=/nowhere": "it does not exist",
    "MEMORY_LIMIT_MB=32": "MB",
    "DATA_DIR=FILE": "is not a folder",
    "DATA_DIR=/proc/macule": "can be written",
    "REDIS_URL=redis://127.0.0.1/cache": "/database",
    "REDIS_URL=redis://127.0.0.1": "the package redis",
    "BROKER_URL=redis://127.0.0.1": "the package redis",
    "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1": "the package opentelemetry",
    "MODEL_URI=s3://models/stable": "the package boto3",
    "MODEL_URI=gs://models/stable": "the package google-cloud-storage",
}
ONE_OF_EACH_KIND = ["DECODE_TIMEOUT_S=0", "MODEL_DIR=/nowhere", "REDIS_URL=redis://127.0.0.1"]


def environment(setting: str, folder: Path) -> dict[str, str]:
    """Return this process's environment with one more setting."""
    (folder / "empty").mkdir()
    (folder / "file").touch()
    value = setting.replace("FOLDER", str(folder / "empty")).replace("FILE", str(folder / "file"))
    name, _, value = value.partition("=")
    return {**os.environ, "HOST": "127.0.0.1", "PORT": str(closed_port()), name: value}


def start_error(command: list[str], environ: dict[str, str], cwd: Path = ROOT) -> str:
    """Run a command that must not start; return its one line."""
    done = subprocess.run(
        command, env=environ, cwd=cwd, capture_output=True, text=True, check=False, timeout=60
    )

    assert done.returncode not in (0, None)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.parametrize(("setting", "expected"), BAD.items())
def test_one_line_prevents_the_start(setting: str, expected: str, tmp_path: Path) -> None:
    """gunicorn does not start, and the line names the variable and what is wrong."""
    line = start_error(SERVE, environment(setting, tmp_path))

    assert line.startswith(f"macule: {setting.partition('=')[0]}")
    assert expected in line


@pytest.mark.parametrize("setting", ONE_OF_EACH_KIND)
@pytest.mark.parametrize(
    "command",
    [
        [PYTHON, "-m", "gunicorn", "-c", "python:macule.server.configuration"],
        [".venv/bin/functions-framework", "--source=functions/predict/main.py", "--target=predict"],
        [".venv/bin/macule", "serve"],
    ],
    ids=["gunicorn", "functions-framework", "macule serve"],
)
def test_the_line_is_the_same_everywhere(setting: str, command: list[str], tmp_path: Path) -> None:
    """Each way to start a service prints the same line."""
    environ = environment(setting, tmp_path)

    assert start_error(command, environ) == start_error(SERVE, environ)


@pytest.mark.parametrize("setting", ONE_OF_EACH_KIND)
def test_lambda_fails_its_init_with_that_line(setting: str, tmp_path: Path) -> None:
    """AWS's runtime client ends before it asks for an event; the line is in the log."""
    client = tmp_path / "client"
    client.mkdir()
    for pattern in CLIENT:
        for path in Path(awslambdaric.__file__).parent.parent.glob(pattern):
            (client / path.name).symlink_to(path)
    environ = environment(setting, tmp_path)
    paths = [str(ROOT / "functions/predict"), str(ROOT / "layers/model"), str(client)]
    runtime = {
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{closed_port()}",
        "PYTHONPATH": ":".join(paths),
    }
    command = [sys.executable, "-S", "-m", "awslambdaric", "main.handler"]

    assert start_error(command, {**environ, **runtime}) == start_error(SERVE, environ)


@pytest.mark.parametrize("setting", ONE_OF_EACH_KIND)
def test_the_doctor_fails_where_the_service_does(setting: str, tmp_path: Path) -> None:
    """`macule doctor` prints the line that prevents the start, and exits with 1."""
    environ = environment(setting, tmp_path)
    done = subprocess.run(
        [".venv/bin/macule", "doctor"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    line = start_error(SERVE, environ).removeprefix("macule: ")

    assert done.returncode == 1
    assert f"FAIL settings: {line}" in done.stdout


@pytest.mark.parametrize(
    ("command", "setting", "expected"),
    [
        ("worker", "BROKER_URL=redis://127.0.0.1", "the package redis"),
        ("worker", "BROKER_URL=amqp://127.0.0.1", "redis://"),
        ("predict examples/spot.jpg", "MODEL_DIR=/nowhere", "MODEL_DIR='/nowhere' is not a folder"),
        ("batch examples --out /dev/null.csv", "MODEL_DIR=/nowhere", "MODEL_DIR='/nowhere'"),
        ("plan", "MODEL_DIR=/nowhere", "MODEL_DIR='/nowhere'"),
        ("predict examples/spot.jpg", "THREADS=x", "THREADS='x'"),
    ],
)
def test_commands_print_one_line_too(
    command: str, setting: str, expected: str, tmp_path: Path
) -> None:
    """A command that cannot start says why, without a traceback."""
    line = start_error([".venv/bin/macule", *command.split()], environment(setting, tmp_path))

    assert line.startswith("macule: ")
    assert expected in line


def test_a_reload_does_not_end_a_running_service(tmp_path: Path) -> None:
    """An invalid setting does not stop a service at SIGHUP: once repaired, it continues."""
    folder, keys = tmp_path / "weights", tmp_path / "keys"
    (key, pair), key_file = create_key("clinic"), {"API_KEYS": str(keys)}
    shutil.copytree(local.DEFAULT_MODEL_DIR, folder)
    keys.write_text(pair)
    photo = (ROOT / "examples/spot.jpg").read_bytes()
    with running(" ".join(SERVE), tmp_path, MODEL_DIR=str(folder), **key_file) as service:
        shutil.rmtree(folder)
        keys.unlink()
        os.kill(service.process.pid, signal.SIGHUP)
        until(lambda: "model not loaded" in service.log.read_text())
        broken = service.predict(photo, **{"X-API-Key": key}).status
        shutil.copytree(local.DEFAULT_MODEL_DIR, folder)
        mended = service.predict(photo, **{"X-API-Key": key}).status

    assert (broken, mended) == (503, 200)


def test_an_ipv6_address_works(tmp_path: Path) -> None:
    """HOST=::1 serves at [::1]."""
    port = closed_port()
    environ = environment("HOST=::1", tmp_path) | {"PORT": str(port)}
    process = subprocess.Popen(SERVE, cwd=ROOT, env=environ)
    try:
        until(lambda: answers("::1", port))
    finally:
        process.terminate()
        process.wait(30)

    assert process.returncode == 0


def answers(host: str, port: int) -> bool:
    connection = HTTPConnection(host, port, timeout=10)
    try:
        connection.request("GET", "/health/")
        return connection.getresponse().status == 200
    except ConnectionError:
        return False
    finally:
        connection.close()


def test_valid_settings_have_no_fault(tmp_path: Path) -> None:
    """Existing or creatable folders and a sufficient limit pass; no file is left in them."""
    data = tmp_path / "new" / "data"
    chosen = read(
        {"DATA_DIR": str(data), "MODEL_DIR": local.DEFAULT_MODEL_DIR, "MEMORY_LIMIT_MB": "96"}
    )

    assert list(startup.find_faults(chosen)) == []
    assert list(data.iterdir()) == []


def test_health_does_not_check_settings_of_predict() -> None:
    """An invalid model or queue does not stop the health function."""
    theirs = {"MODEL_DIR": "/nowhere", "DATA_DIR": "/proc/x", "MEMORY_LIMIT_MB": "24"}

    assert list(startup.find_faults(read({**theirs, "FUNCTION_TARGET": "health"}))) == []
    assert len(list(startup.find_faults(read(theirs)))) == len(theirs)


def test_memory_is_checked_without_loading_a_model() -> None:
    """The check imports neither numpy nor the runtime, and its bound is below the real need."""
    code = (
        "import sys; from macule import settings; from macule.server import startup; "
        "print(*startup.find_faults(settings.read())); "
        "print({'numpy', 'ai_edge_litert'} & {*sys.modules})"
    )
    environ = {**os.environ, "MEMORY_LIMIT_MB": "40"}
    done = subprocess.run([PYTHON, "-c", code], env=environ, capture_output=True, text=True)
    fault, heavy = done.stdout.splitlines()

    assert fault.startswith("MEMORY_LIMIT_MB=40 is not enough for this model: a worker takes more")
    assert heavy == "set()"
