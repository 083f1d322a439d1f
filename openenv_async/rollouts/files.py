"""Trajectories in files: JSON Lines or Parquet, one schema, one row (or line) per episode.

A row has the columns of ``Trajectory`` (index, episode_id, seed, status, episode_return, steps,
duration, error_code, error_message, reset_reward, reset_info, final_observation) and
``transitions``, a list of (t, observation, action, reward, terminated, truncated, info). Only
``None`` is null. Further keys of an episode or a step are kept: they are
read into ``extra`` and written from it.

- JSON Lines (``.jsonl``): one line per episode, written with one call and flushed, so a crash
  loses nothing that was finished; a last line that is not whole is one that a crash cut.
  A write that fails, on a full disk for one, leaves no part of its line behind. A line that is
  broken all the same is passed over when the file is read, and said to be.
  Arrays, bytes, NaN, infinity and keys that are not texts are the tagged objects of ``records``.
- Parquet (``.parquet``, extra ``parquet``): observations, actions and infos are JSON texts with
  the same tags, since their shape is the environment's; all else is typed columns. ``extra`` is a
  JSON text too; a seed of 2**63 or more stands there, since its column has 64 bits with a sign. A
  Parquet file has its index at the end, so finished row groups are files of their own in
  ``NAME.parquet.parts/`` until ``close`` joins them, and the episodes of the group that is being
  gathered lie beside them as JSON Lines; after a crash ``read_trajectories`` finds both.

An episode that cannot be written is refused by ``write``, with the place in it; the file stays as
it was and takes the next.

A writer replaces an existing file, or goes on with it (``append=True``), a crashed one included.

Typed observations are written as plain data and read back as plain data. Writers block for as
long as the disk does.
"""

from __future__ import annotations

import codecs
import contextlib
import logging
import operator
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, TypeAlias

import msgspec

from openenv_async.arrays import tag
from openenv_async.errors import InvalidModel, sendable
from openenv_async.rollouts.groups import StreamedEpisode
from openenv_async.rollouts.headers import (
    HEADER_KEY,
    headers_of_lines,
    joined_headers,
    make_header,
)
from openenv_async.rollouts.record import Trajectory, Transition, decode, encode
from openenv_async.types import Mistake, ModelCall, Outcome, OutcomeStatus

__all__ = [
    "JsonlWriter",
    "TrajectoryWriter",
    "open_writer",
    "read_header",
    "read_trajectories",
]

log = logging.getLogger("openenv_async.rollouts")

Episode: TypeAlias = Outcome | StreamedEpisode | Trajectory
"""The kinds of episode that a writer takes."""
Row: TypeAlias = dict[str, Any]

_TRANSITION: Final = tuple(Transition.__dataclass_fields__)
_EPISODE: Final = tuple(Trajectory.__dataclass_fields__)
_FREE: Final = frozenset(
    {"observation", "action", "info", "reset_info", "final_observation", "extra"}
    | {"mistake", "model_calls", "action_mask", "timings"}
    | {"environment", "task", "reset_options", "policy_versions", "error_detail"}
)
"""Fields whose shape is the environment's, or the user's."""
_HIDDEN: Final = "_extra"
"""Name of the object with a user's keys that have the name of a field."""


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


def _trajectory(episode: Episode) -> tuple[Trajectory, Row]:
    """The record of an episode, and what to write of it besides."""
    extra: Row = {}
    if isinstance(episode, StreamedEpisode):
        extra = {"stale": episode.stale}
        group, member, versions = episode.group, episode.member, episode.versions
        episode = episode.outcome
        if episode.trajectory is not None:
            episode.trajectory.group, episode.trajectory.member = group, member
            episode.trajectory.policy_versions = versions
    if isinstance(episode, Trajectory):
        return episode, extra
    if not isinstance(episode, Outcome):
        raise TypeError(
            "write() takes an Outcome, a StreamedEpisode or a Trajectory, got"
            f" {type(episode).__name__}"
        )
    trajectory = episode.trajectory
    if not isinstance(trajectory, Trajectory):
        trajectory = Trajectory(episode.index)
        trajectory.begin(episode.episode)
        trajectory.finish(episode)
    return trajectory, extra


# -- rows ---------------------------------------------------------------------------------------


def finished_header(header: Row, row: Row) -> Row:
    """Complete a header by the environment of the first episode."""
    if header.get("environment") is None:
        header["environment"] = decode(row["environment"])
    return header


def row_of(episode: Episode, run: str | None = None) -> Row:
    """The columns of an episode; what is free in shape is ``msgspec.Raw`` JSON.

    Args:
        episode: what is written.
        run: the run of an episode that names none.

    Raises:
        InvalidModel: a part of it has no form in a file; the message has the place.
    """
    trajectory, extra = _trajectory(episode)
    place = "index"
    try:
        row: Row = {}
        for name in _EPISODE:
            place = name
            value = getattr(trajectory, name)
            if name == "extra":
                row[name] = _extra({**value, **extra}, _EPISODE)
            elif name != "transitions":
                row[name] = _cell(name, value)
        row["transitions"] = steps = []
        for number, transition in enumerate(trajectory.transitions):
            step: Row = {}
            for name in _TRANSITION:
                place = f"transitions[{number}].{name}"
                value = getattr(transition, name)
                step[name] = _extra(value, _TRANSITION) if name == "extra" else _cell(name, value)
            steps.append(step)
        row["run"] = row["run"] or run
    except (TypeError, ValueError, OverflowError) as exc:
        raise InvalidModel(
            f"episode {trajectory.index} cannot be written: {place}: {exc}; leave it out of what"
            " the environment or the policy gives, or give it as plain values"
        ) from exc
    return row


