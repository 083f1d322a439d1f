"""Removal of a worker's rights, in the order in which each needs those that go after it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
from typing import Any

from . import landlock, seccomp

__all__ = ["confine", "die_with_parent"]

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CAPABILITY_VERSION_3 = 0x20080522
_OTHERS = 256
"""Processes that the user may have in other containers, beyond what is seen here."""


def die_with_parent(libc: ctypes.CDLL, parent: int) -> None:
    """SIGKILL when the parent ends; at once if it is gone already."""
    libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def confine(
    libc: ctypes.CDLL,
    paths: landlock.Paths,
    private: str,
    limits: dict[str, Any],
    *,
    commands: bool = False,
) -> None:
    """Limit this process for good.

    Args:
        libc: the C library.
        paths: what it may read.
        private: the folder that it may write.
        limits: ``sandbox.limits.Limits`` as a dict.
        commands: whether it may start programs.

    Raises:
        OSError: the kernel lacks something.
    """
    memory = (0 if commands else _virtual_size()) + limits["memory_size"]
    cpu_timeout = limits["cpu_timeout" if commands else "total_cpu_timeout"]
    own = {"RLIMIT_NPROC": _tasks() + limits["max_processes"] + _OTHERS} if commands else {}
    _drop_capabilities(libc)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError("PR_SET_NO_NEW_PRIVS was refused")
    landlock.restrict(libc, paths, private, commands=commands)
    for fd, _ in paths:
        os.close(fd)
    for name, value in (
        ("RLIMIT_AS", memory),
        ("RLIMIT_CORE", 0),
        ("RLIMIT_CPU", int(cpu_timeout) + 1),
        ("RLIMIT_FSIZE", limits["max_file_size"]),
        ("RLIMIT_MEMLOCK", 0),
        ("RLIMIT_MSGQUEUE", 0),
        ("RLIMIT_NOFILE", limits["max_open_files"]),
        *own.items(),
    ):
        which = getattr(resource, name)
        hard = resource.getrlimit(which)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (value, value))
    seccomp.install(libc, seccomp.build(os.getpid(), limits["threads"], commands))


def _tasks() -> int:
    """Return how many threads the processes of this user that can be seen have."""
    count, user = 0, os.getuid()
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if name.isdigit() and os.stat(f"/proc/{name}").st_uid == user:
                count += len(os.listdir(f"/proc/{name}/task"))
    return count


def _virtual_size() -> int:
    """Bytes of address space that the process has already."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Those of root would outweigh file permissions and limits."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    libc.capset(header, bytes(24))
