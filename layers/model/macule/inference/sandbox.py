"""Landlock: permanently forbids a thread to open files and to use TCP.

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
# Access rights by the ABI version that added them: files, TCP, and scopes (abstract sockets,
# signals to processes outside).
FILES = {1: (1 << 13) - 1, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}
TCP, SCOPES = {4: 0b11}, {6: 0b11}


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("tcp", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


def version() -> int:
    """Return the ABI version of the kernel's Landlock; 0 if it is not available."""
    if sys.platform != "linux":
        return 0
    return max(0, _syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_FLAG))


def restrict() -> str:
    """Restrict the calling thread, and every thread and process that it starts.

    Open files stay usable. From now on the kernel refuses to open files by path, to run programs,
    and to connect or listen over TCP (Linux 6.7).
    Returns: the reason if it failed, else "".
    """
    abi = version()
    if not abi:
        return "this system has no Landlock"
    tables = FILES, TCP, SCOPES
    rules = _Ruleset(*(sum(bits for added, bits in t.items() if added <= abi) for t in tables))
    size = 8 * (1 + (abi >= min(TCP)) + (abi >= min(SCOPES)))
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
