"""`macule plan`: memory of a real process, and the verdicts that follow."""

import re
import subprocess
import sys
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from macule.cli import plan
from macule.registry import local, model_card

MB = 2**20
NEED = plan.Footprint(27 * MB, 9 * MB, 21 * MB, 27 * MB)
SHIPPED: Any = SimpleNamespace(
    card=model_card.read(local.DEFAULT_MODEL_DIR)
)  # nothing is loaded in this process
PLAN = [sys.executable, "-m", "macule.cli", "plan"]


def test_the_default_model_needs_what_was_measured() -> None:
    """Its service needs between 60 MB, where it rejects photos, and 64 MB, where it works."""
    assert 60 * MB < NEED.service_bytes <= 64 * MB


def test_more_memory_takes_larger_photos() -> None:
    """A photo that fits a limit fits a larger one, and below the minimum none does."""
    small, large = (
        plan.compute_capacity(NEED.service_bytes, 256, limit_mb, 120_000_000)
        for limit_mb in (80, 256)
    )

    assert 0 < small.slots < large.slots
    assert all(small.largest_mp[kind] <= large.largest_mp[kind] for kind in small.largest_mp)
    assert plan.compute_capacity(NEED.service_bytes, 256, 60, 120_000_000).slots == 0


def test_a_verdict_never_shows_a_negative_amount() -> None:
    """Between the idle service and its first 12 MP photo the verdict shows what is left."""
    _, least_mb = plan.memory_breakdown(NEED)
    text, holds = plan.report(NEED, SHIPPED, [least_mb + 1, least_mb - 1], 120_000_000)

    assert text[-2].endswith("fits, but 1.0 MB are free: too little for a 12 MP photo")
    assert text[-1].endswith("does not fit: 1.0 MB are missing")
    assert not holds


@given(st.tuples(*[st.integers(0, 200 * MB)] * 4), st.integers(1, 1000))
def test_displayed_figures_add_up(sizes: tuple[int, int, int, int], limit_mb: int) -> None:
    """The displayed rows sum to the total, and total and remainder to the limit."""
    text, _ = plan.report(plan.Footprint(*sizes), SHIPPED, [limit_mb], 120_000_000)
    rows = [Decimal(line.split()[-2]) for line in text if line.endswith(" MB")]
    (left,) = re.findall(r"([\d.]+) MB are (?:free|missing)", "\n".join(text))

    assert sum(rows[:-1]) == rows[-1]
    assert abs(limit_mb - rows[-1]) == Decimal(left)


def test_without_limits_one_suitable_instance_is_enough() -> None:
    """Without limits the verdict is whether any common instance size is enough."""
    large = NEED._replace(private=200 * MB)

    assert plan.report(large, SHIPPED, [], 120_000_000)[1]
    assert not plan.report(large, SHIPPED, [256, 128], 120_000_000)[1]
    assert not plan.report(NEED._replace(private=900 * MB), SHIPPED, [], 120_000_000)[1]


@pytest.mark.memory
def test_command_measures_and_judges() -> None:
    """It prints the active model's memory and a verdict for each limit; 1: a limit fails."""
    asked = [*PLAN, "--limit", "50", "--limit", "512"]
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    holds = subprocess.run([*PLAN, "--limit", "512"], capture_output=True, check=False)

    assert (done.returncode, holds.returncode) == (1, 0)
    assert "50 MB: does not fit: " in done.stdout
    assert "512 MB: fits" in done.stdout
    assert "PNG 120" in done.stdout


def test_a_missing_model_is_named() -> None:
    """A folder without a card is one sentence and exit code 2."""
    done = subprocess.run([*PLAN, "--model", "/nowhere"], capture_output=True, text=True)

    assert done.returncode == 2
    assert "no model.json" in done.stderr
