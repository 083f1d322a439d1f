"""Trajectories in files: JSON Lines or Parquet, one schema, one row (or line) per episode.

A row has the fields of ``Trajectory``, and ``transitions``, a list with those of ``Transition``.
Only ``None`` is null. Further keys of an episode or a step are kept: they are read into ``extra``
and written from it.

- JSON Lines (``.jsonl``): one line per episode, written with one call and flushed, so a crash
  loses nothing that was finished; a last line that is not whole is one that a crash cut.
  A write that fails, on a full disk for one, leaves no part of its line behind. A line that is
  broken all the same is passed over when the file is read, and said to be.
  Arrays, bytes, NaN, infinity and keys that are not texts are the tagged objects of ``arrays``.
- Parquet (``.parquet``, extra ``parquet``): typed columns, also for what the environment gives,
  where its shape is one; see ``parquet`` and ``columns``.

A file has a header; see ``headers``. An episode that cannot be written is refused by ``write``,
with the place in it; the file stays as it was and takes the next.

A writer replaces an existing file, or goes on with it (``append=True``), a crashed one included.

Typed observations are written as plain data and read back as plain data. Writers block for as
long as the disk does; an ``AsyncWriter`` does not.
"""

from __future__ import annotations

import binascii
import codecs
import contextlib
import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import msgspec

from openenv_async.arrays import array_parts, is_large_array, tag
from openenv_async.endpoints.redaction import Redactor
from openenv_async.models import to_builtins
from openenv_async.rollouts.episode_rows import EPISODE, STEP, Episode, Keys, Row, encoded, from_row
from openenv_async.rollouts.headers import (
    HEADER_KEY,
    headers_of_lines,
    joined_headers,
    make_header,
)
from openenv_async.rollouts.record import Trajectory, decode

__all__ = [
    "Episode",
    "JsonlWriter",
    "TrajectoryWriter",
    "open_writer",
    "read_header",
    "read_trajectories",
]

log = logging.getLogger("openenv_async.rollouts")


class TrajectoryWriter(ABC):
    """A writer of one trajectory after the other; a context manager.

    Attributes:
        path: of the file.
        header: of the file. It is written with the first episode, from which it has the
            ``environment`` unless that was given.
    """

    path: Path
    header: dict[str, Any]

    @abstractmethod
    def write(self, episode: Episode) -> None:
        """Add an episode. One without a recorded trajectory is written without transitions.

        Args:
            episode: an outcome, a streamed episode or a trajectory.

        Raises:
            InvalidModel: a part of it has no form in a file; nothing of it is written.
            OSError: the disk is full, or gone; nothing of it is written.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish the file. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def open_writer(
    path: str | Path, *, append: bool = False, header: Mapping[str, Any] | None = None
) -> TrajectoryWriter:
    """The writer for a file name.

    Args:
        path: ends in ``.jsonl`` or ``.parquet``.
        append: go on with what is there, instead of replacing it.
        header: keys of the file's header, besides those that it has anyway or instead of them,
            such as ``run``.

    Raises:
        ValueError: the suffix is neither ``.jsonl`` nor ``.parquet``.
        ModuleNotFoundError: Parquet without pyarrow.
    """
    path = Path(path)
    match path.suffix:
        case ".jsonl":
            return JsonlWriter(path, append=append, header=header)
        case ".parquet":
            from openenv_async.rollouts.parquet import ParquetWriter

            return ParquetWriter(path, append=append, header=header)
        case suffix:
            raise ValueError(
                f"{suffix or path.name!r} is not a trajectory format: .jsonl or .parquet"
            )


def read_trajectories(path: str | Path) -> Iterator[Trajectory]:
    """The trajectories of a file, one at a time, also of one whose writer crashed.

    Raises:
        ValueError: the suffix or the content is not that of trajectories.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    match path.suffix:
        case ".jsonl":
            return read_lines(path)
        case ".parquet":
            from openenv_async.rollouts.parquet import read_parquet

            return read_parquet(path)
        case suffix:
            if path.is_dir():
                raise ValueError(
                    f"{path} is a folder: RunFolder.view({str(path)!r}).outcomes() reads that of a"
                    f" run, and `openenv-async export {path} {path}.parquet` makes a file of it"
                )
            raise ValueError(
                f"{suffix or path.name!r} is not a trajectory format: .jsonl or .parquet"
            )


