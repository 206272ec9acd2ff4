"""The upload page: view, static files, and the form for browsers without JavaScript."""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from macule.http import application, static_files
from macule.http.messages import Request, Response

FOLDER = os.path.dirname(__file__)
HTML = "text/html; charset=utf-8"
# The only files that are served.
FILES = {
    "style.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "photo.js": "text/javascript; charset=utf-8",
    "example.jpg": "image/jpeg",
}
Node = Mapping[str, Any]
LANGUAGES = ("en", "vi")  # the first is the default
SLOT = re.compile(r'\{\{([\w.]+)\}\}|(data-word="(\w+)"[^>]*>)')
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob: data:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'",
    "Permissions-Policy": "camera=(self)",
    "Referrer-Policy": "no-referrer",
}


def view(request: Request) -> Response:
    """GET /: the page, in the reader's language. Query: `lang`."""
    headers = {"Content-Type": HTML, "Cache-Control": "no-cache", **SECURITY_HEADERS}
    page = _page(_language(request))
    return static_files.text_response(request, page, headers, "Accept-Language, ")


def file(request: Request) -> Response:
    """GET /page/{file}: a static file; cached by browsers if the URL has its version."""
    return static_files.file_response(request, FOLDER, FILES)


def form(request: Request) -> Response:
    """POST /page/: the answer of POST /predict/ as a page. Query: `lang`, and those of it."""
    answer = application.dispatch(request, "/predict/")
    found, language = json.loads(answer.body), _language(request)
    words = _words()
    if answer.status == 200:
        found = found if "decision" in found else found["predictions"][0]  # sent as `instances`
        card = json.loads(application.dispatch(request, "/model/", "GET").body)
        values = _result(found, card, words[language], language)
    else:
        values = _problem(found, answer, words, language)
    body = _html(language, "../", values)
    headers = {**answer.headers, **SECURITY_HEADERS, "Content-Type": HTML}
    return answer._replace(body=body, headers=headers)


def _result(found: Node, card: Node, words: Node, language: str) -> dict[str, str]:
    """Return the slots of an answer; a `not_skin` answer has no figures."""
    kinds = _label_rows(found, card, language)
    names = [*_texts(card, "names", language).values()] or [kind.name for kind in kinds]
    decision, model, best = found["decision"], found["model"], kinds[0]
    topic = _topic(found)
    fields = {"name": best.name, "count": len(names), "names": ", ".join(names)}
    fields["step"] = _rounding_step(card)
    made = {**model, "model": model["name"], "ms": round(found["metrics"]["total_ms"])}
    slots = {
        "view": "result",
        "decision": decision,
        "verdict": _escape(words[topic]),
        "verdict_name": _escape(best.name if decision == "classified" else ""),
        "soon": _escape(words.get(_urgency(decision, best.label, card), "")),
        "meaning": _escape(words[f"{topic}_meaning"].format(**fields)),
        "kinds": _escape(words["kinds"].format(**fields)),
        "made_by": _escape(words["made_by"].format(**made)),
    }
    return slots if decision == "not_skin" else {**slots, **_figures(found, kinds, words, fields)}


class LabelRow(NamedTuple):
    """One label of an answer, as shown on the page."""

    label: str
    name: str
    description: str
    probability: float


def _label_rows(found: Node, card: Node, language: str) -> list[LabelRow]:
    """Return the labels of an answer, most likely first, with texts in *language*."""
    names, descriptions = (_texts(card, key, language) for key in ("names", "descriptions"))
    rows = []
    for row in found["predictions"]:
        label = row["label"]
        texts = names.get(label, row["name"]), descriptions.get(label, "")
        rows.append(LabelRow(label, *texts, row["probability"]))
    return rows


def _texts(card: Node, key: str, language: str) -> dict[str, str]:
    """Return the card's text for each label; in English if *language* is missing."""
    known = card.get(key, {})
    texts = known.get(language) or known.get("en", ())
    return dict(zip(card.get("labels", ()), texts, strict=False))


def _topic(found: Node) -> str:
    """Return the key of the texts about an answer: its decision, or a reason with its own texts."""
    reason: str | None = found.get("reason")
    return reason if reason == "not_dermoscopic" else found["decision"]


def _urgency(decision: str, label: str, card: Node) -> str:
    """Return the key of the text on how soon to see a doctor."""
    if label in card.get("urgent", ()) and decision != "not_skin":
        return "soon_urgent"
    return f"soon_{decision}"


