"""What a translation must keep: headings, code, links and figures."""

import re

# What a translation keeps.
KEPT = {
    "headings": r"^#+(?= )",
    "code": r"^```.*?^```",
    "words of code": r"`[^`]+`",
    "links": r"\]\(([^)]+)\)",
    "figures": r"\d+(?:\.\d+)*",
    "rows": r"^\|",
    "points": r"^- ",
}


def kept(text: str, kind: str) -> list[str]:
    """Return all items of one kind in a README; code is compared as a whole."""
    if kind != "code":
        text = re.sub(KEPT["code"], "", text, flags=re.MULTILINE | re.DOTALL)
        text = text.replace("README.vi.md", "README.md")  # each page links to the other
    found = re.findall(KEPT[kind], text, re.MULTILINE | re.DOTALL)
    if kind in ("code", "headings"):
        return found
    return sorted(" ".join(part.split()) for part in found)  # the order in a sentence may differ
