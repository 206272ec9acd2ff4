"""`macule doctor`: what of this environment would keep the service from starting or holding."""

from __future__ import annotations

import json
from collections.abc import Iterator

from macule import extras, settings
from macule.cli import plan
from macule.cli.doctor import installation
from macule.cli.doctor.check_result import FAIL, OK, WARN, CheckResult
from macule.errors import BadSetting
from macule.http import client
from macule.inference import sandbox
from macule.memory import budget
from macule.routes import service_status
from macule.security import api_keys
from macule.server import startup

MB = 2**20
MODEL_SCRIPT = """
import json, sys
from macule import settings
from macule.cli import plan
from macule.errors import Macule
try:
    need, warm = plan.measure(None if sys.argv[1] == "defaults" else settings.read().model)
except Macule as error:
    sys.exit(str(error))
card = warm.card
named = f"{card.name} {card.version} ({card.precision})"
print(json.dumps([need, card.side_px, named, warm.cold_start_ms]))
"""


def run_checks(worker: bool = False) -> Iterator[CheckResult]:
    """Examine this process's environment; each finding comes as soon as it is made.

    *worker*: whether `macule worker` is to run here too.
    """
    yield from installation.run_checks()
    try:
        chosen = settings.read()
        faults = [*startup.faults(chosen), *worker_errors(chosen, worker)]
    except BadSetting as error:
        faults = [f"{error}; the defaults are examined instead"]
        chosen = settings.read({})
    for fault in faults:
        yield CheckResult(FAIL, "settings", fault)
    if not faults:
        yield CheckResult(OK, "settings", "each can be used")
        yield from check_backends(chosen)
    yield CheckResult(OK, "processors", f"{budget.processors():.2g}")
    yield from check_model(chosen)
    yield check_sandbox()
    yield check_temporary_files()
    yield check_port(chosen.bind)
    if chosen.predict_url:
        yield check_predict_function(
            chosen.predict_url, chosen.predict_timeout_s, chosen.predict_key
        )


def worker_errors(chosen: settings.Settings, wanted: bool) -> Iterator[str]:
    """Say what would keep `macule worker` from starting here, where it is *wanted*."""
    if wanted and not chosen.broker_url:
        yield "BROKER_URL is not set: `macule worker` would find no predictions"
    elif wanted and (fault := startup.queue(chosen, worker=True)):
        yield fault


def check_backends(chosen: settings.Settings) -> Iterator[CheckResult]:
    """Ask each backend that the settings name."""
    if chosen.api_keys:
        yield check_api_keys(chosen.api_keys)
    if not (chosen.redis_url or chosen.broker_url):
        return
    from macule.cli.doctor import backends

    if chosen.redis_url:
        yield backends.check_cache(chosen.redis_url)
    if chosen.broker_url:
        yield backends.check_broker(chosen.broker_url)
        if not extras.installed("celery"):
            what = "no worker can run in this environment; web processes need none"
            yield CheckResult(WARN, "celery", f"not installed: {what}")


def check_api_keys(source: str) -> CheckResult:
    """Say who is let in; a name alone tells nobody's key."""
    entries = api_keys.ring(source).entries
    names = sorted({entry.name for entry in entries if not entry.revoked})
    if not names:
        return CheckResult(
            WARN, "keys", "nobody is let in: API_KEYS has no key that is not revoked"
        )
    return CheckResult(OK, "keys", f"{len(entries)} of {', '.join(names)}")


def check_model(chosen: settings.Settings) -> Iterator[CheckResult]:
    """Load the model and run it once, in a process of its own; weigh that against the limit."""
    limit = budget.limit(chosen.platform_memory_mb, chosen.memory_limit_mb)
    seen = f"{limit.bytes / MB:.0f} MB by {limit.source}"
    lived, said = installation.run_child(
        MODEL_SCRIPT, "defaults" if chosen == settings.read({}) else ""
    )
    if not lived:
        yield CheckResult(FAIL, "model", said)
        yield CheckResult(
            WARN, "memory", f"{seen}; without a model there is no saying if it is enough"
        )
        return
    sizes, side_px, named, cold_start_ms = json.loads(said)
    side_px = tuple(side_px) if isinstance(side_px, list) else side_px
    need = plan.Footprint(*sizes)
    yield CheckResult(
        OK, "model", f"{named} is what its card says, and runs: {cold_start_ms:.0f} ms"
    )
    need = need._replace(private=need.private * chosen.workers)
    counted = limit.source in ("MEMORY_LIMIT_MB", "platform")
    least = need.worker if counted else need.service
    fit = plan.compute_capacity(least, side_px, limit.bytes / MB, chosen.max_image_pixels)
    text = f"{seen}; the service takes {least / MB:.0f}"
    if fit.free_mb < 0:
        way = "give it more, or take a smaller model (`macule plan`)"
        yield CheckResult(FAIL, "memory", f"{text}, {-fit.free_mb:.0f} more than that: {way}")
    elif not fit.slots:
        yield CheckResult(WARN, "memory", f"{text}; no photo of 12 MP fits beside it: give it more")
    else:
        room = f"{fit.free_mb:.0f} MB of headroom, {fit.slots} photos of 12 MP at once"
        yield CheckResult(OK, "memory", f"{text}: {room}")


def check_sandbox() -> CheckResult:
    """Restrict a thread as those that decode images are."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        why = thread.submit(sandbox.restrict).result()
    if why:
        way = "images are decoded all the same; a kernel with Landlock (Linux 5.13) restricts it"
        return CheckResult(WARN, "decoders", f"may open files and connect, as {why}: {way}")
    return CheckResult(OK, "decoders", f"can open no file (Landlock {sandbox.version()})")


def check_temporary_files() -> CheckResult:
    """Write a temporary file, as gunicorn does for each worker."""
    import tempfile

    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        what = f"cannot be written: {error.strerror}. gunicorn needs it: mount one at /tmp"
        return CheckResult(FAIL, "temporary files", what)
    return CheckResult(OK, "temporary files", f"can be written in {tempfile.gettempdir()}")


def check_port(bind: str) -> CheckResult:
    """Bind the service's address for a moment, unless macule itself listens there already."""
    import errno
    import socket

    host, _, number = bind.rpartition(":")
    asked = f"127.0.0.1:{number}" if host in ("0.0.0.0", "[::]") else bind  # noqa: S104
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, int(number)))
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _is_macule(asked):
            return CheckResult(OK, "port", f"macule listens on {bind}")
        what = (
            f"{bind} cannot be listened on: {error.strerror}. End what does, or set HOST and PORT"
        )
        return CheckResult(FAIL, "port", what)
    return CheckResult(OK, "port", f"{bind} is free")


def check_predict_function(url: str, timeout_s: float, key: str | None = None) -> CheckResult:
    """Ask the predict function as the health function would."""
    report = service_status.watched(url, timeout_s, key)
    if "band" not in report:
        what = f"PREDICT_URL={url} {report['error']}: is it the predict function's, and running?"
        return CheckResult(FAIL, "predict", what)
    return CheckResult(OK, "predict", f"{url} answers")


def _is_macule(place: str) -> bool:
    try:
        return "x-memory-band" in client.ask(f"http://{place}/health/", 2).headers
    except client.Unreachable:
        return False
