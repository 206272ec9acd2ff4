"""The form that sends a request to an operation; `docs.js` shows and submits it."""

from __future__ import annotations

from html import escape

from macule.routes.openapi.page.markup import Node, lines
from macule.routes.openapi.page.samples import body_kind, needs_key, path_value

KEY = """<label>API key, if the service needs one
<input type="password" class="key" autocomplete="off" spellcheck="false"></label>"""


def form(operation: Node, parameters: Node) -> str:
    """Return the form of *operation*: *parameters*, photo, key, and a place for the answer."""
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
        options = "".join(f"<option>{escape(value)}</option>" for value in schema["enum"] if value)
        empty = "" if where == "path" else "<option></option>"
        return f"<label>{escape(name)} <select {given}>{empty}{options}</select></label>"
    if where == "path":
        given += f' value="{escape(path_value(name, parameters))}" required'
    elif "example" in parameter:
        given += f' placeholder="{escape(str(parameter["example"]))}"'
    return f'<label>{escape(name)} <input {given} autocomplete="off" spellcheck="false"></label>'
