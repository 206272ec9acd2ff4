"""The `macule` command."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

from macule import __version__, classify, settings
from macule.errors import BadImage, Macule

OK, SOME_FAILED, MISUSED = 0, 1, 2  # argparse exits with 2 itself


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 if an image failed, 2 if misused."""
    options = _parser().parse_args(arguments)
    try:
        chosen = settings.read()
        code: int = options.run(options, chosen)
        sys.stdout.flush()
    except Macule as error:
        _complain(error)
        return MISUSED
    except BrokenPipeError:  # `macule predict ... | head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("macule", description=__doc__)
    parser.add_argument("--version", action="version", version=f"macule {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    predict = commands.add_parser(
        "predict",
        help="classify image files without a server",
        description="Classify image files. Prints a table on a terminal, else one JSON line a file "
        "with the keys of POST /predict/ and `file`.",
    )
    predict.add_argument("files", nargs="+", metavar="FILE", help="an image; - is standard input")
    predict.add_argument("--json", action="store_true", help="JSON on a terminal too")
    predict.add_argument("--top-k", type=_positive, metavar="N", help="the N likeliest labels only")
    predict.add_argument("--explain", choices=["cam"], help="add an activation map (to the JSON)")
    predict.add_argument("--model", metavar="DIR", help="a model's folder; default: MODEL_DIR")
    predict.set_defaults(run=_predict)
    return parser


def _predict(options: argparse.Namespace, chosen: settings.Settings) -> int:
    if options.model:
        chosen = chosen._replace(model_dir=options.model)
    code = OK
    for file in options.files:
        try:
            body = _read(file, chosen.max_image_bytes)
            answer, _ = classify.predict(body, chosen, options.top_k, options.explain == "cam")
        except Macule as error:
            code = SOME_FAILED
            _complain(error, file)
            continue
        if options.json or not sys.stdout.isatty():
            print(json.dumps({"file": file, **answer}, ensure_ascii=False), flush=True)
        else:
            print(_table(file, answer), flush=True)
    return code


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


def _complain(error: Macule, *where: str) -> None:
    print("macule", *where, error, sep=": ", file=sys.stderr)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
