"""What a translation must leave as it is: headings, code, links and figures."""

import re

# What a translation leaves as it is.
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
    """Find what of one kind a README holds; code is looked into as a whole alone."""
    if kind != "code":
        text = re.sub(KEPT["code"], "", text, flags=re.MULTILINE | re.DOTALL)
        text = text.replace("README.vi.md", "README.md")  # each links to the other
    found = re.findall(KEPT[kind], text, re.MULTILINE | re.DOTALL)
    if kind in ("code", "headings"):
        return found
    return sorted(" ".join(part.split()) for part in found)  # a sentence may be turned round
