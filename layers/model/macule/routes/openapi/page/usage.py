"""The usage of an operation: sample requests in curl, Python and JavaScript (Node), and a form."""

from __future__ import annotations

import re
from html import escape
from typing import NamedTuple

from macule.routes.openapi.page.markup import Node, lines

URL = "http://localhost:8080"  # replaced with the page's origin by its script
FORM, JSON = "multipart/form-data", "application/json"
# The body of an inference request; "%s" is the photo in base64.
TENSOR = '{"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": ["%s"]}]}'
KEY = """<label>API key, if the service needs one
<input type="password" class="key" autocomplete="off" spellcheck="false"></label>"""


class Call(NamedTuple):
    """A sample request; `body`: "form", "tensor" or "" for none."""

    method: str
    url: str
    needs_key: bool
    body: str
    answers_json: bool


def samples(operation: Node) -> dict[str, str]:
    """Return a sample request by language.

    Args:
      operation: resolved by `page`, with its `route` and parameters by name.
    """
    call = _call(operation)
    return {"curl": _curl(call), "Python": _python(call), "JavaScript": _javascript(call)}


def body_kind(operation: Node) -> str:
    """Return the body of a sample: "form", "tensor" or "" for none."""
    forms = operation["requestBody"].get("content", {})
    return "form" if FORM in forms else "tensor" if forms else ""


def needs_key(operation: Node) -> bool:
    """Return whether *operation* needs an API key."""
    return "401" in operation["responses"]


def path_value(name: str, parameters: Node) -> str:
    """Return a sample value of a path parameter: its example or its first enum value."""
    parameter = parameters[name]
    return str(parameter.get("example") or parameter["schema"]["enum"][0])


def form(operation: Node, parameters: Node) -> str:
    """Return the form of *operation*, which `docs.js` submits: *parameters*, photo and key."""
    method, path = operation["route"].split(" ")
    fields = [_field(*named, parameters) for named in parameters.items()]
    needed = sum(parameter["in"] == "path" for parameter in parameters.values())
    body = body_kind(operation)
    if body:
        photo = f'<input type="file" name="image" accept="image/*" data-in="{body}">'
        fields.insert(needed, f"<label>Photo {photo}</label>")
    if needs_key(operation):
        fields.insert(needed + bool(body), KEY)
    return f"""<details class="try" hidden><summary>Try it</summary>
<form data-method="{method}" data-path="{escape(path)}">
{lines(fields)}
<button>Send</button>
</form>
<div class="answer" tabindex="-1" hidden></div>
</details>"""


def _field(name: str, parameter: Node, parameters: Node) -> str:
    """Return one input; path parameters are prefilled, others show an example."""
    where, schema = parameter["in"], parameter["schema"]
    given = f'name="{escape(name)}" data-in="{where}"'
    if "enum" in schema:
        values = (escape(str(value)) for value in schema["enum"] if value)
        options = "".join(f"<option>{value}</option>" for value in values)
        empty = "" if where == "path" else "<option></option>"
        return f"<label>{escape(name)} <select {given}>{empty}{options}</select></label>"
    if where == "path":
        given += f' value="{escape(path_value(name, parameters))}" required'
    elif "example" in parameter:
        given += f' placeholder="{escape(str(parameter["example"]))}"'
    return f'<label>{escape(name)} <input {given} autocomplete="off" spellcheck="false"></label>'


def _call(operation: Node) -> Call:
    method, path = operation["route"].split(" ")
    path = re.sub(r"{(\w+)}", lambda found: path_value(found[1], operation["parameters"]), path)
    kinds = next(iter(operation["responses"].values())).get("content", {})
    answers_json = next(iter(kinds), "") == JSON
    return Call(method, URL + path, needs_key(operation), body_kind(operation), answers_json)


def _curl(call: Call) -> str:
    words = [f"curl {call.url}"]
    if call.method == "POST" and not call.body:
        words[0] = f"curl -X POST {call.url}"
    if call.needs_key:
        words.append('-H "Authorization: Bearer $MACULE_API_KEY"')
    if call.body == "form":
        words.append("-F image=@photo.jpg")
    if call.body == "tensor":
        words += [f'-H "Content-Type: {JSON}"', "-d @-"]
    command = " \\\n  ".join(words)
    if call.body != "tensor":
        return command
    return f"printf '{TENSOR}' \\\n  \"$(base64 < photo.jpg | tr -d '\\n')\" |\n{command}"


def _python(call: Call) -> str:
    modules, head, given = [], [], [f'"{call.url}",']
    if call.needs_key:
        modules.append("import os")
        given.append("""headers={"Authorization": f"Bearer {os.environ.get('MACULE_API_KEY')}"},""")
    if call.body:
        modules.append("from pathlib import Path")
        head.append('photo = Path("photo.jpg").read_bytes()')
    if call.body == "form":
        given.append('files={"image": photo},')
    if call.body == "tensor":
        modules.insert(0, "import base64")
        tensor = TENSOR.replace('"%s"', "base64.b64encode(photo).decode()")
        head.append(f"body = {tensor}")
        given.append("json=body,")
    script = [*modules, "", "import requests", ""] if modules else ["import requests", ""]
    script += [*head, f"response = requests.{call.method.lower()}("]
    script += [*(f"    {argument}" for argument in (*given, "timeout=60,")), ")"]
    shown = "response.json()" if call.answers_json else "response.text"
    return "\n".join([*script, "response.raise_for_status()", f"print({shown})"])


def _javascript(call: Call) -> str:
    head, headers, options = [], [], []
    if call.body:
        head += ['import { readFile } from "node:fs/promises"; // in a page: input.files[0]', ""]
        head.append('const photo = await readFile("photo.jpg");')
    if call.method != "GET":
        options.append(f'method: "{call.method}",')
    if call.needs_key:
        headers.append("Authorization: `Bearer ${process.env.MACULE_API_KEY}`")
    if call.body == "form":
        head += ["const body = new FormData();", 'body.set("image", new Blob([photo]));']
    if call.body == "tensor":
        tensor = re.sub(r'"(\w+)":', r"\1:", TENSOR).replace('"%s"', 'photo.toString("base64")')
        head.append(f"const body = JSON.stringify({tensor});")
        headers.append(f'"Content-Type": "{JSON}"')
    if headers:
        options.append(f"headers: {{ {', '.join(headers)} }},")
    if call.body:
        options.append("body,")
    inside = "".join(f"  {option}\n" for option in options)
    given = f", {{\n{inside}}}" if inside else ""
    kind = "json" if call.answers_json else "text"
    asked = f'const response = await fetch("{call.url}"{given});'
    failed = "if (!response.ok) throw new Error(await response.text());"
    return "\n".join([*head, asked, failed, f"console.log(await response.{kind}());"])
