"""How a line of the log is written: JSON for machines, text for a terminal.

A line is one `write` of at most MOST_BYTES, which no other process's can come between. What cannot
be written is counted and forgotten: a full disk, a closed pipe, one that nobody reads stop nothing.
"""

from __future__ import annotations

import json
import logging
import os
import select
import stat
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

from macule import settings
from macule.errors import BadSetting
from macule.observability import metrics

STDERR = 2
MOST_BYTES = 4096  # what a pipe takes whole or not at all
MOST_CHARACTERS, MOST_OF_TRACE = 500, 2500
PATIENCE_MS = 50  # for a pipe that is full; none until it was written to again
OBJECT = json.JSONEncoder(separators=(",", ":"), default=str)
# What gunicorn says with a caller's address or path behind it.
CUT = ("Invalid request", "Error handling request")


def begin() -> None:
    """Have every line of this process written as the settings say.

    Settings that cannot be read are answered elsewhere; until then the defaults hold.
    """
    try:
        chosen = settings.current()
        form, level, whole = chosen.log, chosen.log_level, chosen.log_addresses
    except BadSetting:
        form, level, whole = None, "INFO", False
    logging.getLogger("macule").setLevel(level)
    # what no line has is not looked for
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if sys.stderr is None:  # its number may be another file's by now
        logging.raiseExceptions = False
        return
    plain = os.isatty(STDERR) if form is None else form == "text"
    lines = Lines(as_text if plain else as_json, whole)
    for logger in (logging.getLogger(), logging.getLogger("gunicorn.error")):
        kept = [handler for handler in logger.handlers if not _replaced(handler)]
        if len(kept) < len(logger.handlers) or (logger.name == "root" and not kept):
            logger.handlers = [*kept, lines]


class Lines(logging.Handler):
    """Writes lines in a *form* to standard error; *whole* keeps addresses in what gunicorn says."""

    def __init__(self, form: Callable[[logging.LogRecord], str], whole: bool = False) -> None:
        super().__init__()
        self._form, self._whole = form, whole
        self._ready = None if stat.S_ISREG(os.fstat(STDERR).st_mode) else select.poll()
        if self._ready:
            self._ready.register(STDERR, select.POLLOUT)
        self._patience_ms = PATIENCE_MS
        self._torn = False  # the last line has no end

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "gunicorn.error" and not self._whole:
            record.msg = next((cut for cut in CUT if str(record.msg).startswith(cut)), record.msg)
            record.args = () if record.msg in CUT else record.args
        line = self._form(record).encode("ascii", "backslashreplace")[: MOST_BYTES - 2] + b"\n"
        try:
            if self._ready and not self._ready.poll(self._patience_ms):
                raise BlockingIOError
            line = b"\n" + line if self._torn else line
            self._torn = os.write(STDERR, line) < len(line)
            self._patience_ms = PATIENCE_MS
        except OSError:
            self._patience_ms = 0
            metrics.add("macule_log_lines_lost_total")


def as_json(record: logging.LogRecord) -> str:
    """Write one object; `severity` is what Cloud Logging reads a level from."""
    facts = {
        "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}"
        f".{int(record.msecs):03}Z",
        "severity": record.levelname,
        "message": _message(record)[:MOST_CHARACTERS],
        **_facts(record),
    }
    trace = _trace(record)
    if trace:
        facts["stack_trace"] = trace[-MOST_OF_TRACE:]
    text = OBJECT.encode(facts)
    while len(text) > MOST_BYTES - 2:  # letters that are six in JSON
        longest = max(facts, key=lambda name: len(str(facts[name])))
        facts[longest] = str(facts[longest])[len(str(facts[longest])) // 2 + 1 :]
        text = OBJECT.encode(facts)
    return text


def as_text(record: logging.LogRecord) -> str:
    """Write a line for a person; what follows it is indented, and nothing steers the terminal."""
    facts = " ".join(f"{name}={value}" for name, value in _facts(record).items())
    clock = time.strftime("%H:%M:%S", time.localtime(record.created))
    first = f"{clock} {record.levelname} {_message(record)[:MOST_CHARACTERS]}  {facts}".rstrip()
    lines = [first, *(f"    {line}" for line in _trace(record)[-MOST_OF_TRACE:].splitlines())]
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # of a library's own making
        return str(record.msg)


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a line has beside its message: `log.info(..., extra={"facts": {...}})`."""
    facts: dict[str, Any] = getattr(record, "facts", {})
    return facts


def _trace(record: logging.LogRecord) -> str:
    return "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""


def _replaced(handler: logging.Handler) -> bool:
    """Does it write to a stream, for gunicorn, functions-framework or Lambda, in their own form?"""
    kind = type(handler)
    return kind in (logging.StreamHandler, Lines) or kind.__module__.startswith("awslambdaric")
