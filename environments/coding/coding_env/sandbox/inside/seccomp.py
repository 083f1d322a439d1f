"""The seccomp filter of a worker: a list of what is allowed, everything else fails with EPERM.

Rules that need more than a name:

- ``clone`` only makes threads, and those only where they are allowed: glibc's ``fork`` is a
  ``clone`` too, so its flags decide. ``clone3`` keeps its flags in memory, where a filter cannot
  look: it is reported missing and glibc falls back on ``clone``.
- Signals go to the worker itself and are never SIGKILL: one that the server did not send came
  from outside, and is known as such.
- ``fcntl`` cannot choose who gets a file's signals (F_SETOWN, F_SETSIG): that is ``kill`` by
  another name.
- ``prlimit64`` reads limits and sets none. Sockets come in pairs and have no addresses.
- A command's processes may start others, in no namespace of their own, and signal what they like:
  Landlock keeps signals among them.
- O_TRUNC without the right to write fails: Landlock sees it only from ABI 3 on.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct
from typing import Final

from .syscalls import ALLOWED, AUDIT_ARCH, COMMANDS, IGNORED, MISSING, UNSUPPORTED, numbers

__all__ = ["build", "install"]

_LD, _JEQ, _JGE, _JSET, _AND, _RET = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCH = 0, 4
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000
_X32: Final = 0x40000000

_CLONE_THREAD: Final = 0x10000
_CLONE_NEW: Final = 0x7E020080  # every namespace
_O_TRUNC, _O_ACCMODE = 0o1000, 3
_IOCTLS: Final = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX."""
_FCNTLS: Final = (0, 1, 2, 3, 4, 5, 6, 7, 1030, 1032)
"""Duplicate, descriptor flags, status flags, locks, size of a pipe."""
_PRCTLS: Final = (15, 16)
"""The thread's name."""
_AF_UNIX: Final = 1
_SIGKILL: Final = 9
_ANY_PID: Final = 0x7AB5F3E9
"""More than any pid can be, and like nothing else in the filter."""

_Instruction = tuple[int, int, int, int]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def build(pid: int, threads: bool, commands: bool = False) -> bytes:
    """The filter for the process ``pid`` as ``struct sock_filter`` after another."""
    return _template(threads, commands).replace(struct.pack("=I", _ANY_PID), struct.pack("=I", pid))


@functools.cache
def _template(threads: bool, commands: bool) -> bytes:
    """The filter for the process ``_ANY_PID``; made once, since making it takes a millisecond.

    Every rule ends in a return, so that none has to jump over another.
    """
    number = numbers()
    allow, deny = _returns(_ALLOW), _returns(_ERRNO | errno.EPERM)
    code: list[_Instruction] = [
        _load(_ARCH),
        (_JEQ, 1, 0, AUDIT_ARCH[os.uname().machine]),
        _returns(_KILL),
        _load(_NUMBER),
        (_JGE, 0, 1, _X32),
        deny,
    ]

    def rule(name: str, *body: _Instruction) -> None:
        if name in number:
            code.extend(((_JEQ, 0, len(body), number[name]), *body))

    def among(argument: int, values: tuple[int, ...]) -> list[_Instruction]:
        checks = [(_JEQ, len(values) - i, 0, value) for i, value in enumerate(values)]
        return [_argument(argument), *checks, deny, allow]

    for name in ALLOWED:
        rule(name, allow)
    for name in COMMANDS if commands else ():
        rule(name, allow)
    for name, flags in (("openat", 2), ("open", 1)):
        test = (_AND, 0, 0, _O_TRUNC | _O_ACCMODE)
        rule(name, _argument(flags), test, (_JEQ, 0, 1, _O_TRUNC), deny, allow)
    if commands:
        rule("clone", _argument(0), (_JSET, 0, 1, _CLONE_NEW), deny, allow)
    elif threads:
        new, thread = (_JSET, 1, 0, _CLONE_NEW), (_JSET, 1, 0, _CLONE_THREAD)
        rule("clone", _argument(0), new, thread, deny, allow)
    for name, signal in (("kill", 1), ("tgkill", 2)):
        own, fatal = (_JEQ, 0, 2, _ANY_PID), (_JEQ, 0, 1, _SIGKILL)
        rule(name, _argument(0), own, _argument(signal), fatal, deny, allow)
    rule("ioctl", *among(1, _IOCTLS))
    rule("fcntl", *among(1, _FCNTLS))
    rule("prctl", *among(0, _PRCTLS))
    rule("socketpair", *among(0, (_AF_UNIX,)))
    for name, pointer in (("prlimit64", 2), ("sendto", 4)):
        low, high = _argument(pointer), _load(16 + 8 * pointer + 4)
        rule(name, low, (_JEQ, 0, 2, 0), high, (_JEQ, 1, 0, 0), deny, allow)
    for names, result in ((IGNORED, 0), (UNSUPPORTED, errno.ENOTSUP), (MISSING, errno.ENOSYS)):
        for name in names:
            rule(name, _returns(_ERRNO | result))
    code.append(deny)
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def _load(offset: int) -> _Instruction:
    return (_LD, 0, 0, offset)


def _argument(index: int) -> _Instruction:
    """The lower half of an argument; both architectures are little-endian."""
    return _load(16 + 8 * index)


def _returns(action: int) -> _Instruction:
    return (_RET, 0, 0, action)


def install(libc: ctypes.CDLL, program: bytes) -> None:
    """Filter this process from now on; PR_SET_NO_NEW_PRIVS must be set.

    Raises:
        OSError: the kernel refuses filters.
    """
    buffer = ctypes.create_string_buffer(program, len(program))
    header = _Program(len(program) // 8, ctypes.addressof(buffer))
    pr_set_seccomp, mode_filter = 22, 2
    if libc.prctl(pr_set_seccomp, mode_filter, ctypes.byref(header), 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, f"seccomp is not to be had: {os.strerror(code)}")
