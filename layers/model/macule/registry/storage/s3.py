"""Amazon S3. Imported only if an s3:// URL is used, as boto3 takes 40 MB and 0.4 s."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING, Any

from macule import extras
from macule.errors import ModelUnavailable
from macule.settings import urls

if TYPE_CHECKING:
    from macule.registry.storage import Opened

try:
    import boto3
    from botocore import exceptions
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
except ModuleNotFoundError as error:
    raise ModelUnavailable(extras.install_message("s3://", "boto3")) from error

CHUNK_BYTES = 2**18
# denied also for a missing object, without permission to list
ABSENT = ("NoSuchKey", "AccessDenied", "404", "403")
CONFLICT = ("PreconditionFailed", "ConditionalRequestConflict")
CONNECTION_ERRORS = (
    exceptions.ConnectionError,
    exceptions.HTTPClientError,
    exceptions.IncompleteReadError,
)
RETRYABLE = (408, 429)  # and all from 500 up


def read(address: str, idle_timeout_s: float) -> Opened | None:
    """Open an object; as `storage.read`."""
    name, key = urls.split_bucket(address)
    try:
        found = client(idle_timeout_s).get_object(Bucket=name, Key=key)
    except (BotoCoreError, ClientError) as error:
        if _code(error) in ABSENT:
            return None
        raise _failure(error, address) from error
    return found["ContentLength"], found["ETag"], _chunks(found["Body"], address)


def write(address: str, content: bytes, version: str, idle_timeout_s: float) -> bool:
    """Write an object if its version is unchanged; as `storage.write`."""
    name, key = urls.split_bucket(address)
    condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
    try:
        client(idle_timeout_s).put_object(Bucket=name, Key=key, Body=content, **condition)
    except (BotoCoreError, ClientError) as error:
        if _code(error) in CONFLICT:
            return False
        raise _failure(error, address) from error
    return True


def page(prefix: str, token: str, idle_timeout_s: float) -> tuple[list[str], str]:
    """Return at most 1000 URLs from the page *token* on, and the next token; "" is first or end."""
    name, key = urls.split_bucket(prefix)
    after = {"ContinuationToken": token} if token else {}
    try:
        found = client(idle_timeout_s).list_objects_v2(Bucket=name, Prefix=key, **after)
    except (BotoCoreError, ClientError) as error:
        raise _failure(error, prefix) from error
    keys = [row["Key"] for row in found.get("Contents", ()) if not row["Key"].endswith("/")]
    return [f"s3://{name}/{key}" for key in keys], found.get("NextContinuationToken", "")


@cache
def client(idle_timeout_s: float) -> Any:
    """Create the client once, as it keeps its connections and takes 20 ms to create."""
    once = {"total_max_attempts": 1}  # `storage.retry` repeats requests and bodies
    config = Config(connect_timeout=idle_timeout_s, read_timeout=idle_timeout_s, retries=once)
    try:
        return boto3.session.Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is not a URL
        raise ModelUnavailable(f"S3's client is misconfigured: {type(error).__name__}.") from error


def _chunks(body: Any, address: str) -> Iterator[bytes]:
    try:
        yield from body.iter_chunks(CHUNK_BYTES)
    except BotoCoreError as error:
        raise _failure(error, address) from error


def _code(error: Exception) -> str:
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


def _failure(error: Exception, address: str) -> Exception:
    """Return a temporary or permanent error, without botocore's texts, which have URLs and keys."""
    message = f"{urls.redact(address)}: S3 answers {_code(error) or type(error).__name__}"
    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        temporary = status in RETRYABLE or status >= 500
    else:
        temporary = isinstance(error, CONNECTION_ERRORS)
    return ConnectionError(message) if temporary else ModelUnavailable(f"{message}.")
