"""Addresses: which are whole, which a model comes from, and what of one may be shown."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit, urlunsplit

MODEL_SCHEMES = ("https", "s3", "gs")
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def split(text: str) -> SplitResult | None:
    """Split an address of the web; None where it has no scheme, no host or an unusable port.

    White space and control characters could end a request's line, a backslash hide another host.
    """
    try:
        parts = urlsplit(text)
        whole = bool(parts.scheme and parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half of an IPv6 address
        return None
    usual = text.isascii() and text.isprintable() and not set(" \\") & set(text)
    return parts if whole and usual else None


def rejection_reason(uri: str) -> str:
    """Say why *uri* is not followed; empty if it is. Plain http is for this machine alone."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "is no address"
    if parts.scheme in ("http", "https") and parts.hostname and not split(uri):
        return "is no address"
    if "@" in parts.netloc:
        return "has a user name in it, which would end up in logs"
    if parts.scheme in MODEL_SCHEMES or (parts.scheme == "http" and parts.hostname in LOOPBACK):
        return "" if parts.hostname else "names no host or bucket"
    return f"begins with {parts.scheme}://, not with https://, s3:// or gs://"


def append_path(uri: str, *names: str) -> str:
    """Append to the path; a query, as signed addresses have, stays at the end."""
    parts = urlsplit(uri)
    path = "/".join([parts.path.rstrip("/"), *names])
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def sibling(uri: str, name: str) -> str:
    """Replace the last part of the path."""
    parts = urlsplit(uri)
    parent = parts.path.rstrip("/").rpartition("/")[0]
    return append_path(urlunsplit(parts._replace(path=parent)), name)


def last_segment(uri: str) -> str:
    """Return the last part of the path."""
    return urlsplit(uri).path.rstrip("/").rpartition("/")[2]


def split_bucket(uri: str) -> tuple[str, str]:
    """Split an s3:// or gs:// address into bucket and key, which may have a ? or # in it."""
    name, _, key = uri.partition("://")[2].partition("/")
    return name, key


def redact(uri: str) -> str:
    """Leave out what callers may not see: a query signs the address."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
