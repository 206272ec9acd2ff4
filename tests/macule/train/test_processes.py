"""Steps in processes of their own."""

from operator import attrgetter, methodcaller

import pytest
from macule.train import processes

pytestmark = pytest.mark.slow  # each process imports TensorFlow

SAYS = methodcaller("__call__", "done")  # a step that logs a line


def test_steps_run_in_processes(capfd: pytest.CaptureFixture[str]) -> None:
    """Each step runs, and what it logs is printed."""
    pytest.importorskip("tensorflow")
    processes.run_all([SAYS, SAYS], 2, processes.print_line)

    assert capfd.readouterr().out.split() == ["done"] * 2


@pytest.mark.parametrize("jobs", [1, 2])
def test_the_first_error_ends_the_run(jobs: int) -> None:
    """A failed step raises its error."""
    pytest.importorskip("tensorflow")
    with pytest.raises(AttributeError, match="nonsense"):
        processes.run_all([attrgetter("nonsense")], jobs, processes.print_line)
