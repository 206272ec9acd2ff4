"""Measure the bundles, and write their sizes into the documentation.

`python -m infra.figures`, with the Python of limits.toml. Markers in the pages give the places.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from infra import bundle, limits

ROOT = Path(__file__).resolve().parent.parent
TABLE = re.compile(r"(?<=<!-- bundles: written by python -m infra\.figures -->\n).*?(?=<!--)", re.S)
# Contents of each tree of infra.bundle.
CONTENTS = {
    "render/predict": "everything, with gunicorn",
    "render-queue/predict": "the same with Celery and redis-py, for a web service and its workers",
    "gcp/predict": "source and pinned requirements, which the platform installs",
    "gcp/health": "the same for health, which needs neither Pillow nor a runtime",
    "aws/layer": "LiteRT, Pillow, pi-heif, multipart, macule, the model",
    "aws/predict": "the handler alone",
    "aws/health": "the handler and macule; health needs no layer",
    "knative/predict": "everything, with gunicorn and a Dockerfile",
    "knative/health": "macule, gunicorn and a Dockerfile",
}
# Other places of the layer's size.
SAID = {
    "README.md": r"(?<=a layer of )\d+(?= MB)",
    "README.vi.md": r"(?<=một layer )\d+(?= MB)",
}


class Size(NamedTuple):
    """MB of a bundle's files, and of its zip if it has one."""

    mb: float
    zipped_mb: float | None


def sizes(out: Path) -> dict[str, Size]:
    """Measure all bundles below *out*."""
    found = {}
    for name in bundle.TREES:
        files = [path for path in (out / name).rglob("*") if path.is_file()]
        archive = (out / name).with_suffix(".zip")
        zipped_mb = archive.stat().st_size / bundle.MB if archive.exists() else None
        found[name] = Size(sum(path.stat().st_size for path in files) / bundle.MB, zipped_mb)
    return found


def rows(measured: Mapping[str, Size]) -> Iterator[str]:
    """Return the table of bundles."""
    yield "| `build/…` | MB | MB zipped | contents |"
    yield "|---|---|---|---|"
    for name, (mb, zipped_mb) in measured.items():
        archive = "" if zipped_mb is None else _short(zipped_mb)
        ending = "" if zipped_mb is None else ".zip"
        yield f"| `{name}{ending}` | {_short(mb)} | {archive} | {CONTENTS[name]} |"


def pages(measured: Mapping[str, Size]) -> dict[Path, str]:
    """Return the expected text of each page."""
    page, table = ROOT / "docs/deploy.md", "".join(f"{row}\n" for row in rows(measured))
    texts = {page: TABLE.sub(lambda _: table, page.read_text())}
    for name, pattern in SAID.items():
        layer = f"{measured['aws/layer'].mb:.0f}"
        texts[ROOT / name] = re.sub(pattern, layer, (ROOT / name).read_text())
    return texts


def main() -> int:
    table = limits.read()
    run = bundle.target("", table.python_minor)
    if (run.minor, bool(run.interpreter)) != (table.python_minor, True):
        print(f"figures: needs Python {table.python_minor}, as bundles do", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        names = list(bundle.TREES)
        for line in bundle.build(Path(folder), names, run, table):
            print(line, flush=True)
        for page, text in pages(sizes(Path(folder))).items():
            page.write_text(text)
    return 0


def _short(mb: float) -> str:
    return f"{mb:.0f}" if mb >= 10 else f"{mb:.1f}" if mb >= 0.05 else "below 0.1"


if __name__ == "__main__":
    sys.exit(main())
