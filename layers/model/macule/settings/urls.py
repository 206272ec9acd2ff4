"""URLs: validation, joining of paths, and redaction."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit, urlunsplit

MODEL_SCHEMES = ("https", "s3", "gs")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def split(text: str) -> SplitResult | None:
    """Split a URL; return None if it has no scheme, no host, or an invalid port or character.

    White space and control characters could end the request line; a backslash could hide the host.
    """
    try:
        parts = urlsplit(text)
        is_complete = bool(parts.scheme and parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number, an incomplete IPv6 address
        return None
    is_safe = text.isascii() and text.isprintable() and not set(" \\") & set(text)
    return parts if is_complete and is_safe else None


def rejection_reason(uri: str) -> str:
    """Return why no model is fetched from *uri*; "" if it can be.

    Plain http is allowed for localhost only.
    """
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "is not a valid URL"
    if parts.scheme in ("http", "https") and parts.hostname and not split(uri):
        return "is not a valid URL"
    if "@" in parts.netloc:
        return "has a user name in it, which would end up in logs"
    if parts.scheme in MODEL_SCHEMES or (parts.scheme == "http" and parts.hostname in LOOPBACK):
        return "" if parts.hostname else "has no host or bucket"
    return f"begins with {parts.scheme}://, not with https://, s3:// or gs://"


def append_path(uri: str, *names: str) -> str:
    """Append *names* to the path; the query, as in signed URLs, stays at the end."""
    parts = urlsplit(uri)
    path = "/".join([parts.path.rstrip("/"), *names])
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def sibling(uri: str, name: str) -> str:
    """Replace the last segment of the path."""
    parts = urlsplit(uri)
    parent = parts.path.rstrip("/").rpartition("/")[0]
    return append_path(urlunsplit(parts._replace(path=parent)), name)


def last_segment(uri: str) -> str:
    return urlsplit(uri).path.rstrip("/").rpartition("/")[2]


def split_bucket(uri: str) -> tuple[str, str]:
    """Split an s3:// or gs:// URL into bucket and key, which may contain ? or #."""
    name, _, key = uri.partition("://")[2].partition("/")
    return name, key


def redact(uri: str) -> str:
    """Remove the user and the query, which may be secret: a query may sign the URL."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
