"""The `macule` command: the command line parser and the list of commands."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from macule import __version__
from macule.cli import classify, console, models, serving
from macule.errors import Macule
from macule.inference.options import TTA_PASSES
from macule.registry import model_card
from macule.settings import parsers


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns: the exit code: 0, 1 if it failed, 2 for wrong usage, 130 if interrupted.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        options = parser(words).parse_args(words)
        code: int = options.run(options)
        sys.stdout.flush()
    except Macule as error:
        console.print_message(str(error))
        return console.MISUSED
    except BrokenPipeError:  # such as `macule predict ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return console.OK
    except KeyboardInterrupt:
        console.print_message("interrupted; no incomplete files are left")
        return console.INTERRUPTED
    return code


class Parser(argparse.ArgumentParser):
    """An argument parser that groups commands by task and suggests the nearest command."""

    summaries: dict[str, str]

    def format_help(self) -> str:
        """List the commands in the groups of TASKS."""
        parts = [f"{self.format_usage()}\n{self.description}\n"]
        for task, names in TASKS.items():
            available = [name for name in names if name in self.summaries]
            rows = [f"  {name:<10}{self.summaries[name]}\n" for name in available]
            parts += [f"{task}:\n{''.join(rows)}"] if rows else []
        return "\n".join([*parts, "`macule COMMAND --help` shows the options of a command.\n"])

    def check_command(self, words: list[str]) -> None:
        """Exit with one line if the first of *words* is not a command."""
        if not words or words[0].startswith("-") or words[0] in self.summaries:
            return
        import difflib

        matches = difflib.get_close_matches(words[0], self.summaries, 1)
        suggestion = f" Did you mean `{matches[0]}`?" if matches else ""
        self.error(f"unknown command {words[0][:40]!r}.{suggestion} See `macule --help`.")


def parser(words: list[str]) -> Parser:
    """Build the parser for the arguments *words*.

    The options of `convert`, `check` and `evaluate` are only added if *words* names the command,
    because their modules are slow to import.
    """
    parser = Parser("macule", usage="macule COMMAND ...", description=DESCRIPTION)
    parser.add_argument("--version", action="version", version=f"macule {__version__}")
    subparsers = parser.add_subparsers(
        required=True, metavar="COMMAND", prog="macule", parser_class=argparse.ArgumentParser
    )
    parser.summaries = {}

    def add(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, details: str = ""
    ) -> argparse.ArgumentParser:
        text = f"{summary[0].upper()}{summary[1:]}. {details}".strip()
        command = subparsers.add_parser(name, description=text)
        command.set_defaults(run=run)
        parser.summaries[name] = summary
        return command

    model_dir = "a model folder; default: MODEL_DIR"
    option = add(
        "predict",
        classify.predict,
        "classify photos, without a server",
        "Prints a table on a terminal. Otherwise prints one JSON line per file, with the keys of "
        "POST /predict/ and `file`.",
    ).add_argument
    option("files", nargs="+", metavar="FILE", help="an image; - reads stdin")
    option("--json", action="store_true", help="print JSON on a terminal too")
    option("--top-k", type=_positive, metavar="N", help="only the N most likely labels")
    option("--explain", choices=["cam"], help="add an activation map (to the JSON)")
    option("--tta", type=int, choices=TTA_PASSES, default=1, help=TTA_HELP)
    option("--sets", type=_percent, metavar="PERCENT", help=SETS_HELP)
    option("--model", metavar="DIR", help=model_dir)

    sources = "a folder, s3://… or gs://…, or a list of images; - reads the list from stdin"
    in_parallel = "images in parallel; default: one per CPU"
    option = add(
        "batch",
        classify.batch,
        "classify the images of a folder, list or bucket into a table",
        "Writes one row per image, also for errors. To continue an interrupted run, run the same "
        "command again.",
    ).add_argument
    option("source", metavar="SOURCE", help=sources)
    option("--out", required=True, metavar="FILE", help=".parquet, .csv or .jsonl")
    option("--restart", action="store_true", help="discard earlier rows and start again")
    option("--strict", action="store_true", help="exit with 1 if a row has an error")
    option("--quiet", action="store_true", help="show no progress")
    option("--broker", action="store_true", help="use the workers of BROKER_URL")
    option("--workers", type=_positive, metavar="N", help=in_parallel)
    option("--model", metavar="DIR", help=model_dir)

    current = "a model folder; default: the current model"
    option = add(
        "serve", serving.serve, "start the service, with the current model or another"
    ).add_argument
    option("folder", nargs="?", metavar="DIR", help=current)
    option("--port", type=int, help="default: PORT or 8080")

    use = add("use", models.use, "show the current model, or select another for the next start")
    option = use.add_mutually_exclusive_group().add_argument
    option("folder", nargs="?", metavar="DIR", help="copy this model folder and use it")
    option("--back", action="store_true", help="return to the previous model")

    publish = add(
        "publish",
        models.publish,
        "upload a model to a bucket and point an alias to it",
        "Services whose MODEL_URI is TARGET/NAME load it at their next start.",
    )
    publish.add_argument("folder", metavar="DIR")
    rollback = add("rollback", models.rollback, "point an alias back to the previous model")
    for command in (publish, rollback):
        command.add_argument("target", metavar="TARGET", help="s3://BUCKET/PREFIX or gs://…")
        command.add_argument("--alias", type=_alias, default="stable", metavar="NAME")

    limits: dict[str, Any] = {"action": "append", "default": [], "metavar": "MB"}
    option = add(
        "plan",
        serving.plan,
        "show how much memory a model needs and whether it fits a limit",
        "The exit code is 1 if the model does not fit a --limit, or, without --limit, any common "
        "instance size.",
    ).add_argument
    option("--model", metavar="DIR", help=current)
    option("--limit", type=_positive, **limits, help="memory limit; can be repeated")

    url = "URL of a service; macule reads its API key from PREDICT_KEY"
    option = add(
        "doctor",
        serving.doctor,
        "check this machine before you deploy, or a running service after",
        "Prints one line per check. The exit code is 1 if a check fails.",
    ).add_argument
    option("url", nargs="?", type=_address, metavar="URL", help=url)
    option("--worker", action="store_true", help="also check what `macule worker` needs")
    option("--json", action="store_true", help="print one JSON line per check")

    option = add("key", serving.create_key, "create an API key or a webhook secret").add_argument
    option("what", choices=["new", "webhook"])
    option("name", nargs="?", metavar="NAME", help="name of the new key: letters, digits, ._-")

    option = add(
        "worker",
        serving.worker,
        "process queued predictions (BROKER_URL)",
        "Processes one prediction at a time, within MEMORY_LIMIT_MB, until SIGTERM. You can run "
        "several workers, also on several machines.",
    ).add_argument
    # set when a worker restarts itself
    option("--counters", type=int, metavar="FD", help=argparse.SUPPRESS)

    summary = "find the smallest memory limit that works, by lowering it until the service fails"
    # all its options are passed to bench/fit.py
    fit = subparsers.add_parser("fit", prefix_chars="+", add_help=False)
    parser.summaries["fit"] = summary
    fit.add_argument("arguments", nargs="*")
    fit.set_defaults(run=serving.fit)

    for name, (module, run, summary) in (OFFLINE if find_spec("macule.convert") else {}).items():
        command = add(name, run, summary)
        if words[:1] == [name]:  # the module with its options is slow to import
            import_module(module).add_options(command)
    parser.check_command(words)
    return parser


def _address(text: str) -> str:
    try:
        return parsers.http_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not {error}") from error


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive integer")
    return int(text)


def _percent(text: str) -> int:
    try:
        return model_card.parse_coverage(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not {error}") from None


def _alias(text: str) -> str:
    if not re.fullmatch("[a-z][a-z0-9-]{0,30}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an alias such as stable or canary-2")
    return text


TTA_HELP = "4: average the probabilities of the photo and its three mirror images"
SETS_HELP = "add a prediction set of this coverage, for example 90; the card must have it"
DESCRIPTION = "Classify photos of skin lesions; serve, verify and convert models."
TASKS = {
    "Classify photos": ("predict", "batch"),
    "Run the service": ("serve", "worker", "key", "plan", "doctor", "fit"),
    "Select a model": ("use", "publish", "rollback"),
    "Convert a model": ("convert", "check", "evaluate"),
}
OFFLINE = {
    "convert": (
        "macule.convert.command",
        models.convert,
        "convert a Keras or TensorFlow model into a small model",
    ),
    "check": (
        "macule.convert.evaluation.check",
        models.check,
        "verify that a model folder matches its card",
    ),
    "evaluate": (
        "macule.convert.evaluate",
        models.evaluate,
        "measure a model on labelled photos",
    ),
}
