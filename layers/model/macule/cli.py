"""The `macule` command: a table of commands; the offline ones live in `convert`."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from macule import __version__, classify, settings, store
from macule.errors import BadImage, BadRequest, Macule, Unavailable
from macule.store import publish

OK, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130  # argparse exits with 2 itself
ROOT = os.path.dirname(os.path.dirname(store.LAYER))  # of the checkout, if it is one
TOOLS = (
    "this command needs TensorFlow and the quantizer, which the serving environment has not: run "
    "`make tools`, then `.venv-dev/bin/macule {command} ...`"
)
WORKER = "a worker needs Celery and redis-py: pip install 'macule[queue]'"


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns: the exit code: 0, 1 if it failed, 2 if misused, 130 if broken off.
    """
    words = sys.argv[1:] if arguments is None else arguments
    try:
        options = _parser(words).parse_args(words)
        code: int = options.run(options)
        sys.stdout.flush()
    except ModuleNotFoundError as error:
        missing = WORKER if words[0] == "worker" else TOOLS.format(command=words[0])
        _complain(missing, f"{error.name} is not installed")
        return MISUSED
    except Macule as error:
        _complain(str(error))
        return MISUSED
    except BrokenPipeError:  # `macule predict ... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        _complain("broken off; nothing is left half-written")
        return INTERRUPTED
    return code


