"""The README's commands run as printed."""

import json
import re
import subprocess
import unicodedata
from pathlib import Path

import pytest
from support.service import GUNICORN, ROOT, Service, running
from support.translations import KEPT, kept

README = (ROOT / "README.md").read_text()
VIETNAMESE = (ROOT / "README.vi.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    with running(GUNICORN, tmp_path_factory.mktemp("logs")) as service:
        yield service


def shell(command: str, service: Service) -> str:
    here = command.replace("localhost:8080", f"127.0.0.1:{service.port}")
    return subprocess.check_output(["sh", "-c", here], cwd=ROOT, text=True, timeout=60)


def test_curl_prints_the_documented_answer(service: Service) -> None:
    """The curl command against `make serve` gives the printed answer's keys and labels."""
    (command,) = [block for block in blocks("sh") if block.startswith("curl")]
    (printed,) = blocks("json")
    shown, got = json.loads(printed), json.loads(shell(command, service))

    assert got.keys() == shown.keys()
    assert got["decision"] == shown["decision"]
    for row, example in zip(got["predictions"], shown["predictions"], strict=True):
        assert (row["label"], row["name"]) == (example["label"], example["name"])
        assert row["probability"] == pytest.approx(example["probability"], abs=0.02)


def test_the_two_commands_are_targets() -> None:
    """The README starts with `make serve` and `make test`, and both targets exist."""
    for target in re.findall(r"^make (\w+)", blocks("sh")[0], re.MULTILINE):
        subprocess.run(["make", "--dry-run", target], cwd=ROOT, check=True, capture_output=True)


def test_the_command_without_a_server_runs() -> None:
    """`macule predict` on the example image works in the serving environment."""
    (command,) = re.findall(r"Without a server: `(.*?)`", README)
    answer = json.loads(subprocess.check_output(command.split(), cwd=ROOT, text=True))

    assert answer["status"] == "succeeded"


def test_every_linked_file_exists() -> None:
    """Every link of the README and of docs/ points to an existing file."""
    readmes = [ROOT / name for name in ("README.md", "README.vi.md", "examples/README.md")]
    for page in [*readmes, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in link:
                assert (page.parent / Path(link)).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("kind", KEPT)
def test_both_languages_match(kind: str) -> None:
    """README.vi.md has README.md's headings, code, links and figures."""
    assert kept(VIETNAMESE, kind) == kept(README, kind)
    assert len(kept(README, kind)) >= 4


def test_the_vietnamese_text_is_normalized() -> None:
    """The Vietnamese text has diacritics, in composed (NFC) letters."""
    assert unicodedata.is_normalized("NFC", VIETNAMESE)
    assert (
        len(set(re.findall("[ăâđêôơưạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ]", VIETNAMESE)))
        > 40
    )
