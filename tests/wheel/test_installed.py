"""Each command of the installed wheel, in an empty folder without this repository."""

import csv
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from macule import __version__
from support.bare_environment import Bare, first_answer, hidden
from support.broker import broker
from support.images import photo
from support.service import ROOT, Service

# It needs an environment of its own: a minute.
pytestmark = pytest.mark.slow
LOCAL = {"HOST": "127.0.0.1", "DRAIN_S": "0"}
KERAS = """
import keras
body = [keras.layers.Input((32, 32, 3)), keras.layers.Conv2D(8, 3, activation="relu")]
body += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, activation="softmax")]
keras.Sequential(body).save("mine.keras")
"""


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Path]:
    """Return a folder that is empty before each command and after it."""
    folder = tmp_path / "empty"
    folder.mkdir()
    yield folder
    assert list(folder.iterdir()) == []


def run_command(installed: Bare, empty: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*hidden(), "macule", *words],
        cwd=empty,
        env=installed.variables({}),
        capture_output=True,
        text=True,
        check=False,
    )


def output(installed: Bare, empty: Path, *words: str) -> str:
    done = run_command(installed, empty, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_index_is_used_only_for_dependencies(installed: Bare) -> None:
    """macule comes from its file, and no dependency requires it."""
    report = json.loads((installed.folder / "report.json").read_text())["install"]
    found = {item["metadata"]["name"]: item for item in report}
    needs = [need for item in report for need in item["metadata"].get("requires_dist", [])]

    assert found["macule"]["download_info"]["url"].startswith("file://")
    assert {"numpy", "gunicorn", "celery"} <= found.keys()
    assert [need for need in needs if need.startswith("macule")] == []


def test_predict(installed: Bare, empty: Path, tmp_path: Path) -> None:
    """A photo gets exactly the answer of the checkout."""
    file = tmp_path / "photo.jpg"
    file.write_bytes(photo())
    ours = subprocess.check_output([ROOT / ".venv/bin/macule", "predict", file], text=True)
    answer = json.loads(output(installed, empty, "predict", str(file)))

    assert answer["predictions"] == json.loads(ours)["predictions"]
    assert output(installed, empty, "--version") == f"macule {__version__}\n"


def test_the_python_api(installed: Bare, empty: Path, tmp_path: Path) -> None:
    """A program gets the answer of the command, from the wheel's model."""
    file = tmp_path / "photo.jpg"
    file.write_bytes(photo())
    code = (
        "import json, sys, macule; result = macule.load().predict(sys.argv[1]); "
        "assert result.explain().overlay[1:4] == b'PNG'; "
        "print(json.dumps([result.decision, [row._asdict() for row in result.predictions]]))"
    )
    printed = subprocess.check_output(
        [*hidden(), "python", "-c", code, file], cwd=empty, env=installed.variables({}), text=True
    )
    answer = json.loads(output(installed, empty, "predict", str(file)))

    assert json.loads(printed) == [answer["decision"], answer["predictions"]]


def test_batch(installed: Bare, empty: Path, tmp_path: Path) -> None:
    """A folder of photos becomes a table with a row for each."""
    (tmp_path / "photos").mkdir()
    for name in ("a", "b"):
        (tmp_path / f"photos/{name}.jpg").write_bytes(photo())
    output(installed, empty, "batch", str(tmp_path / "photos"), "--out", str(tmp_path / "out.csv"))

    rows = csv.DictReader((tmp_path / "out.csv").read_text().splitlines())
    assert [row["status"] for row in rows] == ["ok", "ok"]


def test_doctor_plan_and_key(installed: Bare, empty: Path) -> None:
    """The environment passes, the model is planned, and keys and secrets are created."""
    levels = {line.split()[0] for line in output(installed, empty, "doctor").splitlines()}

    assert levels <= {"ok", "warn"}
    assert "128 MB" in output(installed, empty, "plan", "--limit", "128")
    assert "alice:" in output(installed, empty, "key", "new", "alice")
    assert output(installed, empty, "key", "webhook").startswith("whsec_")


def test_use(installed: Bare, empty: Path, tmp_path: Path) -> None:
    """An activated model is copied into the environment, and the previous one can return."""
    mine = tmp_path / "mine"
    shutil.copytree(ROOT / "layers/model/macule/weights", mine)
    before = output(installed, empty, "use")
    after = output(installed, empty, "use", str(mine))
    shutil.rmtree(mine)

    assert f"from {installed.venv}/share/macule/models/" in after
    assert output(installed, empty, "use") == after
    assert output(installed, empty, "use", "--back") == before


def test_unavailable_commands_say_why_in_a_line(installed: Bare, empty: Path) -> None:
    """`convert` names the wheel's extra, `fit` the repository, `worker` the missing variable."""
    lines = {
        ("convert", "mine.keras"): f"macule-{__version__}-py3-none-any.whl[convert]",
        ("evaluate", "mine", "--data", "."): "[convert]",
        ("fit",): "needs a clone of the repository",
        ("worker",): "BROKER_URL is not set",
        ("batch", ".", "--out", "t.parquet"): f"macule-{__version__}-py3-none-any.whl[parquet]",
    }
    for words, expected in lines.items():
        done = run_command(installed, empty, *words)
        assert done.returncode == 2, words
        assert expected in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def served(installed: Bare, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run `macule serve` in an empty folder."""
    folder = tmp_path_factory.mktemp("served")
    with installed.start("exec macule serve", LOCAL, folder) as service:
        assert first_answer(service, photo())[0] == 200
        yield service
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/page/page.js", "text/javascript"),
        ("/docs/", "text/html"),
        ("/docs/docs.js", "text/javascript"),
        ("/openapi.json", "application/json"),
        ("/model/", "application/json"),
        ("/v2", "application/json"),
        ("/health/", "text/plain"),
    ],
)
def test_serve_has_all_routes(served: Service, path: str, kind: str) -> None:
    """Page, scripts, specification, card and protocol are in the wheel."""
    answer = served.call("GET", path)

    assert answer.status == 200
    assert answer.headers["content-type"].startswith(kind)


def test_serve_uses_its_own_worker_class(served: Service) -> None:
    """An incomplete head takes no thread and gets an answer."""
    import socket

    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as client:
        client.sendall(b"GET / HTTP/1.1\n\n")
        assert client.recv(100).startswith(b"HTTP/1.1 400")


def test_serve_takes_a_folder_and_the_other_function(
    installed: Bare, empty: Path, tmp_path: Path
) -> None:
    """`macule serve DIR` serves that model; FUNCTION_TARGET=health is the health function."""
    mine = tmp_path / "mine"
    shutil.copytree(ROOT / "layers/model/macule/weights", mine)
    card = json.loads((mine / "model.json").read_text())
    (mine / "model.json").write_text(json.dumps({**card, "name": "mine"}))

    with installed.start(f"exec macule serve {mine}", LOCAL, empty) as service:
        assert first_answer(service, photo())[0] == 200
        assert service.call("GET", "/model/").json()["name"] == "mine"
    health = {**LOCAL, "FUNCTION_TARGET": "health"}
    with installed.start("exec macule serve", health, empty) as service:
        assert first_answer(service, None)[0] == 200
        assert service.call("POST", "/predict/", photo()).status == 404


def test_worker(installed: Bare, empty: Path, tmp_path: Path) -> None:
    """`macule worker` runs the jobs of `macule serve` over a broker."""
    with broker(tmp_path) as store, ExitStack() as stack:
        queue = {**LOCAL, "BROKER_URL": store.url}
        stack.enter_context(installed.start("exec macule worker", queue, empty))
        service = stack.enter_context(installed.start("exec macule serve", queue, empty))
        assert first_answer(service, photo())[0] == 200
        answer = service.call("POST", "/predictions", photo(), {"Prefer": "wait=60"})

    assert (answer.status, answer.json()["status"]) == (200, "succeeded")


def test_convert(installed: Bare, empty: Path, tmp_path: Path) -> None:
    """With the extra `convert` a Keras model becomes a folder that the wheel serves.

    The packages are those of .venv-dev, which come before the environment's own. macule cannot be
    imported from there, because links in a folder of PYTHONPATH are not followed.
    """
    pytest.importorskip("tensorflow")
    (packages,) = ROOT.glob(".venv-dev/lib/python*/site-packages")
    environment = installed.variables({"PYTHONPATH": str(packages)})
    python, macule = installed.venv / "bin/python", installed.venv / "bin/macule"

    def run(*words: object) -> str:
        return subprocess.check_output(
            list(map(str, words)), cwd=tmp_path, env=environment, text=True
        )

    run(python, "-c", KERAS)
    made = run(macule, "convert", "mine.keras", "--labels", "a,b", "--scaling", "0..1")

    assert run(python, "-c", "import macule; print(macule.__file__)").startswith(
        str(installed.venv)
    )
    assert "mine: " in made
    assert (tmp_path / "mine/report.html").stat().st_size > 0
    (tmp_path / "photo.jpg").write_bytes(photo())
    words = ("predict", str(tmp_path / "photo.jpg"), "--model", str(tmp_path / "mine"))
    assert json.loads(output(installed, empty, *words))["status"] == "succeeded"
    assert os.listdir(empty) == []
