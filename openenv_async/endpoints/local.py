"""Folders through which a container's server is reached without TCP.

Each container that may has a folder of its own below one of the user's, mounted into it; the server
in it makes its Unix socket there. A file beside the folder tells at which addresses the container
listens, so that no other server, and no port that is forwarded to it, is taken for it.

Rules of this file:

- The user's folder is theirs alone (0700), so nobody else on the machine reaches a socket below.
- A folder is called as its server, by 32 hex digits.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

__all__ = ["LOCAL_FOLDER_VARIABLE", "find_folder", "users_folder", "write_addresses"]

LOCAL_FOLDER_VARIABLE: Final = "OPENENV_LOCAL_FOLDER"
"""The variable that tells a server in a container where its folder is mounted."""
ADDRESSES: Final = ".addresses"
"""The end of the name of the file that tells a container's addresses, one a line."""


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
    try:
        told = (folder / (name + ADDRESSES)).read_text("ascii").split("\n")
    except (OSError, ValueError):
        return None
    return folder / name if address in told and is_private(folder) else None


def write_addresses(folder: Path, addresses: Iterable[str]) -> None:
    """Tell at which addresses, HOST:PORT, the server of a folder listens.

    Raises:
        OSError: it cannot be written.
    """
    file = folder.with_name(folder.name + ADDRESSES)
    unfinished = file.with_name(file.name + ".tmp")
    unfinished.write_text("\n".join(addresses), "ascii")
    unfinished.replace(file)
