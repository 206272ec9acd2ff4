"""Checks of the installation: Python, C library, wheels and byte code."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import NamedTuple

from macule.cli.doctor.check_result import FAIL, OK, WARN, CheckResult

PYTHONS = (3, 11), (3, 15)  # first, and first unsupported
WHEELS = {  # name on PyPI: module with the compiled part
    "ai-edge-litert": "ai_edge_litert",
    "multipart": "multipart",
    "pillow": "PIL.Image",
    "pillow-heif": "pillow_heif",
}
OPTIONAL = {"pillow-heif": "HEIC photos get a 415; install the extra `heic` to serve them"}
SERVICE_MODULES = (
    "macule.http.adapters.wsgi",
    "PIL",
    "ai_edge_litert",
)  # imported by the service, not by this command
CHILD_TIMEOUT_S = 60
# Likely causes, by the signal that ended a child process.
SIGNAL_CAUSES = {
    4: "this CPU lacks an instruction that the binary uses; use another instance type",
    9: "killed, probably by the kernel because memory ran out; increase the memory",
}
IMPORT_SCRIPT = "import importlib, sys; importlib.import_module(sys.argv[1])"


class WheelPlatform(NamedTuple):
    """The oldest glibc that a wheel supports, and its CPU architecture."""

    glibc: tuple[int, int]
    machine: str


def run_checks() -> Iterator[CheckResult]:
    """Check this interpreter and the packages that it can import."""
    yield check_python(sys.version_info[:3], sys.maxsize)
    yield check_bytecode()  # before a child process compiles modules
    for name, module in WHEELS.items():
        yield check_wheel(name, module)
    if sys.platform == "linux":
        built = [needs for name in WHEELS for needs in wheel_platforms(name)]
        yield check_libc(platform.libc_ver(), platform.machine(), built)


def check_python(version: tuple[int, ...], maxsize: int) -> CheckResult:
    """Check an interpreter by its version and its `sys.maxsize`."""
    text = ".".join(map(str, version))
    least, end = PYTHONS
    if not least <= version[:2] < end:
        wanted = f"{least[0]}.{least[1]} to {end[0]}.{end[1] - 1}"
        text += f" is not supported: LiteRT has wheels for {wanted}"
        return CheckResult(FAIL, "python", text)
    if maxsize <= 2**32:
        text += " is a 32-bit build: LiteRT has only 64-bit wheels"
        return CheckResult(FAIL, "python", text)
    return CheckResult(OK, "python", f"{text}, 64 bits")


def check_bytecode() -> CheckResult:
    """Check whether the modules of the service are byte-compiled."""
    from importlib.util import find_spec

    folders = [
        os.path.dirname(spec.origin)
        for spec in map(find_spec, SERVICE_MODULES)
        if spec and spec.origin and spec.cached and not os.path.exists(spec.cached)
    ]
    if not folders:
        return CheckResult(OK, "byte code", "compiled")
    # measured on 2 cores without any byte code: from the start of gunicorn to a warm model
    what = "missing, so a start takes up to 0.7 s instead of 0.2; run this when you build"
    return CheckResult(
        WARN, "byte code", f"{what}: `python -m compileall -q {shlex.join(folders)}`"
    )


def check_wheel(name: str, module: str) -> CheckResult:
    """Import the module of a wheel in a separate process, because the import can crash."""
    from importlib import metadata

    version = ""
    with suppress(metadata.PackageNotFoundError):  # bundles can omit the metadata
        version = metadata.version(name)
    succeeded, output = run_child(IMPORT_SCRIPT, module)
    if succeeded:
        return CheckResult(OK, name, version or "can be imported")
    if name in OPTIONAL and not version:
        return CheckResult(OK, name, f"not installed: {OPTIONAL[name]}")
    text = f"{version} cannot be imported: {output}.".strip()
    return CheckResult(FAIL, name, f"{text} Reinstall requirements/serve.txt on this machine")


def check_libc(
    found: tuple[str, str], machine: str, built: Collection[WheelPlatform]
) -> CheckResult:
    """Compare the C library and CPU with those that the wheels need."""
    name, version = found
    if name != "glibc":
        what = f"found {name or 'another C library, such as musl'}, for which LiteRT has no wheel"
        advice = "use a Debian-based image, such as python:3.13-slim, not Alpine"
        return CheckResult(FAIL, "glibc", f"{what}: {advice}")
    others = {wheel.machine for wheel in built} - {machine}
    if others:
        what = f"the wheels are for {' and '.join(sorted(others))}, this is {machine}"
        advice = "install them on this machine or one like it"
        return CheckResult(FAIL, "glibc", f"{what}: {advice}")
    needed = max((wheel.glibc for wheel in built), default=(0, 0))
    if tuple(map(int, version.split(".")[:2])) < needed:
        least = ".".join(map(str, needed))
        return CheckResult(FAIL, "glibc", f"{version}; the wheels need {least}: use a newer image")
    return CheckResult(OK, "glibc", f"{version}, {machine}")


def wheel_platforms(name: str) -> list[WheelPlatform]:
    """Return the platform of an installed wheel; empty for pure Python."""
    from importlib import metadata

    with suppress(metadata.PackageNotFoundError):
        about = metadata.distribution(name).read_text("WHEEL") or ""
        tags = re.findall(r"-manylinux_(\d+)_(\d+)_(\w+)$", about, re.MULTILINE)
        found = [WheelPlatform((int(major), int(minor)), machine) for major, minor, machine in tags]
        return [min(found)] if found else []  # the wheel conforms to all its tags
    return []


def run_child(code: str, argument: str) -> tuple[bool, str]:
    """Run *code* in a separate process, so that a crash does not end this one.

    Returns: whether it succeeded, and its last line of output.
    """
    import signal
    import subprocess

    try:
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", code, argument],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=CHILD_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"it did not finish within {CHILD_TIMEOUT_S} s"
    if done.returncode < 0:
        number = -done.returncode
        cause = SIGNAL_CAUSES.get(number, "a crash in compiled code")
        return False, f"{signal.strsignal(number)}: {cause}"
    output = done.stderr if done.returncode else done.stdout
    return not done.returncode, (output.strip().splitlines() or [""])[-1]
