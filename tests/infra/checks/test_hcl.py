"""Terraform's language, evaluated without a cloud."""

import pytest

from infra.checks import hcl

FILE = """
variable "open" {
  type    = bool
  default = false
}
variable "keys" { default = "" }
variable "region" { type = string }
resource "a_kind" "always" {
  text  = "in ${var.region} \\"${var.keys}\\""
  list  = [1, -2.5, "x", null]
  names = { one = var.keys != "" && var.open, "two" = 2 + 3 * 4 }
  later = a_kind.other.id
  dynamic "part" {
    for_each = var.keys == "" ? [] : [var.keys]
    content { name = part.value }
  }
}
resource "a_kind" "other" {
  count = var.open ? 1 : 0
}
"""


def test_conditions_counts_and_dynamic_blocks_are_evaluated() -> None:
    """With variables set, texts, sums, conditions and blocks have Terraform's values."""
    made = hcl.plan(FILE, {"open": True, "keys": "k", "region": "eu"}).resources

    assert set(made) == {"a_kind.always", "a_kind.other"}
    assert made["a_kind.always"] == {
        "text": 'in eu "k"',
        "list": [1, -2.5, "x", None],
        "names": {"one": True, "two": 14},
        "later": "a_kind.other.id",
        "part": [{"name": "k"}],
    }


def test_values_known_after_apply_stay_unknown() -> None:
    """A variable without a value and another resource's attribute are unknown, also in texts."""
    made = hcl.plan(FILE, {"open": True}).resources["a_kind.always"]

    assert isinstance(made["later"], hcl.Unknown)
    assert made["text"] == 'in ${var.region} ""'
    assert "part" not in made


def test_a_resource_with_count_0_cannot_be_referenced() -> None:
    """A count of 0 removes a resource, and references to it are reported, as in a plan."""
    plan = hcl.plan(FILE, {})

    assert set(plan.resources) == {"a_kind.always"}
    assert plan.faults == ["a_kind.other.id: it is not made, as its count is 0"]


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("var.closed", "var.closed: there is no such variable"),
        ("b_kind.none.id", "b_kind.none.id: nothing of that name is declared"),
        ("data.b_kind.none[0].id", "data.b_kind.none[0].id: nothing of that name is declared"),
    ],
)
def test_an_undeclared_reference_is_reported(value: str, fault: str) -> None:
    """A reference to an undeclared name is an error that names it."""
    assert hcl.plan(f'output "x" {{\n  value = {value}\n}}\n', {}).faults == [fault]


def test_what_cannot_be_evaluated_is_rejected() -> None:
    """An unknown function is an error, not a guess."""
    with pytest.raises(ValueError, match="the function sha512 is not evaluated here"):
        hcl.plan('output "x" {\n  value = sha512("x")\n}\n', {})
