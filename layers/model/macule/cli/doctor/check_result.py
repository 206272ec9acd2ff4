"""The result of one check of `macule doctor`."""

from typing import NamedTuple

OK, WARN, FAIL = "ok", "warn", "FAIL"


class CheckResult(NamedTuple):
    """The result of a check; the text of a FAIL or warning ends with what to do."""

    level: str
    check: str
    text: str
