"""The bundles, built once for all tests that start them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.bundles import bundle
from support.doc_commands import commands
from support.machine import Machine, booted
from support.once import once


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build all bundles; the output of the build is in `said`."""
    return once(tmp_path_factory, "bundles", lambda out: (out / "said").write_text(bundle(out)))


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Start a machine with its own systemd, where macule is installed as docs/deploy.md says."""
    install = commands("deploy.md", "Your own machine", "Install") + commands(
        "operate.md", "Workers", "Install the queue"
    )
    with booted(tmp_path_factory.mktemp("machine"), install) as one:
        one.run(commands("deploy.md", "Your own machine", "Start"))
        yield one
