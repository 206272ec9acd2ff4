"""Twenty thousand drawn images through `macule batch`: speed, memory, and the cost of kill -9.

    .venv-dev/bin/python bench/batch.py

Once with 1,000 images, once with all, and once with all while it is killed every few seconds and
started again; the last two must give the same rows. Then the end of a million: a journal that
lacks 100 of them is continued and becomes a table. Memory is the largest resident size of the
process. Writes bench/results/batch.json.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import harness
import numpy as np
from harness import ROOT
from PIL import Image, ImageDraw

MILLION = 1_000_000
SIDE, CANVAS = (400, 300), (1600, 1200)


class Run(NamedTuple):
    seconds: float
    peak_mb: float
    code: int


def draw(folder: Path, count: int) -> None:
    """Write *count* different JPEGs of spots on skin, a hundredth of them damaged."""
    rng = np.random.default_rng(20)
    grain = np.array([205, 160, 135]) + rng.normal(0, 8, (*CANVAS[::-1], 1))
    canvas = Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8))
    for number in range(count):
        x, y = int(rng.integers(CANVAS[0] - SIDE[0])), int(rng.integers(CANVAS[1] - SIDE[1]))
        image = canvas.crop((x, y, x + SIDE[0], y + SIDE[1]))
        left, top, size = rng.integers(40, 140, 3)
        spot = tuple(int(part) for part in rng.integers(40, 120, 3))
        ImageDraw.Draw(image).ellipse((left, top, left + size, top + size), fill=spot)
        path = folder / f"{number // 1000:02}" / f"{number:06}.jpg"
        path.parent.mkdir(exist_ok=True)
        image.save(path, quality=85)
        if number % 100 == 99:
            path.write_bytes(path.read_bytes()[:2000])


def run(source: Path, out: Path, kill_after_s: float | None = None) -> Run:
    """Run the command to its end, or kill it."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [ROOT / ".venv/bin/macule", "batch", source, "--out", out],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    peak_kb = 0
    while process.poll() is None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")]
        peak_kb = max(peak_kb, *map(int, peak), 0)
        if kill_after_s and time.perf_counter() - began > kill_after_s:
            process.kill()
        time.sleep(0.05)
    return Run(time.perf_counter() - began, peak_kb / 1024, process.returncode)


def end_of_a_million(photo: Path, out: Path) -> Run:
    """Continue a run of a million rows of one image of which all but 100 are written."""
    listed = out.with_name("million.txt")
    listed.write_text(f"{photo}\n" * MILLION)
    run(listed, out, 2.0)
    part = out.with_name(f".{out.name}.part")
    header, row = part.read_text().splitlines(keepends=True)[:2]
    with part.open("w") as file:
        file.write(header)
        file.writelines(row for _ in range(MILLION - 100))
    return run(listed, out)


def rows(out: Path) -> list[str]:
    return out.read_text().splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--kill-after-s", type=float, default=12.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        photos = Path(name) / "photos"
        photos.mkdir()
        draw(photos, options.images)
        few = Path(name) / "few.txt"
        few.write_text("\n".join(map(str, sorted(photos.rglob("*.jpg"))[:1000])))
        small = run(few, Path(name) / "few.jsonl")
        straight = run(photos, Path(name) / "straight.jsonl")
        killed: list[Run] = []
        while not killed or killed[-1].code:
            killed.append(run(photos, Path(name) / "killed.jsonl", options.kill_after_s))
        million = end_of_a_million(photos / "00" / "000000.jpg", Path(name) / "million.csv")
        with (Path(name) / "million.csv").open() as table:
            million_rows = sum(1 for _ in table) - 1
        whole, pieced = rows(Path(name) / "straight.jsonl"), rows(Path(name) / "killed.jsonl")
        statuses = Counter(json.loads(row)["status"] for row in whole)
    left_out, doubled = Counter(whole) - Counter(pieced), Counter(pieced) - Counter(whole)
    harness.record(
        "batch",
        harness.installed("ai-edge-litert", "numpy", "pillow"),
        processors=os.cpu_count(),
        pixels=SIDE,
        images=options.images,
        rows=dict(statuses),
        images_per_s=round(options.images / straight.seconds, 1),
        peak_mb={
            "1000": round(small.peak_mb, 1),
            str(options.images): round(straight.peak_mb, 1),
            "killed": round(max(each.peak_mb for each in killed), 1),
            "end of a million": round(million.peak_mb, 1),
        },
        kills=len(killed) - 1,
        lost=left_out.total(),
        repeated=doubled.total(),
        same_order=whole == pieced,
        killed_s=round(sum(each.seconds for each in killed), 1),
        straight_s=round(straight.seconds, 1),
        end_of_a_million_rows=million_rows,
        end_of_a_million_s=round(million.seconds, 1),
    )


if __name__ == "__main__":
    main()
