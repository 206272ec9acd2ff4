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


def test_conditions_counts_and_dynamic_blocks_are_decided() -> None:
    """With variables set, texts, sums, conditions and blocks come out as Terraform makes them."""
    made = hcl.plan(FILE, {"open": True, "keys": "k", "region": "eu"}).resources

    assert set(made) == {"a_kind.always", "a_kind.other"}
    assert made["a_kind.always"] == {
        "text": 'in eu "k"',
        "list": [1, -2.5, "x", None],
        "names": {"one": True, "two": 14},
        "later": "a_kind.other.id",
        "part": [{"name": "k"}],
    }


def test_what_only_an_apply_knows_stays_an_address() -> None:
    """A variable without a value, and another resource's attribute, are unknown, also in texts."""
    made = hcl.plan(FILE, {"open": True}).resources["a_kind.always"]

    assert isinstance(made["later"], hcl.Unknown)
    assert made["text"] == 'in ${var.region} ""'
    assert "part" not in made


def test_what_is_not_made_cannot_be_referred_to() -> None:
    """A count of 0 leaves a resource out, and who refers to it is named, as in a plan."""
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
def test_what_is_not_declared_is_named(value: str, fault: str) -> None:
    """A reference to nothing is a fault that names it."""
    assert hcl.plan(f'output "x" {{\n  value = {value}\n}}\n', {}).faults == [fault]


def test_what_cannot_be_evaluated_is_refused() -> None:
    """A function that is unknown here is an error, not a guess."""
    with pytest.raises(ValueError, match="the function sha512 is not evaluated here"):
        hcl.plan('output "x" {\n  value = sha512("x")\n}\n', {})