def read_header(path: str | Path) -> dict[str, Any] | None:
    """Return the header of a file; ``None`` of one that has none, as those of old releases.

    Raises:
        ValueError: the suffix is not that of trajectories.
        FileNotFoundError: there is no such file.
    """
    path = Path(path)
    match path.suffix:
        case ".jsonl":
            return joined_headers(headers_of_lines(path))
        case ".parquet":
            from openenv_async.rollouts.parquet import headers_of_parquet

            return joined_headers(headers_of_parquet(path))
        case suffix:
            raise ValueError(
                f"{suffix or path.name!r} is not a trajectory format: .jsonl or .parquet"
            )


def finished_header(header: Keys, environment: Any) -> Keys:
    """Complete a header by the environment of the first episode."""
    if header.get("environment") is None:
        header["environment"] = environment
    return header


def _line(row: Row, arrays: list[tuple[bytes, Any]] | None = None) -> dict[str, Any]:
    """The keys of a row's line.

    Args:
        row: of an episode.
        arrays: takes large arrays: the token that stands for one, and its elements.
    """
    line = {
        name: _json(value, arrays)
        for name, value in zip(EPISODE, row.episode, strict=True)
        if value is not None or name in _ALWAYS
    }
    extra = line.pop("extra") or {}
    line["transitions"] = [_line_of_step(step, arrays) for step in row.steps]
    return line | extra


def _line_of_step(step: tuple[Any, ...], arrays: list[tuple[bytes, Any]] | None) -> dict[str, Any]:
    line = {
        name: _json(value, arrays)
        for name, value in zip(STEP, step, strict=True)
        if value is not None or name in _ALWAYS
    }
    extra = line.pop("extra") or {}
    return line | extra


def _json(value: Any, arrays: list[tuple[bytes, Any]] | None) -> Any:
    """A plain value with the tagged objects of ``arrays``."""
    kind = type(value)
    if kind in _LEAVES or (kind is float and math.isfinite(value)):
        return value
    if arrays is not None:
        if hasattr(value, "nbytes") and is_large_array(value):
            dtype, shape, elements = array_parts(value)
            token = os.urandom(16).hex()  # that nothing else can contain
            arrays.append((token.encode(), elements))
            return {"__ndarray__": [dtype.decode(), list(shape), token]}
        if kind is dict and len(value) > 1 and _TEXT.issuperset(map(type, value)):
            return {name: _json(item, arrays) for name, item in value.items()}
        if kind is list:
            return [_json(item, arrays) for item in value]
    return tag(value)


def _with_elements(octets: bytes, arrays: list[tuple[bytes, Any]]) -> list[bytes]:
    """Return the pieces of a line, each token as the elements that it stands for.

    No call encodes megabytes: other threads get the interpreter in between.
    """
    pieces: list[bytes] = []
    for token, elements in sorted(arrays, key=lambda each: octets.index(each[0])):
        before, _, octets = octets.partition(token)
        pieces.append(before)
        for at in range(0, len(elements), _BASE64_PIECE):
            piece = elements[at : at + _BASE64_PIECE]
            pieces.append(binascii.b2a_base64(piece, newline=False))
    return [*pieces, octets]


_ALWAYS: Final = frozenset(
    {"index", "episode_id", "seed", "final_observation", "reset_reward", "reset_info", "status"}
    | {"episode_return", "steps", "duration", "error_code", "error_message", "extra"}
    | {"t", "observation", "action", "reward", "terminated", "truncated", "info"}
)
"""Keys that a line has also where nothing was given; the others are left out then."""
_LEAVES: Final = frozenset({type(None), bool, int, str})
_TEXT: Final = frozenset({str})
_BASE64_PIECE: Final = 3 * (1 << 16)


