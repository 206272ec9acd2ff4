"""The only reader and writer of the environment."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from macule import uri
from macule.errors import BadSetting

if TYPE_CHECKING:
    from macule.proxies import Network
    from macule.quota import Policy

T = TypeVar("T")
MB = 2**20
# What the platforms say of the memory they give, in MB.
PLATFORM_MEMORY_VARIABLES = ("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "FUNCTION_MEMORY_MB")


class Source(NamedTuple):
    """Where a model is fetched from: a folder, https://, s3:// or gs://; and how."""

    uri: str
    sha256: str | None  # of the only file that may serve
    timeout_s: float
    cache_dir: str | None


Where = Source | str | None  # a folder; None is the model in use


class Settings(NamedTuple):
    """What an operator may choose; docs/api.md lists each with its default."""

    model: Where
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
    webhook_secrets: tuple[str, ...]
    webhook_loopback: bool
    log: str | None
    log_level: str
    log_addresses: bool
    otel_endpoint: str | None


def read(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read all settings.

    Raises: BadSetting, naming the variable, its value and what was expected.
    """

    def get(name: str, default: T, parse: Callable[[str], T]) -> T:
        text = environ.get(name, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            raise BadSetting(f"{name}={text!r} is not {error}") from error

    platform = (get(name, None, _at_least(1)) for name in PLATFORM_MEMORY_VARIABLES)
    return Settings(
        model=_model(
            get("MODEL_DIR", None, str),
            get("MODEL_URI", None, _uri),
            get("MODEL_SHA256", None, _sha256),
            get("MODEL_TIMEOUT_S", 30.0, _seconds),
            get("MODEL_CACHE_DIR", None, str),
        ),
        max_image_bytes=get("MAX_IMAGE_BYTES", 10 * MB, _at_least(1)),
        max_image_pixels=get("MAX_IMAGE_PIXELS", 120_000_000, _at_least(1)),
        enable_gradcam=get("ENABLE_GRADCAM", True, _truth),
        allowed_origins=get("ALLOWED_ORIGINS", (), _origins),
        admission_timeout_s=get("ADMISSION_TIMEOUT_S", 10.0, _seconds),
        max_waiting=get("MAX_WAITING", 200, _at_least(0)),
        body_timeout_s=get("BODY_TIMEOUT_S", 10.0, _seconds),
        decode_timeout_s=get("DECODE_TIMEOUT_S", 20.0, _seconds),
        memory_limit_mb=get("MEMORY_LIMIT_MB", None, _at_least(1)),
        memory_bands=get("MEMORY_BANDS", (0.3, 0.7, 0.88, 0.98), _shares),
        platform_memory_mb=next((mb for mb in platform if mb), None),
        function=get("FUNCTION_TARGET", "predict", _one_of("predict", "health")),
        bind=f"{get('HOST', '0.0.0.0', str)}:{get('PORT', 8080, _port)}",  # noqa: S104
        workers=get("WEB_CONCURRENCY", 1, _at_least(1)),
        threads=get("THREADS", 256, _at_least(1)),
        graceful_timeout_s=get("GRACEFUL_TIMEOUT_S", 25, _at_least(1)),
        drain_s=get("DRAIN_S", 1.0, _seconds),
        max_requests=get("MAX_REQUESTS", None, _at_least(1)),
        recycle_mb=get("RECYCLE_MB", None, _at_least(1)),
        predict_url=get("PREDICT_URL", None, web_address),
        predict_timeout_s=get("PREDICT_TIMEOUT_S", 2.0, _seconds),
        predict_key=get("PREDICT_KEY", None, _key),
        api_keys=get("API_KEYS", None, _keys),
        quota=get("QUOTA", (), _quota),
        trusted_proxies=get("TRUSTED_PROXIES", (), _proxies),
        cache_mb=get("CACHE_MB", 2, _at_least(0)),
        cache_ttl_s=get("CACHE_TTL_S", 3600.0, _long),
        redis_url=get("REDIS_URL", None, _redis("REDIS_URL")),
        broker_url=get("BROKER_URL", None, _redis("BROKER_URL")),
        data_dir=get("DATA_DIR", None, str),
        job_ttl_s=get("JOB_TTL_S", 3600.0, _long),
        max_jobs=get("MAX_JOBS", 1000, _at_least(1)),
        max_jobs_mb=get("MAX_JOBS_MB", None, _at_least(1)),
        webhook_secrets=get("WEBHOOK_SECRETS", (), _secrets),
        webhook_loopback=get("WEBHOOK_LOOPBACK", False, _truth),
        log=get("LOG", None, _one_of("json", "text")),
        log_level=get("LOG_LEVEL", "info", _one_of("debug", "info", "warning", "error")).upper(),
        log_addresses=get("LOG_ADDRESSES", False, _truth),
        otel_endpoint=get("OTEL_EXPORTER_OTLP_ENDPOINT", None, web_address),
    )


@cache
def current() -> Settings:
    """Return this process's settings, read at the first call."""
    return read()


def tell(name: str, value: str) -> None:
    """Set a variable that a library reads as it is loaded, unless the operator did."""
    os.environ.setdefault(name, value)


def web_address(text: str) -> str:
    """Check an address that requests go to; a last slash is dropped.

    Raises: ValueError, saying what was expected.
    """
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # a port that is no number, half of an IPv6 address
        known = False
    # white space and control characters could end a request's line; "@" hides another host
    if not known or not text.isascii() or not text.isprintable() or set(" @?#\\") & set(text):
        raise ValueError("an address such as https://predict.example, without a user, ? or #")
    return text.rstrip("/")


def _model(
    folder: str | None,
    address: str | None,
    sha256: str | None,
    timeout_s: float,
    cache_dir: str | None,
) -> Where:
    if folder and address:
        raise BadSetting("MODEL_DIR and MODEL_URI are both set; unset one.")
    if sha256 and not address:
        raise BadSetting("MODEL_SHA256 is set without MODEL_URI, whose file it names.")
    return Source(address, sha256, timeout_s, cache_dir) if address else folder


def _uri(text: str) -> str:
    if "://" in text and (why := uri.refusal(text)):
        raise BadSetting(f"MODEL_URI {why}.")  # the value may hold a secret
    return text


def _sha256(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise ValueError("64 hexadecimal digits")
    return text.lower()


def _at_least(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise ValueError(f"a whole number of at least {least}")
        return int(text)

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(" or ".join(words))
        return text.lower()

    return parse


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise ValueError("a port, 0 to 65535")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 3600:
        raise ValueError("a number of seconds, 0 to 3600")
    return value


def _long(text: str) -> float:
    value = float(text) if text.replace(".", "", 1).isdecimal() and text.isascii() else 0.0
    if not 1 <= value <= 30 * 86400:
        raise ValueError("a number of seconds, 1 to 2592000")
    return value


def _redis(name: str) -> Callable[[str], str]:
    from urllib.parse import urlsplit

    def parse(text: str) -> str:
        if not text.startswith(("redis://", "rediss://", "unix://")):
            raise BadSetting(f"{name} does not begin with redis://, rediss:// or unix://.")
        try:
            urlsplit(text).port  # noqa: B018
        except ValueError:  # from None: the value may hold a password, so no error shows it
            raise BadSetting(f"{name} names no port, 0 to 65535, behind its host.") from None
        return text

    return parse


def _key(text: str) -> str:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise BadSetting("PREDICT_KEY is no key: it has spaces or signs that no header may have.")
    return text


def _keys(text: str) -> str:
    """Check pairs of names and hashes, or the file that has them."""
    from macule import keys

    keys.Ring(text)
    return text


def _quota(text: str) -> tuple[Policy, ...]:
    from macule import quota

    return quota.parse(text)


def _proxies(text: str) -> tuple[Network, ...]:
    from macule import proxies

    return proxies.parse(text)


def _secrets(text: str) -> tuple[str, ...]:
    """Read keys of Standard Webhooks, the newest first."""
    from base64 import b64decode
    from binascii import Error

    secrets = tuple(part.strip() for part in text.split(",") if part.strip())
    for place, secret in enumerate(secrets, 1):
        try:
            size = len(b64decode(secret.removeprefix("whsec_"), validate=True))
        except Error:
            size = 0
        if not secret.startswith("whsec_") or not 24 <= size <= 64:
            raise BadSetting(
                f"WEBHOOK_SECRETS: number {place} is not whsec_ and base64 of 24 to 64 bytes."
            )
    return secrets


def _shares(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(map(float, text.split(",")))
    except ValueError:
        shares = ()
    if len(shares) != 4 or not 0 < shares[0] < shares[1] < shares[2] < shares[3] <= 1:
        raise ValueError("four rising shares, 0 to 1, such as 0.3,0.7,0.88,0.98")
    return shares


def _truth(text: str) -> bool:
    if text.lower() not in {"true", "false", "1", "0", "yes", "no", "on", "off"}:
        raise ValueError("true or false")
    return text.lower() in {"true", "1", "yes", "on"}


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip().rstrip("/") for part in text.split(",") if part.strip())
    for origin in origins:
        if origin != "*" and not origin.startswith(("http://", "https://")):
            raise ValueError("a list of origins such as https://app.example, or *")
    return origins
