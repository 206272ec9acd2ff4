"""Redis's protocol, as far as a cache needs it: one command, one answer, within a time.

redis-py does it well, but takes 28 MB and 0.27 s of a service that has 64 and starts in 0.2.
"""

from __future__ import annotations

import time
from contextlib import suppress
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import socket

PORT = 6379
READ_BYTES = 2**16
Reply = bytes | int | None


class Refused(Exception):
    """The server answers, and says no; the text is its word for why, such as OOM."""


class Address(NamedTuple):
    """Where a server listens: a host and a port, or the path of a socket."""

    host: str
    port: int
    path: str
    tls: bool
    user: str
    password: str
    database: str


def address(url: str) -> Address:
    """Read redis://user:password@host:port/database, rediss:// or unix://path?db=database.

    Raises: ValueError, whose text may hold the password.
    """
    from urllib.parse import parse_qs, unquote, urlsplit

    parts = urlsplit(url)
    local = parts.scheme == "unix"
    database = parse_qs(parts.query).get("db", [""])[-1] or ("" if local else parts.path.strip("/"))
    return Address(
        host=parts.hostname or "localhost",
        port=parts.port or PORT,
        path=unquote(parts.path) if local else "",
        tls=parts.scheme == "rediss",
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        database=database,
    )


class Client:
    """Connections to one server, kept between commands.

    Args:
      timeout_s: of one command and its answer, connecting included, but for a name's look-up.
      most_bytes: of one answer.
    """

    def __init__(self, where: Address, timeout_s: float, most_bytes: int) -> None:
        self._where = where
        self._timeout_s = timeout_s
        self._most_bytes = most_bytes
        self._idle: list[Connection] = []
        self._lock = Lock()

    def ask(self, *words: bytes) -> Reply:
        """Send a command that may be sent twice, and return the answer.

        Raises: OSError where none comes, Refused.
        """
        deadline = time.monotonic() + self._timeout_s
        while True:
            with self._lock:
                idle = self._idle.pop() if self._idle else None
            try:
                connection = idle or Connection(self._where, deadline, self._most_bytes)
                reply = connection.ask(deadline, *words)
            except OSError as error:
                if idle:
                    idle.close()
                if idle is None or isinstance(error, TimeoutError):
                    raise
                continue  # the server has ended this one since, as after a restart
            with self._lock:
                self._idle.append(connection)
            if isinstance(reply, Refused):
                raise reply
            return reply

    def close(self) -> None:
        """End the connections that nobody uses now."""
        with self._lock:
            while self._idle:
                self._idle.pop().close()


class Connection:
    """One socket, signed in."""

    def __init__(self, where: Address, deadline: float, most_bytes: int) -> None:
        self._socket = _connected(where, deadline)
        self._most_bytes = most_bytes
        self._buffer = b""
        user = [where.user] if where.user else []
        greetings = [["AUTH", *user, where.password]] if where.password else []
        greetings += [["SELECT", where.database]] if where.database else []
        for words in greetings:
            reply = self.ask(deadline, *(word.encode() for word in words))
            if isinstance(reply, Refused):
                self.close()
                raise reply

    def ask(self, deadline: float, *words: bytes) -> Reply | Refused:
        """Send one command and read its answer."""
        sent = b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
        try:
            self._socket.settimeout(_left(deadline))
            self._socket.sendall(b"*%d\r\n%b" % (len(words), sent))
            return self._reply(deadline)
        except OSError:
            self.close()  # an answer that comes late must not be taken for another's
            raise

    def close(self) -> None:
        with suppress(OSError):
            self._socket.close()

    def _reply(self, deadline: float) -> Reply | Refused:
        while b"\r\n" not in self._buffer:
            self._read(deadline)
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        kind, rest = line[:1], line[1:]
        if kind == b"+":
            return rest
        if kind == b"-":
            return Refused("".join(filter(str.isalnum, rest.split(b" ")[0].decode("latin-1")))[:20])
        if kind not in (b":", b"$") or not rest.removeprefix(b"-").isdigit():
            raise ConnectionError("what answers is not Redis")
        size = int(rest)
        if kind == b":":
            return size
        if size < 0:
            return None
        while len(self._buffer) < size + 2:
            self._read(deadline)
        value, self._buffer = self._buffer[:size], self._buffer[size + 2 :]
        return value

    def _read(self, deadline: float) -> None:
        self._socket.settimeout(_left(deadline))
        found = self._socket.recv(READ_BYTES)
        self._buffer += found
        if not found or len(self._buffer) > self._most_bytes + READ_BYTES:
            raise ConnectionError("the connection has ended, or brings too much")


def _connected(where: Address, deadline: float) -> socket.socket:
    import socket

    if where.path:
        local = socket.socket(socket.AF_UNIX)
        try:
            local.settimeout(_left(deadline))
            local.connect(where.path)
        except OSError:
            local.close()
            raise
        return local
    try:
        plain = socket.create_connection((where.host, where.port), _left(deadline))
    except UnicodeError as error:
        raise ConnectionError("the host's name is none") from error
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if not where.tls:
        return plain
    import ssl

    try:
        plain.settimeout(_left(deadline))
        return ssl.create_default_context().wrap_socket(plain, server_hostname=where.host)
    except OSError:
        plain.close()
        raise


def _left(deadline: float) -> float:
    """Return the seconds until *deadline*, as a socket's time-out."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time is over")
    return left
