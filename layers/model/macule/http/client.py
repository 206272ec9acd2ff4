"""Another service over HTTP: one request, bounded in time and bytes, never redirected."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from socket import SHUT_RDWR, create_connection, gaierror, socket
from threading import Event, Thread
from typing import NamedTuple
from urllib.parse import urlsplit

USER_AGENT = "macule"
MAX_BODY_BYTES = 2**18  # of an answer's body: macule's longest without a map has about 4 kB
Connect = Callable[[tuple[str, int], float], socket]


class Unreachable(Exception):
    """No answer came. The text says why, and follows the other's name: "refused the connection".

    It is no failure of the one who asked, so it has no HTTP status.
    """


class Reply(NamedTuple):
    """What came back; header names in lower case."""

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
    """Send one request, and wait at most *timeout_s* for the whole answer.

    *connect* finds the host's address and a way there; it may raise Unreachable itself. Without
    *with_body* the answer's is left unread.

    A name that is being looked up cannot be broken off, and a socket's time-out begins anew with
    each byte; so a thread of its own asks, and the connection is shut when the time is over.
    Raises: Unreachable.
    """
    outcome: list[Reply | Unreachable] = []
    lines: list[socket] = []
    over = Event()

    def connected(line: socket) -> None:
        lines.append(line)
        if over.is_set():
            raise TimeoutError

    def talk() -> None:
        from http.client import HTTPException

        sent = {"User-Agent": USER_AGENT, "Connection": "close", **(headers or {})}
        try:
            with connect(_host_and_port(url), timeout_s) as plain:
                outcome.append(_exchange(url, plain, connected, method, body, sent, with_body))
        except Unreachable as error:
            outcome.append(error)
        except TimeoutError:
            pass  # said below, as for whoever drips
        except (OSError, HTTPException, ValueError) as error:
            outcome.append(Unreachable(_reason(error)))

    thread = Thread(target=talk, daemon=True)
    thread.start()
    thread.join(timeout_s)
    over.set()
    found = outcome[0] if outcome else Unreachable(f"timed out after {timeout_s:g} s")
    for line in lines:
        with suppress(OSError):  # it has ended by itself
            line.shutdown(SHUT_RDWR)
    if isinstance(found, Unreachable):
        raise found
    if len(found.body) > MAX_BODY_BYTES:
        raise Unreachable(f"answered with more than {MAX_BODY_BYTES:,} bytes")
    return found


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _exchange(
    url: str,
    plain: socket,
    connected: Callable[[socket], None],
    method: str,
    body: bytes | None,
    headers: Mapping[str, str],
    with_body: bool,
) -> Reply:
    """Send and read; *connected* gets a handle to hang up with."""
    import ssl  # megabytes, for those alone who ask
    from http.client import HTTPConnection

    parts = urlsplit(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    with plain.dup() as line, closing(HTTPConnection(*_host_and_port(url))) as connection:
        connected(line)  # TLS takes the other handle over
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
    """Say what went wrong, without the error's own words where they are not for a reader."""
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
