"""Objects of S3. Imported only where an s3:// address is used: boto3 takes 40 MB and 0.4 s."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from macule import extras
from macule.errors import ModelUnavailable
from macule.settings import urls

try:
    import boto3
    from botocore import exceptions
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
except ModuleNotFoundError as error:
    raise ModelUnavailable(extras.install_message("s3://", "boto3")) from error

CHUNK_BYTES = 2**18
ABSENT = ("NoSuchKey", "AccessDenied", "404", "403")  # denied to those who may not list
CONFLICT = ("PreconditionFailed", "ConditionalRequestConflict")
CONNECTION_ERRORS = (
    exceptions.ConnectionError,
    exceptions.HTTPClientError,
    exceptions.IncompleteReadError,
)
RETRYABLE = (408, 429)  # and all from 500 on


def read(address: str, quiet_s: float) -> tuple[int | None, str, Iterator[bytes]] | None:
    """Begin to read; as `objects.read`."""
    name, key = urls.split_bucket(address)
    try:
        found = client(quiet_s).get_object(Bucket=name, Key=key)
    except (BotoCoreError, ClientError) as error:
        if _code(error) in ABSENT:
            return None
        raise _failure(error, address) from error
    return found["ContentLength"], found["ETag"], _pieces(found["Body"], address)


def write(address: str, content: bytes, version: str, quiet_s: float) -> bool:
    """Write if nothing came between; as `objects.write`."""
    name, key = urls.split_bucket(address)
    condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
    try:
        client(quiet_s).put_object(Bucket=name, Key=key, Body=content, **condition)
    except (BotoCoreError, ClientError) as error:
        if _code(error) in CONFLICT:
            return False
        raise _failure(error, address) from error
    return True


def page(prefix: str, mark: str, quiet_s: float) -> tuple[list[str], str]:
    """List what follows *mark*, 1000 at most; an empty mark is the beginning, and the end."""
    name, key = urls.split_bucket(prefix)
    after = {"ContinuationToken": mark} if mark else {}
    try:
        found = client(quiet_s).list_objects_v2(Bucket=name, Prefix=key, **after)
    except (BotoCoreError, ClientError) as error:
        raise _failure(error, prefix) from error
    keys = [row["Key"] for row in found.get("Contents", ()) if not row["Key"].endswith("/")]
    return [f"s3://{name}/{key}" for key in keys], found.get("NextContinuationToken", "")


@cache
def client(quiet_s: float) -> Any:
    """Make a client once: it keeps its connections, and takes 20 ms to make."""
    once = {"total_max_attempts": 1}  # objects.patiently tries again, bodies included
    config = Config(connect_timeout=quiet_s, read_timeout=quiet_s, retries=once)
    try:
        return boto3.session.Session().client("s3", config=config)
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
        raise ModelUnavailable(f"S3's client is misconfigured: {type(error).__name__}.") from error


def _pieces(body: Any, address: str) -> Iterator[bytes]:
    try:
        yield from body.iter_chunks(CHUNK_BYTES)
    except BotoCoreError as error:
        raise _failure(error, address) from error


def _code(error: Exception) -> str:
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else ""


def _failure(error: Exception, address: str) -> Exception:
    """Tell what passes from what stays; botocore's own texts have addresses and keys in them."""
    what = f"{urls.redact(address)}: S3 says {_code(error) or type(error).__name__}"
    if isinstance(error, ClientError):
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        passing = status in RETRYABLE or status >= 500
    else:
        passing = isinstance(error, CONNECTION_ERRORS)
    return ConnectionError(what) if passing else ModelUnavailable(f"{what}.")
