"""A remote model: downloaded once, checked, cached; and failures of the source."""

import json
import logging
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import pytest
from macule.errors import BadCard, ModelUnavailable
from macule.inference import runtime
from macule.registry import local, model_card, remote
from macule.settings import Source
from support import model_sources
from support.model_sources import Web, named
from support.service import ROOT

CARD, FILE = "/lesions/model.json", "/lesions/model.tflite"
SHIPPED = model_card.read(local.DEFAULT_MODEL_DIR)


@pytest.fixture
def web() -> Iterator[Web]:
    """Run a server with the default model at /lesions."""
    with model_sources.web() as server:
        server.hold(local.DEFAULT_MODEL_DIR, "/lesions")
        yield server


@pytest.fixture
def source(web: Web, tmp_path: Path) -> Source:
    return Source(f"{web.url}/lesions", None, 20.0, str(tmp_path / "cache"))


def folders(source: Source) -> list[Path]:
    return [path for path in Path(str(source.cache_dir)).glob("*/*") if path.is_dir()]


def rejection(source: Source, kind: type[ModelUnavailable] = ModelUnavailable) -> str:
    """Return why nothing is served; the text for clients has no secret or path."""
    with pytest.raises(kind) as caught:
        remote.find(source)
    text = str(caught.value)
    assert "secret" not in text
    assert str(source.cache_dir) not in text
    return text


def put_renamed(web: Web, folder: Path, name: str) -> None:
    web.hold(named(folder / name, name), "/lesions")


def test_a_file_is_downloaded_once(web: Web, source: Source) -> None:
    """The second start requests only the card, and with a pin nothing."""
    first = remote.find(source)
    assert (
        Path(first.path).read_bytes() == Path(local.find(local.DEFAULT_MODEL_DIR).path).read_bytes()
    )
    assert web.asked.count(FILE) == 1

    web.asked.clear()
    assert remote.find(source) == first
    assert web.asked == [CARD]

    web.asked.clear()
    assert remote.find(source._replace(sha256=SHIPPED.sha256)) == first
    assert web.asked == []


def test_a_folder_can_be_served(source: Source) -> None:
    """A plain folder is read directly, also with a pin."""
    here = source._replace(uri=local.DEFAULT_MODEL_DIR)

    assert remote.find(here) == local.find(local.DEFAULT_MODEL_DIR)
    assert "MODEL_SHA256" in rejection(here._replace(sha256="0" * 64))


def test_tls_is_verified(source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """https:// needs a trusted certificate, and is rejected at once without one."""
    certificate, context = model_sources.certify(tmp_path)
    with model_sources.web(context) as server:
        server.hold(local.DEFAULT_MODEL_DIR, "/lesions")
        safe = source._replace(uri=f"{server.url}/lesions")

        assert "self-signed certificate" in rejection(safe)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert remote.find(safe).card == SHIPPED
        assert "https://" in safe.uri


def test_an_alias_is_followed(web: Web, source: Source) -> None:
    """Without a card, NAME.json beside it names the folder."""
    address = sha256(web.files[CARD]).hexdigest()
    web.hold(local.DEFAULT_MODEL_DIR, f"/{address}")
    web.files["/stable.json"] = json.dumps({"now": address, "before": ""}).encode()
    stable = source._replace(uri=f"{web.url}/stable?sig=secret")

    assert remote.find(stable).card == SHIPPED
    web.asked.clear()
    remote.find(stable)
    assert web.asked == ["/stable/model.json", "/stable.json"]

    web.files["/stable.json"] = json.dumps({"now": "../../etc", "before": ""}).encode()
    assert "alias" in rejection(stable._replace(cache_dir=f"{source.cache_dir}-2"))
    web.files["/stable.json"] = json.dumps({"now": "0" * 64}).encode()
    web.hold(local.DEFAULT_MODEL_DIR, f"/{'0' * 64}")
    assert "does not match its address" in rejection(
        stable._replace(cache_dir=f"{source.cache_dir}-3")
    )


@pytest.mark.parametrize("turn", [model_sources.stall, model_sources.drip])
def test_the_total_time_is_limited(web: Web, source: Source, turn: model_sources.Turn) -> None:
    """A body that stalls or drips ends at the time limit."""
    web.turns[FILE] = [turn] * 9
    began = time.monotonic()

    assert "within 0.6 s (MODEL_TIMEOUT_S)" in rejection(source._replace(timeout_s=0.6))
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    "turn", [model_sources.cut, model_sources.status(503), model_sources.status(429)]
)
def test_temporary_failures_are_retried(web: Web, source: Source, turn: model_sources.Turn) -> None:
    """A truncated body, 503 and 429 are followed by another, successful attempt."""
    web.turns = {CARD: [turn], FILE: [turn]}

    assert remote.find(source).card == SHIPPED
    assert web.asked.count(FILE) == 2


