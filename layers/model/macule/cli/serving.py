"""Commands that run the service and examine it: serve, worker, key, plan, doctor and fit."""

from __future__ import annotations

import argparse
import json
import os
import sys

from macule import settings
from macule.cli.console import FAILED, MISUSED, OK, print_message, read_settings
from macule.errors import BadRequest, BadSetting
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


def create_key(options: argparse.Namespace) -> int:
    """Print a new API key with its entry for API_KEYS, or a webhook secret."""
    from macule.security import api_keys

    if (options.what == "webhook") != (options.name is None):
        raise BadRequest("Use `macule key new NAME`, or `macule key webhook` without a name.")
    if options.what == "webhook":
        print_message("a secret for WEBHOOK_SECRETS and for the receiver of the webhooks:", "key")
        print(api_keys.create_webhook_secret())
        return OK
    key, pair = api_keys.create_key(options.name)
    print_message("the key, which is not stored, and its entry for API_KEYS or its file:", "key")
    print(f"{key}\n{pair}")
    return OK


def plan(options: argparse.Namespace) -> int:
    """Print how much memory a model needs, and what fits each limit."""
    from macule.cli import plan

    chosen = read_settings(options.model)
    footprint, warm = plan.measure(chosen.model)
    lines, fits = plan.report(footprint, warm, options.limit, chosen.max_image_pixels)
    print(*lines, sep="\n")
    return OK if fits else FAILED


def doctor(options: argparse.Namespace) -> int:
    """Check this environment or a running service, and print one line per check."""
    from macule.cli import doctor
    from macule.cli.doctor import remote_service
    from macule.cli.doctor.check_result import FAIL

    code = OK
    results = (
        remote_service.run_checks(options.url, settings.current().predict_key)
        if options.url
        else doctor.run_checks(options.worker)
    )
    for result in results:
        code = FAILED if result.level == FAIL else code
        if options.json:
            print(json.dumps(result._asdict()), flush=True)
        else:
            line = f"{result.level:<4} {result.check}: {result.text}"
            # the text of a remote service must not send control sequences to the terminal
            print("".join(c if c.isprintable() else "?" for c in line), flush=True)
    return code


def fit(options: argparse.Namespace) -> int:
    """Replace this process with bench/fit.py of the checkout that holds this package."""
    script = os.path.join(os.path.dirname(os.path.dirname(local.CHECKOUT)), "bench", "fit.py")
    if not os.path.exists(script):
        print_message("`macule fit` needs a clone of the repository: run `make fit` there", "fit")
        return MISUSED
    return os.execv(sys.executable, [sys.executable, script, *options.arguments])  # noqa: S606
