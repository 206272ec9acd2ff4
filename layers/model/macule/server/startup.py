"""Checks before a service starts: what the settings name exists and can be used.

`macule doctor` runs the same checks first. They open no connection and load no model: they take
less than a millisecond, and nothing for settings that are not set.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from errno import ENOSPC
from functools import cache

from macule import jobs, settings
from macule.errors import BadSetting, Macule
from macule.memory import allocator
from macule.observability import log_format, metrics
from macule.settings import Settings, Source

MB = 2**20
CARD = "model.json"
PROBE_BYTES = 4096  # written to test a folder: less than any photo
# With a model of 3 kB, 52 MB is the smallest limit that works (measured 2026-11-27); less a sixth,
# so that no working limit is rejected. A model adds its file, which is mapped, and its arena, whose
# size is unknown before loading.
MIN_WORKER_BYTES = 44 * MB
REDIS, WORKER = ("redis",), ("redis", "celery")
OTEL = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")
STORES = {"s3": "boto3", "gs": "google-cloud-storage"}


def find_faults(chosen: Settings) -> Iterator[str]:
    """Yield one line for each setting of *chosen* that cannot be used here."""
    return filter(None, _check_all(chosen))


def _check_all(chosen: Settings) -> Iterator[str]:
    """Yield a line for each fault, and "" for passed checks."""
    if chosen.api_keys:
        from macule.security import api_keys

        try:
            api_keys.key_store(chosen.api_keys)
        except BadSetting as error:
            yield str(error)
    if chosen.otel_endpoint:
        yield _missing_package("OTEL_EXPORTER_OTLP_ENDPOINT", *OTEL)
    if chosen.redis_url:
        yield _missing_package("REDIS_URL", *REDIS)
    if chosen.function == "predict":  # health loads no model and keeps no predictions
        yield from model_faults(chosen)
        yield queue_fault(chosen)


def model_faults(chosen: Settings) -> Iterator[str]:
    """Yield why the model cannot be found or does not fit MEMORY_LIMIT_MB."""
    location, size = chosen.model, 0
    if isinstance(location, Source) and "://" in location.uri:
        scheme = location.uri.partition("://")[0]
        yield _missing_package("MODEL_URI", STORES[scheme]) if scheme in STORES else ""
        yield _folder_fault("MODEL_CACHE_DIR", location.cache_dir) if location.cache_dir else ""
    else:
        name, place = (
            ("MODEL_URI", location.uri) if isinstance(location, Source) else ("MODEL_DIR", location)
        )
        fault = _model_folder_fault(name, place) if place else ""
        yield fault
        size = _model_bytes(place) if chosen.memory_limit_mb and not fault else 0
    if chosen.memory_limit_mb:
        yield _memory_fault(chosen.memory_limit_mb, MIN_WORKER_BYTES + size)


def queue_fault(chosen: Settings, worker: bool = False) -> str:
    """Return why predictions cannot be queued here, or run by a *worker*; "" if they can."""
    if chosen.broker_url:
        return _missing_package("BROKER_URL", *(WORKER if worker else REDIS))
    return _write_fault("DATA_DIR", chosen.data_dir) if chosen.data_dir else ""


def check(chosen: Settings) -> None:
    """Raises: BadSetting, with the first fault."""
    for fault in find_faults(chosen):
        raise BadSetting(fault)


@cache
def check_settings() -> None:
    """Check this process's settings, once for it and its forks.

    Raises: SystemExit, which prints one line: for any other exception, a platform that imports a
      function would print a traceback of 20 lines.
    """
    try:
        check(settings.current())
    except BadSetting as error:
        raise SystemExit(f"macule: {error}") from None


def initialize() -> None:
    """Prepare a serving process: check its settings, set up allocator, metrics and log.

    Raises: SystemExit, which prints one line.
    """
    check_settings()
    allocator.configure()
    metrics.counters()
    log_format.configure()


def _missing_package(name: str, *needed: str) -> str:
    from macule import extras

    return extras.missing_message(name, *needed)


def _folder_fault(name: str, folder: str) -> str:
    """Return a fault if *folder* exists and is not a folder; a missing one can be created."""
    if os.path.isdir(folder) or not os.path.lexists(folder):
        return ""
    return f"{name}={folder!r} is not a folder"


def _model_folder_fault(name: str, folder: str) -> str:
    if not os.path.lexists(folder):
        return f"{name}={folder!r} is not a folder: it does not exist"
    if os.path.isdir(folder) and not os.path.isfile(os.path.join(folder, CARD)):
        return f"{name}={folder!r} is not a folder with a model: it has no {CARD}"
    return _folder_fault(name, folder)


def _write_fault(name: str, folder: str) -> str:
    """Write and remove a file: permissions do not reveal full disks and read-only mounts."""
    if fault := _folder_fault(name, folder):
        return fault
    path = os.path.join(folder, f".macule-{os.getpid()}")
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            os.write(descriptor, bytes(PROBE_BYTES))
        finally:
            os.close(descriptor)
            os.unlink(path)
    except OSError as error:
        if error.errno == ENOSPC and os.path.exists(os.path.join(folder, jobs.DATABASE_FILE)):
            return ""  # the queue has a reserve there, to finish accepted jobs
        return f"{name}={folder!r} is not a folder that can be written: {error.strerror}"
    return ""


def _memory_fault(limit_mb: int, least_bytes: int) -> str:
    if limit_mb * MB >= least_bytes:
        return ""
    return (
        f"MEMORY_LIMIT_MB={limit_mb} is not enough for this model: a worker takes more than "
        f"{least_bytes / MB:.0f} MB; `macule doctor` measures how much"
    )


def _model_bytes(folder: str | None) -> int:
    from macule.registry import local, model_card

    folder = folder or local.active_folder()
    try:
        return os.stat(os.path.join(folder, model_card.read(folder).file)).st_size
    except (OSError, Macule):  # reported when the model is loaded
        return 0
