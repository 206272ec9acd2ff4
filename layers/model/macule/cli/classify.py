"""Commands that classify images: `predict` and `batch`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from typing import Any

from macule.cli.console import FAILED, INTERRUPTED, OK, print_message, read_settings
from macule.errors import BadImage, BadRequest, Macule, Unavailable
from macule.inference import native_stderr, pipeline, runtime
from macule.inference.options import PredictOptions

BAR_CHARACTERS = 20


def predict(options: argparse.Namespace) -> int:
    """Classify files, and print a table or JSON lines."""
    chosen = read_settings(options.model)
    cam = options.explain == "cam"
    wanted = PredictOptions(options.top_k, cam, options.tta, options.sets)
    code = OK
    for file in options.files:
        try:
            body = _read(file, chosen.max_image_bytes)
            with native_stderr.filtered():
                runtime.get_or_load(chosen.model)
            answer = pipeline.predict(
                body, chosen, wanted, read_cache=False, write_cache=False
            ).answer
        except Macule as error:
            code = FAILED
            print_message(str(error), file)
            continue
        if options.json or not sys.stdout.isatty():
            print(json.dumps({"file": file, **answer}, ensure_ascii=False), flush=True)
        else:
            print(_format_table(file, answer), flush=True)
    return code


def batch(options: argparse.Namespace) -> int:
    """Classify all images of a source into one table."""
    from macule import batch

    chosen = read_settings(options.model)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    queue = None
    if options.broker:
        if not chosen.broker_url:
            raise BadRequest("--broker needs BROKER_URL and running workers (`macule worker`).")
        from macule.jobs import selection

        queue = selection.active_queue().queue
    advice = "run the same command without --restart to continue"
    try:
        if queue is None:
            with native_stderr.filtered():
                runtime.get_or_load(chosen.model)
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
        print_message(f"{error} After you have fixed this, {advice}", "batch")
        return FAILED
    except KeyboardInterrupt:
        print_message(f"interrupted; {advice}", "batch")
        return INTERRUPTED
    errors = {status: number for status, number in sorted(tally.items()) if status != "ok"}
    counts = ", ".join(f"{number:,} {status}" for status, number in errors.items())
    summary = f"{options.out}: {sum(tally.values()):,} rows"
    print(f"{summary}, with errors: {counts}" if counts else summary)
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


def _format_table(file: str, answer: dict[str, Any]) -> str:
    """Format an answer for a terminal, with one bar per label."""
    width = max(len(row["name"]) for row in answer["predictions"])
    rows = []
    for row in answer["predictions"]:
        bar = "#" * round(row["probability"] * BAR_CHARACTERS)
        rows.append(f"  {row['name']:<{width}} {row['probability']:7.1%}  {bar}".rstrip())
    if found := answer.get("prediction_set"):
        rows.append(f"  {found['coverage']:.0%} set: {', '.join(found['labels'])}")
    total_ms = answer["metrics"]["total_ms"]
    decision = ", ".join(answer[key] for key in ("decision", "reason") if key in answer)
    title = f"{file}: {decision} ({total_ms:.0f} ms)"
    return "\n".join([title, *rows, f"  {answer['disclaimer']}"])
