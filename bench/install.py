"""Time the wheel from an empty folder to its first answer: an environment, pip, `macule serve`.

Each interpreter starts from an empty folder, and does not see this repository. A first round fills
pip's cache and is not counted.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import harness

sys.path[:0] = [str(harness.ROOT / "tests"), str(harness.ROOT)]
from support.bare_environment import Bare, first_answer, hidden

LOCAL = {"HOST": "127.0.0.1", "DRAIN_S": "0"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("interpreters", nargs="*", default=[sys.executable])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    photo, rows = harness.photo(12), []
    with tempfile.TemporaryDirectory() as folder:
        command = ["make", "-s", "wheel", f"DIST={folder}"]
        subprocess.run(command, cwd=harness.ROOT, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = Path(folder).glob("*.whl")
        for interpreter in options.interpreters:
            python = subprocess.check_output([interpreter, "-V"], text=True).split()[1]
            rounds = [once(wheel, interpreter, photo) for _ in range(options.rounds + 1)][1:]
            median = {
                name: round(statistics.median(r[name] for r in rounds), 2) for name in rounds[0]
            }
            rows.append({"python": python, **median})
            print(json.dumps(rows[-1]), flush=True)
        harness.record(
            "install",
            {"macule": "wheel"},
            wheel_bytes=wheel.stat().st_size,
            unpacked_bytes=sum(item.file_size for item in zipfile.ZipFile(wheel).infolist()),
            photo_bytes=len(photo),
            rounds=options.rounds,
            hidden=bool(hidden()),
            rows=rows,
        )
        print(f"{wheel.name}: {wheel.stat().st_size:,} bytes")


def once(wheel: Path, interpreter: str, photo: bytes) -> dict[str, float]:
    """Return the seconds of each step and in total."""
    folder = Path(tempfile.mkdtemp())
    try:
        marks = [time.monotonic()]
        there = Bare(folder, interpreter, cloned=False)
        marks.append(time.monotonic())
        there.run(f"python -m pip install --quiet '{wheel}[serve]'", {})
        marks.append(time.monotonic())
        with there.start("exec macule serve", LOCAL) as service:
            status, _ = first_answer(service, photo)
            marks.append(time.monotonic())
        if status != 200:
            raise SystemExit(f"the first answer was {status}")
    finally:
        shutil.rmtree(folder)
    steps = ("venv_s", "install_s", "serve_to_answer_s")
    spent = {name: end - begin for name, begin, end in zip(steps, marks, marks[1:], strict=False)}
    return {**spent, "total_s": marks[-1] - marks[0]}


if __name__ == "__main__":
    main()
