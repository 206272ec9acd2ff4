"""Each template has a check, which accepts what is deployed; its mutants are in checks/."""

import pytest
from service import ROOT

from infra import checks, generate, limits

TABLE = limits.read()


@pytest.mark.parametrize("path", checks.CHECKS)
def test_what_is_deployed_is_accepted(path: str) -> None:
    """No check finds anything in the committed template."""
    assert list(checks.CHECKS[path]((ROOT / path).read_text(), TABLE)) == []


def test_every_template_with_limits_is_checked() -> None:
    """Each template that the table is written into has a check."""
    assert set(generate.OUTPUTS) == set(checks.CHECKS)
