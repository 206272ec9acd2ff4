"""Settings from environment variables; no other module reads or sets them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from macule.errors import BadSetting
from macule.settings import parsers, urls

if TYPE_CHECKING:
    from macule.settings.access import Network, Policy

T = TypeVar("T")
MB = 2**20
# The memory of the instance in MB, set by the platforms.
PLATFORM_MEMORY_VARIABLES = ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "FUNCTION_MEMORY_MB")
# No error shows the value of these.
SECRET_VARIABLES = frozenset(
    {"API_KEYS", "BROKER_URL", "MODEL_URI", "PREDICT_KEY", "REDIS_URL", "WEBHOOK_SECRETS"}
)
MAX_SHOWN_CHARS = 80  # characters of a value


class Source(NamedTuple):
    """Where a model is fetched from: a folder, https://, s3:// or gs://; and how."""

    uri: str
    sha256: str | None  # of the expected file; any other is rejected
    timeout_s: float
    cache_dir: str | None


ModelLocation = Source | str | None  # a folder; None is the model in use


class Settings(NamedTuple):
    """All settings; docs/api.md lists each with its default."""

    model: ModelLocation
    max_image_bytes: int
    max_image_pixels: int
    enable_gradcam: bool
    allowed_origins: tuple[str, ...]
    admission_timeout_s: float
    max_waiting: int
    body_timeout_s: float
    decode_timeout_s: float
    memory_limit_mb: int | None
    memory_bands: tuple[float, ...]
    platform_memory_mb: int | None
    function: str
    bind: str
    workers: int
    threads: int
    graceful_timeout_s: int
    worker_timeout_s: int
    drain_s: float
    max_requests: int | None
    recycle_mb: int | None
    predict_url: str | None
    predict_timeout_s: float
    predict_key: str | None
    api_keys: str | None
    quota: tuple[Policy, ...]
    trusted_proxies: tuple[Network, ...]
    cache_mb: int
    cache_ttl_s: float
    redis_url: str | None
    broker_url: str | None
    data_dir: str | None
    job_ttl_s: float
    max_jobs: int
    max_jobs_mb: int | None
    worker_metrics_port: int | None
    webhook_secrets: tuple[str, ...]
    webhook_loopback: bool
    log: str | None
    log_level: str
    log_addresses: bool
    otel_endpoint: str | None


