"""What a service checks before it starts: that what its settings name is there and can be used.

The same check is the first of `macule doctor`. Nothing here connects, or loads a model: it costs
less than a millisecond, and nothing at all for what is not set.
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
SPACE_BYTES = 4096  # that a folder must take: less than any photo
# What a worker holds after a photo without its model, and admission's reserve: 54 MB are measured
# (docs/memory.md), less a tenth, as this must never refuse what works. A model adds its file, which
# is mapped, and its arena, which nobody knows before it is loaded.
LEAST_BYTES = 48 * MB
REDIS, WORKER = ("redis",), ("redis", "celery")
OTEL = ("opentelemetry-sdk", "opentelemetry-exporter-otlp-proto-http")
STORES = {"s3": "boto3", "gs": "google-cloud-storage"}


def faults(chosen: Settings) -> Iterator[str]:
    """Say, a line each, what of *chosen* cannot be used here."""
    return filter(None, _examined(chosen))


def _examined(chosen: Settings) -> Iterator[str]:
    """Yield a line for each fault, "" for what is well."""
    if chosen.api_keys:
        from macule.security import api_keys

        try:
            api_keys.ring(chosen.api_keys)
        except BadSetting as error:
            yield str(error)
    if chosen.otel_endpoint:
        yield _missing("OTEL_EXPORTER_OTLP_ENDPOINT", *OTEL)
    if chosen.redis_url:
        yield _missing("REDIS_URL", *REDIS)
    if chosen.function == "predict":  # health loads no model and keeps no predictions
        yield from model(chosen)
        yield queue(chosen)


def model(chosen: Settings) -> Iterator[str]:
    """Yield what would keep the model from being found, or from fitting MEMORY_LIMIT_MB."""
    where, size = chosen.model, 0
    if isinstance(where, Source) and "://" in where.uri:
        scheme = where.uri.partition("://")[0]
        yield _missing("MODEL_URI", STORES[scheme]) if scheme in STORES else ""
        yield _no_folder("MODEL_CACHE_DIR", where.cache_dir) if where.cache_dir else ""
    else:
        name, place = (
            ("MODEL_URI", where.uri) if isinstance(where, Source) else ("MODEL_DIR", where)
        )
        fault = _no_model(name, place) if place else ""
        yield fault
        size = _model_bytes(place) if chosen.memory_limit_mb and not fault else 0
    if chosen.memory_limit_mb:
        yield _short_of_memory(chosen.memory_limit_mb, LEAST_BYTES + size)


def queue(chosen: Settings, worker: bool = False) -> str:
    """Say what would keep predictions from being queued here, or worked on by a *worker*."""
    if chosen.broker_url:
        return _missing("BROKER_URL", *(WORKER if worker else REDIS))
    return _unwritable("DATA_DIR", chosen.data_dir) if chosen.data_dir else ""


def check(chosen: Settings) -> None:
    """Raises: BadSetting, of the first fault."""
    for fault in faults(chosen):
        raise BadSetting(fault)


@cache
def check_settings() -> None:
    """Check this process's settings, once for it and those that it forks.

    Raises: SystemExit, which prints one line: where a platform imports a function, any other
      exception would be 20 lines of its traceback.
    """
    try:
        check(settings.current())
    except BadSetting as error:
        raise SystemExit(f"macule: {error}") from None


def begin() -> None:
    """Prepare a process that serves: check its settings, then set up allocator, metrics and log.

    Raises: SystemExit, which prints one line.
    """
    check_settings()
    allocator.configure()
    metrics.share()
    log_format.begin()


def _missing(name: str, *needed: str) -> str:
    from macule import extras

    return extras.missing(name, *needed)


def _no_folder(name: str, folder: str) -> str:
    """Say that something else than a folder has that name; what is missing can be made."""
    if os.path.isdir(folder) or not os.path.lexists(folder):
        return ""
    return f"{name}={folder!r} is not a folder"


def _no_model(name: str, folder: str) -> str:
    if not os.path.lexists(folder):
        return f"{name}={folder!r} is not a folder: there is nothing of that name"
    if os.path.isdir(folder) and not os.path.isfile(os.path.join(folder, CARD)):
        return f"{name}={folder!r} is not a folder with a model: it has no {CARD}"
    return _no_folder(name, folder)


def _unwritable(name: str, folder: str) -> str:
    """Write a file and remove it: permissions do not tell of full disks and read-only mounts."""
    if fault := _no_folder(name, folder):
        return fault
    path = os.path.join(folder, f".macule-{os.getpid()}")
    try:
        os.makedirs(folder, 0o700, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            os.write(descriptor, bytes(SPACE_BYTES))
        finally:
            os.close(descriptor)
            os.unlink(path)
    except OSError as error:
        if error.errno == ENOSPC and os.path.exists(os.path.join(folder, jobs.FILE)):
            return ""  # the queue has a reserve there, to finish what it accepted
        return f"{name}={folder!r} is not a folder that can be written: {error.strerror}"
    return ""


def _short_of_memory(limit_mb: int, least_bytes: int) -> str:
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
    except (OSError, Macule):  # told where the model is loaded
        return 0