def test_a_stall_leaves_time_for_a_retry(web: Web, source: Source) -> None:
    """One silent connection does not use up all the time."""
    web.turns[FILE] = [model_sources.stall]

    assert remote.find(source._replace(timeout_s=3.0)).card == SHIPPED


def test_four_attempts_are_made(web: Web, source: Source) -> None:
    """A server that keeps failing is given up, with its last answer."""
    web.turns[CARD] = [model_sources.status(503)] * 9

    assert "answers 503; tried 4 times" in rejection(source)
    assert web.asked == [CARD] * 4


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        (model_sources.status(401), "answers 401"),
        (model_sources.status(404), "neither a model.json"),
        (model_sources.status(403), "or access to them is denied"),
        (model_sources.redirect("file:///etc/passwd"), "redirects"),
        (model_sources.redirect("http://example.org/?secret"), "begins with http://"),
        (model_sources.redirect("s3://models/secret"), "redirects"),
        (model_sources.redirect("https://secret@example.org/"), "user name"),
        (model_sources.redirect(CARD), "redirects too often"),
        (model_sources.announce_terabyte, "over 1,048,576 bytes"),
    ],
)
def test_permanent_failures_are_not_retried(
    web: Web, source: Source, turn: model_sources.Turn, reason: str
) -> None:
    """Refusals, redirects to another scheme or to plain http, and loops end at once."""
    web.files[CARD] += b" " * 2**20
    web.turns[CARD] = [turn] * 9

    assert reason in rejection(source._replace(uri=source.uri + "?sig=secret"))
    assert len(web.asked) <= 6


def test_redirects_are_followed(web: Web, source: Source) -> None:
    """A few redirects are followed."""
    web.turns[FILE] = [model_sources.redirect("/a")]
    web.turns["/a"] = [model_sources.redirect(f"{web.url}/b")]
    web.files["/b"] = web.files[FILE]

    assert remote.find(source).card == SHIPPED


def test_a_file_that_differs_from_its_card_is_rejected(web: Web, source: Source) -> None:
    """The error has the beginnings of both digests; nothing is stored."""
    web.files[FILE] = b"something else"

    text = rejection(source)
    assert sha256(b"something else").hexdigest()[:12] in text
    assert SHIPPED.sha256[:12] in text
    assert folders(source) == []


def test_only_the_pinned_file_serves(web: Web, source: Source, tmp_path: Path) -> None:
    """With MODEL_SHA256 another model is neither downloaded nor served from the cache."""
    assert "MODEL_SHA256 begins 000000000000" in rejection(source._replace(sha256="0" * 64))
    assert FILE not in web.asked

    remote.find(source)
    web.files.clear()
    rejection(source._replace(sha256="0" * 64))


def test_an_invalid_card_is_named(web: Web, source: Source) -> None:
    """A card that is no JSON or has other keys is named as such."""
    web.files[CARD] = b"<html>"
    assert "not readable JSON" in rejection(source, BadCard)

    web.files[CARD] = b"{}"
    assert "schema" in rejection(source, BadCard)


def test_an_oversized_file_is_not_downloaded(web: Web, source: Source) -> None:
    """A terabyte is rejected by its Content-Length."""
    web.turns[FILE] = [model_sources.announce_terabyte]

    assert "1048576 MB" in rejection(source)


@pytest.mark.parametrize("harm", ["dead", "lies", "slow"])
def test_the_last_valid_model_serves(
    web: Web,
    source: Source,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    harm: str,
) -> None:
    """While the source is down, slow or wrong, the last valid model serves, with a warning."""
    good = remote.find(source)
    put_renamed(web, tmp_path, "next")
    if harm == "dead":
        source = source._replace(timeout_s=0.5)
        web.turns[CARD] = [lambda handler, _: handler.connection.close()] * 9
    elif harm == "lies":
        digest = json.loads(web.files[CARD])["sha256"].encode()
        web.files[CARD] = web.files[CARD].replace(digest, b"0" * 64)
    else:
        source = source._replace(timeout_s=0.5)
        web.turns[CARD] = [model_sources.stall] * 9

    with caplog.at_level(logging.WARNING, "macule"):
        assert remote.find(source) == good
    assert len(caplog.records) == 1
    assert "the last good model serves" in caplog.text


