"""Bundles for upload: build/<platform>/<function>/ and the Lambda zips, pruned and byte-compiled.

The list of a bundle's contents is beside it, <function>.cdx.json.

`python -m infra.bundle [PLATFORM...]` needs only Python and pip. The same sources give the same
bytes, on the same Python.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from infra import limits, pins, platforms, prune, sbom

ROOT = Path(__file__).resolve().parent.parent
MB = 2**20
LAYER_MOST_MB = 85  # unzipped and without extras; Lambda accepts more
# What is installed together; the table's extras are parts too, named like their pins.
PARTS = {
    "runtime": ("ai-edge-litert", "multipart", "pi-heif", "pillow"),
    "server": ("gunicorn", "packaging"),
    "queue": (
        "amqp",
        "billiard",
        "celery",
        "click",
        "kombu",
        "python-dateutil",
        "redis",
        "six",
        "tzlocal",
        "vine",
    ),
}
# glibc of Amazon Linux 2023; all the other platforms have a newer one.
NEWEST_GLIBC, OLDEST_GLIBC = 34, 17


class Tree(NamedTuple):
    """A folder to build; `main_folder` is the place of main.py in it, "" if none is needed.

    `parts` are installed into it; `pinned` are files of pins that the platform installs.
    """

    function: str
    main_folder: str
    parts: Sequence[str] = ()
    ours: Sequence[str] = ("macule",)
    pinned: Sequence[str] = ()
    zipped: bool = False


CONFIGURED = ("infra/limits.py", "infra/limits.toml", "infra/serve.py")
VERSION = "infra/gcp/python-version"
SERVED = ("macule", "weights", *CONFIGURED)
TREES = {
    "render/predict": Tree("predict", "", ("runtime", "server"), SERVED),
    "render-queue/predict": Tree("predict", "", ("runtime", "server", "queue"), SERVED),
    "gcp/predict": Tree("predict", ".", (), ("macule", "weights", VERSION), ("serve",)),
    "gcp/health": Tree("health", ".", (), ("macule", VERSION), ("health",)),
    "aws/layer": Tree("", "python", ("runtime",), ("macule", "weights"), zipped=True),
    "aws/predict": Tree("predict", ".", (), (), zipped=True),
    "aws/health": Tree("health", ".", zipped=True),
    "knative/predict": Tree(
        "predict",
        "",
        ("runtime", "server"),
        (*SERVED, "infra/knative/predict.Dockerfile"),
    ),
    "knative/health": Tree(
        "health",
        "",
        ("server",),
        ("macule", *CONFIGURED, "infra/knative/health.Dockerfile"),
    ),
}
# Paths of this project's files in the repository, and in a bundle.
PLACES = {
    "macule": ("layers/model/macule", "macule"),
    "weights": ("layers/model/macule/weights", "macule/weights"),
    VERSION: (VERSION, ".python-version"),  # read by Google's buildpacks
    "infra/knative/predict.Dockerfile": ("infra/knative/predict.Dockerfile", "Dockerfile"),
    "infra/knative/health.Dockerfile": ("infra/knative/health.Dockerfile", "Dockerfile"),
}


OFFLINE = {"convert", "train", "weights"}  # modules that no function imports


class Target(NamedTuple):
    """The Python and architecture that will run a bundle.

    *interpreter* has that version, if one is installed here.
    """

    minor: str
    interpreter: str = ""
    machine: str = ""


def target(asked: str, minor: str) -> Target:
    """Find an interpreter: *asked* by name or version; else one of *minor*; else the present one.

    Raises: ValueError if there is no interpreter *asked*.
    """
    if not asked:
        found = next(
            (name for name in (sys.executable, f"python{minor}") if _minor(name) == minor), ""
        )
        return Target(minor, found) if found else Target(_minor(sys.executable), sys.executable)
    if re.fullmatch(r"3\.\d+", asked):
        named = (sys.executable, f"python{asked}")
        return Target(asked, next((name for name in named if _minor(name) == asked), ""))
    if not _minor(asked):
        raise ValueError(
            f"--python {asked} is no Python that runs here, nor a version such as 3.13"
        )
    return Target(_minor(asked), asked)


def build(out: Path, names: Sequence[str], run: Target, table: limits.Limits) -> Iterator[str]:
    """Build the bundles *names* of TREES below *out*, and print the size of each.

    Raises: subprocess.CalledProcessError, ValueError if one is larger than its limit.
    """
    with tempfile.TemporaryDirectory() as folder:
        shelf = Path(folder)
        for name in names:
            tree, root = TREES[name], out / name
            machine = run.machine or platforms.architecture(name.split("/")[0], table.architecture)
            extras = table.predict.extras if tree.function != "health" else ()
            shutil.rmtree(root, ignore_errors=True)
            base = root / "python" if name == "aws/layer" else root
            base.mkdir(parents=True)
            if tree.parts:
                for part in (*tree.parts, *extras):
                    _copy_part(part, shelf / machine, base, run, machine)
            if tree.pinned:
                (root / "requirements.txt").write_text(pins.merge((*tree.pinned, *extras)))
            _copy_ours(tree, root, base)
            _compile(run, base, drop_sources=False)
            root.with_suffix(".cdx.json").write_text(sbom.text(name, root))
            yield measure(name, root, tree, extras)
        yield from _extras(shelf, table.predict.extras)


def _copy_part(part: str, shelf: Path, base: Path, run: Target, machine: str) -> None:
    """Copy a part into a bundle; each is installed once."""
    if not (shelf / part).exists():
        _install(part, shelf / part, run.minor, machine)
        prune.package(shelf / part)
        _compile(run, shelf / part, drop_sources=True)
    shutil.copytree(shelf / part, base, dirs_exist_ok=True)


def _extras(shelf: Path, extras: Sequence[str]) -> Iterator[str]:
    """Print what each extra adds."""
    for part in sorted(shelf.glob("*/*")):
        if part.is_dir() and part.name in extras:
            files = [path for path in part.rglob("*") if path.is_file()]
            size_mb = sum(path.stat().st_size for path in files) / MB
            line = f"{size_mb:6.1f} MB  {len(files):4} files, {part.parent.name}"
            yield f"extra {part.name:<10} {line}"


def _copy_ours(tree: Tree, root: Path, base: Path) -> None:
    for name in tree.ours:
        source, place = PLACES.get(name, (name, name))
        target = base / place
        target.parent.mkdir(parents=True, exist_ok=True)
        if name == "weights":
            target.mkdir()
            card = json.loads((ROOT / source / "model.json").read_text())
            for file in ("model.json", card["file"]):
                shutil.copyfile(ROOT / source / file, target / file)
        elif (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, target, ignore=_left_out)
        else:
            shutil.copyfile(ROOT / source, target)
    if tree.function and tree.main_folder:
        (root / tree.main_folder).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(
            ROOT / f"functions/{tree.function}/main.py", root / tree.main_folder / "main.py"
        )


def _left_out(folder: str, names: list[str]) -> set[str]:
    """Name the files of a folder that are not copied; weights are copied by their card."""
    ours = OFFLINE if Path(folder) == ROOT / PLACES["macule"][0] else set()
    return {name for name in names if name in {"__pycache__", *ours}}


def _install(part: str, folder: Path, minor: str, machine: str) -> None:
    """Install the pinned packages of a part, without dependencies, as wheels for Linux."""
    if part in PARTS:
        held = pins.read(("serve", "queue"), minor, machine)
        wanted = [held[name] for name in PARTS[part]]
    else:
        carried = {*PARTS["runtime"], *PARTS["server"]}
        wanted = [
            pin for pin in pins.read([part], minor, machine).values() if pin.name not in carried
        ]
    arm = pins.MACHINES[machine]
    kinds = [f"manylinux_2_{glibc}_{arm}" for glibc in range(NEWEST_GLIBC, OLDEST_GLIBC - 1, -1)]
    folder.mkdir(parents=True)
    listed = folder.parent / f"{part}.txt"
    listed.write_text("".join(map(str, wanted)))
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    command += ["--no-deps", "--no-compile", "--only-binary", ":all:", "--require-hashes"]
    # a wheel's name gives its Python; pip would install for the one that it runs on
    command += ["--ignore-requires-python", "--implementation", "cp", "--python-version", minor]
    command += [f"--platform={kind}" for kind in (*kinds, f"manylinux2014_{arm}")]
    subprocess.run([*command, "--target", str(folder), "-r", str(listed)], check=True)


def _compile(run: Target, folder: Path, drop_sources: bool) -> None:
    """Compile files without byte-code; *drop_sources* removes the sources of other packages."""
    if not run.interpreter:
        return
    script = str(ROOT / "infra/bytecode.py")
    words = ["--drop-sources"] if drop_sources else []
    settled = {**os.environ, "PYTHONHASHSEED": "0"}
    subprocess.run([run.interpreter, "-I", script, str(folder), *words], check=True, env=settled)


def measure(name: str, root: Path, tree: Tree, extras: Sequence[str]) -> str:
    """Zip what is uploaded as a zip, check its limit, and print its size and digest."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    size_mb = sum(path.stat().st_size for path in files) / MB
    most_mb = platforms.LAMBDA_UNZIPPED_MB if extras else LAYER_MOST_MB
    if name == "aws/layer" and size_mb > most_mb:
        raise ValueError(f"the layer has {size_mb:.1f} MB; at most {most_mb} are allowed")
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    line = f"{name:<16} {size_mb:6.1f} MB  {len(files):4} files"
    if tree.zipped:
        archive = root.with_suffix(".zip")
        _zip(archive, root, files)
        line += f", zipped {archive.stat().st_size / MB:.1f} MB"
    return f"{line}  {digest.hexdigest()[:12]}"


