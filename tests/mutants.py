"""Templates with one slip in them, and what their check says of that."""

from service import ROOT

from infra import checks, limits

TABLE = limits.read()


def complaints(path: str, text: str, slip: str) -> list[str]:
    """Replace *text* in the template *path* by *slip*; return what its check finds."""
    whole = (ROOT / path).read_text()
    assert text in whole
    return list(checks.CHECKS[path](whole.replace(text, slip, 1), TABLE))
