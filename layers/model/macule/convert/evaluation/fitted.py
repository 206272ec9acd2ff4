"""The list of images that a model was fitted on, beside its file; `evaluate` warns of them.

An image is known by its bytes: a copy in another format or size is another image.
"""

from collections.abc import Iterable
from hashlib import file_digest
from pathlib import Path

FILE = "fitted_images.txt"
DIGITS = 8  # of 10,000 fitted images, one image in 400,000 has the digits of another by chance


def digest(path: Path) -> str:
    """Return the first DIGITS hexadecimal digits of the SHA-256 of a file."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()[:DIGITS]


def write(folder: Path, images: Iterable[Path]) -> None:
    """Write the digests of *images* into the model's *folder*, sorted, one a line."""
    digests = sorted({digest(path) for path in images})
    (folder / FILE).write_text("".join(f"{each}\n" for each in digests), encoding="ascii")


def read(folder: Path) -> frozenset[str]:
    """Return the digests of the images that fitted the model; empty if its folder has no list."""
    listed = folder / FILE
    return frozenset(listed.read_text(encoding="ascii").split() if listed.exists() else ())


def count(folder: Path, images: Iterable[Path]) -> int:
    """Count those of *images* that fitted the model in *folder*."""
    known = read(folder)
    return sum(digest(path) in known for path in images) if known else 0