def _parser(words: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("macule", description=__doc__)
    parser.add_argument("--version", action="version", version=f"macule {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, more: str = ""
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=f"{summary}. {more}".strip())
        command.set_defaults(run=run)
        return command

    predict = add(
        "predict",
        _predict,
        "classify image files without a server",
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
        _batch,
        "classify a folder, a list or a bucket's prefix into a table",
        "One row an image, errors too; what was broken off goes on by the same command.",
    )
    batch.add_argument("source", metavar="SOURCE", help="a folder, s3://… or gs://…, a list; - too")
    batch.add_argument("--out", required=True, metavar="FILE", help=".parquet, .csv or .jsonl")
    batch.add_argument("--restart", action="store_true", help="begin anew")
    batch.add_argument("--strict", action="store_true", help="exit with 1 if a row is an error")
    batch.add_argument("--quiet", action="store_true", help="tell no progress")
    batch.add_argument("--broker", action="store_true", help="let the workers of BROKER_URL do it")
    batch.add_argument("--workers", type=_positive, metavar="N", help="default: the processors")
    batch.add_argument("--model", metavar="DIR", help="a model's folder; default: MODEL_DIR")

    serve = add("serve", _serve, "serve a model, as `make serve` does")
    serve.add_argument("folder", nargs="?", metavar="DIR", help="default: the model in use")
    serve.add_argument("--port", type=int, help="default: PORT, else 8080")

    use = add("use", _use, "say which model serves, or change it; takes effect at the next start")
    which = use.add_mutually_exclusive_group()
    which.add_argument("folder", nargs="?", metavar="DIR", help="take a copy in and put it in use")
    which.add_argument("--back", action="store_true", help="return to the one before")

    put = add(
        "publish",
        _publish,
        "upload a model that runs, and have an alias name it",
        "Services whose MODEL_URI is TARGET/NAME take it at their next start.",
    )
    put.add_argument("folder", metavar="DIR")
    back = add("rollback", _rollback, "have an alias name the model before again")
    for command in (put, back):
        command.add_argument("target", metavar="TARGET", help="s3://BUCKET/PREFIX or gs://…")
        command.add_argument("--alias", type=_alias, default="stable", metavar="NAME")

    plan = add("plan", _plan, "say what a model needs and what fits an instance")
    plan.add_argument("--model", metavar="DIR", help="default: the model in use")
    plan.add_argument(
        "--limit", type=_positive, action="append", default=[], metavar="MB", help="may be repeated"
    )

    doctor = add(
        "doctor",
        _doctor,
        "check this environment before deploying, or a running service after",
        "One line a check; the exit code is 1 if one fails.",
    )
    doctor.add_argument("url", nargs="?", type=_address, metavar="URL", help="of a service")
    doctor.add_argument("--json", action="store_true", help="one JSON line a check")

    add(
        "worker",
        _worker,
        "work on the predictions that wait at BROKER_URL",
        "One at a time, within MEMORY_LIMIT_MB, until SIGTERM. There may be any number, anywhere.",
    )

    summary = "run the service under ever lower limits; find the least that holds"
    # its options are the bench's own, and go to it as they are
    fit = commands.add_parser("fit", help=summary, prefix_chars="+", add_help=False)
    fit.add_argument("arguments", nargs="*")
    fit.set_defaults(run=_fit)

    for name, (module, run, summary) in OFFLINE.items():
        command = add(name, run, summary)
        if words[:1] == [name]:  # its options come with heavy modules: only when asked for
            import_module(module).add_options(command)
    return parser


def _convert(options: argparse.Namespace) -> int:
    from convert import command
    from convert.refusal import Refused

    typed = shlex.join(["macule", *sys.argv[1:]])
    try:
        out, evidence = command.convert(options, typed)
    except Refused as error:
        _complain(str(error))
        return FAILED
    for finding in evidence["findings"]:
        print(f"{finding['level']}: {finding['text']}")
    card = evidence["card"]
    print(f"{out}: {card['precision']}, {card['bytes'] / 2**20:.1f} MB; see {out}/REPORT.md")
    return OK


def _check(options: argparse.Namespace) -> int:
    from convert import check
    from convert.refusal import Refused

    code = OK
    try:
        for holds, what in check.check(options):
            print(f"{'ok  ' if holds else 'FAIL'} {what}")
            code = code if holds else FAILED
    except (Macule, Refused) as error:
        print(f"FAIL {error}")
        return FAILED
    return code


def _evaluate(options: argparse.Namespace) -> int:
    from convert import evaluate, evaluation
    from convert.refusal import Refused

    typed = shlex.join(["macule", *sys.argv[1:]])
    try:
        out, found = evaluate.evaluate(options, typed)
    except Refused as error:
        _complain(str(error))
        return FAILED
    print("\n".join(evaluation.lines(found)))
    print(f"{out}/evaluation.html has the plots, {out}/evaluation.json every figure")
    return OK


def _fit(options: argparse.Namespace) -> int:
    """Become the bench that measures it, in the checkout that this package lies in."""
    script = os.path.join(ROOT, "bench", "fit.py")
    if not os.path.exists(script):
        _complain("this is no checkout of macule: clone it, and run `make fit` there")
        return MISUSED
    return os.execv(sys.executable, [sys.executable, script, *options.arguments])  # noqa: S606


def _serve(options: argparse.Namespace) -> int:
    """Become gunicorn, in the checkout that this package lies in."""
    configuration = os.path.join(ROOT, "infra", "gunicorn.conf.py")
    if not os.path.exists(configuration):
        _complain("this is no checkout of macule: point your platform at the function's door")
        return MISUSED
    path, _ = store.fetch(options.folder)  # a model that cannot serve fails here, not later
    variables = [f"MODEL_DIR={os.path.dirname(os.path.abspath(path))}"]
    variables += [] if options.port is None else [f"PORT={options.port}"]
    os.chdir(ROOT)
    gunicorn = [sys.executable, "-m", "gunicorn", "-c", configuration]
    elsewhere = ["-u", "MODEL_URI", "-u", "MODEL_SHA256"]  # the command line says which model
    return os.execvp("env", ["env", *elsewhere, *variables, *gunicorn])  # noqa: S606, S607


def _use(options: argparse.Namespace) -> int:
    if options.back:
        store.back()
    elif options.folder:
        store.use(options.folder)
    folder, card = store.in_use(), store.fetch(None).card
    print(f"{card.name} {card.version} ({card.precision}, {card.sha256[:12]}) from {folder}")
    return OK


def _publish(options: argparse.Namespace) -> int:
    from macule import plan

    plan.measure(options.folder)  # a model that cannot run is not published
    address = publish.publish(options.folder, options.target, options.alias)
    print(f"{options.alias} names {address}")
    return OK


def _rollback(options: argparse.Namespace) -> int:
    print(f"{options.alias} names {publish.rollback(options.target, options.alias)}")
    return OK


def _plan(options: argparse.Namespace) -> int:
    from macule import plan

    chosen = settings.read()
    need, warm = plan.measure(options.model or chosen.model)
    for line in plan.lines(need, warm, options.limit, chosen.max_image_pixels):
        print(line)
    return OK


def _doctor(options: argparse.Namespace) -> int:
    from macule import doctor
    from macule.doctor import visit
    from macule.doctor.finding import FAIL

    code = OK
    for finding in visit.findings(options.url) if options.url else doctor.findings():
        code = FAILED if finding.level == FAIL else code
        if options.json:
            print(json.dumps(finding._asdict()), flush=True)
        else:  # what a service said may hold anything, but not steer the terminal
            line = f"{finding.level:<4} {finding.check}: {finding.text}"
            print("".join(c if c.isprintable() else "?" for c in line), flush=True)
    return code


def _worker(options: argparse.Namespace) -> int:
    chosen = settings.current()
    if not chosen.broker_url:
        _complain("BROKER_URL is not set; without it predictions are worked on where they are made")
        return MISUSED
    import logging

    from macule.jobs import worker

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("macule").setLevel(logging.INFO)
    if worker.serve(chosen):  # a process of the same id, with memory as at the start
        os.execv(sys.executable, [sys.executable, "-m", "macule.cli", "worker"])  # noqa: S606
    return OK


def _predict(options: argparse.Namespace) -> int:
    chosen = settings.read()
    if options.model:
        chosen = chosen._replace(model=options.model)
    code = OK
    for file in options.files:
        try:
            body = _read(file, chosen.max_image_bytes)
            cam = options.explain == "cam"
            answer, _ = classify.predict(body, chosen, options.top_k, cam, asks=False, keeps=False)
        except Macule as error:
            code = FAILED
            _complain(str(error), file)
            continue
        if options.json or not sys.stdout.isatty():
            print(json.dumps({"file": file, **answer}, ensure_ascii=False), flush=True)
        else:
            print(_table(file, answer), flush=True)
    return code


def _batch(options: argparse.Namespace) -> int:
    from macule import batch

    chosen = settings.read()
    if options.model:
        chosen = chosen._replace(model=options.model)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    queue = None
    if options.broker:
        if not chosen.broker_url:
            raise BadRequest("--broker needs BROKER_URL, and workers: see `macule worker`.")
        from macule.jobs import here

        queue = here.current().queue
    again = "the same command, without --restart, goes on from here"
    try:
        tally = batch.run(
            options.source,
            options.out,
            chosen,
            restart=options.restart,
            workers=options.workers,
            queue=queue,
            watcher=None if options.quiet else sys.stderr,
        )
    except Unavailable as error:
        _complain(f"{error} Once that is mended, {again}", "batch")
        return FAILED
    except KeyboardInterrupt:
        _complain(f"broken off; {again}", "batch")
        return INTERRUPTED
    errors = {status: number for status, number in sorted(tally.items()) if status != "ok"}
    told = ", ".join(f"{number:,} {status}" for status, number in errors.items())
    print(f"{options.out}: {sum(tally.values()):,} rows" + (f", of them {told}" if told else ""))
    return FAILED if errors and options.strict else OK


def _read(file: str, max_bytes: int) -> bytes:
    try:
        if file == "-":
            body = sys.stdin.buffer.read(max_bytes + 1)
        else:
            with open(file, "rb") as stream:
                body = stream.read(max_bytes + 1)
    except OSError as error:
        raise BadImage(f"{error.strerror}.") from error
    if len(body) > max_bytes:
        raise BadImage(f"The file has more than {max_bytes:,} bytes (MAX_IMAGE_BYTES).")
    return body


def _table(file: str, answer: dict[str, Any]) -> str:
    """Lay an answer out for a person: bars of 20 characters."""
    width = max(len(row["name"]) for row in answer["predictions"])
    rows = [
        f"  {row['name']:<{width}} {row['probability']:7.1%}  {_bar(row['probability'])}".rstrip()
        for row in answer["predictions"]
    ]
    spent = answer["metrics"]["total_ms"]
    head = f"{file}: {answer['decision']} ({spent:.0f} ms)"
    return "\n".join([head, *rows, f"  {answer['disclaimer']}"])


def _bar(share: float) -> str:
    return "#" * round(share * 20)


def _complain(what: str, *where: str) -> None:
    print("macule", *where, what, sep=": ", file=sys.stderr)


def _address(text: str) -> str:
    try:
        return settings.web_address(text)
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


OFFLINE = {
    "convert": ("convert.command", _convert, "turn a Keras model into a small one, with proof"),
    "check": ("convert.check", _check, "check a model's folder against its card"),
    "evaluate": ("convert.evaluate", _evaluate, "measure a model on labelled images, as it serves"),
}


if __name__ == "__main__":
    sys.exit(main())
