"""Commands that select, create and verify models."""

from __future__ import annotations

import argparse
import shlex
import sys

from macule import extras
from macule.cli.console import FAILED, MISUSED, OK, print_message
from macule.errors import Macule
from macule.registry import local

REPORT_PACKAGES = ("jinja2", "matplotlib")
CONVERT_PACKAGES = (*REPORT_PACKAGES, "litert-quantizer", "tensorflow-cpu", "tf-keras")


def use(options: argparse.Namespace) -> int:
    """Select a model for the next start, and print the current one."""
    if options.back:
        local.roll_back()
    elif options.folder:
        local.activate(options.folder)
    folder, card = local.active_folder(), local.find(None).card
    print(f"{card.name} {card.version} ({card.precision}, {card.sha256[:12]}) from {folder}")
    return OK


def publish(options: argparse.Namespace) -> int:
    """Run a model once, then upload it and point an alias to it."""
    from macule.cli import plan
    from macule.registry import publish

    plan.measure(options.folder)  # a model that cannot run is not published
    address = publish.publish(options.folder, options.target, options.alias)
    print(f"{options.alias} names {address}")
    return OK


def rollback(options: argparse.Namespace) -> int:
    """Point an alias to the previous model."""
    from macule.registry import publish

    print(f"{options.alias} names {publish.rollback(options.target, options.alias)}")
    return OK


def convert(options: argparse.Namespace) -> int:
    """Convert a model, and print the findings."""
    if fault := extras.missing_message("`macule convert`", *CONVERT_PACKAGES):
        print_message(fault)
        return MISUSED
    from macule.convert import command
    from macule.convert.errors import BadInput

    try:
        out, evidence = command.convert(options, _command_line())
    except BadInput as error:
        print_message(str(error))
        return FAILED
    for finding in evidence["findings"]:
        print(f"{finding['level']}: {finding['text']}")
    card = evidence["card"]
    print(f"{out}: {card['precision']}, {card['bytes'] / 2**20:.1f} MB; see {out}/REPORT.md")
    return OK


def check(options: argparse.Namespace) -> int:
    """Verify a model folder, and print one line per check."""
    from macule.convert.errors import BadInput
    from macule.convert.evaluation import check

    code = OK
    try:
        for passed, text in check.check(options):
            print(f"{'ok  ' if passed else 'FAIL'} {text}")
            code = code if passed else FAILED
    except (Macule, BadInput) as error:
        print(f"FAIL {error}")
        return FAILED
    return code


def evaluate(options: argparse.Namespace) -> int:
    """Measure a model on labelled images, and print its metrics."""
    if fault := extras.missing_message("`macule evaluate`", *REPORT_PACKAGES):
        print_message(fault)
        return MISUSED
    from macule.convert import evaluate
    from macule.convert.errors import BadInput
    from macule.convert.report import evaluation_page

    try:
        out, metrics = evaluate.evaluate(options, _command_line())
    except BadInput as error:
        print_message(str(error))
        return FAILED
    print("\n".join(evaluation_page.lines(metrics)))
    print(f"plots: {out}/evaluation.html; all figures: {out}/evaluation.json")
    return OK


def _command_line() -> str:
    """Return the command as the user typed it, for the report."""
    return shlex.join(["macule", *sys.argv[1:]])
