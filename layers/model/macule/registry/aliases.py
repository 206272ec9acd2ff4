"""Model names in a bucket: immutable content addresses, and aliases that point to them."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from hashlib import sha256

from macule.errors import ModelUnavailable

ADDRESS = re.compile(r"[0-9a-f]{64}")


def address(card: bytes) -> str:
    """Return the content address of a model: the sha256 of its card, which has its file's."""
    return sha256(card).hexdigest()


def parse(content: bytes) -> dict[str, str]:
    """Parse an alias.

    Returns: the current address as `now`; the previous one as `before`, or "".
    Raises: ModelUnavailable.
    """
    with suppress(ValueError, RecursionError):
        document = json.loads(content)
        if isinstance(document, dict):
            now, before = str(document.get("now")), str(document.get("before"))
            if ADDRESS.fullmatch(now):
                return {"now": now, "before": before if ADDRESS.fullmatch(before) else ""}
    raise ModelUnavailable("The alias is not one that `macule publish` wrote.")
