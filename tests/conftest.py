"""Hypothesis profiles, selection of the fast tests, and shared fixtures."""

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from macule.inference import sandbox
from support.once import once
from support.service import ROOT
from support.upstreams import Upstream, upstream

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TOOLS = re.compile("could not import '(tensorflow|keras|tf_keras|h5py)'")
# A test file with such a line starts processes, servers or a browser, converts a model, draws
# reports or lints cloud templates.
STARTS = re.compile(
    r"^import (?:schemathesis|subprocess)\b|^from playwright"
    r"|^from support(?: import .*\b|\.)(?:api_examples|bare_environment|broker|browser|keras_models"
    r"|lambda_runtime_api|load_clients|machine|model_sources|mutants|small_model|upstreams"
    r"|webhook_receivers)\b"
    r"|^from .* import .*\b(?:aws|checks|generate|report|running|sam)\b"
    r"|^ +(?:import keras\b|keras = pytest|pytest\.importorskip)"
    r"|^def test.*\b(?:bundles|wheel): Path",
    re.MULTILINE,
)

# These files take longest and start first, so that no worker is left with one at the end.
LONGEST = ("macule/convert", "macule/train", "wheel")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = ROOT / "tests"
    items.sort(key=lambda item: not item.path.relative_to(tests).as_posix().startswith(LONGEST))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out files that start anything")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Skip the files that `make check` has no time for, before they are imported."""
    if not config.getoption("fast") or not collection_path.match("test_*.py"):
        return None
    return True if STARTS.search(collection_path.read_text()) else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Report what was skipped because TensorFlow is not installed."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(bool(TOOLS.search(str(each.longrepr))) for each in skipped)
    if count:
        terminalreporter.write_line(
            f"left out: {count} tests, or files of tests, that convert, train or check with "
            "TensorFlow, which is not installed: it has no wheel for Python 3.14"
        )


settings.register_profile("fast", max_examples=50, deadline=None)
settings.register_profile("suite", max_examples=100, deadline=None)
settings.register_profile("fuzz", max_examples=20_000, deadline=None)
settings.load_profile("suite")
# A suite in the background of a shell ignores Ctrl-C, and its children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and the source distribution beside it, as `make wheel` does."""

    def make(out: Path) -> None:
        subprocess.run(["make", "wheel", f"DIST={out}"], cwd=ROOT, check=True, capture_output=True)

    (made,) = once(tmp_path_factory, "dist", make).glob("*.whl")
    return made


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a tiny model whose answers follow from colours: `small_model.write_colour_model`."""
    from support import small_model

    return once(tmp_path_factory, "colours", small_model.write_colour_model)


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Start Chromium once for all tests: Playwright can start only once in a process."""
    from support.browser import launched

    with launched() as browser:
        yield browser


@pytest.fixture(scope="session")
def other() -> Iterator[Upstream]:
    """Run a loopback server that misbehaves in the way its path says."""
    with upstream() as server:
        yield server


@pytest.fixture
def landlock() -> int:
    """Return the version of this kernel's Landlock; skip the test without Landlock."""
    found = sandbox.version()
    if not found:
        pytest.skip("this kernel has no Landlock, or a container forbids it")
    return found
