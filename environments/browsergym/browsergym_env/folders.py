"""Folders whose files are given to pages, and nothing outside of them.

Rules:

- A file is named by its path in the folder. One that leads out of it, also by a symbolic link, is
  as if it did not exist, and so is one with a part that begins with a dot.
- Only regular files are read, of a limited size, and they are read here: the browser is given
  bytes, never a path.
"""

from __future__ import annotations

import mimetypes
import os
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final

from playwright.async_api import FilePayload

from browsergym_env.actions import ActionError
from openenv_async.errors import InvalidOption

__all__ = ["MAX_FILE_SIZE", "Folder", "Uploads"]

MAX_FILE_SIZE: Final = 16 << 20
"""Bytes of one file."""
_MAX_FILES: Final = 16
_TYPE: Final = "application/octet-stream"


class Folder:
    """A folder of files.

    Args:
        path: of the folder.
        option: that gave it, for messages.
        hidden: files and folders in it that are as if they did not exist.

    Raises:
        InvalidOption: it is not a folder.
    """

    def __init__(self, path: str | Path, option: str, hidden: Collection[Path] = ()) -> None:
        self.path = Path(path).expanduser().resolve()
        if not self.path.is_dir():
            raise InvalidOption(f"{option}: {str(path)!r} is not a folder", option=option)
        self._hidden = {file.resolve() for file in hidden}

    def read(self, name: str) -> tuple[bytes, str] | None:
        """Return a file's bytes and media type; ``None`` if the folder has no such file."""
        parts = name.split("/")
        if "\0" in name or "\\" in name or any(part.startswith(".") for part in parts):
            return None
        try:
            file = (self.path / name.lstrip("/")).resolve()
            hidden = any(file.is_relative_to(each) for each in self._hidden)
            if hidden or not file.is_relative_to(self.path):
                return None
            with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as opened:
                if not stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                    return None
                content = opened.read(MAX_FILE_SIZE + 1)
        except (OSError, RuntimeError):  # it is not there, or its links go round
            return None
        if len(content) > MAX_FILE_SIZE:
            return None
        return content, mimetypes.guess_type(file.name)[0] or _TYPE


class Uploads:
    """The files that the agent may give to pages.

    Args:
        folder: where they are; ``None``: there are none.
    """

    def __init__(self, folder: Folder | None) -> None:
        self._folder = folder

    def read(self, names: str | list[str]) -> list[FilePayload]:
        """Read files for the browser.

        Raises:
            ActionError: there are none, or one is not in the folder.
        """
        if self._folder is None:
            raise ActionError("there are no files to upload: the server has no folder of uploads")
        wanted = [names] if isinstance(names, str) else names
        if len(wanted) > _MAX_FILES:
            raise ActionError(f"at most {_MAX_FILES} files are uploaded at once")
        files: list[FilePayload] = []
        for name in wanted:
            found = self._folder.read(name)
            if found is None:
                there = ", ".join(self._names()) or "none"
                raise ActionError(f"there is no file {name!r:.80} to upload; there are: {there}")
            content, media_type = found
            files.append(
                {"name": name.rsplit("/", 1)[-1], "mimeType": media_type, "buffer": content}
            )
        return files

    def _names(self) -> list[str]:
        assert self._folder is not None
        names: list[str] = []
        for place, folders, files in os.walk(self._folder.path):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                path = Path(place, name)
                if not name.startswith(".") and path.is_file() and not path.is_symlink():
                    names.append(path.relative_to(self._folder.path).as_posix())
            if len(names) >= _MAX_FILES:
                break
        return names[:_MAX_FILES]
