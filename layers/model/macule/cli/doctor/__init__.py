"""`macule doctor`: checks of this environment and of a running service."""

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
    footprint, warm = plan.measure(None if sys.argv[1] == "defaults" else settings.read().model)
except Macule as error:
    sys.exit(str(error))
card = warm.card
title = f"{card.name} {card.version} ({card.precision})"
print(json.dumps([footprint, card.side_px, title, warm.cold_start_ms]))
"""


def run_checks(worker: bool = False) -> Iterator[CheckResult]:
    """Check this environment.

    Args:
      worker: also check what `macule worker` needs.

    Yields: each result as soon as it is known.
    """
    yield from installation.run_checks()
    try:
        chosen = settings.read()
        faults = [*startup.find_faults(chosen), *worker_errors(chosen, worker)]
    except BadSetting as error:
        faults = [f"{error}; macule checks the defaults instead"]
        chosen = settings.read({})
    for fault in faults:
        yield CheckResult(FAIL, "settings", fault)
    if not faults:
        yield CheckResult(OK, "settings", "all values are valid")
        yield from check_backends(chosen)
    yield CheckResult(OK, "processors", f"{budget.cpu_count():.2g}")
    yield from check_model(chosen)
    yield check_sandbox()
    yield check_temporary_files()
    yield check_port(chosen.bind)
    if chosen.predict_url:
        timeout_s, key = chosen.predict_timeout_s, chosen.predict_key
        yield check_predict_function(chosen.predict_url, timeout_s, key)


def worker_errors(chosen: settings.Settings, enabled: bool) -> Iterator[str]:
    """Describe what prevents `macule worker` from starting, if *enabled*."""
    if enabled and not chosen.broker_url:
        yield "BROKER_URL is not set: `macule worker` needs a queue"
    elif enabled and (fault := startup.queue_fault(chosen, worker=True)):
        yield fault


def check_backends(chosen: settings.Settings) -> Iterator[CheckResult]:
    """Check the API keys and the Redis servers of the settings."""
    if chosen.api_keys:
        yield check_api_keys(chosen.api_keys)
    if not (chosen.redis_url or chosen.broker_url):
        return
    from macule.cli.doctor import backends

    if chosen.redis_url:
        yield backends.check_cache(chosen.redis_url)
    if chosen.broker_url:
        yield backends.check_broker(chosen.broker_url)
        if not extras.is_installed("celery"):
            what = "no worker can run in this environment; web processes do not need it"
            yield CheckResult(WARN, "celery", f"not installed: {what}")


def check_api_keys(source: str) -> CheckResult:
    """List the names of the valid API keys; the names are not secret."""
    entries = api_keys.key_store(source).entries
    names = sorted({entry.name for entry in entries if not entry.revoked})
    if not names:
        return CheckResult(WARN, "keys", "all requests are rejected: API_KEYS has no valid key")
    return CheckResult(OK, "keys", f"{len(entries)} for {', '.join(names)}")


def check_model(chosen: settings.Settings) -> Iterator[CheckResult]:
    """Load and run the model in a separate process, and compare its memory with the limit."""
    limit = budget.memory_limit(chosen.platform_memory_mb, chosen.memory_limit_mb)
    limit_text = f"{limit.bytes / MB:.0f} MB by {limit.source}"
    source = "defaults" if chosen == settings.read({}) else ""
    succeeded, output = installation.run_child(MODEL_SCRIPT, source)
    if not succeeded:
        what = f"{limit_text}; not checked, because the model cannot be loaded"
        yield CheckResult(FAIL, "model", output)
        yield CheckResult(WARN, "memory", what)
        return
    sizes, side_px, title, cold_start_ms = json.loads(output)
    side_px = tuple(side_px) if isinstance(side_px, list) else side_px
    footprint = plan.Footprint(*sizes)
    yield CheckResult(OK, "model", f"{title} matches its card and runs: {cold_start_ms:.0f} ms")
    footprint = footprint._replace(private=footprint.private * chosen.workers)
    unenforced = limit.source in ("MEMORY_LIMIT_MB", "platform")
    base_bytes = footprint.worker_bytes if unenforced else footprint.service_bytes
    capacity = plan.compute_capacity(base_bytes, side_px, limit.bytes / MB, chosen.max_image_pixels)
    text = f"{limit_text}; the service needs {base_bytes / MB:.0f}"
    if capacity.free_mb < 0:
        text += f" MB, {-capacity.free_mb:.0f} MB more than that"
        advice = "increase the limit or use a smaller model (`macule plan`)"
        yield CheckResult(FAIL, "memory", f"{text}: {advice}")
    elif not capacity.slots:
        text += " MB; too little is free for a 12 MP photo: increase it"
        yield CheckResult(WARN, "memory", text)
    else:
        text += f" MB: {capacity.free_mb:.0f} MB of headroom, {capacity.slots}"
        yield CheckResult(OK, "memory", f"{text} concurrent 12 MP photos")


def check_sandbox() -> CheckResult:
    """Check whether the kernel can restrict the threads that decode images."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as thread:
        reason = thread.submit(sandbox.restrict).result()
    if reason:
        what = f"can open files and connections, because {reason}"
        advice = "images are still decoded; Linux 5.13 or later with Landlock restricts this"
        return CheckResult(WARN, "decoders", f"{what}: {advice}")
    return CheckResult(OK, "decoders", f"cannot open files (Landlock {sandbox.version()})")


def check_temporary_files() -> CheckResult:
    """Write a temporary file, as gunicorn does for each worker process."""
    import tempfile

    try:
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
            file.flush()
    except OSError as error:
        what = f"cannot be written: {error.strerror}. gunicorn needs them: mount a writable /tmp"
        return CheckResult(FAIL, "temporary files", what)
    return CheckResult(OK, "temporary files", f"can be written in {tempfile.gettempdir()}")


def check_port(bind: str) -> CheckResult:
    """Bind the address of the service, unless macule already listens there."""
    import errno
    import socket

    host, _, number = bind.rpartition(":")
    local_address = f"127.0.0.1:{number}" if host in ("0.0.0.0", "[::]") else bind  # noqa: S104
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, int(number)))
    except OSError as error:
        if error.errno == errno.EADDRINUSE and _is_macule(local_address):
            return CheckResult(OK, "port", f"macule listens on {bind}")
        what = f"cannot listen on {bind}: {error.strerror}. Stop the other program or change PORT"
        return CheckResult(FAIL, "port", what)
    return CheckResult(OK, "port", f"{bind} is free")


def check_predict_function(url: str, timeout_s: float, key: str | None = None) -> CheckResult:
    """Request the status of the predict function, as the health function does."""
    report = service_status.fetch_report(url, timeout_s, key)
    if "band" not in report:
        what = f"PREDICT_URL={url} {report['error']}: check the URL, and that the function runs"
        return CheckResult(FAIL, "predict", what)
    return CheckResult(OK, "predict", f"{url} answers")


def _is_macule(address: str) -> bool:
    try:
        return "x-memory-band" in client.request(f"http://{address}/health/", 2).headers
    except client.Unreachable:
        return False
