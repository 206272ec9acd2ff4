"""What is uploaded: build/<platform>/<function>/ and the Lambda zips, pruned and byte-compiled.

Beside each lies what is in it, <function>.cdx.json.

`python -m infra.bundle [PLATFORM...]`. The same sources make the same bytes, on the same Python.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from infra import limits, prune, sbom

ROOT = Path(__file__).resolve().parent.parent
MB = 2**20
LAYER_MOST_MB = 80  # unzipped; Lambda takes 250 with everything
RUNTIME = ("ai-edge-litert", "multipart", "numpy", "pillow")
SERVER = ("gunicorn", "packaging")
QUEUE = (
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
)
PINS = ("requirements/serve.txt", "requirements/queue.txt")
# glibc that Amazon Linux 2023 has; all the other platforms' is newer.
NEWEST_GLIBC, OLDEST_GLIBC = 34, 17


class Tree(NamedTuple):
    """A folder to be made; `door` is where its main.py lies in it."""

    function: str
    door: str
    packages: Sequence[str] = ()
    ours: Sequence[str] = ("macule",)
    zipped: bool = False


CONFIGURED = (
    "infra/gunicorn.conf.py",
    "infra/limits.py",
    "infra/limits.toml",
    "infra/serve.py",
    "infra/worker.py",
)
SERVED = ("macule", "weights", *CONFIGURED)
TREES = {
    "render/predict": Tree("predict", "functions/predict", (*RUNTIME, *SERVER), SERVED),
    "render-queue/predict": Tree(
        "predict", "functions/predict", (*RUNTIME, *SERVER, *QUEUE), SERVED
    ),
    "gcp/predict": Tree("predict", ".", (), ("macule", "weights", "requirements/serve.txt")),
    "gcp/health": Tree("health", ".", (), ("macule", "requirements/health.txt")),
    "aws/layer": Tree("", "python", RUNTIME, ("macule", "weights"), zipped=True),
    "aws/predict": Tree("predict", ".", (), (), zipped=True),
    "aws/health": Tree("health", ".", zipped=True),
    "knative/predict": Tree(
        "predict",
        "functions/predict",
        (*RUNTIME, *SERVER),
        (*SERVED, "infra/knative/predict.Dockerfile"),
    ),
    "knative/health": Tree(
        "health",
        "functions/health",
        SERVER,
        ("macule", *CONFIGURED, "infra/knative/health.Dockerfile"),
    ),
}
# Where ours lie in the repository, and in a bundle.
PLACES = {
    "macule": ("layers/model/macule", "macule"),
    "weights": ("layers/model/weights", "weights"),
    "requirements/serve.txt": ("requirements/serve.txt", "requirements.txt"),
    "requirements/health.txt": ("requirements/health.txt", "requirements.txt"),
    "infra/knative/predict.Dockerfile": ("infra/knative/predict.Dockerfile", "Dockerfile"),
    "infra/knative/health.Dockerfile": ("infra/knative/health.Dockerfile", "Dockerfile"),
}


def python(minor: str) -> str:
    """Find an interpreter of that version, whose byte-code no other one reads.

    Returns: this one where there is no other, which does for a try on this machine.
    """
    named = (sys.executable, f"python{minor}")
    return next((name for name in named if _minor(name) == minor), sys.executable)


def build(out: Path, names: Sequence[str], interpreter: str, architecture: str) -> Iterator[str]:
    """Make the bundles *names* of TREES below *out*, and say the size of each.

    Raises: subprocess.CalledProcessError, ValueError where one is larger than its bound.
    """
    with tempfile.TemporaryDirectory() as folder:
        site = Path(folder)
        wanted = sorted({package for name in names for package in TREES[name].packages})
        for package in wanted:
            _install(package, site / package, _minor(interpreter), architecture)
            prune.package(site / package)
            _compile(interpreter, site / package, drop_sources=True)
        for name in names:
            tree, root = TREES[name], out / name
            shutil.rmtree(root, ignore_errors=True)
            base = root / "python" if name == "aws/layer" else root
            base.mkdir(parents=True)
            for package in tree.packages:
                shutil.copytree(site / package, base, dirs_exist_ok=True)
            _copy_ours(tree, root, base)
            _compile(interpreter, base, drop_sources=False)
            root.with_suffix(".cdx.json").write_text(sbom.text(name, root))
            yield _measure(name, root, tree)


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
            shutil.copytree(ROOT / source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / source, target)
    if tree.function:
        (root / tree.door).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / f"functions/{tree.function}/main.py", root / tree.door / "main.py")


def _install(package: str, folder: Path, minor: str, architecture: str) -> None:
    """Install a pinned package alone, as a wheel for the platforms' Linux."""
    machine = {"arm64": "aarch64"}.get(architecture, architecture)
    kinds = [
        f"manylinux_2_{glibc}_{machine}" for glibc in range(NEWEST_GLIBC, OLDEST_GLIBC - 1, -1)
    ]
    folder.mkdir(parents=True)
    pin = folder.parent / f"{package}.txt"
    pin.write_text(_pin("\n".join((ROOT / name).read_text() for name in PINS), package))
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "install"]
    command += ["--no-deps", "--no-compile", "--only-binary", ":all:", "--require-hashes"]
    command += ["--implementation", "cp", "--python-version", minor, "--target", str(folder)]
    command += [f"--platform={kind}" for kind in (*kinds, f"manylinux2014_{machine}")]
    subprocess.run([*command, "-r", str(pin)], check=True)


