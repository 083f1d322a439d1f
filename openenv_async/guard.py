"""A guard over processes of others: it ends them and removes their folder after this process.

Programs that an environment runs for a client have to end with this process, however it goes: a
killed one cleans nothing up, and a program that has a session of its own (``setsid``) or does not
read its input notices nothing.

Rules:

- The guard is a process of its own, in a session of its own, that waits for the end of its input.
  Nobody but this process has the other end, so it comes with any end of this process.
- Then every process whose environment variables bear the guard's mark is killed, until a look at
  all of them finds none; then the folder is removed, and the guard ends.
- A program that was given other environment variables and a session of its own is not found; nor
  is any without ``/proc``, where only a program's own process group can be ended.
- This file is run by its path: it imports nothing but small parts of the standard library.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

__all__ = ["GUARD_VARIABLE", "Guard", "end_where", "own_guard", "remove_folder"]

GUARD_VARIABLE: Final = "OPENENV_GUARD_MARK"
_PROC: Final = Path("/proc")
_ROUNDS: Final = 3
"""Looks at most: what is found may have forked before it was killed."""
_MOST_ROUNDS: Final = 100
"""Searches at most until nothing is found any more."""
_PAUSE: Final = 0.02
"""Seconds between two of them, in which what was killed ends."""
_LOOKS: Final = 50
_MOMENT: Final = 0.002
"""Seconds between two of so many looks at a program that is being started."""
_GOODBYE: Final = 10.0
"""Seconds that the end of this process waits for the guard's."""


def end_where(bears: Callable[[bytes], bool]) -> int:
    """Kill every other process of which an environment variable (``NAME=value``) is wanted.

    Args:
        bears: whether a variable is wanted.

    Returns:
        How many were killed.
    """
    killed: set[int] = set()
    for _ in range(_ROUNDS):
        found = _found(bears) - killed
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            break
        killed |= found
    return len(killed)


def _found(bears: Callable[[bytes], bool]) -> set[int]:
    found: set[int] = set()
    own = os.getpid()
    try:
        names = os.listdir(_PROC)
    except OSError:
        return found
    for name in names:
        if not name.isdecimal() or int(name) == own:
            continue
        try:
            variables = _variables(_PROC / name)
        except OSError:  # it has ended, or is another user's
            continue
        if any(map(bears, variables.split(b"\0"))):
            found.add(int(name))
    return found


def _variables(process: Path) -> bytes:
    """Return the environment variables of a process.

    A program that is only just being started has none for a moment, though it was given some. It
    has its file by then, which a thread of the kernel and a process that has ended have not.
    """
    for _ in range(_LOOKS):
        if variables := (process / "environ").read_bytes():
            return variables
        os.readlink(process / "exe")
        if (process / "cmdline").read_bytes():
            break  # it was given no variables
        time.sleep(_MOMENT)
    return b""


def _end_all(bears: Callable[[bytes], bool]) -> int:
    """Kill what ``end_where`` kills, until none of it is there; return how many were found."""
    first = found = end_where(bears)
    for _ in range(_MOST_ROUNDS):
        if not found:
            break
        time.sleep(_PAUSE)
        found = end_where(bears)
    return first


def remove_folder(path: Path) -> None:
    """Remove a folder with all that is in it, parts that were made read-only too; never raises."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path)
        return
    folders = [os.fspath(path)]
    while folders:
        folder = folders.pop()
        with contextlib.suppress(OSError):
            os.chmod(folder, 0o700)
            with os.scandir(folder) as entries:
                folders += [each.path for each in entries if each.is_dir(follow_symlinks=False)]
    shutil.rmtree(path, ignore_errors=True)


class Guard:
    """The guard of one process. Use ``own_guard()``.

    Attributes:
        folder: this process's own, for folders of the programs; made with the guard.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="openenv-"))
        self._mark = secrets.token_hex(16)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = os.getpid()
        atexit.register(self._close)

    def new_mark(self) -> str:
        """Return a mark for the variable ``GUARD_VARIABLE`` of one program and its offspring.

        The guard is there when this returns.

        Raises:
            OSError: it cannot be started.
        """
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                former, self._process = self._process, self._start()
                if former is not None and former.stdin is not None:
                    former.stdin.close()
        return f"{self._mark}.{next(self._numbers)}"

    def end(self, mark: str) -> int:
        """Kill what bears a mark, and wait until it is gone; it blocks for some milliseconds.

        Returns:
            How many were found.
        """
        wanted = f"{GUARD_VARIABLE}={mark}".encode()
        return _end_all(wanted.__eq__)

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, self._mark, str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": os.environ.get("PATH", os.defpath)},
            start_new_session=True,
        )

    def _close(self) -> None:
        """Have the guard do its work, and wait for it."""
        if os.getpid() != self._owner:  # a fork of this process
            return
        if self._process is None:
            remove_folder(self.folder)
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GOODBYE)


@functools.cache
def _guard_of(pid: int) -> Guard:
    return Guard()


def own_guard() -> Guard:
    """Return the guard of this process."""
    return _guard_of(os.getpid())


def _guard(mark: str, folder: str) -> None:
    """Wait for the end of the input, then end what bears the mark and remove the folder."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 1024):
        pass
    begins = f"{GUARD_VARIABLE}={mark}.".encode()
    _end_all(lambda variable: variable.startswith(begins))
    remove_folder(Path(folder))


if __name__ == "__main__":
    _guard(*sys.argv[1:])
