"""Tables of parameters and answers; recorded examples, problems and schemas."""

from __future__ import annotations

import re
from html import escape

from macule.routes.openapi.page.markup import (
    Node,
    Row,
    code,
    details,
    example,
    lines,
    prose,
    table,
    type_name,
)

MAX_OPEN_PARAMETERS = 3  # tables with more parameters are closed
PROBLEM = "application/problem+json"


def body(sent: Node) -> str:
    """Return the table of a body's media types."""
    rows = []
    for kind, form in sent.get("content", {}).items():
        needed = form["schema"].get("required", ())
        parts = [
            f"{code(name)}{'' if name in needed else ' (optional)'}: {type_name(schema)}"
            for name, schema in form["schema"].get("properties", {}).items()
        ]
        if not parts:
            parts = [type_name(form["schema"]) if form["schema"] else "the file itself"]
        note = prose(form["schema"].get("description", ""))
        rows.append(Row((code(kind), "<br>".join(filter(None, [*parts, note])))))
    return details("Body", table("Body", "Body", ("media type", "what"), rows))


def tables(prefix: str, parts: Node, problems: Node) -> str:
    """Return the tables of parameters, answers and headers."""
    parameters = [
        Row(
            (code(name), f"{it['in']}, {type_name(it['schema'])}", prose(it["description"])),
            f"{prefix}.{name}",
        )
        for name, it in parts["parameters"].items()
    ]
    answers = [
        Row((code(status), *_answer(answer, problems)))
        for status, answer in parts["responses"].items()
    ]
    headers = [
        Row((code(name), type_name(it["schema"]), prose(it["description"])), f"{prefix}.{name}")
        for name, it in parts["headers"].items()
        if name not in parts["parameters"]
    ]
    statuses = " ".join(code(status) for status in parts["responses"])
    names = ("name", "type", "what")
    return lines(
        (
            details(
                "Parameters",
                table("Parameters", "Parameter", ("name", "where and type", "what"), parameters),
                is_open=len(parameters) <= MAX_OPEN_PARAMETERS,
            ),
            details(
                f"Answers {statuses}",
                table("Answers", "Answer", ("status", "what", "when"), answers),
            ),
            details("Headers of answers", table("Headers of answers", "Header", names, headers)),
        )
    )


def _answer(answer: Node, problems: Node) -> tuple[str, str]:
    """Return an answer's content and description, with problem slugs linked."""
    content = "<br>".join(_content(kind, form) for kind, form in answer["content"].items())

    def linked(found: re.Match[str]) -> str:
        slug = found[1]
        return f'<a href="#problem-{slug}">{found[0]}</a>' if slug in problems else found[0]

    return content, re.sub(r"<code>([\w-]+)</code>", linked, prose(answer["description"]))


def _content(kind: str, form: Node) -> str:
    """Return the schema of JSON content, else the media type."""
    named = "$ref" in form["schema"] or "allOf" in form["schema"]
    return type_name(form["schema"]) if named else code(kind)


def examples(responses: Node) -> str:
    """Return recorded answers, the first open if short; problems have their own section."""
    shown = [
        (f"Example {code(status)} {escape(each['summary'])}", each["value"])
        for status, answer in responses.items()
        for kind, form in answer["content"].items()
        for each in form["examples"].values()
        if kind != PROBLEM
    ]
    return lines(example(*it, is_open=at == 0) for at, it in enumerate(shown))


def problem(slug: str, shown: Node) -> str:
    summary = f"{code(str(shown['value']['status']))} {code(slug)} {escape(shown['summary'])}"
    return (
        f'<div id="problem-{slug}" class="found" data-kind="Problem" data-name="{slug}">\n'
        f"{example(summary, shown['value'])}\n</div>"
    )


def schema(name: str, shown: Node) -> str:
    """Return a schema with its members or its type."""
    needed = shown.get("required", ())
    rows = [
        Row(
            (
                code(member),
                type_name(it) + ("" if member in needed else ", may be missing"),
                prose(it.get("description", "")),
            ),
            f"schema-{name}.{member}",
        )
        for member, it in shown.get("properties", {}).items()
    ]
    kind = "" if rows else f"<p>{type_name(shown)}</p>"
    members = table(f"Members of {name}", "Field", ("member", "type", "what"), rows)
    summary = f"{code(name)} <span>{prose(shown.get('description', ''))}</span>"
    return (
        f'<div id="schema-{name}" class="found" data-kind="Schema" data-name="{name}">\n'
        f"{details(summary, kind or members)}\n</div>"
    )
