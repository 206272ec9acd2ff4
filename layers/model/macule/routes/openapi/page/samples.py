"""Samples of a request to each operation: for a shell with curl, Python and JavaScript (Node)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

URL = "http://localhost:8080"  # the page's script puts its own origin in place of this
FORM, JSON = "multipart/form-data", "application/json"
# The body of an inference request; "%s" is the photo in base64.
TENSOR = '{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["%s"]}]}'

Node = Mapping[str, Any]


class Call(NamedTuple):
    """What a request is made of; `sends` is "form", "tensor" or "" for nothing."""

    method: str
    url: str
    keyed: bool
    sends: str
    answers_json: bool


def samples(operation: Node) -> dict[str, str]:
    """Write a request in each language, by its name.

    Args:
      operation: as `page` flattens it, with its `route` and its parameters by name.
    """
    call = _call(operation)
    return {"curl": _curl(call), "Python": _python(call), "JavaScript": _javascript(call)}


def body_kind(operation: Node) -> str:
    """Say which body a sample of *operation* sends: a "form", a "tensor" or none."""
    forms = operation["requestBody"].get("content", {})
    return "form" if FORM in forms else "tensor" if forms else ""


def needs_key(operation: Node) -> bool:
    """Say whether *operation* needs a key where the service has keys."""
    return "401" in operation["responses"]


def path_value(name: str, parameters: Node) -> str:
    """Return a value for *name*, a part of a path: its example, or the first that it may be."""
    parameter = parameters[name]
    return str(parameter.get("example") or parameter["schema"]["enum"][0])


def _call(operation: Node) -> Call:
    method, path = operation["route"].split(" ")
    path = re.sub(r"{(\w+)}", lambda found: path_value(found[1], operation["parameters"]), path)
    kinds = next(iter(operation["responses"].values())).get("content", {})
    return Call(
        method,
        URL + path,
        needs_key(operation),
        body_kind(operation),
        next(iter(kinds), "") == JSON,
    )


def _curl(call: Call) -> str:
    words = [f"curl {call.url}"]
    if call.method == "POST" and not call.sends:
        words[0] = f"curl -X POST {call.url}"
    if call.keyed:
        words.append('-H "Authorization: Bearer $MACULE_API_KEY"')
    if call.sends == "form":
        words.append("-F image=@photo.jpg")
    if call.sends == "tensor":
        words += [f'-H "Content-Type: {JSON}"', "-d @-"]
    command = " \\\n  ".join(words)
    if call.sends != "tensor":
        return command
    return f"printf '{TENSOR}' \\\n  \"$(base64 < photo.jpg | tr -d '\\n')\" |\n{command}"


def _python(call: Call) -> str:
    modules, head, given = [], [], [f'"{call.url}",']
    if call.keyed:
        modules.append("import os")
        given.append("""headers={"Authorization": f"Bearer {os.environ.get('MACULE_API_KEY')}"},""")
    if call.sends:
        modules.append("from pathlib import Path")
        head.append('photo = Path("photo.jpg").read_bytes()')
    if call.sends == "form":
        given.append('files={"image": photo},')
    if call.sends == "tensor":
        modules.insert(0, "import base64")
        tensor = TENSOR.replace('"%s"', "base64.b64encode(photo).decode()")
        head.append(f"body = {tensor}")
        given.append("json=body,")
    lines = [*modules, "", "import requests", ""] if modules else ["import requests", ""]
    lines += [*head, f"response = requests.{call.method.lower()}("]
    lines += [*(f"    {argument}" for argument in (*given, "timeout=60,")), ")"]
    shown = "response.json()" if call.answers_json else "response.text"
    return "\n".join([*lines, "response.raise_for_status()", f"print({shown})"])


def _javascript(call: Call) -> str:
    head, headers, options = [], [], []
    if call.sends:
        head += ['import { readFile } from "node:fs/promises"; // in a page: input.files[0]', ""]
        head.append('const photo = await readFile("photo.jpg");')
    if call.method != "GET":
        options.append(f'method: "{call.method}",')
    if call.keyed:
        headers.append("Authorization: `Bearer ${process.env.MACULE_API_KEY}`")
    if call.sends == "form":
        head += ["const body = new FormData();", 'body.set("image", new Blob([photo]));']
    if call.sends == "tensor":
        tensor = re.sub(r'"(\w+)":', r"\1:", TENSOR).replace('"%s"', 'photo.toString("base64")')
        head.append(f"const body = JSON.stringify({tensor});")
        headers.append(f'"Content-Type": "{JSON}"')
    if headers:
        options.append(f"headers: {{ {', '.join(headers)} }},")
    if call.sends:
        options.append("body,")
    inside = "".join(f"  {option}\n" for option in options)
    given = f", {{\n{inside}}}" if inside else ""
    kind = "json" if call.answers_json else "text"
    asked = f'const response = await fetch("{call.url}"{given});'
    failed = "if (!response.ok) throw new Error(await response.text());"
    return "\n".join([*head, asked, failed, f"console.log(await response.{kind}());"])
