"""The zygote: a small process that forks workers which are ready at once.

It imports what most code imports, then waits on a socket of messages (SOCK_SEQPACKET, JSON):

- ``spawn`` with three descriptors (control, stdout, stderr): fork a worker; the answer carries
  its pid and a pidfd.
- ``reap``: the exit status and CPU seconds of a worker that ended. A worker that ended keeps its
  pid until it is reaped, so that the server never signals a stranger.

When the server closes the socket, even by dying, the zygote ends its workers, removes the folders
of those that were not reaped, and ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from typing import Any, Final

from . import confine, examiner, landlock, seccomp, tree, wire  # noqa: F401
from .worker import Worker

__all__ = ["main"]

_PRELOADED: Final = """
array bisect calendar collections contextlib copy csv dataclasses datetime decimal enum
fractions functools heapq io itertools json math operator pprint queue random re statistics
string struct textwrap time traceback typing unicodedata uuid
"""


def main(fd: int, read_paths: list[str], links: str, packages: list[str]) -> None:
    """Serve until the server lets go of ``fd``.

    Args:
        fd: the socket.
        read_paths: what workers may read beyond the standard library.
        links: a folder of links to packages, for ``sys.path``; empty if there are none.
        packages: names to import at once.
    """
    if links:
        sys.path.append(links)
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)  # of a terminal's group; the socket tells when to end
    for name in (*_PRELOADED.split(), *packages):
        importlib.import_module(name)
    libc = ctypes.CDLL(None, use_errno=True)
    paths = landlock.library_paths(read_paths)
    for threads in (False, True):
        seccomp.build(0, threads)  # once for all workers
    gc.disable()
    gc.freeze()
    server = socket.socket(fileno=fd)
    server.setblocking(True)
    folders: dict[int, str] = {}
    while True:
        try:
            data, fds, _, _ = socket.recv_fds(server, 1 << 16, 3)
        except ConnectionError:
            data = b""
        if not data:
            _end(folders, links)
            return
        request: dict[str, Any] = json.loads(data)
        if request["op"] == "spawn":
            pid = _spawn(server, request, fds, libc, paths)
            folders[pid] = request["folder"]
        else:
            folders.pop(request["pid"], None)
            _, status, usage = os.wait4(request["pid"], 0)
            code = os.waitstatus_to_exitcode(status)
            cpu = usage.ru_utime + usage.ru_stime
            server.send(json.dumps({"id": request["id"], "code": code, "cpu": cpu}).encode())


def _spawn(
    server: socket.socket,
    request: dict[str, Any],
    fds: list[int],
    libc: ctypes.CDLL,
    paths: landlock.Paths,
) -> int:
    """Fork, and tell the server; gives the worker's pid, 0 if there is none."""
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError as exc:
        server.send(json.dumps({"id": request["id"], "error": str(exc)}).encode())
        for fd in fds:
            os.close(fd)
        return 0
    if not pid:
        exit_code = 1
        try:
            confine.die_with_parent(libc, parent)
            server.close()
            _become_worker(request, fds, libc, paths)
            exit_code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(exit_code)
    for fd in fds:
        os.close(fd)
    pidfd = os.pidfd_open(pid)
    socket.send_fds(server, [json.dumps({"id": request["id"], "pid": pid}).encode()], [pidfd])
    os.close(pidfd)
    return pid


def _end(folders: dict[int, str], links: str) -> None:
    """The server is gone: leave nothing of what it did not tidy up itself."""
    folders.pop(0, None)
    for pid in folders:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    for folder in (*folders.values(), *([links] if links else [])):
        with contextlib.suppress(OSError):
            tree.remove_tree(folder)


def _become_worker(
    request: dict[str, Any], fds: list[int], libc: ctypes.CDLL, paths: landlock.Paths
) -> None:
    """Confine this process and answer requests until the server lets go."""
    null = os.open("/dev/null", os.O_RDONLY)
    # Out of the way first: a descriptor may have one of the numbers that another is to get.
    raised = [fcntl.fcntl(fd, fcntl.F_DUPFD, 16) for fd in (null, fds[1], fds[2], fds[0])]
    for fd in (null, *fds):
        os.close(fd)
    for target, fd in enumerate(raised):
        os.dup2(fd, target)
        os.close(fd)
    try:
        os.chdir(request["folder"])
        confine.confine(libc, paths, request["folder"], request["limits"])
        worker = Worker(request["folder"], request["seed"], request["functions"])
    except BaseException as exc:
        wire.send({"id": "", "error": str(exc)})
        return
    wire.send({"id": ""})
    worker.serve()