def read(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read all settings.

    Raises: BadSetting, with the variable, its value and what is expected.
    """

    def get(name: str, default: T, parse: Callable[[str], T]) -> T:
        text = environ.get(name, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            # a URL may have a password before its @, or a signature in its query
            is_secret = name in SECRET_VARIABLES or set("@?") & set(text)
            shown = name if is_secret else f"{name}={text[:MAX_SHOWN_CHARS]!r}"
            raise BadSetting(f"{shown} is not {error}") from None

    platform = (get(name, None, parsers.integer(1)) for name in PLATFORM_MEMORY_VARIABLES)
    host, port = get("HOST", "0.0.0.0", parsers.host), get("PORT", 8080, parsers.integer(0, 65535))  # noqa: S104
    return Settings(
        model=_model_location(
            get("MODEL_DIR", None, parsers.folder),
            get("MODEL_URI", None, _model_uri),
            get("MODEL_SHA256", None, parsers.sha256),
            get("MODEL_TIMEOUT_S", 30.0, parsers.seconds(0.01, 3600)),
            get("MODEL_CACHE_DIR", None, parsers.folder),
        ),
        max_image_bytes=get("MAX_IMAGE_BYTES", 10 * MB, parsers.integer(1)),
        max_image_pixels=get("MAX_IMAGE_PIXELS", 120_000_000, parsers.integer(1)),
        enable_gradcam=get("ENABLE_GRADCAM", True, parsers.boolean),
        allowed_origins=get("ALLOWED_ORIGINS", (), parsers.origins),
        admission_timeout_s=get("ADMISSION_TIMEOUT_S", 10.0, parsers.seconds(0, 3600)),
        max_waiting=get("MAX_WAITING", 200, parsers.integer(0)),
        body_timeout_s=get("BODY_TIMEOUT_S", 10.0, parsers.seconds(0.01, 3600)),
        decode_timeout_s=get("DECODE_TIMEOUT_S", 20.0, parsers.seconds(0.01, 3600)),
        memory_limit_mb=get("MEMORY_LIMIT_MB", None, parsers.integer(1)),
        memory_bands=get("MEMORY_BANDS", (0.3, 0.7, 0.88, 0.98), parsers.rising_fractions),
        platform_memory_mb=next((mb for mb in platform if mb), None),
        function=get("FUNCTION_TARGET", "predict", parsers.one_of("predict", "health")),
        bind=f"{host}:{port}",
        workers=get("WEB_CONCURRENCY", 1, parsers.integer(1, 256)),
        threads=get("THREADS", 256, parsers.integer(1, 10_000)),
        graceful_timeout_s=get("GRACEFUL_TIMEOUT_S", 25, parsers.integer(1, 3600)),
        worker_timeout_s=get("WORKER_TIMEOUT_S", 60, parsers.integer(1, 3600)),
        drain_s=get("DRAIN_S", 1.0, parsers.seconds(0, 3600)),
        max_requests=get("MAX_REQUESTS", None, parsers.integer(1)),
        recycle_mb=get("RECYCLE_MB", None, parsers.integer(1)),
        predict_url=get("PREDICT_URL", None, parsers.http_url),
        predict_timeout_s=get("PREDICT_TIMEOUT_S", 2.0, parsers.seconds(0.01, 3600)),
        predict_key=get("PREDICT_KEY", None, parsers.header_value),
        api_keys=get("API_KEYS", None, _keys),
        quota=get("QUOTA", (), _quota),
        trusted_proxies=get("TRUSTED_PROXIES", (), _proxies),
        cache_mb=get("CACHE_MB", 2, parsers.integer(0)),
        cache_ttl_s=get("CACHE_TTL_S", 3600.0, parsers.seconds(1, 30 * 86400)),
        redis_url=get("REDIS_URL", None, parsers.redis_url("redis", "rediss", "unix")),
        broker_url=get("BROKER_URL", None, parsers.redis_url("redis", "rediss")),
        data_dir=get("DATA_DIR", None, parsers.folder),
        job_ttl_s=get("JOB_TTL_S", 3600.0, parsers.seconds(1, 30 * 86400)),
        max_jobs=get("MAX_JOBS", 1000, parsers.integer(1)),
        max_jobs_mb=get("MAX_JOBS_MB", None, parsers.integer(1)),
        worker_metrics_port=get("WORKER_METRICS_PORT", None, parsers.integer(0, 65535)),
        webhook_secrets=get("WEBHOOK_SECRETS", (), parsers.webhook_secrets),
        webhook_loopback=get("WEBHOOK_LOOPBACK", False, parsers.boolean),
        log=get("LOG", None, parsers.one_of("json", "text")),
        log_level=get("LOG_LEVEL", "INFO", parsers.log_level),
        log_addresses=get("LOG_ADDRESSES", False, parsers.boolean),
        otel_endpoint=get("OTEL_EXPORTER_OTLP_ENDPOINT", None, parsers.http_url),
    )


@cache
def current() -> Settings:
    """Return this process's settings, read on the first call."""
    return read()


def makes_snapshot(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether AWS Lambda starts this process to take a snapshot of it (SnapStart)."""
    return environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start"


def set_default(name: str, value: str) -> None:
    """Set a variable that a library reads on import, unless the operator has set it."""
    os.environ.setdefault(name, value)


def unset_if_empty(name: str) -> None:
    """Unset a variable that is empty: libraries may interpret it as a value."""
    if not os.environ.get(name, "").strip():
        os.environ.pop(name, None)


def _model_location(
    folder: str | None,
    address: str | None,
    sha256: str | None,
    timeout_s: float,
    cache_dir: str | None,
) -> ModelLocation:
    if folder and address:
        raise BadSetting("MODEL_DIR and MODEL_URI are both set; unset one.")
    if sha256 and not address:
        raise BadSetting("MODEL_SHA256 is set without MODEL_URI, whose file it checks.")
    return Source(address, sha256, timeout_s, cache_dir) if address else folder


def _model_uri(text: str) -> str:
    if "://" not in text:
        return parsers.folder(text)
    if reason := urls.rejection_reason(text):
        raise BadSetting(f"MODEL_URI {reason}.")
    return text


def _keys(text: str) -> str:
    """Check `name:hash` pairs; a file with them is read at start."""
    from macule.settings import access

    if "/" in text:
        return parsers.folder(text)
    access.parse_keys(parsers.split_list(text, "name:sha256 pairs (`macule key new NAME`)"))
    return text


def _quota(text: str) -> tuple[Policy, ...]:
    from macule.settings import access

    return access.parse_rate_limits(parsers.split_list(text, "quotas such as 60/minute"))


def _proxies(text: str) -> tuple[Network, ...]:
    from macule.settings import access

    return access.parse_networks(parsers.split_list(text, "addresses or networks"))
