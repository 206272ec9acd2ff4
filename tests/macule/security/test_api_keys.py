"""API keys: found in either header, read from pairs or a file, and never shown."""

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from macule import settings
from macule.errors import BadSetting, Forbidden, Unauthorized
from macule.security import api_keys
from macule.security.api_keys import RELOAD_INTERVAL_S, KeyStore
from macule.server import startup

ALICE, BOB, OLD = "mk_alice", "mk_bob", "mk_old"


def key_entry(name: str, key: str, more: str = "") -> str:
    return f"{name}:{hashlib.sha256(key.encode()).hexdigest()}{more}"


PAIRS = [
    key_entry("alice", ALICE),
    key_entry("bob", BOB),
    key_entry("bob", "mk_bob2"),
    key_entry("old", OLD, ":revoked"),
]


def caller(ring: KeyStore, key: str) -> str:
    """Return the owner of *key*, or the name of the error."""
    try:
        return ring.authenticate({"x-api-key": key})
    except (Unauthorized, Forbidden) as error:
        return type(error).__name__


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"authorization": f"Bearer {ALICE}"}, "alice"),
        ({"authorization": f"bearer   {ALICE} "}, "alice"),
        ({"x-api-key": BOB}, "bob"),
        ({"x-api-key": "mk_bob2"}, "bob"),
        ({"x-api-key": ALICE, "authorization": "Bearer eyJ.of.the-platform"}, "alice"),
        ({"x-api-key": "", "authorization": f"Bearer {BOB}"}, "bob"),
    ],
)
def test_a_key_is_found_in_either_header(headers: dict[str, str], name: str) -> None:
    """Bearer in any case works, X-API-Key comes first, and one name may have several keys."""
    assert KeyStore(",".join(PAIRS)).authenticate(headers) == name


@pytest.mark.parametrize(
    ("headers", "wrong"),
    [
        ({}, False),
        ({"authorization": "Basic YTpi"}, False),
        ({"authorization": "Bearer"}, False),
        ({"authorization": ALICE}, False),
        ({"authorization": f"Bearer {ALICE[:-1]}"}, True),
        ({"authorization": f"Bearer {key_entry('alice', ALICE)}"}, True),
        ({"x-api-key": hashlib.sha256(ALICE.encode()).hexdigest()}, True),
        ({"x-api-key": "mk_\udc80é", "authorization": f"Bearer {ALICE}"}, True),
        ({"x-api-key": "x" * 100_000}, True),
    ],
)
def test_without_a_known_key_it_is_401(headers: dict[str, str], wrong: bool) -> None:
    """A missing key is distinguished from a wrong one, and a hash is no key."""
    with pytest.raises(Unauthorized) as caught:
        KeyStore(",".join(PAIRS)).authenticate(headers)

    asked = caught.value.headers()["WWW-Authenticate"]
    assert asked == 'Bearer realm="macule"' + (', error="invalid_token"' if wrong else "")


def test_a_revoked_key_is_403() -> None:
    """Its holder learns that it was revoked."""
    assert caller(KeyStore(",".join(PAIRS)), OLD) == "Forbidden"


def test_a_new_key_matches_its_stored_hash() -> None:
    """Keys are unique and have 256 bits, and the stored hash does not contain them."""
    made = [api_keys.create_key("alice") for _ in range(100)]

    assert len({key for key, _ in made}) == 100
    for key, stored in made:
        assert key.startswith("mk_")
        assert len(key) == 3 + 43
        assert key not in stored
        assert KeyStore(stored).authenticate({"x-api-key": key}) == "alice"


@pytest.mark.parametrize(
    "text",
    [
        "secret",
        "alice:secret",
        "alice:" + "0" * 63,
        "al ice:" + "0" * 64,
        ":" + "0" * 64,
        "alice:" + "0" * 64 + ":gone",
        f"{PAIRS[0]},{PAIRS[0]}",
        f"{PAIRS[0]},bob:{PAIRS[0].split(':')[1]}",
        "/no/such/file/secret",
        "/",
    ],
)
def test_malformed_keys_prevent_the_start(text: str) -> None:
    """BadSetting names the variable and the place, but not the content."""
    with pytest.raises(BadSetting, match="API_KEYS") as caught:
        startup.check(settings.read({"API_KEYS": text}))

    assert "secret" not in str(caught.value)
    assert "0000" not in str(caught.value)
    assert PAIRS[0].split(":")[1][:8] not in str(caught.value)


