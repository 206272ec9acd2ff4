"""The `macule` command: a table of commands; those of `convert` are offered where that is."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

from macule import __version__
from macule.cli import commands
from macule.errors import Macule
from macule.settings import parsers


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns: the exit code: 0, 1 if it failed, 2 if misused, 130 if broken off.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        options = parser(words).parse_args(words)
        code: int = options.run(options)
        sys.stdout.flush()
    except Macule as error:
        commands.complain(str(error))
        return commands.MISUSED
    except BrokenPipeError:  # `macule predict ... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return commands.OK
    except KeyboardInterrupt:
        commands.complain("broken off; nothing is left half-written")
        return commands.INTERRUPTED
    return code


class Parser(argparse.ArgumentParser):
    """Lists the commands by what one wants to do, and names the one that may have been meant."""

    summaries: dict[str, str]

    def format_help(self) -> str:
        """Write the commands by TASKS."""
        told = [f"{self.format_usage()}\n{self.description}\n"]
        for task, names in TASKS.items():
            there = [name for name in names if name in self.summaries]
            rows = [f"  {name:<10}{self.summaries[name]}\n" for name in there]
            told += [f"{task}:\n{''.join(rows)}"] if rows else []
        return "\n".join([*told, "`macule COMMAND --help` says what a command takes.\n"])

    def guard(self, words: list[str]) -> None:
        """Exit with one line where the first of *words* is no command."""
        if not words or words[0].startswith("-") or words[0] in self.summaries:
            return
        import difflib

        near = difflib.get_close_matches(words[0], self.summaries, 1)
        meant = f" Did you mean `{near[0]}`?" if near else ""
        self.error(f"there is no command {words[0][:40]!r}.{meant} `macule --help` lists them.")


def parser(words: list[str]) -> Parser:
    """Return what reads *words*; the options of a heavy command are there where they ask for it."""
    parser = Parser("macule", usage="macule COMMAND ...", description=ABOUT)
    parser.add_argument("--version", action="version", version=f"macule {__version__}")
    verbs = parser.add_subparsers(
        required=True, metavar="COMMAND", prog="macule", parser_class=argparse.ArgumentParser
    )
    parser.summaries = {}

    def add(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, more: str = ""
    ) -> argparse.ArgumentParser:
        text = f"{summary[0].upper()}{summary[1:]}. {more}".strip()
        command = verbs.add_parser(name, description=text)
        command.set_defaults(run=run)
        parser.summaries[name] = summary
        return command

    predict = add(
        "predict",
        commands.predict,
        "classify photos, without a server",
        "Prints a table on a terminal, else one JSON line a file with the keys of POST /predict/ "
        "and `file`.",
    )
    predict.add_argument("files", nargs="+", metavar="FILE", help="an image; - is standard input")
    predict.add_argument("--json", action="store_true", help="JSON on a terminal too")
    predict.add_argument("--top-k", type=_positive, metavar="N", help="the N likeliest labels only")
    predict.add_argument("--explain", choices=["cam"], help="add an activation map (to the JSON)")
    predict.add_argument("--model", metavar="DIR", help="a model's folder; default: MODEL_DIR")

    batch = add(
        "batch",
        commands.batch,
        "classify a folder, a list or a bucket into a table",
        "One row an image, errors too. What was interrupted goes on when you run the same command.",
    )
    batch.add_argument("source", metavar="SOURCE", help="a folder, s3://… or gs://…, a list; - too")
    batch.add_argument("--out", required=True, metavar="FILE", help=".parquet, .csv or .jsonl")
    batch.add_argument("--restart", action="store_true", help="begin anew")
    batch.add_argument("--strict", action="store_true", help="exit with 1 if a row is an error")
    batch.add_argument("--quiet", action="store_true", help="tell no progress")
    batch.add_argument("--broker", action="store_true", help="let the workers of BROKER_URL do it")
    batch.add_argument("--workers", type=_positive, metavar="N", help="default: the processors")
    batch.add_argument("--model", metavar="DIR", help="a model's folder; default: MODEL_DIR")

    serve = add("serve", commands.serve, "start the service, with the model in use or another")
    serve.add_argument("folder", nargs="?", metavar="DIR", help="default: the model in use")
    serve.add_argument("--port", type=int, help="default: PORT, else 8080")

    use = add("use", commands.use, "show which model serves, or choose another for the next start")
    which = use.add_mutually_exclusive_group()
    which.add_argument("folder", nargs="?", metavar="DIR", help="take a copy in and put it in use")
    which.add_argument("--back", action="store_true", help="return to the one before")

    put = add(
        "publish",
        commands.publish,
        "upload a model to a bucket, under a name that services take",
        "Services whose MODEL_URI is TARGET/NAME take it at their next start.",
    )
    put.add_argument("folder", metavar="DIR")
    back = add("rollback", commands.rollback, "return that name to the model before")
    for command in (put, back):
        command.add_argument("target", metavar="TARGET", help="s3://BUCKET/PREFIX or gs://…")
        command.add_argument("--alias", type=_alias, default="stable", metavar="NAME")

    plan = add(
        "plan",
        commands.plan,
        "say how much memory a model takes and whether it fits a limit",
        "The exit code is 1 if a limit does not hold; without --limit, if none that is sold does.",
    )
    plan.add_argument("--model", metavar="DIR", help="default: the model in use")
    plan.add_argument(
        "--limit", type=_positive, action="append", default=[], metavar="MB", help="may be repeated"
    )

    doctor = add(
        "doctor",
        commands.doctor,
        "check this machine before you deploy, or a running service after",
        "One line a check; the exit code is 1 if one fails.",
    )
    where = "of a service; PREDICT_KEY has its key"
    doctor.add_argument("url", nargs="?", type=_address, metavar="URL", help=where)
    doctor.add_argument("--worker", action="store_true", help="what `macule worker` needs, too")
    doctor.add_argument("--json", action="store_true", help="one JSON line a check")

    key = add("key", commands.new_key, "make an API key, or a secret that signs webhooks")
    key.add_argument("what", choices=["new", "webhook"])
    key.add_argument("name", nargs="?", metavar="NAME", help="of a new key: letters, digits, ._-")

    work = add(
        "worker",
        commands.worker,
        "work on predictions that wait in a queue (BROKER_URL)",
        "One at a time, within MEMORY_LIMIT_MB, until SIGTERM. There may be any number, anywhere.",
    )
    # a worn worker's, to the one that takes its place
    work.add_argument("--counters", type=int, metavar="FD", help=argparse.SUPPRESS)

    summary = "find the smallest memory limit that holds, by running under ever lower ones"
    # its options are the bench's own, and go to it as they are
    fit = verbs.add_parser("fit", prefix_chars="+", add_help=False)
    parser.summaries["fit"] = summary
    fit.add_argument("arguments", nargs="*")
    fit.set_defaults(run=commands.fit)

    for name, (module, run, summary) in (OFFLINE if find_spec("macule.convert") else {}).items():
        command = add(name, run, summary)
        if words[:1] == [name]:  # its options come with heavy modules: only when asked for
            import_module(module).add_options(command)
    parser.guard(words)
    return parser


def _address(text: str) -> str:
    try:
        return parsers.http_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not {error}") from error


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def _alias(text: str) -> str:
    if not re.fullmatch("[a-z][a-z0-9-]{0,30}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like stable or canary-2")
    return text


ABOUT = "Classify photos of skin lesions, and serve, check and make the models that do it."
TASKS = {
    "Classify photos": ("predict", "batch"),
    "Run the service": ("serve", "worker", "key", "plan", "doctor", "fit"),
    "Choose a model": ("use", "publish", "rollback"),
    "Make a model": ("convert", "check", "evaluate"),
}
OFFLINE = {
    "convert": (
        "macule.convert.command",
        commands.convert,
        "turn a Keras or TensorFlow model into a small one that serves",
    ),
    "check": (
        "macule.convert.evaluation.check",
        commands.check,
        "check that a model's files are what its card says",
    ),
    "evaluate": (
        "macule.convert.evaluate",
        commands.evaluate,
        "measure a model on photos whose labels you know",
    ),
}
