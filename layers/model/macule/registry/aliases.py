"""Names of models in a bucket: a model's address, which never changes, and aliases, which move."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from hashlib import sha256

from macule.errors import ModelUnavailable

ADDRESS = re.compile(r"[0-9a-f]{64}")


def address(card: bytes) -> str:
    """Return the sha256 of a card, which in turn has its file's: the name of both together."""
    return sha256(card).hexdigest()


def parse(content: bytes) -> dict[str, str]:
    """Read an alias: the addresses of the model it names `now` and of the one `before`, if any.

    Raises: ModelUnavailable.
    """
    with suppress(ValueError, RecursionError):
        document = json.loads(content)
        if isinstance(document, dict):
            now, before = str(document.get("now")), str(document.get("before"))
            if ADDRESS.fullmatch(now):
                return {"now": now, "before": before if ADDRESS.fullmatch(before) else ""}
    raise ModelUnavailable("The alias is not one that `macule publish` wrote.")