class Clock:
    """A clock that the test moves past the next check of the file."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def later(self) -> None:
        self.now += RELOAD_INTERVAL_S


def test_keys_of_a_file_change_without_a_restart(tmp_path: Path) -> None:
    """An added key is accepted, a removed one rejected, and comments are ignored."""
    file, clock = tmp_path / "keys", Clock()
    file.write_text(f"# ours\n{PAIRS[0]}  # until May\n\n")
    ring = KeyStore(str(file), clock)
    before = [caller(ring, ALICE), caller(ring, BOB)]
    (tmp_path / "new").write_text(PAIRS[1])
    os.replace(tmp_path / "new", file)
    soon = [caller(ring, ALICE), caller(ring, BOB)]
    clock.later()
    after = [caller(ring, ALICE), caller(ring, BOB)]

    assert before == soon == ["alice", "Unauthorized"]
    assert after == ["Unauthorized", "bob"]


@pytest.mark.parametrize("way", ["malformed", "gone", "no text", "a folder"])
def test_an_invalid_file_keeps_the_last_keys(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """It is logged once without its content; once repaired, it is read again."""
    caplog.set_level(logging.INFO)
    file, clock = tmp_path / "keys", Clock()
    file.write_text(PAIRS[0])
    ring = KeyStore(str(file), clock)
    file.unlink()
    if way == "malformed":
        file.write_text(f"{PAIRS[1]}\nsecret-line\n")
    elif way == "no text":
        file.write_bytes(b"\xff\xfe\x00")
    elif way == "a folder":
        file.mkdir()
    broken = []
    for _ in range(5):
        clock.later()
        broken.append(caller(ring, ALICE))
    logged = [record.getMessage() for record in caplog.records]
    if way == "a folder":
        file.rmdir()
    file.write_text(PAIRS[1])
    clock.later()

    assert broken == ["alice"] * 5
    assert len(logged) == 1
    assert "The 1 current keys stay valid." in logged[0]
    assert "secret" not in logged[0]
    assert caller(ring, BOB) == "bob"
    assert caplog.records[-1].getMessage() == "API_KEYS: reloaded, 1 keys"


def test_an_empty_file_removes_all_keys(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Removing the last key rejects every request and does not keep that key."""
    file, clock = tmp_path / "keys", Clock()
    file.write_text(PAIRS[0])
    ring = KeyStore(str(file), clock)
    file.write_text("# none\n")
    clock.later()

    assert caller(ring, ALICE) == "Unauthorized"
    assert "every caller gets a 401" in caplog.text


def test_the_command_prints_a_key_and_its_hash() -> None:
    """The two lines match; an invalid name is exit code 2."""
    command = [sys.executable, "-m", "macule.cli", "key", "new"]
    made = subprocess.check_output([*command, "alice"], text=True, stderr=subprocess.PIPE)
    key, stored = made.splitlines()
    refused = subprocess.run([*command, "al:ice"], capture_output=True, text=True, check=False)

    assert KeyStore(stored).authenticate({"authorization": f"Bearer {key}"}) == "alice"
    assert refused.returncode == 2
    assert "letters, digits" in refused.stderr


def test_the_command_creates_webhook_secrets() -> None:
    """Each is unique and valid for WEBHOOK_SECRETS; `new` without a name is exit code 2."""
    command = [sys.executable, "-m", "macule.cli", "key"]
    made = [
        subprocess.check_output([*command, "webhook"], text=True, stderr=subprocess.PIPE).strip()
        for _ in range(2)
    ]
    refused = [
        subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        for words in (["new"], ["webhook", "alice"])
    ]

    assert len(set(made)) == 2
    assert settings.read({"WEBHOOK_SECRETS": ",".join(made)}).webhook_secrets == tuple(made)
    assert [done.returncode for done in refused] == [2, 2]
