"""Routes of the health function: its memory report and that of the predict function."""

from __future__ import annotations

import json
import time
from typing import Any

from macule import settings
from macule.http import client, messages
from macule.http.messages import Request, Response
from macule.routes import health

USER_AGENT = "macule-health"  # a request with it is not forwarded: prevents loops
STYLE = """
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
h1 { font-size: 1.4rem; margin: 0 }
body { max-width: 36rem; margin: 0 auto; padding: 1rem }
table { width: 100%; border-collapse: collapse; margin: 1rem 0 }
caption { text-align: left }
th, td { padding: .4rem .6rem .4rem 0; border-bottom: 1px solid #8888; text-align: left }
th, td { vertical-align: top; overflow-wrap: anywhere }
tbody th { width: 34%; font-weight: normal }
.ill { padding: .4rem .6rem; border-left: .3rem solid #d33; background: #d332 }
"""
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>macule: status</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>macule: status</h1>
{note}
<table>
<caption>The answer of <code>GET /memory/</code>. MB is 2<sup>20</sup> bytes.</caption>
<thead><tr><th scope="col">value</th>{heads}</tr></thead>
<tbody>
{rows}
</tbody>
</table>
<p>Read at <time datetime="{read}Z">{read} UTC</time>. Reload this page to update it.</p>
</main>
</body>
</html>
"""
# The rows of the page: title and path in the report.
ROWS = {
    "Status": ("status",),
    "Band": ("band",),
    "Memory, MB": ("pss_mb",),
    "Share of the limit, %": ("memory", "percent"),
    "Peak, MB": ("peak_mb",),
    "Limit, MB": ("limit_mb",),
    "Limit's source": ("limit_source",),
    "Headroom, MB": ("headroom_mb",),
    "Model loaded": ("model_loaded",),
}
MAX_CHARS = 40  # of a value from another service


def memory(request: Request) -> Response:
    """GET /memory/ of the health function: its own report, and predict's with PREDICT_URL."""
    return messages.json_response(_reports(request))


def page(request: Request) -> Response:
    """GET /: the same as a page, without scripts."""
    return messages.html_response(_html(_reports(request)), STYLE)


def fetch_report(url: str, timeout_s: float, key: str | None = None) -> dict[str, Any]:
    """Fetch the memory report of the predict function at *url*; this loads no model.

    Returns: the report, or the reason for its absence: {"error": "refused the connection"}.
    """
    try:
        headers = {"User-Agent": USER_AGENT, **({"X-API-Key": key} if key else {})}
        reply = client.request(f"{url}/memory/", timeout_s, headers=headers)
    except client.Unreachable as error:
        return {"error": str(error)}
    if reply.status != 200:
        return {"error": f"answered {reply.status}"}
    try:
        document = json.loads(reply.body)
        # The report must be valid JSON again, nested deeper: Python also parses infinities,
        # lone surrogates and nesting too deep to be written.
        json.dumps([[[document]]], ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return {"error": "answered something other than JSON"}
    if not isinstance(document, dict) or "band" not in document:
        return {"error": "answered JSON that is not a memory report"}
    return document


def _reports(request: Request) -> dict[str, Any]:
    own, chosen = health.report(), settings.current()
    if chosen.predict_url and request.headers.get("user-agent") != USER_AGENT:
        timeout_s, key = chosen.predict_timeout_s, chosen.predict_key
        own["predict"] = fetch_report(chosen.predict_url, timeout_s, key)
    return own


def _html(own: dict[str, Any]) -> str:
    """Return the page; values of the other service are escaped and truncated."""
    from html import escape

    other, columns = own.get("predict"), {"health": own}
    note = "<p>No predict function is monitored: <code>PREDICT_URL</code> is not set.</p>"
    if other and "band" in other:
        columns["predict"], note = other, ""
    elif other:
        note = f'<p class="ill">predict {escape(other["error"])}.</p>'
    rows = []
    for name, path in ROWS.items():
        row = f'<tr><th scope="row">{name}</th>'
        for report in columns.values():
            text = _cell(report, path)
            alert = ' class="ill"' if name == "Status" and text != "ok" else ""
            row += f"<td{alert}>{escape(text)}</td>"
        rows.append(f"{row}</tr>")
    heads = "".join(f'<th scope="col">{name}</th>' for name in columns)
    read = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    return PAGE.format(style=STYLE, note=note, heads=heads, rows="\n".join(rows), read=read)


def _cell(report: dict[str, Any], path: tuple[str, ...]) -> str:
    value: Any = report
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)[:MAX_CHARS] if isinstance(value, str | int | float) else "unknown"