def line_of(episode: Episode, **keys: Any) -> bytes:
    """The line of an episode in a JSON Lines file, with further keys.

    Raises:
        InvalidModel: a part of it has no form in a file.
    """
    more = {name: tag(to_builtins(value)) for name, value in keys.items()}
    return encoded(episode, lambda row: msgspec.json.encode(_line(row) | more) + b"\n", Redactor())


def trajectory_of(line: bytes) -> Trajectory:
    """The trajectory of a line; further keys are in its ``extra``.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is not the line of an episode.
    """
    return from_row(decode(line))


# -- JSON Lines ---------------------------------------------------------------------------------


class JsonlWriter(TrajectoryWriter):
    """JSON Lines, one line per episode, written before ``write`` returns.

    Args:
        path: the file.
        append: go on with what is there; a line that a crash cut is removed.
        header: keys of the file's header.
    """

    def __init__(
        self, path: str | Path, *, append: bool = False, header: Mapping[str, Any] | None = None
    ) -> None:
        self.path = Path(path)
        self.header = make_header(**(header or {}))
        self._began = False
        self._redactor = Redactor()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if append and self.path.exists():
            mend_last_line(self.path)
        self._file: BinaryIO = self.path.open("ab" if append else "wb", buffering=0)

    def write(self, episode: Episode) -> None:
        """Add an episode."""
        line = encoded(episode, self._encoded, self._redactor, self.header.get("run"))
        _write_line(self._file, self.path, *line)
        self._began = True

    def _encoded(self, row: Row) -> list[bytes]:
        """Return a row as the pieces of a line, the first with the header."""
        arrays: list[tuple[bytes, Any]] = []
        line = _line(row, arrays)
        if not self._began:
            header = finished_header(self.header, line.get("environment"))
            line = {HEADER_KEY: header, **line}
        octets = msgspec.json.encode(line) + b"\n"
        return _with_elements(octets, arrays) if arrays else [octets]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _write_line(file: BinaryIO, path: Path, *line: bytes) -> None:
    """Write a whole line, or nothing of it: a part that a failed write left is removed."""
    end = _end_of(file, path)
    try:
        for piece in line:
            left = memoryview(piece)
            while left:  # a raw file may take less than it is given
                left = left[file.write(left) :]
    except BaseException:
        if end is not None:
            with contextlib.suppress(OSError):  # the next write tries again
                file.truncate(end)
        raise


def _end_of(file: BinaryIO, path: Path) -> int | None:
    """The offset of the next line; ``None`` for a pipe, which has no end that could be cut."""
    if not file.seekable():
        return None
    if file.seek(0, os.SEEK_END) and _last_byte(path) != b"\n":
        mend_last_line(path)  # left by a write whose part could not be removed at once
    return file.seek(0, os.SEEK_END)


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)


def mend_last_line(path: Path) -> None:
    """End the last line if it is whole and only its newline is missing, else remove it."""
    with path.open("r+b") as file:
        end = size = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65_536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        file.seek(end)
        if end < size and _is_whole(file.read()):
            file.write(b"\n")
        else:
            file.truncate(end)


def _is_whole(line: bytes) -> bool:
    """Tell whether a line is a whole row: no beginning of one is."""
    try:
        return isinstance(decode(line.removeprefix(codecs.BOM_UTF8)), dict)
    except (msgspec.DecodeError, ValueError):
        return False


def read_lines(path: Path) -> Iterator[Trajectory]:
    """The trajectories of a file; broken lines are passed over, and said to be.

    Raises:
        ValueError: a line is JSON but not a trajectory; or there are only broken lines.
    """
    broken, reason, found = 0, "", False
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.endswith(b"\n") and not _is_whole(line):
                break  # a crash cut it
            if line.isspace():
                continue
            try:
                row = decode(line)
            except (msgspec.DecodeError, ValueError) as exc:
                broken += 1
                reason = f"line {number} of {path} is broken: {exc}"
                log.warning("%s; it is passed over", reason)
                continue
            try:
                trajectory = from_row(row)
            except (ValueError, TypeError, KeyError, AttributeError) as exc:
                raise ValueError(f"line {number} of {path} is not a trajectory: {exc}") from exc
            found = True
            yield trajectory
    if broken and not found:
        raise ValueError(f"no line of {path} is a trajectory: {reason}")
