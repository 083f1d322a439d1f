"""Folders through which a container's server is reached without TCP.

Each container that may has a folder of its own, mounted into it read-only. The process that starts
the container makes two Unix sockets there: the one that clients connect to, and one through which
it hands the first, as a descriptor, to the server in the container. A file beside the folder tells
at which addresses the container listens, so that no other server, and no port that is forwarded to
it, is taken for it; another tells whose the folder is.

Rules of this file:

- All folders are below one of the user's, which is theirs alone (0700): nobody else on the machine
  reaches a socket there, and a container sees nothing but its own folder.
- A container writes nothing there, so that no hardening of it is weakened.
- A folder is called as its server, by 32 hex digits.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

__all__ = [
    "GIVER_NAME",
    "LOCAL_FOLDER_VARIABLE",
    "SOCKET_NAME",
    "LocalFolder",
    "find_folder",
    "remove_folders",
    "short_path",
    "take_listener",
    "users_folder",
]

LOCAL_FOLDER_VARIABLE: Final = "OPENENV_LOCAL_FOLDER"
"""The variable that tells a server in a container where its folder is mounted."""
SOCKET_NAME: Final = "socket"
GIVER_NAME: Final = "listener"
"""The name of the socket that gives a server the descriptor of the other, which is listening."""
_ADDRESSES: Final = ".addresses"
_OWNER: Final = ".owner"
_BACKLOG: Final = 4096


def users_folder() -> Path:
    """Return this user's folder, which need not exist: that of the session, or a temporary one."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and Path(runtime).is_dir():
        return Path(runtime) / "openenv_async"
    return Path(tempfile.gettempdir()) / f"openenv_async-{os.geteuid()}"


def is_private(folder: Path) -> bool:
    """Return whether a folder exists, and is this user's alone."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
    return mine and not found.st_mode & 0o077


def find_folder(name: str, address: str) -> Path | None:
    """Return the folder of the server ``name``, if there is one and it listens at ``address``."""
    folder = users_folder()
    if not is_private(folder):  # before anything there is opened: it may be somebody's trap
        return None
    try:
        told = (folder / (name + _ADDRESSES)).read_text("ascii").split("\n")
    except (OSError, ValueError):
        return None
    return folder / name if address in told else None


@contextlib.contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """Give a short path of a folder, for the addresses of sockets, which have 107 bytes at most.

    Raises:
        OSError: it cannot be opened.
    """
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


class LocalFolder:
    """The folder of one container, on the side of the process that starts it.

    Args:
        name: 32 hex digits.
        owner: text by which ``remove_folders`` can tell whether this process lives.

    Attributes:
        path: of the folder.
        giver: a listening socket: each connection to it is to be given to ``give``.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, name: str, owner: str) -> None:
        users = users_folder()
        users.mkdir(mode=0o700, exist_ok=True)
        if not is_private(users):
            raise PermissionError(f"{users} is not this user's alone (0700)")
        self.path = users / name
        self._sockets = contextlib.ExitStack()
        try:
            self._beside(_OWNER).write_text(owner, "utf-8")
            self.path.mkdir(mode=0o755)
            self.path.chmod(0o755)
            self._listener = self._listen(SOCKET_NAME, 0o600, _BACKLOG)
            self.giver = self._listen(GIVER_NAME, 0o666, 1)
            self.giver.setblocking(False)
        except BaseException:
            self.remove()
            raise

    def _listen(self, name: str, mode: int, backlog: int) -> socket.socket:
        listener = self._sockets.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        with short_path(self.path) as path:
            listener.bind(f"{path}/{name}")
        (self.path / name).chmod(mode)  # who runs a server in a container is not known here
        listener.listen(backlog)
        return listener

    def _beside(self, end: str) -> Path:
        return self.path.with_name(self.path.name + end)

    def give(self) -> bool:
        """Give the listening socket to the server that connected, once; return whether it was.

        Nothing is kept of it here: what the server does not accept any more is refused.
        """
        try:
            server, _ = self.giver.accept()
        except OSError:
            return False
        with server, contextlib.suppress(OSError):
            socket.send_fds(server, [b"\0"], [self._listener.fileno()])
        self._sockets.close()
        return True

    def tell(self, addresses: Iterable[str]) -> None:
        """Tell at which addresses, HOST:PORT, the container listens.

        Raises:
            OSError: it cannot be written.
        """
        unfinished = self._beside(".new")
        unfinished.write_text("\n".join(addresses), "ascii")
        unfinished.replace(self._beside(_ADDRESSES))

    def remove(self) -> None:
        """Close the sockets and leave nothing of it."""
        self._sockets.close()
        _remove(self.path)


def take_listener(folder: Path, timeout: float) -> socket.socket:
    """Return the socket of a folder, which is listening; in the container.

    Raises:
        OSError: nobody gives one within ``timeout`` seconds.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as taker:
        taker.settimeout(timeout)
        with short_path(folder) as path:
            taker.connect(f"{path}/{GIVER_NAME}")
        _, given, _, _ = socket.recv_fds(taker, 1, 1)
    if not given:
        raise ConnectionRefusedError(f"{folder / GIVER_NAME} gave no socket")
    listener = socket.socket(fileno=given[0])
    listener.set_inheritable(False)
    listener.setblocking(False)
    return listener


def remove_folders(is_owner_gone: Callable[[str], bool]) -> int:
    """Remove the folders of processes that are gone; return how many there were."""
    users = users_folder()
    if not is_private(users):  # who else writes there could turn it into a link meanwhile
        return 0
    removed = 0
    for file in users.glob(f"*{_OWNER}"):
        with contextlib.suppress(OSError, ValueError):  # removed by another, or not written by us
            if is_owner_gone(file.read_text("utf-8")):
                _remove(file.with_suffix(""))
                removed += 1
    return removed


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for end in (_ADDRESSES, ".new", _OWNER):
        folder.with_name(folder.name + end).unlink(missing_ok=True)
