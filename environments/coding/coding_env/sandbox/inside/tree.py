"""Folders of workers, measured and removed whatever is in them.

Their content is hostile. Rules:

- No link is followed and no path is written: every name is looked up in the open folder that it
  stands in. So no path is too long, and what is swapped meanwhile leads nowhere else.
- A folder that was made without rights (``os.mkdir(name, 0)``) still belongs to this user, who
  gives them back; only root needs none.
- Nesting has any depth. Measuring stops past ``_DEEPEST``; removing lifts what is nested up to
  the top, and never has more than three folders open.

This file is also a program that removes the folders that it is given.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
from typing import Final

__all__ = ["held", "remove_tree", "used"]

_DEEPEST: Final = 100
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_RIGHTS: Final = 0o700
_BLOCK: Final = 512


def _opened(name: str, parent: int | None = None) -> int:
    """Open a folder that this user owns, with its rights back."""
    try:
        fd = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        place = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            if not stat.S_ISDIR(os.fstat(place).st_mode):
                raise
            os.chmod(f"/proc/self/fd/{place}", _RIGHTS)  # of what is open, not of the name
            return os.open(f"/proc/self/fd/{place}", _FOLDER & ~os.O_NOFOLLOW)
        finally:
            os.close(place)
    if os.fstat(fd).st_mode & _RIGHTS != _RIGHTS:
        with contextlib.suppress(PermissionError):  # the top of somebody else's
            os.fchmod(fd, _RIGHTS)
    return fd


def used(folder: str, most: int) -> tuple[int, int]:
    """Bytes and entries in a folder.

    Args:
        folder: its path.
        most: entries past which it stops counting; more than these are said of one that is
            nested too deeply.
    """
    try:
        top = _opened(folder)
    except FileNotFoundError:
        return 0, 0
    size = count = 0
    levels = [(top, os.scandir(top))]
    try:
        while levels:
            fd, entries = levels[-1]
            entry = next(entries, None)
            if entry is None:
                levels.pop()
                entries.close()
                os.close(fd)
                continue
            count += 1
            if count > most:
                return size, count
            try:
                if not entry.is_dir(follow_symlinks=False):
                    size += _size(entry.stat(follow_symlinks=False))
                    continue
                inner = _opened(entry.name, fd)
            except OSError:
                continue  # it is being changed while we look
            levels.append((inner, os.scandir(inner)))
            if len(levels) > _DEEPEST:
                return size, most + 1
    finally:
        for fd, entries in levels:
            entries.close()
            os.close(fd)
    return size, count


def _size(found: os.stat_result) -> int:
    """Bytes of a file: some file systems allocate blocks long after they were written."""
    return max(found.st_size, found.st_blocks * _BLOCK)


def held(pid: int, folder: str, assumed: int) -> int:
    """Bytes of files that a process keeps although they were removed: open ones, and mapped ones.

    Args:
        pid: of a process of this user.
        folder: where its files were.
        assumed: bytes of a file that is mapped alone, whose size only root can see.
    """
    sizes: dict[int, int] = {}
    place = f"/proc/{pid}"
    try:
        names = os.listdir(f"{place}/fd")
        with open(f"{place}/maps", "rb") as file:
            maps = file.read()
    except OSError:
        return 0  # it has ended
    for name in names:
        with contextlib.suppress(OSError):
            found = os.stat(f"{place}/fd/{name}")
            if stat.S_ISREG(found.st_mode) and not found.st_nlink:
                sizes[found.st_ino] = _size(found)
    if b"(deleted)" in maps:
        inside = os.fsencode(folder)
        for line in maps.splitlines():
            fields = line.split(None, 5)
            if (
                len(fields) == 6
                and fields[5].startswith(inside)
                and fields[5].endswith(b"(deleted)")
            ):
                sizes.setdefault(int(fields[4]), assumed)
    return sum(sizes.values())


def remove_tree(folder: str) -> None:
    """Remove a folder and what is in it.

    Raises:
        OSError: something in it cannot be removed.
    """
    try:
        top = _opened(folder)
    except FileNotFoundError:
        return
    try:
        while names := _entries(top):
            for name, is_folder in names:
                if is_folder:
                    _lift(top, name)
                else:
                    os.unlink(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(folder)


def _lift(top: int, name: str) -> None:
    """Remove one folder of the top; the folders in it become folders of the top."""
    fd = _opened(name, top)
    try:
        for inner, is_folder in _entries(fd):
            if is_folder:
                os.close(_opened(inner, fd))  # without rights of its own it cannot be moved
                os.rename(inner, f".{os.urandom(12).hex()}", src_dir_fd=fd, dst_dir_fd=top)
            else:
                os.unlink(inner, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=top)


def _entries(fd: int) -> list[tuple[str, bool]]:
    with os.scandir(fd) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


if __name__ == "__main__":
    for path in sys.argv[1:]:
        remove_tree(path)
