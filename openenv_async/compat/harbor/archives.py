"""A folder as a tar archive for a container."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

__all__ = ["folder_archive"]


def folder_archive(folder: Path, name: str) -> bytes:
    """Return a folder's files under another name, owned by root, links as they are."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        archive.add(folder, name, filter=_of_root)
    return made.getvalue()


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if not (entry.isreg() or entry.isdir() or entry.issym()):
        return None
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry
