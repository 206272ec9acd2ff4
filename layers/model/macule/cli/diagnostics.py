"""Commands that examine memory and the environment: `plan`, `doctor` and `fit`."""

from __future__ import annotations

import argparse
import json
import os
import sys

from macule import settings
from macule.cli.console import FAILED, MISUSED, OK, print_message, read_settings
from macule.registry import local


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
