"""The supervisor of one shell command: confines it, watches it, and leaves nothing of it behind.

Rules:

- The command, and all that it starts, is of the server's own user, which Landlock and seccomp keep
  from everything but the system's programs and the private folder: no network, no ``/proc``, no
  signals to others, no more rights by programs that would give them.
- This process adopts whatever the command leaves, so that the tree below it is all there is of the
  command. It ends with its first process: what still runs then is ended.
- Processes are stopped first, until none below runs that could make another, and killed then.
- When the server lets go of the socket, even by dying, everything is ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import time
from typing import Any, Final

from . import confine, landlock, tree

__all__ = ["main"]

_PR_SET_CHILD_SUBREAPER: Final = 36
_STREAMS: Final = ("stdin", "stdout", "stderr")
_TICK: Final = 0.1
_NOT_RUN: Final = 126
"""Exit code of a process that could not become the shell."""
_LOOKS: Final = 10_000
"""Times at most that the tree is looked at for what is to be stopped."""


def main(fd: int, asked: int) -> None:
    """Run one command, and tell how it ended.

    Args:
        fd: the socket to the server, which gets one message: ``error``, or ``exit_code`` and
            ``why`` (the limit that was met).
        asked: a file with the request as JSON: ``command``, ``folder``, ``stdin``, ``stdout`` and
            ``stderr`` (descriptors), ``timeout``, ``limits``, ``environment``.
    """
    with os.fdopen(asked, "rb") as file:
        request: dict[str, Any] = json.load(file)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)  # of a terminal's group; the socket tells when to end
    server = socket.socket(fileno=fd)
    for each in (fd, *(request[name] for name in _STREAMS)):
        os.set_inheritable(each, False)
    deadline = time.monotonic() + request["timeout"]
    failed, told = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
    except OSError as exc:
        server.send(json.dumps({"error": f"it cannot fork: {exc}"}).encode())
        return
    if not pid:
        _become_shell(libc, request, told)
    os.close(told)
    for name in _STREAMS:
        os.close(request[name])
    with os.fdopen(failed, "rb") as file:
        error = file.read().decode(errors="replace")  # ends when the shell begins
    watch = _Watch(pid, request)
    try:
        why = "" if error else watch.until_its_end(server, deadline)
    finally:
        watch.end_all()
    answer = {"error": error} if error else {"exit_code": watch.exit_code, "why": why}
    with contextlib.suppress(OSError):  # the server is gone
        server.send(json.dumps(answer).encode())


def _become_shell(libc: ctypes.CDLL, request: dict[str, Any], told: int) -> None:
    """Confine this process and become the shell; never returns."""
    try:
        os.setsid()
        for target, name in enumerate(_STREAMS):
            os.dup2(request[name], target)
        for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(signum, signal.SIG_DFL)
        os.chdir(request["folder"])
        paths = landlock.program_paths()
        confine.confine(libc, paths, request["folder"], request["limits"], commands=True)
        shell = ["sh", "-c", request["command"]]
        os.execve("/bin/sh", shell, request["environment"])
    except BaseException as exc:
        os.write(told, str(exc).encode()[:1000] or b"it failed")
    finally:
        os._exit(_NOT_RUN)


class _Watch:
    """The processes of one command.

    Args:
        pid: of the first.
        request: see ``main``.
    """

    def __init__(self, pid: int, request: dict[str, Any]) -> None:
        self.exit_code: int | None = None
        self._pid = pid
        self._folder, self._limits = request["folder"], request["limits"]

    def until_its_end(self, server: socket.socket, deadline: float) -> str:
        """Wait until the first process ends; return the limit that ends it before."""
        pidfd = os.pidfd_open(self._pid)
        try:
            while True:
                left = deadline - time.monotonic()
                waits = [pidfd, server.fileno()]
                ready, _, _ = select.select(waits, [], [], max(0.0, min(_TICK, left)))
                self._reap()
                if self.exit_code is not None:
                    return self._exceeded()
                if server.fileno() in ready:
                    return "Cancelled"
                if time.monotonic() >= deadline:
                    return "Timeout"
                if why := self._exceeded():
                    return why
        finally:
            os.close(pidfd)

    def end_all(self) -> None:
        """End every process below this one."""
        stopped: set[int] = set()
        for _ in range(_LOOKS):
            self._reap()
            new = {pid: parent for pid, parent in self._below().items() if pid not in stopped}
            if not new:
                break
            for pid, parent in new.items():
                self._signal(pid, parent, signal.SIGSTOP)
            stopped |= {*new}
        while left := self._below():
            for pid, parent in left.items():
                self._signal(pid, parent, signal.SIGKILL)
            time.sleep(0.001)
            self._reap()

    def _signal(self, pid: int, parent: int, number: int) -> None:
        """Signal a process below, unless its pid has become another's meanwhile."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return
        try:
            found = _state_and_parent(pid)
            if found is not None and found[1] in (parent, os.getpid()):
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self._pid:
                    self.exit_code = os.waitstatus_to_exitcode(status)

    def _below(self) -> dict[int, int]:
        """Return the processes below this one that have not ended, each with its parent."""
        children: dict[int, list[int]] = {}
        for name in os.listdir("/proc"):
            if name.isdigit() and (found := _state_and_parent(int(name))) is not None:
                state, parent = found
                if state not in (b"Z", b"X"):
                    children.setdefault(parent, []).append(int(name))
        below: dict[int, int] = {}
        rest = [os.getpid()]
        while rest:
            parent = rest.pop()
            for pid in children.get(parent, ()):
                below[pid] = parent
                rest.append(pid)
        return below

    def _exceeded(self) -> str:
        below, limits = self._below(), self._limits
        if len(below) > limits["max_processes"]:
            return "ProcessLimitExceeded"
        size, count = tree.used(self._folder, limits["max_files"])
        size += sum(tree.held(pid, self._folder, limits["max_file_size"]) for pid in below)
        if size > limits["max_disk_size"] or count > limits["max_files"]:
            return "DiskLimitExceeded"
        return ""


def _state_and_parent(pid: int) -> tuple[bytes, int] | None:
    """Return a process's state, a letter, and its parent; ``None`` if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, parent = file.read().rpartition(b")")[2].split()[:2]
    except (OSError, ValueError):
        return None
    return state, int(parent)
