"""`macule plan`: the ledger of a real process, and verdicts that follow from it."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from macule import manifest, plan, store

MB = 2**20
NEED = plan.Need(27 * MB, 9 * MB, 21 * MB, 27 * MB)
PLAN = [sys.executable, "-m", "macule.cli", "plan"]


def test_the_default_model_holds_where_it_was_measured_to_hold() -> None:
    """Its service needs between 60 MB, where it refuses photos, and 64 MB, where it holds."""
    assert 60 * MB < NEED.service <= 64 * MB


def test_more_memory_takes_larger_photos() -> None:
    """Each photo that fits a limit fits a larger one too, and below the need none does."""
    small, large = (plan.fit(NEED.service, 256, limit_mb, 120_000_000) for limit_mb in (80, 256))

    assert 0 < small.slots < large.slots
    assert all(small.largest_mp[kind] <= large.largest_mp[kind] for kind in small.largest_mp)
    assert plan.fit(NEED.service, 256, 60, 120_000_000).slots == 0


def test_a_limit_that_takes_no_photo_is_not_called_short_of_less_than_nothing() -> None:
    """Between the bare service and its first photo of 12 MP the verdict says what is left."""
    shipped: Any = SimpleNamespace(card=manifest.read(store.SHIPPED))  # nothing is loaded here
    need = NEED._replace(private=NEED.private + 1)
    least_mb = need.service / MB
    told = list(plan.lines(need, shipped, [least_mb + 1, least_mb - 1], 120_000_000))

    assert told[-2].endswith("holds, but no photo of 12 MP fits into the 1.0 MB left")
    assert told[-1].endswith("does not hold; it is 1.0 MB short")


@pytest.mark.memory
def test_command_measures_and_judges() -> None:
    """It prints the ledger of the model in use, and a verdict for each limit asked."""
    told = subprocess.check_output([*PLAN, "--limit", "50", "--limit", "512"], text=True)

    assert "50 MB: does not hold; it is" in told
    assert "512 MB: holds" in told
    assert "PNG 120" in told


def test_a_missing_model_is_named() -> None:
    """A folder without a card is one sentence and exit code 2."""
    done = subprocess.run([*PLAN, "--model", "/nowhere"], capture_output=True, text=True)

    assert done.returncode == 2
    assert "no model.json" in done.stderr
