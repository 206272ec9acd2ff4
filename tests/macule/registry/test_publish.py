"""Models in buckets: real servers of S3 and Cloud Storage, and the commands that write to them."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from uuid import uuid4

import pytest
from macule.errors import BadRequest, ModelUnavailable
from macule.registry import local, model_card, publish, remote, storage
from macule.settings import Source, urls
from support import model_sources
from support.model_sources import named

QUIET_S = 10.0


@pytest.fixture(scope="module")
def buckets() -> Iterator[dict[str, str]]:
    with model_sources.buckets() as environment:
        yield environment


@pytest.fixture(autouse=True)
def environment(buckets: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Both clients use these servers and only these credentials."""
    for name, value in buckets.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")


@pytest.fixture(params=["s3", "gs"])
def target(request: pytest.FixtureRequest) -> str:
    """Return a prefix of the test's own, in each kind of bucket in turn."""
    return f"{request.param}://models/{uuid4().hex}"


def source(target: str, cache: Path, name: str = "stable") -> Source:
    return Source(urls.append_path(target, name), None, 20.0, str(cache))


def serving(target: str, cache: Path, name: str = "stable") -> str:
    return remote.find(source(target, cache, name)).card.name


def test_an_alias_moves_and_moves_back(target: str, tmp_path: Path) -> None:
    """A published model serves at the next start, and the previous one after a rollback."""
    first = publish.publish(named(tmp_path / "1", "one"), target, "stable")
    assert serving(target, tmp_path / "cache") == "one"
    second = publish.publish(named(tmp_path / "2", "two"), target, "stable")
    publish.publish(local.DEFAULT_MODEL_DIR, target, "canary")
    assert serving(target, tmp_path / "cache") == "two"

    assert publish.rollback(target, "stable") == first
    assert serving(target, tmp_path / "cache") == "one"
    assert publish.rollback(target, "stable") == second


def test_an_address_can_be_served(target: str, tmp_path: Path) -> None:
    """MODEL_URI may be an immutable address, which is the card's sha256."""
    address = publish.publish(local.DEFAULT_MODEL_DIR, target, "stable")

    assert (
        address == sha256(Path(local.DEFAULT_MODEL_DIR, model_card.FILE).read_bytes()).hexdigest()
    )
    assert remote.find(source(target, tmp_path, address)).card == model_card.read(
        local.DEFAULT_MODEL_DIR
    )


def test_publishing_twice_changes_nothing(target: str, tmp_path: Path) -> None:
    """The same model under the same alias leaves the previous one unchanged."""
    first = publish.publish(named(tmp_path / "1", "one"), target, "stable")
    for _ in range(2):
        publish.publish(named(tmp_path / uuid4().hex, "two"), target, "stable")

    assert publish.rollback(target, "stable") == first


def test_an_address_is_never_overwritten(target: str, tmp_path: Path) -> None:
    """Other content at the address stays, and the alias does not point to it."""
    folder = named(tmp_path / "1", "one")
    address = sha256(Path(folder, model_card.FILE).read_bytes()).hexdigest()
    place = urls.append_path(target, address, "model.tflite")
    assert storage.write(place, b"another", "", QUIET_S)

    if target.startswith("s3"):  # the emulator of the other ignores conditions
        with pytest.raises(ModelUnavailable, match="exists with other content"):
            publish.publish(folder, target, "stable")
        assert storage.read_small(place, QUIET_S)[0] == b"another"  # type: ignore[index]
        with pytest.raises(ModelUnavailable, match="neither"):
            serving(target, tmp_path / "cache")


