"""The pins of requirements/*.txt that apply to a platform, by its Python and architecture.

The result has no markers: pip would evaluate them for the Python that pip itself runs on. pip's own
copy of `packaging` evaluates them here, so that a build needs only Python and pip.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent.parent / "requirements"
MACHINES = {"x86_64": "x86_64", "arm64": "aarch64"}  # by Python's names
LINUX = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "sys_platform": "linux",
}


class Pin(NamedTuple):
    """One package, in the form that pip accepts with --require-hashes."""

    name: str
    version: str
    hashes: tuple[str, ...]

    def __str__(self) -> str:
        return " \\\n    ".join((f"{self.name}=={self.version}", *self.hashes)) + "\n"


def read(files: Iterable[str], minor: str, architecture: str = "x86_64") -> dict[str, Pin]:
    """Return the pins of *files* for that Python and architecture, by name.

    Raises: ValueError if two files pin different versions.
    """
    found: dict[str, Pin] = {}
    for file in files:
        for pin in parse(_text(file), minor, architecture):
            if found.setdefault(pin.name, pin).version != pin.version:
                raise ValueError(
                    f"requirements/{file}.txt pins {pin.name} {pin.version}, another file "
                    f"{found[pin.name].version}; run make pins"
                )
    return found


def merge(files: Iterable[str]) -> str:
    """Join *files* into one that any Python can install: each pin once, with markers."""
    found: dict[str, dict[str, str]] = {}
    for block in (block for file in files for block in _blocks(_text(file))):
        pin, _, marker = (part.strip() for part in block.split("\0")[0].partition(";"))
        found.setdefault(pin, {}).setdefault(marker, block)
    chosen = [text for by in found.values() for text in ([by[""]] if "" in by else by.values())]
    return "".join(f"{block}\n" for block in sorted(chosen)).replace("\0", "\\\n")


def parse(text: str, minor: str, architecture: str = "x86_64") -> Iterator[Pin]:
    """Yield the pins of a file for that Python and architecture."""
    from pip._vendor.packaging.markers import Marker

    # platforms run the newest patch of a Python, or nearly the newest
    here = {**LINUX, "python_version": minor, "python_full_version": f"{minor}.99"}
    here["platform_machine"] = MACHINES[architecture]
    for block in _blocks(text):
        head, *hashes = (part.strip() for part in block.split("\0"))
        pin, _, marker = (part.strip() for part in head.partition(";"))
        if not marker or Marker(marker).evaluate(here):
            name, _, version = pin.partition("==")
            yield Pin(name, version, tuple(hashes))


def _text(file: str) -> str:
    return (FOLDER / f"{file}.txt").read_text()


def _blocks(text: str) -> list[str]:
    """Split a file into its pins, each with its hashes after zero bytes."""
    lines = text.replace("\\\n", "\0").splitlines()
    return [line for line in lines if "==" in line and not line.startswith("#")]
