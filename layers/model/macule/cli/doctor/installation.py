"""What is installed here: an interpreter, a C library, wheels that fit both, byte code."""

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

PYTHONS = (3, 11), (3, 15)  # from, and up to but without
WHEELS = {  # by its name on PyPI, the module that brings its compiled part
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "multipart": "multipart",
    "numpy": "numpy",
    "pillow": "PIL.Image",
    "pillow-heif": "pillow_heif",
}
OPTIONAL = {
    "pillow-heif": "HEIC photos are refused with 415; install the extra `heic` to serve them"
}
SERVICE_MODULES = (
    "macule.http.adapters.wsgi",
    "numpy",
    "PIL",
    "ai_edge_litert",
)  # by a service, not by this command
CHILD_TIMEOUT_S = 60
# What a child process dies of, by signal.
SIGNAL_CAUSES = {
    4: "this processor lacks an instruction that was compiled in; take another type of instance",
    9: "ended from outside, as the kernel does when memory runs out; give it more",
}
IMPORT_SCRIPT = "import importlib, sys; importlib.import_module(sys.argv[1])"


class WheelPlatform(NamedTuple):
    """What a wheel was compiled for: the least glibc, and the processor."""

    glibc: tuple[int, int]
    machine: str


def run_checks() -> Iterator[CheckResult]:
    """Examine the interpreter that runs this and what it can import."""
    yield check_python(sys.version_info[:3], sys.maxsize)
    yield check_bytecode()  # before a child process writes what is missing
    for name, module in WHEELS.items():
        yield check_wheel(name, module)
    if sys.platform == "linux":
        built = [needs for name in WHEELS for needs in wheel_platforms(name)]
        yield check_libc(platform.libc_ver(), platform.machine(), built)


def check_python(version: tuple[int, ...], largest: int) -> CheckResult:
    """Judge an interpreter by its version and its `sys.maxsize`."""
    text = ".".join(map(str, version))
    least, end = PYTHONS
    if not least <= version[:2] < end:
        wanted = f"{least[0]}.{least[1]} to {end[0]}.{end[1] - 1}"
        return CheckResult(FAIL, "python", f"{text} is not {wanted}, which LiteRT has wheels for")
    if largest <= 2**32:
        return CheckResult(FAIL, "python", f"{text} has 32 bits; LiteRT has wheels for 64 only")
    return CheckResult(OK, "python", f"{text}, 64 bits")


def check_bytecode() -> CheckResult:
    """Look whether a start finds its modules byte-compiled."""
    from importlib.util import find_spec

    folders = [
        os.path.dirname(spec.origin)
        for spec in map(find_spec, SERVICE_MODULES)
        if spec and spec.origin and spec.cached and not os.path.exists(spec.cached)
    ]
    if not folders:
        return CheckResult(OK, "byte code", "compiled")
    # measured on 2 cores: nothing compiled, from the start of gunicorn to a warm model
    return CheckResult(
        WARN,
        "byte code",
        "is missing, so a start takes up to 0.7 s instead of 0.2; when you build, run "
        f"`python -m compileall -q {shlex.join(folders)}`",
    )


def check_wheel(name: str, module: str) -> CheckResult:
    """Import a wheel's module in a process of its own, which it may take down with it."""
    from importlib import metadata

    version = ""
    with suppress(metadata.PackageNotFoundError):  # a bundle may leave the metadata out
        version = metadata.version(name)
    lived, said = run_child(IMPORT_SCRIPT, module)
    if lived:
        return CheckResult(OK, name, version or "can be imported")
    if name in OPTIONAL and not version:
        return CheckResult(OK, name, f"not installed: {OPTIONAL[name]}")
    text = f"{version} cannot be imported: {said}. Install requirements/serve.txt anew, here"
    return CheckResult(FAIL, name, text.strip())


def check_libc(
    found: tuple[str, str], machine: str, built: Collection[WheelPlatform]
) -> CheckResult:
    """Compare the C library and the processor with what wheels were built for."""
    name, version = found
    if name != "glibc":
        return CheckResult(
            FAIL,
            "glibc",
            f"there is {name or 'another C library, such as musl'}, for which LiteRT has no wheel: "
            "take a Debian-based image, such as python:3.13-slim, not Alpine",
        )
    others = {wheel.machine for wheel in built} - {machine}
    if others:
        return CheckResult(
            FAIL,
            "glibc",
            f"the wheels are for {' and '.join(sorted(others))}, this is {machine}: install them "
            "on a machine like this one",
        )
    needed = max((wheel.glibc for wheel in built), default=(0, 0))
    if tuple(map(int, version.split(".")[:2])) < needed:
        least = ".".join(map(str, needed))
        return CheckResult(FAIL, "glibc", f"{version}; the wheels need {least}: take a newer image")
    return CheckResult(OK, "glibc", f"{version}, {machine}")


def wheel_platforms(name: str) -> list[WheelPlatform]:
    """Read what an installed wheel needs of its C library; nothing for pure Python."""
    from importlib import metadata

    with suppress(metadata.PackageNotFoundError):
        about = metadata.distribution(name).read_text("WHEEL") or ""
        tags = re.findall(r"-manylinux_(\d+)_(\d+)_(\w+)$", about, re.MULTILINE)
        found = [WheelPlatform((int(major), int(minor)), machine) for major, minor, machine in tags]
        return [min(found)] if found else []  # it keeps to each of its tags, so to the least
    return []


def run_child(code: str, argument: str) -> tuple[bool, str]:
    """Run *code* in a process of its own: what would kill this one becomes a finding.

    Returns: whether it came to its end, and the last line that it said.
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
        return False, f"it takes more than {CHILD_TIMEOUT_S} s"
    if done.returncode < 0:
        number = -done.returncode
        return (
            False,
            f"{signal.strsignal(number)}: {SIGNAL_CAUSES.get(number, 'a fault in compiled code')}",
        )
    said = done.stderr if done.returncode else done.stdout
    return not done.returncode, (said.strip().splitlines() or [""])[-1]
