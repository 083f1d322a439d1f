"""The private folders of workers: made, measured, removed.

Their content is hostile: links are never followed, and nesting may be deeper than any recursion.
"""

from __future__ import annotations

import asyncio
import os
import tempfile

__all__ = ["make_folder", "remove_folder", "used"]


def make_folder() -> str:
    """A new folder that only this user can enter; its real path."""
    return os.path.realpath(tempfile.mkdtemp(prefix="openenv-coding-"))


def used(folder: str, most: int) -> tuple[int, int]:
    """Bytes and entries in it; it stops counting at more than ``most`` entries."""
    size = count = 0
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    count += 1
                    if count > most:
                        return size, count
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        size += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:  # it is being changed while we look, or its path is too long
            count += 1
    return size, count


async def remove_folder(folder: str) -> None:
    """Remove it, whatever is in it."""
    try:
        os.rmdir(folder)
    except FileNotFoundError:
        return
    except OSError:
        # fts(3) in rm copes with any depth, and a process blocks neither the loop nor a thread.
        process = await asyncio.create_subprocess_exec("rm", "-rf", "--", folder)
        await process.wait()
