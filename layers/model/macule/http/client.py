"""HTTP client: one request with limits of time and bytes, without redirects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from socket import SHUT_RDWR, create_connection, gaierror, socket
from threading import Event, Thread
from typing import NamedTuple
from urllib.parse import urlsplit

USER_AGENT = "macule"
MAX_BODY_BYTES = 2**18  # of a response: macule's longest without an activation map has about 4 kB
Connect = Callable[[tuple[str, int], float], socket]


class Unreachable(Exception):
    """No response. The text continues a sentence after the service's name.

    For example "refused the connection". It is not the caller's failure: it has no HTTP status.
    """


class Reply(NamedTuple):
    """A response; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def request(
    url: str,
    timeout_s: float,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    connect: Connect = create_connection,
    with_body: bool = True,
) -> Reply:
    """Send one request and wait at most *timeout_s* for the whole response.

    A DNS lookup cannot be interrupted, and a socket's time-out restarts with each byte. So a
    separate thread sends the request, and the connection is shut down after *timeout_s*.

    Args:
      connect: resolves the host and connects to it; may raise Unreachable.
      with_body: False leaves the response's body unread.
    Raises: Unreachable.
    """
    outcome: list[Reply | Unreachable] = []
    handles: list[socket] = []
    has_timed_out = Event()

    def on_connected(handle: socket) -> None:
        handles.append(handle)
        if has_timed_out.is_set():
            raise TimeoutError

    def exchange() -> None:
        from http.client import HTTPException

        sent = {"User-Agent": USER_AGENT, "Connection": "close", **(headers or {})}
        try:
            with connect(_host_and_port(url), timeout_s) as plain:
                outcome.append(_exchange(url, plain, on_connected, method, body, sent, with_body))
        except Unreachable as error:
            outcome.append(error)
        except TimeoutError:
            pass  # reported below, as for a response that is too slow
        except (OSError, HTTPException, ValueError) as error:
            outcome.append(Unreachable(_reason(error)))

    thread = Thread(target=exchange, daemon=True)
    thread.start()
    thread.join(timeout_s)
    has_timed_out.set()
    result = outcome[0] if outcome else Unreachable(f"timed out after {timeout_s:g} s")
    for handle in handles:
        with suppress(OSError):  # already closed
            handle.shutdown(SHUT_RDWR)
    if isinstance(result, Unreachable):
        raise result
    if len(result.body) > MAX_BODY_BYTES:
        raise Unreachable(f"answered with more than {MAX_BODY_BYTES:,} bytes")
    return result


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _exchange(
    url: str,
    plain: socket,
    on_connected: Callable[[socket], None],
    method: str,
    body: bytes | None,
    headers: Mapping[str, str],
    with_body: bool,
) -> Reply:
    """Send the request and read the response.

    *on_connected* gets a second handle of the socket, to shut it down.
    """
    import ssl  # takes megabytes: imported only when needed
    from http.client import HTTPConnection

    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with plain.dup() as handle, closing(HTTPConnection(*_host_and_port(url))) as connection:
        on_connected(handle)  # TLS takes over the other handle
        connection.sock = plain
        if parts.scheme == "https":
            context = ssl.create_default_context()
            connection.sock = context.wrap_socket(plain, server_hostname=parts.hostname)
        connection.request(method, target, body, {"Host": parts.netloc, **headers})
        with connection.getresponse() as response:
            names = {name.lower(): value for name, value in response.getheaders()}
            read = response.read(MAX_BODY_BYTES + 1) if with_body else b""
            return Reply(response.status, names, read)


def _reason(error: Exception) -> str:
    """Describe *error* in words that continue "The service ..."."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return f"has a certificate that is not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return "does not agree on TLS"
    if isinstance(error, gaierror | UnicodeError):
        return "has a name without an address"
    if isinstance(error, ConnectionRefusedError):
        return "refused the connection"
    if isinstance(error, ConnectionError):
        return "closed the connection before it answered"
    if isinstance(error, OSError):
        return f"cannot be reached: {error.strerror}"
    return "does not speak HTTP there"
