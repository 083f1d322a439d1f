"""The folders of the containers of one provider, through which clients reach them without TCP.

Rules:

- A folder belongs to a start, and goes with its container. Folders of a process that was killed are
  removed by the next one of its user that attaches to an Engine.
- A start goes on without a folder that cannot be made or mounted: TCP is there.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from openenv_async.endpoints.local import LOCAL_FOLDER_VARIABLE, LocalFolder, remove_folders
from openenv_async.providers.docker.owner import Owner, this_owner

__all__ = ["LocalFolders", "sweep_folders", "with_folder"]

log = logging.getLogger("openenv_async.providers.docker")

_MOUNTED_AT: Final = "/run/openenv"
_PREFIX: Final = "openenv-"
"""The beginning of the name of a container; 32 hex digits follow."""


class LocalFolders:
    """The folders of containers, by the containers' names.

    Attributes:
        usable: false once one could not be made or mounted.
    """

    def __init__(self) -> None:
        self.usable = True
        self._folders: dict[str, tuple[LocalFolder, asyncio.AbstractEventLoop]] = {}

    def make(self, name: str) -> Path | None:
        """Make the folder of a container; ``None`` if it cannot be, which is said once."""
        if not self.usable:
            return None
        try:
            owner = json.dumps(asdict(this_owner()))
            folder = LocalFolder(name.removeprefix(_PREFIX), owner)
        except OSError as exc:
            self.give_up(exc)
            return None
        loop = asyncio.get_running_loop()
        self._folders[name] = folder, loop
        loop.add_reader(folder.giver, _give, folder, loop)
        return folder.path

    def give_up(self, reason: object) -> None:
        """Make none from now on, and say why."""
        self.usable = False
        log.info("containers are reached by TCP alone: %s", reason)

    def tell(self, name: str, *urls: str) -> None:
        """Tell the addresses of a container, if it has a folder."""
        found = self._folders.get(name)
        if found is not None:
            with contextlib.suppress(OSError):
                found[0].tell(url.partition("://")[2] for url in urls)

    def remove(self, name: str) -> None:
        """Remove the folder of a container, if it has one."""
        found = self._folders.pop(name, None)
        if found is None:
            return
        folder, loop = found
        if folder.giver.fileno() >= 0 and not loop.is_closed():
            loop.remove_reader(folder.giver)
        folder.remove()


def _give(folder: LocalFolder, loop: asyncio.AbstractEventLoop) -> None:
    """Give the server in the container its socket; called when it asks."""
    giver = folder.giver
    number = giver.fileno()
    loop.remove_reader(number)
    if not folder.give():
        loop.add_reader(number, _give, folder, loop)


def with_folder(body: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the body of a request to create a container, with a folder mounted into it."""
    target = f"{_MOUNTED_AT}/{folder.name}"
    mount = {"Type": "bind", "Source": str(folder), "Target": target, "ReadOnly": True}
    host = body["HostConfig"]
    return {
        **body,
        "Env": [*body["Env"], f"{LOCAL_FOLDER_VARIABLE}={target}"],
        "HostConfig": {**host, "Mounts": [*host.get("Mounts", ()), mount]},
    }


def sweep_folders() -> int:
    """Remove what owners of this host left behind; return how many folders it was."""
    return remove_folders(_is_gone)


def _is_gone(told: str) -> bool:
    try:
        owner = Owner(**json.loads(told))
    except (TypeError, ValueError):
        return False
    return owner.is_here() and not owner.is_alive()