def test_two_models_are_cached(web: Web, source: Source, tmp_path: Path) -> None:
    """The current and the previous one; a new card with the same file costs no download."""
    for name in "abc":
        put_renamed(web, tmp_path, name)
        assert remote.find(source).card.name == name

    assert sorted(model_card.read(str(folder)).name for folder in folders(source)) == ["b", "c"]
    assert web.asked.count(FILE) == 1


def test_partial_downloads_are_removed_and_damage_repaired(web: Web, source: Source) -> None:
    """The partial download of a killed process is removed; a damaged file is downloaded again."""
    path = Path(remote.find(source).path)
    left = path.parent.parent / f".{'0' * 64}"
    left.mkdir()
    path.write_bytes(b"damaged")

    assert remote.find(source._replace(sha256=SHIPPED.sha256)).card == SHIPPED
    assert not left.exists()
    assert web.asked.count(FILE) == 2


def find_in_child(source: Source, python: str = sys.executable, before: str = "") -> str:
    """Find the model in another process; return its name, or why it is not found."""
    code = (
        "import sys, resource; from macule.errors import Macule; "
        "from macule.registry import remote; "
        f"from macule.settings import Source\n{before}\n"
        f"try: print(remote.find({source!r}).card.name)\nexcept Macule as error: print(error)"
    )
    return subprocess.check_output([python, "-c", code], text=True, timeout=30)


def test_two_starts_download_once(web: Web, source: Source) -> None:
    """Of processes that start at once on an empty cache one downloads, and both serve."""
    with ThreadPoolExecutor(3) as pool:
        names = list(pool.map(find_in_child, [source] * 3))

    assert names == [f"{SHIPPED.name}\n"] * 3
    assert web.asked.count(FILE) == 1


def test_a_write_error_is_reported(source: Source) -> None:
    """If the disk is full, the error says so, and no partial file stays."""
    limit = "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))"

    assert "File too large" in find_in_child(source, before=limit)
    assert folders(source) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_a_small_disk_is_reported_before_the_download(
    web: Web, source: Source, tmp_path: Path
) -> None:
    """The announced size is compared with the free space."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        assert "1 MB free" in rejection(source._replace(cache_dir=str(disk)))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_missing_temporary_folder_is_reported(source: Source) -> None:
    """If Python finds no temporary folder, the error names the setting."""
    none = "import tempfile; tempfile._candidate_tempdir_list = lambda: []"

    assert "MODEL_CACHE_DIR" in find_in_child(source._replace(cache_dir=None), before=none)


def test_a_cache_that_others_can_write_is_rejected(source: Source) -> None:
    """Another user could have put any model there."""
    remote.find(source)
    (root,) = Path(str(source.cache_dir)).iterdir()
    root.chmod(0o777)

    assert "Other users can write" in rejection(source)


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gs")])
def test_a_missing_extra_is_named(source: Source, scheme: str, extra: str) -> None:
    """The serving environment has neither client; the error says what to install."""
    bucket = source._replace(uri=f"{scheme}://models/stable")
    found = find_in_child(bucket, str(ROOT / ".venv/bin/python"))

    assert f"pip install './layers/model[{extra}]'" in found


def test_waiting_requests_share_a_failure(web: Web, source: Source) -> None:
    """Requests that wait for one download share its failure."""
    web.turns[CARD] = [model_sources.stall] * 99
    slow = source._replace(timeout_s=1.0)
    runtime.by_pid.clear()

    def ask(_: int) -> None:
        with suppress(ModelUnavailable):
            runtime.get_or_load(slow)

    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    runtime.by_pid.clear()

    assert time.monotonic() - began < 3


def test_memory_of_the_download_is_released(source: Source) -> None:
    """TLS and clients are loaded in a child: this process grows by less than 3 MB."""
    code = (
        "import resource; from macule.routes import classify; from macule.settings import Source; "
        "from macule.registry import remote; "
        "size = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; before = size(); "
        f"remote.find({source!r}); print(size() - before)"
    )
    grown_kb = int(subprocess.check_output([sys.executable, "-c", code], text=True))

    assert grown_kb < 3 * 1024
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss > grown_kb
