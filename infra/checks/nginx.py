"""nginx in front of the service: size and time limits of the table, and what is passed on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from infra.checks import systemd
from infra.checks.given import differ
from infra.limits import MB, Limits

CONFIGURATION = Path(__file__).resolve().parents[2] / "layers/model/macule/server/configuration.py"
FORM_BYTES = 2**16  # of a body beside its image: macule/http/uploads/parsing.py
# name, a space, arguments, a semicolon; a quoted text may contain any of these
DIRECTIVE = re.compile(r"""^\s*([a-z_]+)\s+((?:'[^']*'|[^;'#{}])+);""", re.MULTILINE)
WANTED = {
    "proxy_http_version": "1.1",
    "proxy_request_buffering": "on",  # otherwise a slow sender takes a slot of macule
    "proxy_max_temp_file_size": "0",  # no answer on disk
    "gzip": "off",
}
HEADERS = {"Connection": '""', "Host": "$host", "X-Forwarded-For": "$remote_addr"}


def proxy(text: str, table: Limits) -> Iterator[str]:
    """Check the site's configuration."""
    found: dict[str, list[str]] = {}
    for name, arguments in DIRECTIVE.findall(text):
        found.setdefault(name, []).append(" ".join(arguments.split()))
    predict, last = table.predict, {name: values[-1] for name, values in found.items()}
    yield from differ("nginx", last, {**WANTED, "proxy_read_timeout": f"{predict.timeout_s}s"})
    yield from differ("nginx", last, {"server": systemd.SOCKET})
    headers = dict(value.split(" ", 1) for value in found.get("proxy_set_header", []))
    yield from differ("nginx: proxy_set_header", headers, HEADERS)

    given = last.get("client_max_body_size", "")
    most = int(given[:-1]) * MB if re.fullmatch(r"\d+m", given) else 0
    if not 0 <= most - (predict.body_mb * MB * 4 // 3 + FORM_BYTES) < 3 * MB:
        yield f"nginx: client_max_body_size is {given}, not base64 of {predict.body_mb} MB and 1 MB"
    kept = found.get("keepalive_timeout", ["75s"])[0].removesuffix("s")
    if not kept.isdigit() or int(kept) >= gunicorn_keeps_s():
        yield f"nginx: keepalive_timeout is {kept} s; gunicorn closes after {gunicorn_keeps_s()} s"


def gunicorn_keeps_s() -> int:
    """Return how long gunicorn keeps an idle connection."""
    text = CONFIGURATION.read_text()
    return int(re.findall(r"^keepalive = (\d+)", text, re.MULTILINE)[0])
