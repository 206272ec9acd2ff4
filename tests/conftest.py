"""How long hypothesis looks: seconds in the suite, longer by `make fuzz`. And a bad neighbour."""

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from macule import sandbox
from peers import Peer, peer
from service import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TOOLS = re.compile("could not import '(tensorflow|keras|tf_keras|h5py)'")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what was left out where TensorFlow is not installed."""
    skipped = terminalreporter.stats.get("skipped", [])
    count = sum(bool(TOOLS.search(str(each.longrepr))) for each in skipped)
    if count:
        terminalreporter.write_line(
            f"left out: {count} tests, or files of tests, that convert, train or check with "
            "TensorFlow, which is not installed: it has no wheel for Python 3.14"
        )


settings.register_profile("suite", max_examples=200, deadline=None)
settings.register_profile("fuzz", max_examples=20_000, deadline=None)
settings.load_profile("suite")
# A suite that a shell runs in the background ignores Ctrl-C, and its children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, with its source distribution beside it, as `make wheel` makes both."""
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(["make", "wheel", f"DIST={out}"], cwd=ROOT, check=True, capture_output=True)
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """Chromium, once for all tests: Playwright starts once a process."""
    from browser import launched

    with launched() as browser:
        yield browser


@pytest.fixture(scope="session")
def other() -> Iterator[Peer]:
    """Run a service of loopback that behaves as badly as its path says."""
    with peer() as server:
        yield server


@pytest.fixture
def landlock() -> int:
    """The version of this kernel's Landlock, without which there is nothing to prove."""
    found = sandbox.version()
    if not found:
        pytest.skip("this kernel has no Landlock, or a container forbids it")
    return found
