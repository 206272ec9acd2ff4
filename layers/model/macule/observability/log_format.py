"""The log format: JSON for machines, text for a terminal.

A line is one `write` of at most MAX_LINE_BYTES, so lines of several processes do not mix. A line
that cannot be written (full disk, closed or full pipe) is counted and dropped.
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
MAX_LINE_BYTES = 4096  # PIPE_BUF: writes up to this size are atomic
MAX_MESSAGE_CHARS, MAX_TRACE_CHARS = 500, 2500
WRITE_TIMEOUT_MS = 50  # for a full pipe; 0 after a timeout until a write succeeds
ENCODER = json.JSONEncoder(separators=(",", ":"), default=str)
# Messages of gunicorn that end with a caller's address or path, which is removed.
REDACTED_MESSAGES = ("Invalid request", "Error handling request")


def configure() -> None:
    """Configure logging of this process from the settings.

    Uses the defaults if the settings are invalid; that error is reported elsewhere.
    """
    try:
        chosen = settings.current()
        form, level, with_addresses = chosen.log, chosen.log_level, chosen.log_addresses
    except BadSetting:
        form, level, with_addresses = None, "INFO", False
    logging.getLogger("macule").setLevel(level)
    # no line has these fields: do not compute them
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    if sys.stderr is None:  # descriptor 2 may belong to another file
        logging.raiseExceptions = False
        return
    plain = os.isatty(STDERR) if form is None else form == "text"
    lines = StderrHandler(as_text if plain else as_json, with_addresses)
    for logger in (logging.getLogger(), logging.getLogger("gunicorn.error")):
        kept = [handler for handler in logger.handlers if not _is_replaceable(handler)]
        if len(kept) < len(logger.handlers) or (logger.name == "root" and not kept):
            logger.handlers = [*kept, lines]


class StderrHandler(logging.Handler):
    """Write records to standard error. *with_addresses*: keep addresses in gunicorn's messages."""

    def __init__(
        self, form: Callable[[logging.LogRecord], str], with_addresses: bool = False
    ) -> None:
        super().__init__()
        self._format_record, self._with_addresses = form, with_addresses
        self._poll = None if stat.S_ISREG(os.fstat(STDERR).st_mode) else select.poll()
        if self._poll:
            self._poll.register(STDERR, select.POLLOUT)
        self._timeout_ms = WRITE_TIMEOUT_MS
        self._truncated = False  # the last line was written in part

    def emit(self, record: logging.LogRecord) -> None:
        if record.name == "gunicorn.error" and not self._with_addresses:
            for text in REDACTED_MESSAGES:
                if str(record.msg).startswith(text):
                    record.msg, record.args = text, ()
        content = self._format_record(record).encode("ascii", "backslashreplace")
        line = content[: MAX_LINE_BYTES - 2] + b"\n"
        try:
            if self._poll and not self._poll.poll(self._timeout_ms):
                raise BlockingIOError
            line = b"\n" + line if self._truncated else line
            self._truncated = os.write(STDERR, line) < len(line)
            self._timeout_ms = WRITE_TIMEOUT_MS
        except OSError:
            self._timeout_ms = 0
            metrics.add("macule_log_lines_lost_total")


def as_json(record: logging.LogRecord) -> str:
    """Format a record as one JSON object. Cloud Logging reads the level from `severity`."""
    facts = {
        "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}"
        f".{int(record.msecs):03}Z",
        "severity": record.levelname,
        "message": _message(record)[:MAX_MESSAGE_CHARS],
        **_facts(record),
    }
    trace = _trace(record)
    if trace:
        facts["stack_trace"] = trace[-MAX_TRACE_CHARS:]
    text = ENCODER.encode(facts)
    while len(text) > MAX_LINE_BYTES - 2:  # characters that JSON escapes take six bytes
        longest = max(facts, key=lambda name: len(str(facts[name])))
        facts[longest] = str(facts[longest])[len(str(facts[longest])) // 2 + 1 :]
        text = ENCODER.encode(facts)
    return text


def as_text(record: logging.LogRecord) -> str:
    """Format a record for a terminal: indented traceback, control characters replaced by `?`."""
    facts = " ".join(f"{name}={value}" for name, value in _facts(record).items())
    clock = time.strftime("%H:%M:%S", time.localtime(record.created))
    first = f"{clock} {record.levelname} {_message(record)[:MAX_MESSAGE_CHARS]}  {facts}".rstrip()
    lines = [first, *(f"    {line}" for line in _trace(record)[-MAX_TRACE_CHARS:].splitlines())]
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):  # a library's message does not match its arguments
        return str(record.msg)


def _facts(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of a record: `log.info(..., extra={"facts": {...}})`."""
    facts: dict[str, Any] = getattr(record, "facts", {})
    return facts


def _trace(record: logging.LogRecord) -> str:
    return "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""


def _is_replaceable(handler: logging.Handler) -> bool:
    """Return whether this is a stream handler of gunicorn, functions-framework or Lambda."""
    kind = type(handler)
    is_stream = kind in (logging.StreamHandler, StderrHandler)
    return is_stream or kind.__module__.startswith("awslambdaric")
