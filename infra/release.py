"""Checks before a release: tag, version, changelog and metadata agree; and the wheel's contents.

`python -m infra.release check TAG` prints a line for each fault; `sbom WHEEL` prints CycloneDX.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from infra import pins, sbom

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "layers/model"
SECTION = r"^## \[{version}\] - \d{{4}}-\d\d-\d\d\n"
UNRELEASED = re.compile(r"^## \[Unreleased\]\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
NOBODYS = re.compile(r"[\w.@/-]*\.example\b")  # RFC 2606: reserved, never anybody's address


def faults(tag: str, version: str, changelog: str, about: str) -> Iterator[str]:
    """Return a line for each reason not to publish *tag*.

    Args:
      changelog: the text of CHANGELOG.md.
      about: the text of layers/model/pyproject.toml.
    """
    if tag != f"v{version}":
        yield f"the tag is {tag}, but macule.__version__ says v{version}"
    if not re.search(SECTION.format(version=re.escape(version)), changelog, re.MULTILINE):
        yield f"CHANGELOG.md has no section `## [{version}] - YYYY-MM-DD`"
    if (section := UNRELEASED.search(changelog)) and section[1].strip():
        yield "CHANGELOG.md still has entries under [Unreleased]: move them below the version"
    for address in sorted(set(NOBODYS.findall(about))):
        yield f"layers/model/pyproject.toml still says {address}: write the project's own address"


def contents(wheel: Path) -> str:
    """List the contents of *wheel*, and every package of its extras, by our pins."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        ours = [name for name in archive.namelist() if name.startswith("macule/")]
        archive.extractall(folder, ours)
        (Path(folder) / "requirements.txt").write_text(pins.merge(["all"]))
        return sbom.text("wheel", Path(folder))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["check", "sbom"])
    parser.add_argument("of", metavar="TAG or WHEEL")
    options = parser.parse_args()
    if options.what == "sbom":
        print(contents(Path(options.of)), end="")
        return 0
    version = sbom.VERSION.search((PACKAGE / "macule/__init__.py").read_text())
    texts = [path.read_text() for path in (ROOT / "CHANGELOG.md", PACKAGE / "pyproject.toml")]
    found = list(faults(options.of, version[1] if version else "", *texts))
    for fault in found:
        print(f"release: {fault}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
