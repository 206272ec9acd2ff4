"""Events as AWS's services send them to a function."""

import base64
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "infra/events"


def event(name: str, body: bytes = b"") -> dict[str, Any]:
    """Return the event *name*; if it has a body, with *body* in base64."""
    read: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    if isinstance(read.get("body"), str):
        read["body"] = base64.b64encode(body).decode()
    return read
