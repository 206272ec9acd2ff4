"""What each command does with its options; it prints, and returns the exit code."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from typing import Any

from macule import extras, settings
from macule.errors import BadImage, BadRequest, BadSetting, Macule, Unavailable
from macule.inference import native_stderr, pipeline, runtime
from macule.registry import local

OK, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130  # argparse exits with 2 itself
REPORT = ("jinja2", "matplotlib")
CONVERT = (*REPORT, "litert-quantizer", "tensorflow-cpu", "tf-keras")


def convert(options: argparse.Namespace) -> int:
    if fault := extras.missing("`macule convert`", *CONVERT):
        complain(fault)
        return MISUSED
    from macule.convert import command
    from macule.convert.errors import ConversionError

    typed = shlex.join(["macule", *sys.argv[1:]])
    try:
        out, evidence = command.convert(options, typed)
    except ConversionError as error:
        complain(str(error))
        return FAILED
    for finding in evidence["findings"]:
        print(f"{finding['level']}: {finding['text']}")
    card = evidence["card"]
    print(f"{out}: {card['precision']}, {card['bytes'] / 2**20:.1f} MB; see {out}/REPORT.md")
    return OK


def check(options: argparse.Namespace) -> int:
    from macule.convert.errors import ConversionError
    from macule.convert.evaluation import check

    code = OK
    try:
        for holds, what in check.check(options):
            print(f"{'ok  ' if holds else 'FAIL'} {what}")
            code = code if holds else FAILED
    except (Macule, ConversionError) as error:
        print(f"FAIL {error}")
        return FAILED
    return code


def evaluate(options: argparse.Namespace) -> int:
    if fault := extras.missing("`macule evaluate`", *REPORT):
        complain(fault)
        return MISUSED
    from macule.convert import evaluate
    from macule.convert.errors import ConversionError
    from macule.convert.report import evaluation_page

    typed = shlex.join(["macule", *sys.argv[1:]])
    try:
        out, found = evaluate.evaluate(options, typed)
    except ConversionError as error:
        complain(str(error))
        return FAILED
    print("\n".join(evaluation_page.lines(found)))
    print(f"{out}/evaluation.html has the plots, {out}/evaluation.json every figure")
    return OK


def fit(options: argparse.Namespace) -> int:
    """Become the bench that measures it, in the checkout that this package lies in."""
    script = os.path.join(os.path.dirname(os.path.dirname(local.CHECKOUT)), "bench", "fit.py")
    if not os.path.exists(script):
        complain("`macule fit` needs a clone of the repository: run `make fit` there", "fit")
        return MISUSED
    return os.execv(sys.executable, [sys.executable, script, *options.arguments])  # noqa: S606


def serve(options: argparse.Namespace) -> int:
    """Become gunicorn."""
    chosen = _chosen(options.folder)
    variables = [] if options.port is None else [f"PORT={options.port}"]
    if not isinstance(chosen.model, settings.Source):
        path, _ = local.fetch(chosen.model)  # a model that cannot serve fails here, not later
        variables += [f"MODEL_DIR={os.path.dirname(os.path.abspath(path))}"]
    if options.folder:  # not another one
        variables = ["-u", "MODEL_URI", "-u", "MODEL_SHA256", *variables]
    service = [sys.executable, "-m", "macule.server"]
    return os.execvp("env", ["env", *variables, *service])  # noqa: S606, S607


def use(options: argparse.Namespace) -> int:
    if options.back:
        local.back()
    elif options.folder:
        local.use(options.folder)
    folder, card = local.in_use(), local.fetch(None).card
    print(f"{card.name} {card.version} ({card.precision}, {card.sha256[:12]}) from {folder}")
    return OK


def publish(options: argparse.Namespace) -> int:
    from macule.cli import plan
    from macule.registry import publish

    plan.measure(options.folder)  # a model that cannot run is not published
    address = publish.publish(options.folder, options.target, options.alias)
    print(f"{options.alias} names {address}")
    return OK


def rollback(options: argparse.Namespace) -> int:
    from macule.registry import publish

    print(f"{options.alias} names {publish.rollback(options.target, options.alias)}")
    return OK


def plan(options: argparse.Namespace) -> int:
    from macule.cli import plan

    chosen = _chosen(options.model)
    need, warm = plan.measure(chosen.model)
    told, holds = plan.report(need, warm, options.limit, chosen.max_image_pixels)
    print(*told, sep="\n")
    return OK if holds else FAILED


def doctor(options: argparse.Namespace) -> int:
    from macule.cli import doctor
    from macule.cli.doctor import remote_service
    from macule.cli.doctor.check_result import FAIL

    code = OK
    url = options.url
    seen = (
        remote_service.run_checks(url, settings.current().predict_key)
        if url
        else doctor.run_checks(options.worker)
    )
    for finding in seen:
        code = FAILED if finding.level == FAIL else code
        if options.json:
            print(json.dumps(finding._asdict()), flush=True)
        else:  # what a service said may hold anything, but not steer the terminal
            line = f"{finding.level:<4} {finding.check}: {finding.text}"
            print("".join(c if c.isprintable() else "?" for c in line), flush=True)
    return code


def new_key(options: argparse.Namespace) -> int:
    from macule.security import api_keys

    if (options.what == "webhook") != (options.name is None):
        raise BadRequest("It is `macule key new NAME`, or `macule key webhook` without a name.")
    if options.what == "webhook":
        complain("a secret for WEBHOOK_SECRETS and for whoever receives the webhooks:", "key")
        print(api_keys.webhook_secret())
        return OK
    key, pair = api_keys.new(options.name)
    complain("the key, which is kept nowhere, and what API_KEYS or its file is to have:", "key")
    print(f"{key}\n{pair}")
    return OK


def worker(options: argparse.Namespace) -> int:
    chosen = settings.current()
    if not chosen.broker_url:
        complain("BROKER_URL is not set; without it predictions are worked on where they are made")
        return MISUSED
    from macule.observability import log_format, metrics
    from macule.server import startup

    if fault := startup.queue(chosen, worker=True):
        raise BadSetting(fault)
    startup.check(chosen)
    from macule.server import queue_worker

    counters = metrics.share(file=options.counters)
    log_format.begin()
    if queue_worker.serve(chosen):  # a process of the same id, with memory as at the start
        again, file = [sys.executable, "-m", "macule.cli", "worker"], counters.keep()
        os.execv(sys.executable, again if file is None else [*again, f"--counters={file}"])  # noqa: S606
    return OK


def predict(options: argparse.Namespace) -> int:
    chosen = _chosen(options.model)
    code = OK
    for file in options.files:
        try:
            body = _read(file, chosen.max_image_bytes)
            cam = options.explain == "cam"
            with native_stderr.held():
                runtime.warm(chosen.model)
            answer = pipeline.predict(
                body, chosen, options.top_k, cam, asks=False, keeps=False
            ).answer
        except Macule as error:
            code = FAILED
            complain(str(error), file)
            continue
        if options.json or not sys.stdout.isatty():
            print(json.dumps({"file": file, **answer}, ensure_ascii=False), flush=True)
        else:
            print(_table(file, answer), flush=True)
    return code


def batch(options: argparse.Namespace) -> int:
    from macule import batch

    chosen = _chosen(options.model)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    queue = None
    if options.broker:
        if not chosen.broker_url:
            raise BadRequest("--broker needs BROKER_URL, and workers: see `macule worker`.")
        from macule.jobs import selection

        queue = selection.current().queue
    again = "the same command, without --restart, goes on from here"
    try:
        if queue is None:
            with native_stderr.held():
                runtime.warm(chosen.model)
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
        complain(f"{error} Once that is mended, {again}", "batch")
        return FAILED
    except KeyboardInterrupt:
        complain(f"broken off; {again}", "batch")
        return INTERRUPTED
    errors = {status: number for status, number in sorted(tally.items()) if status != "ok"}
    told = ", ".join(f"{number:,} {status}" for status, number in errors.items())
    print(f"{options.out}: {sum(tally.values()):,} rows" + (f", of them {told}" if told else ""))
    return FAILED if errors and options.strict else OK


def _chosen(folder: str | None) -> settings.Settings:
    """Read the settings; a *folder* of the command line goes before the model that they name.

    Raises: BadSetting, also where that model is not there.
    """
    from macule.server import startup

    chosen = settings.read()
    if folder:
        return chosen._replace(model=folder)
    for fault in filter(None, startup.model(chosen)):
        raise BadSetting(fault)
    return chosen


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


def complain(what: str, *where: str) -> None:
    print("macule", *where, what, sep=": ", file=sys.stderr)
