"""The private folders of workers: made, and removed whatever is in them."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import tempfile

from coding_env.sandbox.inside import tree

__all__ = ["make_folder", "remove_folder"]

log = logging.getLogger("coding_env")


def make_folder() -> str:
    """A new folder that only this user can enter; its real path."""
    return os.path.realpath(tempfile.mkdtemp(prefix="openenv-coding-"))


async def remove_folder(folder: str) -> None:
    """Remove it, whatever is in it."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return
    except OSError:
        # A process blocks neither the loop nor a thread. rm is quick and copes with any depth,
        # but not with folders that were made without rights.
        for command in (["rm", "-rf", "--"], [sys.executable, "-I", "-S", tree.__file__]):
            process = await asyncio.create_subprocess_exec(
                *command, folder, stderr=subprocess.DEVNULL
            )
            if await process.wait() == 0:
                return
        log.error("the folder %s of a sandbox cannot be removed: it takes room", folder)