def test_concurrent_publishers_do_not_lose_an_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publisher whose alias was changed meanwhile gets an error and changes nothing."""
    target = f"s3://models/{uuid4().hex}"
    two = named(tmp_path / "2", "two")
    read = publish.read_alias

    def read_stale_alias(target: str, name: str) -> tuple[dict[str, str], str]:
        found = read(target, name)
        monkeypatch.setattr(publish, "read_alias", read)
        publish.publish(two, target, "stable")
        return found

    for name in ("first", "later"):  # without an alias, and with one
        folder = named(tmp_path / name, name)
        monkeypatch.setattr(publish, "read_alias", read_stale_alias)
        with pytest.raises(BadRequest, match="meanwhile"):
            publish.publish(folder, target, "stable")
        assert read(target, "stable")[0]["now"] == publish.publish(two, target, "stable")
        publish.publish(folder, target, "stable")


def test_rollback_needs_a_previous_model(target: str, tmp_path: Path) -> None:
    """Rollback of a missing or unchanged alias is rejected."""
    with pytest.raises(BadRequest, match="no previous model"):
        publish.rollback(target, "stable")
    publish.publish(named(tmp_path / "1", "one"), target, "stable")
    with pytest.raises(BadRequest, match="no previous model"):
        publish.rollback(target, "stable")


def test_rollback_needs_the_model_to_exist(target: str, tmp_path: Path) -> None:
    """If the previous model was deleted from the bucket, the alias stays."""
    gone = json.dumps(
        {"now": publish.publish(local.DEFAULT_MODEL_DIR, target, "a"), "before": "0" * 64}
    )
    storage.write(urls.append_path(target, "stable.json"), gone.encode(), "", QUIET_S)

    with pytest.raises(ModelUnavailable, match="no longer exists"):
        publish.rollback(target, "stable")


def test_the_last_valid_model_survives_its_bucket(target: str, tmp_path: Path) -> None:
    """A downloaded model serves after the alias is damaged."""
    publish.publish(named(tmp_path / "1", "one"), target, "stable")
    assert serving(target, tmp_path / "cache") == "one"
    place = urls.append_path(target, "stable.json")
    found = storage.read_small(place, QUIET_S)
    assert found
    assert storage.write(place, b"[]", found[1], QUIET_S)

    assert serving(target, tmp_path / "cache") == "one"


def test_a_missing_bucket_is_reported(tmp_path: Path) -> None:
    """S3 gives the reason; Google does not distinguish a missing bucket from a missing file."""
    with pytest.raises(ModelUnavailable, match=r"s3://nowhere/.*NoSuchBucket"):
        serving("s3://nowhere/lesions", tmp_path)
    with pytest.raises(ModelUnavailable, match="neither"):
        serving("gs://nowhere/lesions", tmp_path)


def test_missing_credentials_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without credentials each client says so, without a time-out."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name)

    with pytest.raises(ModelUnavailable, match="NoCredentials"):
        serving("s3://models/lesions", tmp_path)
    with pytest.raises(ModelUnavailable, match="no Google credentials"):
        serving("gs://models/lesions", tmp_path)


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "STORAGE_EMULATOR_HOST"])
def test_an_unreachable_bucket_times_out(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreachable server is tried again until the time is over."""
    monkeypatch.setenv(variable, f"http://127.0.0.1:{model_sources.free_port()}")
    target = "s3://models/a" if variable.startswith("AWS") else "gs://models/a"

    with pytest.raises(ModelUnavailable, match="within 1 s"):
        remote.find(source(target, tmp_path)._replace(timeout_s=1.0))


def macule(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "macule.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=dict(os.environ),
    )


def test_the_commands(tmp_path: Path) -> None:
    """`macule publish` and `macule rollback` print the alias's model; misuse is one line."""
    target = f"s3://models/{uuid4().hex}"
    address = publish.publish(named(tmp_path / "1", "one"), target, "canary")

    assert macule("publish", local.DEFAULT_MODEL_DIR, target, "--alias", "canary").returncode == 0
    done = macule("rollback", target, "--alias", "canary")
    assert (done.returncode, done.stdout) == (0, f"canary names {address}\n")
    done = macule("rollback", target)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "s3://BUCKET" in macule("publish", local.DEFAULT_MODEL_DIR, "https://example.org").stderr
    assert macule("rollback", target, "--alias", "../up").returncode == 2


def test_an_invalid_model_is_not_published(tmp_path: Path) -> None:
    """A file that matches its card but is no model is not uploaded."""
    target = f"s3://models/{uuid4().hex}"
    folder = Path(named(tmp_path / "1", "one"))
    (folder / "model.tflite").write_bytes(b"no model")
    card = json.loads((folder / model_card.FILE).read_text())
    described = {**card, "sha256": sha256(b"no model").hexdigest()}
    (folder / model_card.FILE).write_text(json.dumps(described))

    assert "LiteRT" in macule("publish", str(folder), target).stderr
    with pytest.raises(ModelUnavailable, match="neither"):
        serving(target, tmp_path / "cache")