def _cell(name: str, value: Any) -> Any:
    if name in _FREE:
        return msgspec.Raw(encode(value))
    if value is None:
        return None
    convert: Callable[[Any], Any] = _FIXED.get(name, _as_text)
    return convert(value)


def _as_text(value: Any) -> str:
    return sendable(str(value))


_FIXED: Final[dict[str, Callable[[Any], Any]]] = {
    "t": operator.index,
    "index": operator.index,
    "seed": operator.index,
    "steps": operator.index,
    "mistakes": operator.index,
    "group": operator.index,
    "member": operator.index,
    "attempts": operator.index,
    "started_at": float,
    "ended_at": float,
    "reward": float,
    "reset_reward": float,
    "episode_return": float,
    "duration": float,
    "terminated": bool,
    "truncated": bool,
}
"""The function that makes the value of a column of a fixed type."""


def _extra(extra: Row, taken: tuple[str, ...]) -> dict[str, msgspec.Raw]:
    """Further keys; those with the name of a field are in an object of their own."""
    taken = tuple(name for name in taken if name != "extra")
    free = {name: value for name, value in extra.items() if name not in taken}
    if hidden := {name: value for name, value in extra.items() if name in taken}:
        free[_HIDDEN] = {sendable(str(name)): value for name, value in hidden.items()}
    return {sendable(str(name)): msgspec.Raw(encode(value)) for name, value in free.items()}


def encoded_line(row: Row, header: Row | None = None) -> bytes:
    """A row as one line of JSON, the file's header before it in the first."""
    flat: Row = {} if header is None else {HEADER_KEY: header}
    flat |= {
        name: tag(value) for name, value in row.items() if name not in ("extra", "transitions")
    }
    flat["transitions"] = [_flat_step(step) for step in row["transitions"]]
    return msgspec.json.encode(flat | row["extra"]) + b"\n"


def line_of(episode: Episode, **keys: Any) -> bytes:
    """The line of an episode in a JSON Lines file, with further keys.

    Raises:
        InvalidModel: a part of it has no form in a file.
    """
    row = row_of(episode)
    row["extra"] |= {name: msgspec.Raw(encode(value)) for name, value in keys.items()}
    return encoded_line(row)


def trajectory_of(line: bytes) -> Trajectory:
    """The trajectory of a line; further keys are in its ``extra``.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is not the line of an episode.
    """
    return from_row(decode(line))


def _flat_step(step: Row) -> Row:
    extra: Row = step["extra"]
    return {name: tag(value) for name, value in step.items() if name != "extra"} | extra


def from_row(row: Row) -> Trajectory:
    """The trajectory of a row; keys that it has no field for are kept in ``extra``.

    Raises:
        ValueError, TypeError, KeyError: it is not the row of an episode.
    """
    row.pop(HEADER_KEY, None)
    steps = [Transition(**_step(item)) for item in row.pop("transitions")]
    known = _known(row, _EPISODE)
    status = known.pop("status")
    known["policy_versions"] = tuple(known.get("policy_versions") or ())
    return Trajectory(
        **known, transitions=steps, status=None if status is None else OutcomeStatus(status)
    )


def _step(row: Row) -> Row:
    known = _known(row, _TRANSITION)
    if known.get("mistake") is not None:
        known["mistake"] = Mistake(**known["mistake"])
    if "model_calls" in known:
        known["model_calls"] = tuple(ModelCall(**call) for call in known["model_calls"] or ())
    return known


def _known(row: Row, fields: tuple[str, ...]) -> Row:
    """The fields of a row; a value that is not of its field's kind is a key of somebody else's."""
    known: Row = {
        name: row.pop(name)
        for name in fields
        if name in row and name != "extra" and _fits(name, row[name])
    }
    if isinstance(row.get(_HIDDEN), dict):
        row = row | row.pop(_HIDDEN)
    return known | {"extra": row}


_KINDS: Final[dict[str, type | tuple[type, ...]]] = {
    "environment": dict,
    "task": dict,
    "reset_options": dict,
    "error_detail": dict,
    "mistake": dict,
    "timings": dict,
    "policy_versions": list,
    "model_calls": list,
    "task_id": str,
    "run": str,
    "render": str,
    "mistakes": int,
    "group": int,
    "member": int,
    "attempts": int,
    "started_at": (int, float),
    "ended_at": (int, float),
}
"""The kinds of the fields that files of earlier releases do not have."""


def _fits(name: str, value: Any) -> bool:
    return value is None or isinstance(value, _KINDS.get(name, object))


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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if append and self.path.exists():
            mend_last_line(self.path)
        self._file: BinaryIO = self.path.open("ab" if append else "wb", buffering=0)

    def write(self, episode: Episode) -> None:
        """Add an episode."""
        row = row_of(episode, self.header.get("run"))
        if self._began:
            write_line(self._file, self.path, encoded_line(row))
            return
        line = encoded_line(row, finished_header(self.header, row))
        write_line(self._file, self.path, line)
        self._began = True

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_line(file: BinaryIO, path: Path, line: bytes) -> None:
    """Write a whole line, or nothing of it: a part that a failed write left is removed."""
    end = _end_of(file, path)
    try:
        left = memoryview(line)
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
