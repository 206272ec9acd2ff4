"""Batches of objects in buckets, on real servers of S3 and Cloud Storage."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from macule.errors import ModelUnavailable
from macule.registry import storage
from macule.registry.storage import gs, s3
from support import model_sources
from support.images import photo

QUIET_S = 10.0
# the emulator of gs cannot return a name with ? or #
NAMES = {"s3": ["1.jpg", "a #1?.jpg", "ä/2.jpg"], "gs": ["1.jpg", "a 1.jpg", "ä/2.jpg"]}


@pytest.fixture(scope="module")
def buckets() -> Iterator[dict[str, str]]:
    with model_sources.buckets() as environment:
        yield environment


@pytest.fixture(autouse=True)
def environment(buckets: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use clients, which are cached, of these servers."""
    for name, value in buckets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    for module in (s3, gs):
        module.client.cache_clear()
    yield
    for module in (s3, gs):
        module.client.cache_clear()


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_prefix_is_a_batch(scheme: str, tmp_path: Path) -> None:
    """All objects below a prefix are rows, with any names; a folder marker is not."""
    for name in NAMES[scheme]:
        assert storage.write(f"{scheme}://models/{scheme}/{name}", photo(90, 60), "", QUIET_S)
    storage.write(f"{scheme}://models/{scheme}/ä/", b"", "", QUIET_S)
    storage.write(f"{scheme}://models/other.jpg", b"", "", QUIET_S)
    out = tmp_path / "all.jsonl"

    subprocess.run(
        [
            sys.executable,
            "-m",
            "macule.cli",
            "batch",
            f"{scheme}://models/{scheme}/",
            "--out",
            out,
        ],
        check=True,
        capture_output=True,
        env=os.environ,
    )

    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["source"] for row in rows] == [
        f"{scheme}://models/{scheme}/{n}" for n in NAMES[scheme]
    ]
    assert {row["status"] for row in rows} == {"ok"}


@pytest.mark.slow
def test_a_bucket_is_listed_in_pages() -> None:
    """Names on several pages of S3 come once each, sorted."""
    for number in range(1003):
        storage.write(f"s3://models/pages/{number:04}", b"", "", QUIET_S)

    names = list(storage.list_addresses("s3://models/pages/", QUIET_S))

    assert names == [f"s3://models/pages/{number:04}" for number in range(1003)]


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_missing_bucket_is_reported(scheme: str) -> None:
    """Listing a missing bucket fails with the bucket's message, not with an empty batch."""
    with pytest.raises(ModelUnavailable, match=f"{scheme}://nowhere"):
        list(storage.list_addresses(f"{scheme}://nowhere/a", QUIET_S))
