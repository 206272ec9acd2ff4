"""Landlock: a thread gives up opening files and connecting over TCP, for good.

Source: https://docs.kernel.org/userspace-api/landlock.html.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

# linux/landlock.h, linux/prctl.h and asm-generic/unistd.h: the same numbers on x86-64 and arm64.
CREATE_RULESET, RESTRICT_SELF = 444, 446
VERSION_FLAG = 1
PR_SET_NO_NEW_PRIVS = 38
# Rights by the version of the interface that added them: on files, of TCP, and scopes (abstract
# sockets, signals to processes outside).
FILES = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
TCP, SCOPES = {4: 0b11}, {6: 0b11}


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


def version() -> int:
    """Return the version of the kernel's Landlock, 0 where there is none that may be used."""
    if sys.platform != "linux":
        return 0
    return max(0, _syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_FLAG))


def restrict() -> str:
    """Restrict the calling thread, and every thread and process that it starts.

    What is open stays usable. From then on the kernel refuses every file by its path, to run a
    program, and to connect or listen over TCP (Linux 6.7).
    Returns: why that could not be done; "" where it was.
    """
    known = version()
    if not known:
        return "this system has no Landlock"
    wanted = (
        sum(bits for at, bits in table.items() if at <= known) for table in (FILES, TCP, SCOPES)
    )
    rules = _Ruleset(*wanted)
    size = 8 * (1 + (known >= min(TCP)) + (known >= min(SCOPES)))
    file = _syscall(CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    if file < 0:
        return _errno_message()
    try:
        _libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return _errno_message() if _syscall(RESTRICT_SELF, file, 0) else ""
    finally:
        os.close(file)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _syscall(*arguments: object) -> int:
    return int(_libc().syscall(*arguments))


def _errno_message() -> str:
    return f"Landlock: {errno.errorcode.get(ctypes.get_errno(), 'unknown error')}"