def _pin(requirements: str, package: str) -> str:
    """Return the lines that pin *package*, with its hashes: more than one, if by Python."""
    blocks = requirements.replace("\\\n", "\0").splitlines()
    found = dict.fromkeys(block for block in blocks if block.split("==")[0] == package)
    return "\n".join(found).replace("\0", "\\\n")


def _compile(interpreter: str, folder: Path, drop_sources: bool) -> None:
    """Compile what has no byte-code yet; *drop_sources* leaves nothing else of other people's."""
    script = str(ROOT / "infra/bytecode.py")
    words = ["--drop-sources"] if drop_sources else []
    settled = {**os.environ, "PYTHONHASHSEED": "0"}
    subprocess.run([interpreter, "-I", script, str(folder), *words], check=True, env=settled)


def _measure(name: str, root: Path, tree: Tree) -> str:
    """Zip what is uploaded as a zip, check its bound, and say its size and its sum."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    size_mb = sum(path.stat().st_size for path in files) / MB
    if name == "aws/layer" and size_mb > LAYER_MOST_MB:
        raise ValueError(f"the layer has {size_mb:.1f} MB; at most {LAYER_MOST_MB} are allowed")
    digest = hashlib.sha256()
    for path in files:
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    said = f"{name:<16} {size_mb:6.1f} MB  {len(files):4} files"
    if tree.zipped:
        archive = root.with_suffix(".zip")
        _zip(archive, root, files)
        said += f", zipped {archive.stat().st_size / MB:.1f} MB"
    return f"{said}  {digest.hexdigest()[:12]}"


def _zip(archive: Path, root: Path, files: Sequence[Path]) -> None:
    """Zip without what differs from build to build: times, order, owners."""
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
    platforms = sorted({name.split("/")[0] for name in TREES})
    parser = argparse.ArgumentParser(description="Make what is uploaded.")
    parser.add_argument("platforms", nargs="*", metavar="PLATFORM", help=", ".join(platforms))
    parser.add_argument("--out", type=Path, default=ROOT / "build")
    parser.add_argument("--python", help="the interpreter that will run it")
    options = parser.parse_args()
    unknown = set(options.platforms) - set(platforms)
    if unknown:
        parser.error(f"{sorted(unknown)} are none of {platforms}")
    chosen = options.platforms or platforms
    table = limits.read()
    interpreter = options.python or python(table.python_minor)
    if not _minor(interpreter):
        parser.error(f"--python {interpreter} is no Python that runs here")
    if _minor(interpreter) != table.python_minor:
        print(
            f"bundle: made for Python {_minor(interpreter)}, to be tried here. Clouds run "
            f"{table.python_minor}: install that before you deploy, or name it with --python.",
            file=sys.stderr,
        )
    names = [name for name in TREES if name.split("/")[0] in chosen]
    try:
        for line in build(options.out, names, interpreter, table.architecture):
            print(line, flush=True)
    except (ValueError, subprocess.CalledProcessError) as error:
        print(f"bundle: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
