"""The bundles, made once for all tests that start them."""

from pathlib import Path

import pytest
from bundling import bundle


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All bundles; what was said of them stands in `said`."""
    out = tmp_path_factory.mktemp("bundles")
    (out / "said").write_text(bundle(out))
    return out