def _zip(archive: Path, root: Path, files: Sequence[Path]) -> None:
    """Zip without times, order and owners, which differ between builds."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as bundle:
        for path in files:
            entry = zipfile.ZipInfo(str(path.relative_to(root)))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            bundle.writestr(entry, path.read_bytes())


def _minor(interpreter: str) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        run = subprocess.run([interpreter, "-Ic", code], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return run.stdout.strip()


def main() -> int:
    everything = sorted({name.split("/")[0] for name in TREES})
    parser = argparse.ArgumentParser(description="Make what is uploaded.")
    parser.add_argument("platforms", nargs="*", metavar="PLATFORM", help=", ".join(everything))
    parser.add_argument("--out", type=Path, default=ROOT / "build")
    parser.add_argument("--python", default="", help="the interpreter that will run it, or 3.X")
    parser.add_argument(
        "--machine", choices=pins.MACHINES, help="instead of what each platform has, to try it here"
    )
    options = parser.parse_args()
    unknown = set(options.platforms) - set(everything)
    if unknown:
        parser.error(f"{sorted(unknown)} are none of {everything}")
    chosen = options.platforms or everything
    names = [name for name in TREES if name.split("/")[0] in chosen]
    try:
        table = limits.read()
        run = target(options.python, table.python_minor)._replace(machine=options.machine or "")
        _warn(run, table.python_minor)
        for line in build(options.out, names, run, table):
            print(line, flush=True)
    except (ValueError, subprocess.CalledProcessError) as error:
        print(f"bundle: {error}", file=sys.stderr)
        return 1
    return 0


def _warn(run: Target, minor: str) -> None:
    if run.minor != minor:
        print(
            f"bundle: made for Python {run.minor}, to be tried here. Clouds run {minor}: install "
            f"that before you deploy, or give --python {minor}.",
            file=sys.stderr,
        )
    if not run.interpreter:
        print(
            f"bundle: no Python {run.minor} is here to byte-compile with: starts are slower",
            file=sys.stderr,
        )


if __name__ == "__main__":
    sys.exit(main())
