"""The build context: the files of a folder, less those that ``.dockerignore`` names.

Patterns are Docker's: relative to the folder; ``*`` and ``?`` stay within one name, ``**`` spans
any number of folders, ``[…]`` is a set, ``#`` a remark, ``!`` brings back what an earlier line took
out; the last line that fits decides, and one that fits a folder decides for all in it.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

__all__ = ["IGNORE_FILE", "Ignored", "context_files", "context_tar"]

IGNORE_FILE: Final = ".dockerignore"
_IN_MEMORY: Final = 8 * 1024 * 1024


class Ignored:
    """Which paths the lines of a ``.dockerignore`` take out."""

    def __init__(self, lines: Sequence[str] = ()) -> None:
        self._rules: list[tuple[re.Pattern[str], bool]] = []
        for line in lines:
            pattern = line.strip()
            if not pattern or line.startswith("#"):
                continue
            brings_back = pattern.startswith("!")
            pattern = pattern[1:].strip() if brings_back else pattern
            cleaned = os.path.normpath(pattern).replace(os.sep, "/").strip("/")
            if cleaned not in ("", "."):
                self._rules.append((re.compile(_expression(cleaned)), not brings_back))
        self.may_bring_back = any(not taken for _, taken in self._rules)

    @classmethod
    def of(cls, folder: Path) -> Ignored:
        """Those of a folder's file; none if it has no such file."""
        try:
            return cls((folder / IGNORE_FILE).read_text("utf-8").splitlines())
        except FileNotFoundError:
            return cls()

    def __contains__(self, path: str) -> bool:
        """Return whether a relative path, with ``/`` between names, is taken out."""
        parts = path.split("/")
        heads = ["/".join(parts[: count + 1]) for count in range(len(parts))]
        taken = False
        for pattern, takes in self._rules:
            if takes != taken and any(pattern.fullmatch(head) for head in heads):
                taken = takes
        return taken


def context_files(folder: Path, keep: Sequence[str] = ()) -> Iterator[str]:
    """Relative paths of the files and links to send, sorted; those in ``keep`` in any case."""
    ignored = Ignored.of(folder)
    for where, folders, files in os.walk(folder):
        inside = Path(where).relative_to(folder)
        folders.sort()
        links = [name for name in folders if Path(where, name).is_symlink()]
        if not ignored.may_bring_back:
            folders[:] = [
                name
                for name in folders
                if (path := (inside / name).as_posix()) not in ignored
                or any(kept.startswith(f"{path}/") for kept in keep)
            ]
        for name in sorted([*files, *links]):
            path = (inside / name).as_posix()
            if path in keep or path not in ignored:
                yield path


def context_tar(
    folder: Path, dockerfile: str, extra: Mapping[str, bytes] | None = None
) -> IO[bytes]:
    """The context as a tar archive, to be read from its start; the caller closes it.

    Owners and times are left out, so that equal files make equal archives.

    Args:
        folder: whose files are sent.
        dockerfile: its path inside, which is sent whatever is ignored.
        extra: further files by path, with their content; they win over the folder's.
    """
    extra = extra or {}
    made: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115  # the caller's
    try:
        with tarfile.open(fileobj=made, mode="w") as archive:
            for path in context_files(folder, keep=(dockerfile, IGNORE_FILE)):
                source = folder / path
                if path in extra or not (source.is_file() or source.is_symlink()):
                    continue  # sockets and pipes cannot be sent
                archive.add(source, path, recursive=False, filter=_plain)
            for path, content in extra.items():
                entry = tarfile.TarInfo(path)
                entry.size = len(content)
                archive.addfile(_plain(entry), io.BytesIO(content))
        made.seek(0)
    except BaseException:
        made.close()
        raise
    return made


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    entry.mode = 0o755 if entry.mode & 0o100 else 0o644
    return entry


def _expression(pattern: str) -> str:
    """A pattern as a regular expression."""
    made, at = "", 0
    while at < len(pattern):
        if pattern.startswith("**/", at):
            made, at = made + "(?:.*/)?", at + 3
        elif pattern.startswith("**", at):
            made, at = made + ".*", at + 2
        elif pattern[at] == "*":
            made, at = made + "[^/]*", at + 1
        elif pattern[at] == "?":
            made, at = made + "[^/]", at + 1
        elif pattern[at] == "[" and (end := pattern.find("]", at + 2)) > 0:
            made, at = made + _set(pattern[at + 1 : end]), end + 1
        elif pattern[at] == "\\" and at + 1 < len(pattern):
            made, at = made + re.escape(pattern[at + 1]), at + 2
        else:
            made, at = made + re.escape(pattern[at]), at + 1
    return made


def _set(inside: str) -> str:
    """The characters of ``[…]`` as a regular expression; text, unless they are a set."""
    negated = inside.startswith("^")
    plain = "".join(c if c == "-" or c.isalnum() else re.escape(c) for c in inside[negated:])
    made = f"[{'^' * negated}{plain}]"
    try:
        re.compile(made)
    except re.error:
        return re.escape(f"[{inside}]")
    return made
