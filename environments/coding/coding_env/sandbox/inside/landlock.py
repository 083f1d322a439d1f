"""Landlock: which files a worker may touch.

The interpreter's own library and the system's shared libraries can be read; the worker's folder
can be read and written; nothing else exists for ``open``. Packages that were installed are left
out, since the tasks and their hidden tests are among them. Commands may start the system's programs
as well, and what they make in the folder.
"""

from __future__ import annotations

import ctypes
import fcntl
import glob
import os
import stat
import struct
import sys
import sysconfig
from typing import Final

__all__ = ["Paths", "abi", "library_paths", "program_paths", "restrict"]

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_PATH_BENEATH: Final = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE: Final = 1 << 4 | 1 << 5
_MAKE: Final = 1 << 7 | 1 << 8 | 1 << 12  # folders, files, symbolic links
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_SINCE: Final = ((1, (1 << 13) - 1), (2, _REFER), (3, _TRUNCATE), (5, 1 << 15))
"""ABI versions and the file rights that they brought."""
_READ: Final = _READ_FILE | _READ_DIR
_PRIVATE: Final = _READ | _WRITE_FILE | _REMOVE | _MAKE | _REFER | _TRUNCATE
_OF_FILES: Final = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE
"""The rights that can be granted on a file."""

_SCOPES_SINCE: Final = 6
"""ABI version that keeps signals and abstract sockets from processes outside."""
_PROGRAMS: Final = ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/libexec", "/usr/share")
_SETTINGS: Final = (
    *("alternatives", "group", "host.conf", "mime.types", "nsswitch.conf", "os-release", "passwd"),
    *("profile", "services", "ssl/openssl.cnf", "terminfo"),
)
"""Files of ``/etc`` that programs read."""

Paths = list[tuple[int, int]]
"""Open O_PATH descriptors, each with the rights that are granted beneath it."""


def abi(libc: ctypes.CDLL) -> int:
    """The version of Landlock that the kernel has; 0 for none."""
    return max(0, int(libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)))


def library_paths(more: list[str]) -> Paths:
    """Return what every worker may read, opened; ``more`` are further files and folders."""
    stdlib = sysconfig.get_path("stdlib")
    found = [
        os.path.join(stdlib, name)
        for name in os.listdir(stdlib)
        if name not in ("site-packages", "dist-packages")
    ]
    platstdlib = sysconfig.get_path("platstdlib")
    found.append(os.path.join(platstdlib, "lib-dynload"))
    machine = os.uname().machine
    for folder in (
        "/lib",
        "/usr/lib",
        "/lib64",
        "/usr/lib64",
        os.path.join(sys.base_prefix, "lib"),
    ):
        found += glob.glob(f"{folder}/*.so*")
        found.append(f"{folder}/{sysconfig.get_config_var('MULTIARCH') or machine + '-linux-gnu'}")
    found += ["/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", *more]
    paths = _opened(found, _READ)
    for path in ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"):
        _open(paths, path, _READ_FILE | (_WRITE_FILE if path == "/dev/null" else 0))
    return paths


def program_paths() -> Paths:
    """Return what a command may read and start, opened."""
    found = [*_PROGRAMS, f"{sys.base_prefix}/bin", "/usr/local/bin"]
    found += [f"/etc/{name}" for name in _SETTINGS]
    for folder in ("/lib", "/lib64", "/usr/lib", "/usr/lib64"):
        found += [path for path in glob.glob(f"{folder}/*") if "/python" not in path]
    libraries = [(fd, rights | _EXECUTE) for fd, rights in library_paths([])]
    # Python looks for modules in a listing of this folder; files of packages stay closed.
    listed = _opened([sysconfig.get_path("stdlib")], _READ_DIR)
    return [*libraries, *_opened(found, _READ | _EXECUTE), *listed]


def _opened(found: list[str], rights: int) -> Paths:
    paths: Paths = []
    for path in sorted(set(found)):
        _open(paths, path, rights)
    return paths


def _open(paths: Paths, path: str, rights: int) -> None:
    try:
        low = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # this system has none
    if not stat.S_ISDIR(os.fstat(low).st_mode):
        rights &= _OF_FILES
    # Out of the way of the descriptors that a worker is given.
    paths.append((fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 16), rights))
    os.close(low)


def restrict(libc: ctypes.CDLL, paths: Paths, private: str, *, commands: bool = False) -> None:
    """Confine this process; PR_SET_NO_NEW_PRIVS must be set.

    Args:
        libc: the C library.
        paths: what it may read.
        private: the folder that it may write.
        commands: whether programs may be started, of that folder too.

    Raises:
        OSError: the kernel has no Landlock, or one that does not confine commands.
    """
    version = abi(libc)
    if not version:
        raise OSError("Landlock is not to be had: it needs Linux 5.13 or newer with it enabled")
    if commands and version < _SCOPES_SINCE:
        raise OSError("Landlock does not keep signals inside: commands need Linux 6.12 or newer")
    handled = sum(rights for since, rights in _SINCE if version >= since)
    network = 3 if version >= 4 else 0  # TCP: bind and connect
    scoped = 3 if version >= _SCOPES_SINCE else 0  # abstract sockets and signals of others
    attributes = struct.pack("=QQQ", handled, network, scoped)
    size = 24 if version >= _SCOPES_SINCE else 16 if version >= 4 else 8
    ruleset = _call(libc, _CREATE_RULESET, attributes, ctypes.c_size_t(size), 0)
    folder = os.open(private, os.O_PATH | os.O_CLOEXEC)
    try:
        add, pack = libc.syscall, struct.Struct("=Qi").pack
        own = _PRIVATE | _EXECUTE if commands else _PRIVATE
        for fd, rights in (*paths, (folder, own)):  # hundreds, in each new worker
            if add(_ADD_RULE, ruleset, _PATH_BENEATH, pack(rights & handled, fd), 0):
                raise OSError(ctypes.get_errno(), "Landlock refused a rule")
        _call(libc, _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(folder)
        os.close(ruleset)


def _call(libc: ctypes.CDLL, number: int, *arguments: object) -> int:
    result = int(libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock refused: {os.strerror(code)}")
    return result
