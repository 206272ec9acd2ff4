"""systemd units: memory and time of the table, and how a service stops and starts."""

from __future__ import annotations

from collections.abc import Iterator

from infra.checks.given import differ
from infra.limits import Limits

SOCKET = "127.0.0.1:8080"  # the proxy on the same machine connects to it
Options = dict[str, list[str]]  # of all sections; a name may be given several times
# The user of macule and what it can reach; `systemd-analyze security` rates the rest.
WANTED = {
    "KillMode": "mixed",  # gunicorn and macule signal their own processes
    "Restart": "always",
    "MemorySwapMax": "0",  # swap would extend the limit
    "DynamicUser": "yes",
    "ProtectSystem": "strict",
    "NoNewPrivileges": "yes",
}


def service(text: str, table: Limits) -> Iterator[str]:
    """Check the unit of the service or of a worker."""
    options, predict = _options(text), table.predict
    wanted = {"MemoryMax": f"{predict.memory_mb}M", **WANTED}
    yield from differ("unit", {name: last[-1] for name, last in options.items()}, wanted)
    stop_s = options.get("TimeoutStopSec", ["0"])[-1]
    if not stop_s.isdigit() or int(stop_s) <= predict.grace_s:
        yield f"unit: TimeoutStopSec is {stop_s}, not above grace_s {predict.grace_s}"
    pairs = " ".join(options.get("Environment", [])).split()
    given = dict(pair.split("=", 1) for pair in pairs)
    settings = predict.variables()
    for name in settings.keys() & given:
        yield from differ("unit: Environment", given, {name: settings[name]})
    if "GRACEFUL_TIMEOUT_S" not in given:
        yield "unit: Environment has no GRACEFUL_TIMEOUT_S, which TimeoutStopSec goes by"
    folders = [folder for name in options.get("StateDirectory", []) for folder in name.split()]
    if given.get("DATA_DIR", "").removeprefix("%S/") not in folders:
        yield f"unit: DATA_DIR is {given.get('DATA_DIR')!r}, which is no StateDirectory"


def socket(text: str, table: Limits) -> Iterator[str]:
    """Check the socket that systemd keeps open while the service restarts."""
    streams = _options(text).get("ListenStream")
    if streams != [SOCKET]:
        yield f"socket: ListenStream is {streams}, not {SOCKET}: the port is the proxy's alone"


def keys(text: str, table: Limits) -> Iterator[str]:
    """Check the drop-in that passes API keys to the service."""
    options = _options(text)
    (credential,) = options.get("LoadCredential", [":"])
    name, _, path = credential.partition(":")
    if not path.startswith("/etc/"):
        yield f"keys: LoadCredential is {credential!r}, not NAME:/etc/…"
    yield from differ("keys", options, {"Environment": [f"API_KEYS=%d/{name}"]})


def _options(text: str) -> Options:
    options: Options = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith(("#", ";")):
            options.setdefault(name.strip(), []).append(value.strip())
    return options
