"""What one check of `macule doctor` found."""

from typing import NamedTuple

OK, WARN, FAIL = "ok", "warn", "FAIL"


class CheckResult(NamedTuple):
    """What one check found; the text of a FAIL or a warning ends with what to do."""

    level: str
    check: str
    text: str
