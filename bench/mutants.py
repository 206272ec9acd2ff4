"""Mutation testing: how many changed lines of `inference` and `memory` do the tests notice?

    .venv-dev/bin/python bench/mutants.py [--seconds 600] [--seed 1] [--rooms memory inference]

cosmic-ray lists every mutation of the modules in the rooms; a module counts if it has a file of
tests of its own. A sample by seed is applied one at a time in a copy of the tree, and that file
runs. A mutant is killed when a test fails or the tests take ten times as long as without it.
Writes bench/results/mutants.json with the survivors.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import harness

sys.path[:0] = [str(harness.ROOT / "tests")]
from support.bare_environment import clone

PACKAGE = Path("layers/model/macule")
# Values that only a measurement can judge, and annotations, are not behaviour.
LEFT_OUT = ("ReplaceBinaryOperator_BitOr", "RemoveDecorator")


def tests_of(module: Path) -> Path:
    """Return the test file of *module*; it may not exist."""
    place = module.relative_to(PACKAGE)
    name = place.parent.name if place.stem == "__init__" else place.stem
    folder = place.parent.parent if place.parent.name == "formats" else place.parent
    return Path("tests/macule") / folder / f"test_{name}.py"


def command(tests: Path) -> list[str]:
    marks = "not slow and not memory"
    return [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", "-m", marks, str(tests)]


def run(module: Path, source: str, mutated: str, limit_s: float, environ: dict[str, str]) -> bool:
    """Return whether the tests of *module* still pass with *mutated* in its place."""
    module.write_text(mutated)
    try:
        done = subprocess.run(
            command(tests_of(module)), env=environ, timeout=limit_s, capture_output=True
        )
    except subprocess.TimeoutExpired:
        return False
    finally:
        module.write_text(source)
    return done.returncode == 0


def mutations(rooms: list[str]) -> list[tuple[Path, Any]]:
    """List every mutation of the modules in *rooms*."""
    from cosmic_ray.commands import init
    from cosmic_ray.work_db import WorkDB, use_db

    modules = [path for room in rooms for path in sorted((PACKAGE / room).rglob("*.py"))]
    modules = [path for path in modules if tests_of(path).is_file()]
    with use_db("mutants.sqlite", WorkDB.Mode.create) as found:
        init(modules, found, {})
        items = [item.mutations[0] for item in found.work_items]
    left = [m for m in items if not any(name in m.operator_name for name in LEFT_OUT)]
    return [(Path(m.module_path), m) for m in left]


def mutate(source: str, mutation: Any) -> str | None:
    """Return *source* with *mutation*, or None if nothing changes."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    operator = get_operator(mutation.operator_name)(**mutation.operator_args)
    return mutate_code(source, operator, mutation.occurrence)  # type: ignore[no-any-return]


def main() -> None:
    """Run mutants until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rooms", nargs="+", default=["memory", "inference"])
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as folder:
        clone(Path(folder))
        for name in (".venv", ".venv-dev"):
            (Path(folder) / name).symlink_to(harness.ROOT / name)
        os.chdir(folder)
        path = os.pathsep.join([str(Path(folder) / "layers/model"), str(Path(folder) / "tests")])
        environ = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
        found = mutations(options.rooms)
        random.Random(options.seed).shuffle(found)  # noqa: S311
        times: dict[Path, float] = {}
        counts: dict[str, Counter[str]] = {}
        survivors = []
        for module, mutation in found:
            if time.monotonic() > end:
                break
            source = module.read_text()
            mutated = mutate(source, mutation)
            if mutated is None or mutated == source:
                continue
            if module not in times:
                began = time.monotonic()
                if not run(module, source, source, 600, environ):
                    sys.exit(f"the tests of {module} fail without a mutation")
                times[module] = time.monotonic() - began
            survived = run(module, source, mutated, 10 * times[module] + 5, environ)
            room = module.relative_to(PACKAGE).parts[0]
            counts.setdefault(room, Counter())["survived" if survived else "killed"] += 1
            line = mutation.start_pos[0]
            if survived:
                before = source.splitlines()[line - 1].strip()
                after = mutated.splitlines()[line - 1].strip()
                survivors.append({"at": f"{module}:{line}", "before": before, "after": after})
            print("survived" if survived else "killed", f"{module}:{line}", flush=True)
    tried = sum(sum(each.values()) for each in counts.values())
    harness.record(
        "mutants",
        harness.installed("cosmic-ray"),
        seed=options.seed,
        possible=len(found),
        tried=tried,
        score={room: round(c["killed"] / sum(c.values()), 3) for room, c in counts.items()},
        counts={room: dict(each) for room, each in counts.items()},
        survivors=survivors,
    )


if __name__ == "__main__":
    main()
