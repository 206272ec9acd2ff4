"""Time each bundle from its start to its first answer, with Python and pip alone.

Predict answers a 12 MP photo, health `GET /memory/`.

Each is built from a fresh clone in a fresh environment of each interpreter, has only its template's
variables, is started as its platform does, and is asked without a pause.
"""

import argparse
import base64
import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import harness

sys.path[:0] = [str(harness.ROOT / "tests"), str(harness.ROOT)]
from support.bare_environment import Bare, blueprint, container, first_answer, hidden, image_command
from support.broker import broker
from support.bundles import HERE
from support.lambda_runtime_api import running as lambda_running

from infra import limits

EVENT = json.loads((harness.ROOT / "tests/infra/events/function-url.json").read_text())
REPORT = {
    **EVENT,
    "rawPath": "/memory/",
    "requestContext": {
        **EVENT["requestContext"],
        "http": {**EVENT["requestContext"]["http"], "method": "GET", "path": "/memory/"},
    },
    "body": "",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("interpreters", nargs="*", default=[sys.executable])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    photo = harness.photo(12)
    rows: list[dict[str, Any]] = []
    for interpreter in options.interpreters:
        with tempfile.TemporaryDirectory() as folder:
            bare = Bare(Path(folder), interpreter)
            python = subprocess.check_output([interpreter, "-V"], text=True).split()[1]
            for name, status, seconds in starts(bare, photo, options.rounds):
                rows.append(
                    {
                        "python": python,
                        "bundle": name,
                        "status": status,
                        "start_to_answer_s": round(statistics.median(seconds), 2),
                        "worst_s": round(max(seconds), 2),
                    }
                )
                print(rows[-1], flush=True)
    harness.record(
        "bare-start",
        {"macule": "source", "awslambdaric": version("awslambdaric")},
        photo_bytes=len(photo),
        rounds=options.rounds,
        hidden=bool(hidden()),
        rows=rows,
    )


def starts(bare: Bare, photo: bytes, rounds: int) -> Any:
    """Yield each bundle's name, the statuses and the seconds of its starts."""
    web, given = blueprint("render.yaml")
    bare.run(web["buildCommand"], given)
    yield "render/predict", *_served(bare, web["startCommand"], given, photo, rounds)
    yield "render-queue/predict", *_queued(bare, photo, rounds)
    bare.run(f"python -m infra.bundle gcp aws knative --python python --machine {HERE}", {})
    build = bare.clone / "build"
    bodies = {"predict": photo, "health": None}
    for name in ("predict", "health"):
        command, given = image_command(build / "knative" / name)
        given |= container(f"infra/knative/{name}.yaml")
        where = build / "knative" / name
        yield f"knative/{name}", *_served(bare, command, given, bodies[name], rounds, where)
    for name in ("predict", "health"):
        yield f"aws/{name}", *_invoked(bare, build / "aws", name, bodies[name], rounds)
    for name in ("predict", "health"):  # last, because it uses this machine's packages
        where = build / "gcp" / name
        bare.run("python -m pip install --quiet -r requirements.txt", {}, where)
        given = {**container(f"infra/gcp/{name}.yaml"), "FUNCTION_TARGET": name}
        command = "functions-framework --source main.py"
        yield f"gcp/{name}", *_served(bare, command, given, bodies[name], rounds, where)


def _served(
    bare: Bare,
    command: str,
    given: dict[str, str],
    photo: bytes | None,
    rounds: int,
    where: Path | None = None,
) -> tuple[list[int], list[float]]:
    answers = []
    for _ in range(rounds):
        with bare.start(command, given, where) as service:
            answers.append(first_answer(service, photo))
    return sorted({status for status, _ in answers}), [seconds for _, seconds in answers]


def _queued(bare: Bare, photo: bytes, rounds: int) -> tuple[list[int], list[float]]:
    """Time web process and worker, started together, until the worker has run a job."""
    web, given = blueprint("infra/render/queue.yaml")
    worker, of_worker = blueprint("infra/render/queue.yaml", "worker")
    bare.run(web["buildCommand"], given)
    statuses, seconds = set(), []
    for _ in range(rounds):
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            queue = {"BROKER_URL": stack.enter_context(broker(Path(folder))).url}
            began = time.monotonic()
            stack.enter_context(bare.start(worker["startCommand"], {**of_worker, **queue}))
            running = stack.enter_context(bare.start(web["startCommand"], {**given, **queue}))
            first_answer(running, photo)
            answer = running.call("POST", "/predictions", photo, {"Prefer": "wait=30"})
            seconds.append(time.monotonic() - began)
            done = answer.json()["status"] == "succeeded"
            statuses.add(answer.status if done else 0)
    return sorted(statuses), seconds


def _invoked(
    bare: Bare, archives: Path, name: str, photo: bytes | None, rounds: int
) -> tuple[list[int], list[float]]:
    event = {**EVENT, "body": base64.b64encode(photo).decode()} if photo else REPORT
    statuses, seconds = set(), []
    with tempfile.TemporaryDirectory() as folder:
        root = bare.unpack(archives, name, Path(folder))
        for _ in range(rounds):
            began = time.monotonic()
            memory_mb = limits.read().of(name).memory_mb
            with lambda_running(root, memory_mb, root / "log", command=bare.python) as function:
                statuses.add(function.invoke(event)["statusCode"])
                seconds.append(time.monotonic() - began)
    return sorted(statuses), seconds


if __name__ == "__main__":
    main()
