"""The OpenAPI document as one HTML page: no scripts, and nothing else is asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

MOST_CHARACTERS = 90  # of a text in an example
SHARED = ("parameters", "responses", "headers")  # what all operations have of these is told once

Node = Mapping[str, Any]


def style() -> str:
    """Return the page's one style."""
    return _read("page.css")


def html(document: Node) -> str:
    """Write the page of an OpenAPI document."""
    info, components = document["info"], document["components"]
    operations = [
        _flat(f"{method.upper()} {path}", operation, components)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    shared = {kind: _common([each[kind] for each in operations]) for kind in SHARED}
    tags, contents = [], []
    for tag in document["tags"]:
        own = [each for each in operations if tag["name"] in each["tags"]]
        contents.append(f"<p>{tag['name']}</p>\n<ul>\n{_lines(map(_link, own))}\n</ul>")
        tags.append(f"<h2>{tag['name']}</h2>\n<p>{_prose(tag['description'])}</p>")
        tags += [_operation(each, shared) for each in own]
    return _read("page.html").format(
        style=style(),
        title=escape(info["title"]),
        version=escape(info["version"]),
        about=_lines(f"<p>{_prose(text)}</p>" for text in info["description"].split("\n\n")),
        contents=_lines(contents),
        tags=_lines(tags),
        every=_tables(shared) + _examples(shared["responses"]),
        schemas=_lines(_schema(name, schema) for name, schema in components["schemas"].items()),
    )


def _flat(route: str, operation: Node, components: Node) -> dict[str, Any]:
    """Return an operation with its route, and with all that it refers to but schemas by name."""

    def found(node: Node) -> Node:
        if "$ref" not in node:
            return node
        _, _, kind, name = node["$ref"].split("/")
        there: Node = components[kind][name]
        return there

    parameters = map(found, operation["parameters"])
    headers: dict[str, Node] = {}
    responses = {}
    for status, answer in operation["responses"].items():
        headers |= {name: found(header) for name, header in answer["headers"].items()}
        content = {
            kind: {**form, "examples": {k: found(v) for k, v in form.get("examples", {}).items()}}
            for kind, form in answer.get("content", {}).items()
        }
        responses[status] = {**answer, "content": content}
    return {
        **operation,
        "route": route,
        "parameters": {parameter["name"]: parameter for parameter in parameters},
        "requestBody": found(operation.get("requestBody", {})),
        "responses": responses,
        "headers": headers,
    }


def _common(each: list[Node]) -> Node:
    """Return what all of *each* have under one name, and alike."""
    first, *others = each
    return {
        name: value
        for name, value in first.items()
        if all(other.get(name) == value for other in others)
    }


def _operation(operation: Node, shared: Node) -> str:
    """Write one operation: what it is for, how to ask, what it takes and answers."""
    own = {
        kind: {name: it for name, it in operation[kind].items() if name not in shared[kind]}
        for kind in SHARED
    }
    name = operation["operationId"]
    return f"""<section aria-labelledby="{name}">
<h3 id="{name}">{_code(escape(operation["route"]))}</h3>
<p><strong>{_prose(operation["summary"])}</strong></p>
<p>{_prose(operation["description"])}</p>
<pre class="curl">{escape(_curl(operation))}</pre>
{_body(operation["requestBody"])}
{_tables(own)}
{_examples(own["responses"])}
</section>"""


def _curl(operation: Node) -> str:
    """Write a command that asks; what a path has in braces is a variable of the shell."""
    method, path = operation["route"].split(" ")
    forms = operation["requestBody"].get("content", {})
    asks = " -X POST"
    if "multipart/form-data" in forms:
        asks = " -F image=@photo.jpg"
    elif forms:
        asks = " -H 'Content-Type: application/json' -d @request.json"
    path = re.sub(r"{(\w+)}", lambda name: f"${name[1].upper()}", path)
    return f'curl{asks if method == "POST" else ""} "$URL{path}"'


def _body(body: Node) -> str:
    """Write the forms in which a body may come."""
    rows = []
    for kind, form in body.get("content", {}).items():
        members = form["schema"].get("properties", {})
        needed = form["schema"].get("required", ())
        told = [
            f"{_code(name)}{'' if name in needed else ' (if you like)'}: {_type(schema)}"
            for name, schema in members.items()
        ]
        if not told:
            told = [_type(form["schema"]) if form["schema"] else "the file itself"]
        note = _prose(form["schema"].get("description", ""))
        rows.append((_code(kind), "<br>".join(filter(None, [*told, note]))))
    return _table("Body", ("media type", "what"), rows)


def _tables(parts: Node) -> str:
    """Write the tables of parameters, answers and their headers."""
    parameters = [
        (_code(name), f"{it['in']}, {_type(it['schema'])}", _prose(it["description"]))
        for name, it in parts["parameters"].items()
    ]
    answers = [
        (
            _code(status),
            "<br>".join(_content(kind, form) for kind, form in answer["content"].items()),
            _prose(answer["description"]),
        )
        for status, answer in parts["responses"].items()
    ]
    headers = [
        (_code(name), _type(it["schema"]), _prose(it["description"]))
        for name, it in parts["headers"].items()
    ]
    return _lines(
        (
            _table("Parameters", ("name", "where and type", "what"), parameters),
            _table("Answers", ("status", "what", "when"), answers),
            _table("Headers of answers", ("name", "type", "what"), headers),
        )
    )


def _content(kind: str, form: Node) -> str:
    """Name the schema of JSON, of all else the media type."""
    return (
        _type(form["schema"])
        if "$ref" in form["schema"] or "allOf" in form["schema"]
        else _code(kind)
    )


def _examples(responses: Node) -> str:
    """Write real answers, each folded away."""
    return _lines(
        f"<details><summary><code>{status}</code> {escape(example['summary'])}</summary>"
        f"<pre>{escape(_json(example['value']))}</pre></details>"
        for status, answer in responses.items()
        for form in answer["content"].values()
        for example in form["examples"].values()
    )


def _schema(name: str, schema: Node) -> str:
    needed = schema.get("required", ())
    rows = [
        (
            _code(member),
            _type(it) + ("" if member in needed else ", may be missing"),
            _prose(it.get("description", "")),
        )
        for member, it in schema.get("properties", {}).items()
    ]
    kind = "" if rows else f"<p>{_type(schema)}</p>"
    members = _table(f"Members of {name}", ("member", "type", "what"), rows)
    return (
        f'<h3 id="schema-{name}">{name}</h3>\n<p>{_prose(schema.get("description", ""))}</p>\n'
        f"{kind}{members}"
    )


def _type(schema: Node) -> str:
    """Write what a value is, in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{name}">{name}</a>'
    if "const" in schema:
        return _code(escape(json.dumps(schema["const"])))
    if "enum" in schema:
        return ", ".join(_code(escape(value)) for value in schema["enum"])
    for key in ("oneOf", "anyOf"):
        if key in schema:
            return " or ".join(map(_type, schema[key]))
    if "allOf" in schema:
        return _type(schema["allOf"][0])
    kind = schema.get("type", "bytes")
    if kind == "array":
        return f"list of {_type(schema['items'])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    text = " or ".join([kind] if isinstance(kind, str) else kind)
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None:
        text += f", {low} to {high}" if high is not None else f", at least {low}"
    return escape(text)


def _table(caption: str, heads: Iterable[str], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    lines = (
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    return (
        f"<table>\n<caption>{caption}</caption>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{_lines(lines)}\n</tbody>\n</table>"
    )


def _link(operation: Node) -> str:
    route = _code(escape(operation["route"]))
    href = f"#{operation['operationId']}"
    return f'<li><a href="{href}">{route}</a> {_prose(operation["summary"])}</li>'


def _json(value: Any) -> str:
    """Write an example; long texts are cut, short lists stay on one line."""

    def cut(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: cut(inner) for key, inner in part.items()}
        if isinstance(part, list):
            return [cut(inner) for inner in part]
        long = isinstance(part, str) and len(part) > MOST_CHARACTERS
        return f"{part[:MOST_CHARACTERS]}…" if long else part

    text = json.dumps(cut(value), indent=2, ensure_ascii=False)
    return re.sub(r"\[[^\[\]{}]*\]", lambda found: " ".join(found[0].split()), text)


def _prose(text: str) -> str:
    """Escape a text; `code` and **strong** are all the marks that it may have."""
    escaped = escape(text, quote=False)
    marked = re.sub(r"`([^`]+)`", lambda found: _code(found[1]), escaped)
    return re.sub(r"\*\*([^ *][^*]*)\*\*", r"<strong>\1</strong>", marked)


def _code(text: str) -> str:
    """Write what is escaped, so that a narrow column may break it where its parts end."""
    pieces = re.sub("([/_.:])", r"\1<wbr>", text)
    return f"<code>{pieces}</code>"


def _read(name: str) -> str:
    """Read a file of this package; nothing of it is kept."""
    return (Path(__file__).parent / name).read_text("utf-8")


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(part for part in parts if part)