def _rounding_step(card: Node) -> int:
    """Return the rounding step in percent: no finer than the model's calibration error."""
    error = card.get("metrics", {}).get("ece_after")
    return 5 if error is not None and error <= 0.05 else 10


def _figures(found: Node, kinds: Iterable[LabelRow], words: Node, fields: Node) -> dict[str, str]:
    """Return the slots of the figures: a bar for each label, and the map if there is one."""
    cam = found["explanation"]
    alt = _escape(words["alt_heat"].format(**fields))
    slots = {
        "bars": "".join(_bar(kind, fields["step"]) for kind in kinds),
        "rounded": _escape(words["rounded"].format(**fields)),
    }
    if not cam:
        return {**slots, "no_map": _escape(words["no_map"])}
    return {
        **slots,
        "overlay": f' src="{_escape(cam["overlay"])}" alt="{alt}"',
        "heat_hidden": "",
        "heat_label": _escape(words["heat"].format(**fields)),
        "rough": "" if cam["faithful"] else _escape(words["rough"]),
    }


def _problem(found: Node, answer: Response, words: Node, language: str) -> dict[str, str]:
    """Return the slots of a problem document; an unknown slug is described by its status."""
    own, kind = words[language], str(found["type"]).rpartition(":")[2]
    known = own["problems"]
    if kind not in known:
        kind = words["statuses"].get(str(answer.status), "internal")
    head, *advice = known[kind]
    if "limit_bytes" in found:
        advice.insert(0, own["most"].format(limit=f"{found['limit_bytes'] / 2**20:.3g} MB"))
    if after := answer.headers.get("Retry-After"):
        advice.append(own["retry_in"].format(seconds=after))
    return {
        "view": "problem",
        "problem_head": _escape(head),
        "problem_advice": _escape(" ".join(advice)),
        "problem_id": _escape(own["request"].format(id=found["request_id"])),
    }


def _html(language: str, root: str, values: Mapping[str, str]) -> bytes:
    """Fill page.html with *values* and with the words of *language*."""
    words = _words()
    own = {
        **{name: static_files.file_version(os.path.join(FOLDER, name)) for name in FILES},
        "lang": language,
        "root": root,
        "words": _script(words),
        "thumbnail": "data:image/webp;base64," + b64encode(_read("thumbnail.webp")).decode(),
        f"{language}_current": ' aria-current="true"',
        "overlay": ' alt=""',
        "heat_hidden": " hidden",
        **values,
    }

    def fill(slot: re.Match[str]) -> str:
        name, element, word = slot.groups()
        return own.get(name, "") if name else element + _escape(words[language][word])

    return SLOT.sub(fill, _read("page.html").decode()).encode()


def _script(document: Node) -> str:
    """Return JSON that is safe in a script element: "<" occurs only in strings, as an escape."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", r"\u003c")


def _bar(kind: LabelRow, step: int) -> str:
    share = _escape(_percentage(kind.probability, step))
    return (
        f'<li><span class="name">{_escape(kind.name)}</span> <span class="share">{share}</span>'
        f'<svg class="bar" aria-hidden="true"><rect width="{100 * kind.probability:.1f}%" '
        f'height="100%"/></svg><span class="hint">{_escape(kind.description)}</span></li>'
    )


def _percentage(probability: float, step: int) -> str:
    """Return a percentage rounded to *step*, never as 0% or 100%."""
    rounded = step * int(100 * probability / step + 0.5)
    if rounded == 0:
        return f"<{(step + 1) // 2}%"
    return f">{100 - (step + 1) // 2}%" if rounded == 100 else f"{rounded}%"


def _language(request: Request) -> str:
    """Return the language: from the query, else the browser's preferred one."""
    requested = request.query.get("lang", "")
    if requested in LANGUAGES:
        return requested
    preferences: dict[str, float] = {}
    for part in request.headers.get("accept-language", "").lower().split(","):
        name, _, rest = part.partition(";")
        preferences.setdefault(name.strip()[:2], static_files.parse_quality(rest))
    return max(LANGUAGES, key=lambda language: preferences.get(language, 0.0))


@cache
def _page(language: str) -> static_files.CompressedText:
    """Return the page, built once per process; 8 kB per language."""
    return static_files.compress(_html(language, "", {"view": "choose"}))


def _read(name: str) -> bytes:
    return static_files.read(os.path.join(FOLDER, name))


def _words() -> dict[str, Any]:
    words: dict[str, Any] = json.loads(_read("words.json"))
    return words


def _escape(text: object) -> str:
    """Escape for HTML elements and quoted attributes."""
    from html import escape

    return escape(str(text))
