"""The OpenAPI document as one HTML page; readable as is, `docs.js` adds the rest."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from itertools import starmap
from pathlib import Path
from typing import Any

from macule.routes.openapi.page import tables, usage
from macule.routes.openapi.page.markup import Node, breakable, lines, prose

SHARED = ("parameters", "responses", "headers")  # what all operations have in common is shown once
REFERENCE = {"every": "Every operation", "problems": "Problems", "schemas": "Schemas"}


def html(document: Node, versions: Mapping[str, str]) -> str:
    """Return the page of an OpenAPI document; *versions*: of the page's files, by name."""
    info, components = document["info"], document["components"]
    operations = [
        _resolve(f"{method.upper()} {path}", operation, components)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    shared = {kind: _common([each[kind] for each in operations]) for kind in SHARED}
    problems = components.get("examples", {})
    about, *topics = _topics(info["description"])
    tags, contents = [], [_links({id_: head for id_, head, _ in topics[:-1]})]
    for tag in document["tags"]:
        own = [each for each in operations if tag["name"] in each["tags"]]
        contents.append(f"<h2>{escape(tag['name'])}</h2>\n<ul>\n{lines(map(_link, own))}\n</ul>")
        tags.append(f"<h2>{escape(tag['name'])}</h2>\n<p>{prose(tag['description'])}</p>")
        tags += [_operation(each, shared, problems) for each in own]
    contents.append("<h2>Reference</h2>")
    contents.append(_links({**REFERENCE, **{id_: head for id_, head, _ in topics[-1:]}}))
    return _read("page.html").format(
        title=escape(info["title"]),
        version=escape(info["version"]),
        css=versions["docs.css"],
        js=versions["docs.js"],
        about=lines([about[2], *map(_topic, topics[:-1])]),
        contents=lines(contents),
        tags=lines(tags),
        every=tables.tables("every", shared, problems),
        problems=lines(starmap(tables.problem, problems.items())),
        schemas=lines(starmap(tables.schema, components["schemas"].items())),
        last=lines(map(_topic, topics[-1:])),
    )


def _topics(description: str) -> list[tuple[str, str, str]]:
    """Split a description at its headings into (id, heading, HTML); the first has no heading."""
    found: list[tuple[str, str, str]] = []
    for part in f"\n\n{description}".split("\n\n## "):
        head, _, text = part.partition("\n\n") if found else ("", "", part)
        paragraphs = lines(f"<p>{prose(it)}</p>" for it in text.strip().split("\n\n"))
        found.append((re.sub(r"\W+", "-", head.lower()), escape(head), paragraphs))
    return found


def _topic(topic: tuple[str, str, str]) -> str:
    name, head, text = topic
    return (
        f'<section id="{name}" class="topic" aria-labelledby="{name}-head">\n'
        f'<h2 id="{name}-head">{head}</h2>\n{text}\n</section>'
    )


def _resolve(route: str, operation: Node, components: Node) -> dict[str, Any]:
    """Return an operation with its route and with all references but schemas resolved."""

    def resolve(node: Node) -> Node:
        if "$ref" not in node:
            return node
        _, _, kind, name = node["$ref"].split("/")
        target: Node = components[kind][name]
        return target

    parameters = map(resolve, operation["parameters"])
    headers: dict[str, Node] = {}
    responses = {}
    for status, answer in operation["responses"].items():
        headers |= {name: resolve(header) for name, header in answer["headers"].items()}
        content = {
            kind: {**form, "examples": {k: resolve(v) for k, v in form.get("examples", {}).items()}}
            for kind, form in answer.get("content", {}).items()
        }
        responses[status] = {**answer, "content": content}
    return {
        **operation,
        "route": route,
        "parameters": {parameter["name"]: parameter for parameter in parameters},
        "requestBody": resolve(operation.get("requestBody", {})),
        "responses": responses,
        "headers": headers,
    }


def _common(nodes: list[Node]) -> Node:
    """Return the entries that all nodes have in common."""
    first, *others = nodes
    return {
        name: value
        for name, value in first.items()
        if all(other.get(name) == value for other in others)
    }


def _operation(operation: Node, shared: Node, problems: Node) -> str:
    """Return the HTML of one operation: description, tables, samples, form."""
    own = {
        kind: {name: it for name, it in operation[kind].items() if name not in shared[kind]}
        for kind in SHARED
    }
    name = operation["operationId"]
    return f"""<section class="route" id="{name}" aria-labelledby="{name}-head">
<h3 id="{name}-head">{_route(operation["route"])}</h3>
<div class="description">
<p><strong>{prose(operation["summary"])}</strong></p>
<p>{prose(operation["description"])}</p>
{tables.body(operation["requestBody"])}
{tables.tables(name, own, problems)}
</div>
<div class="usage">
{_samples(operation)}
{usage.form(operation, own["parameters"])}
{tables.examples(own["responses"])}
</div>
</section>"""


def _route(route: str) -> str:
    method, path = route.split(" ")
    kind = f'<span class="method {method.lower()}">{method}</span>'
    return f"{kind} <code>{breakable(escape(path))}</code>"


def _samples(operation: Node) -> str:
    """Return a sample in each language; the script turns them into tabs."""
    figures = lines(
        f'<figure><figcaption>{language}</figcaption><div class="code">'
        f'<pre class="sample">{escape(text)}</pre></div></figure>'
        for language, text in usage.samples(operation).items()
    )
    return f'<div class="samples">\n{figures}\n</div>'


def _link(operation: Node) -> str:
    return f'<li><a href="#{operation["operationId"]}">{_route(operation["route"])}</a></li>'


def _links(heads: Mapping[str, str]) -> str:
    items = (f'<li><a href="#{name}">{head}</a></li>' for name, head in heads.items())
    return f"<ul>\n{lines(items)}\n</ul>"


def _read(name: str) -> str:
    """Return the text of a file of this package, uncached."""
    return (Path(__file__).parent / name).read_text("utf-8")
