"""Each template has a check that accepts what is deployed; its mutants are in checks/."""

import subprocess

import pytest
from support.mutants import changed
from support.service import ROOT

from infra import checks, generate, limits

TABLE = limits.read()


@pytest.mark.parametrize("path", checks.CHECKS)
def test_committed_templates_are_accepted(path: str) -> None:
    """No check finds anything in a committed template."""
    assert list(checks.CHECKS[path]((ROOT / path).read_text(), TABLE)) == []


@pytest.mark.parametrize("path", checks.CHECKS)
def test_all_options_of_the_table_are_accepted(path: str) -> None:
    """With keys, a canary and alarms no check finds anything either."""
    asked = {"api_keys": True, "rollout.canary_percent": 10, "rollout.alarms": True}
    table = changed(asked)

    assert list(checks.CHECKS[path](generate.outputs(table)[path], table)) == []


def test_every_template_with_limits_is_checked() -> None:
    """Each template that contains a limit of the table has a check."""
    assert set(generate.OUTPUTS) == set(checks.CHECKS)


@pytest.mark.parametrize(
    "path",
    [
        "infra/gcp/.terraform/providers/x",
        "infra/gcp/terraform.tfstate",
        "infra/gcp/terraform.tfstate.backup",
        "infra/gcp/alarms/terraform.tfstate",
        "infra/gcp/my.auto.tfvars",
        "infra/gcp/crash.log",
        "infra/aws/.aws-sam/build.toml",
        "infra/aws/samconfig.toml",
    ],
)
def test_files_of_deployments_are_ignored(path: str) -> None:
    """Git ignores states, which may hold keys, and files that the tools write."""
    assert (
        subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT, check=False).returncode == 0
    )
