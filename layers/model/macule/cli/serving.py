"""Commands that run as a service: `serve` and `worker`."""

from __future__ import annotations

import argparse
import os
import sys

from macule import settings
from macule.cli.console import MISUSED, OK, print_message, read_settings
from macule.errors import BadSetting
from macule.registry import local


def serve(options: argparse.Namespace) -> int:
    """Replace this process with the server."""
    chosen = read_settings(options.folder)
    variables = [] if options.port is None else [f"PORT={options.port}"]
    if not isinstance(chosen.model, settings.Source):
        path, _ = local.find(chosen.model)  # fail here if the model cannot be served
        variables += [f"MODEL_DIR={os.path.dirname(os.path.abspath(path))}"]
    if options.folder:  # it overrides a remote model
        variables = ["-u", "MODEL_URI", "-u", "MODEL_SHA256", *variables]
    service = [sys.executable, "-m", "macule.server"]
    return os.execvp("env", ["env", *variables, *service])  # noqa: S606, S607


def worker(options: argparse.Namespace) -> int:
    """Process queued predictions until SIGTERM."""
    chosen = settings.current()
    if not chosen.broker_url:
        print_message(
            "BROKER_URL is not set; without it, each web process computes its own predictions"
        )
        return MISUSED
    from macule.observability import log_format, metrics
    from macule.server import startup

    if fault := startup.queue_fault(chosen, worker=True):
        raise BadSetting(fault)
    startup.check(chosen)
    from macule.server import queue_worker

    counters = metrics.counters(file=options.counters)
    log_format.configure()
    if queue_worker.serve(chosen):  # restart with the same process id, to release memory
        command, file = [sys.executable, "-m", "macule.cli", "worker"], counters.inherit()
        os.execv(  # noqa: S606
            sys.executable, command if file is None else [*command, f"--counters={file}"]
        )
    return OK
