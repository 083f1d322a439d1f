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
import itertools
import logging
import operator
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Self, TypeAlias

import msgspec

from openenv_async.arrays import tag
from openenv_async.errors import InvalidModel, sendable
from openenv_async.rollouts.groups import StreamedEpisode
from openenv_async.rollouts.record import Trajectory, Transition, decode, encode
from openenv_async.types import Mistake, ModelCall, Outcome, OutcomeStatus

__all__ = [
    "JsonlWriter",
    "ParquetWriter",
    "TrajectoryWriter",
    "open_writer",
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
_INT64: Final = range(-(1 << 63), 1 << 63)


class TrajectoryWriter(ABC):
    """A writer of one trajectory after the other; a context manager."""

    path: Path

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


def open_writer(path: str | Path, *, append: bool = False) -> TrajectoryWriter:
    """The writer for a file name.

    Args:
        path: ends in ``.jsonl`` or ``.parquet``.
        append: go on with what is there, instead of replacing it.

    Raises:
        ValueError: the suffix is neither ``.jsonl`` nor ``.parquet``.
        ModuleNotFoundError: Parquet without pyarrow.
    """
    path = Path(path)
    match path.suffix:
        case ".jsonl":
            return JsonlWriter(path, append=append)
        case ".parquet":
            return ParquetWriter(path, append=append)
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
            return _read_jsonl(path)
        case ".parquet":
            return _read_parquet(path)
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


def _row_of(episode: Episode) -> Row:
    """The columns of an episode; what is free in shape is ``msgspec.Raw`` JSON.

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


def _line_of(row: Row) -> bytes:
    """A row as one line of JSON."""
    flat = {name: tag(value) for name, value in row.items() if name not in ("extra", "transitions")}
    flat["transitions"] = [_flat_step(step) for step in row["transitions"]]
    return msgspec.json.encode(flat | row["extra"]) + b"\n"


def line_of(episode: Episode, **keys: Any) -> bytes:
    """The line of an episode in a JSON Lines file, with further keys.

    Raises:
        InvalidModel: a part of it has no form in a file.
    """
    row = _row_of(episode)
    row["extra"] |= {name: msgspec.Raw(encode(value)) for name, value in keys.items()}
    return _line_of(row)


def trajectory_of(line: bytes) -> Trajectory:
    """The trajectory of a line; further keys are in its ``extra``.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is not the line of an episode.
    """
    return _from_row(decode(line))


def _flat_step(step: Row) -> Row:
    extra: Row = step["extra"]
    return {name: tag(value) for name, value in step.items() if name != "extra"} | extra


def _from_row(row: Row) -> Trajectory:
    """The trajectory of a row; keys that it has no field for are kept in ``extra``.

    Raises:
        ValueError, TypeError, KeyError: it is not the row of an episode.
    """
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
    """

    def __init__(self, path: str | Path, *, append: bool = False) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if append and self.path.exists():
            mend_last_line(self.path)
        self._file: BinaryIO = self.path.open("ab" if append else "wb", buffering=0)

    def write(self, episode: Episode) -> None:
        """Add an episode."""
        _write_line(self._file, self.path, _line_of(_row_of(episode)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _write_line(file: BinaryIO, path: Path, line: bytes) -> None:
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


def _read_jsonl(path: Path) -> Iterator[Trajectory]:
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
                trajectory = _from_row(row)
            except (ValueError, TypeError, KeyError, AttributeError) as exc:
                raise ValueError(f"line {number} of {path} is not a trajectory: {exc}") from exc
            found = True
            yield trajectory
    if broken and not found:
        raise ValueError(f"no line of {path} is a trajectory: {reason}")


# -- Parquet ------------------------------------------------------------------------------------


class ParquetWriter(TrajectoryWriter):
    """Parquet, one row per episode.

    Args:
        path: where the file lies after ``close``.
        append: go on with what is there.
        max_group_size: bytes of JSON after which a row group is finished and written.
        max_group_episodes: episodes after which it is.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        append: bool = False,
        max_group_size: int = 16 * 1024 * 1024,
        max_group_episodes: int = 1024,
    ) -> None:
        try:
            import pyarrow.parquet as parquet  # type: ignore[import-untyped]  # it has none
        except ModuleNotFoundError as exc:
            raise ModuleNotFoundError(
                "writing Parquet needs pyarrow: pip install 'openenv-async[parquet]'",
                name=exc.name,
            ) from None
        self.path = Path(path)
        self._parquet = parquet
        self._schema = _parquet_schema()
        self._parts = _parts_of(self.path)
        self._rows: list[dict[str, Any]] = []
        self._size = 0
        self._max_group_size = max_group_size
        self._max_group_episodes = max_group_episodes
        self._closed = False
        if not append and self._parts.exists():
            shutil.rmtree(self._parts)
        self._parts.mkdir(parents=True, exist_ok=True)
        if append and self.path.exists():
            for left in self._parts.iterdir():  # of a crash while they were joined: in the file
                left.unlink()
            self.path.replace(self._parts / "000000.parquet")
        elif not append:
            self.path.unlink(missing_ok=True)
        self._part = 1 + max((int(part.stem) for part in _finished(self._parts)), default=-1)

    def write(self, episode: Episode) -> None:
        """Add an episode; a full row group is written out."""
        row = _row_of(episode)
        line = _line_of(row)
        with self._journal().open("ab", buffering=0) as journal:
            _write_line(journal, self._journal(), line)
        self._rows.append(_columns(row))
        self._size += len(line)
        if self._size >= self._max_group_size or len(self._rows) >= self._max_group_episodes:
            try:
                self.flush()
            except OSError as exc:  # the episode is in the journal: it is written
                log.warning("a row group of %s waits for the next write: %s", self.path, exc)

    def _journal(self) -> Path:
        """The file of the episodes of the group that is being gathered."""
        return self._parts / f"{self._part:06d}.jsonl"

    def flush(self) -> None:
        """Write what is gathered as a row group of its own."""
        if not self._rows:
            return
        table = self._table(self._rows)
        target = self._parts / f"{self._part:06d}.parquet"
        unfinished = target.with_suffix(".unfinished")
        try:
            with unfinished.open("wb") as file:
                self._parquet.write_table(table, file, compression="zstd")
                file.flush()
                os.fsync(file.fileno())
        except BaseException:  # its episodes are in the journal, and the next flush has them again
            unfinished.unlink(missing_ok=True)
            raise
        unfinished.replace(target)
        self._journal().unlink(missing_ok=True)
        self._part += 1
        self._rows = []
        self._size = 0

    def _table(self, rows: list[dict[str, Any]]) -> Any:
        import pyarrow

        return pyarrow.Table.from_pylist(rows, schema=self._schema)

    def close(self) -> None:
        """Join the row groups into one file."""
        if self._closed:
            return
        self.flush()
        joined = self.path.with_name(self.path.name + ".unfinished")
        try:
            self._join(joined)
        except BaseException:  # the groups are where they were, and are read from there
            joined.unlink(missing_ok=True)
            raise
        joined.replace(self.path)
        self._closed = True
        shutil.rmtree(self._parts)

    def _join(self, target: Path) -> None:
        with self._parquet.ParquetWriter(target, self._schema, compression="zstd") as writer:
            for part in _finished(self._parts):
                if part.suffix == ".parquet" and self._parquet.read_schema(part) == self._schema:
                    writer.write_table(self._parquet.read_table(part))
                    continue
                # The journal of a crash, or a file of an earlier release or with more columns.
                read = _read_jsonl(part) if part.suffix == ".jsonl" else _read_table(part)
                while batch := list(itertools.islice(read, 64)):
                    rows = [_columns(_row_of(trajectory)) for trajectory in batch]
                    writer.write_table(self._table(rows))


def _columns(row: Row) -> Row:
    """A row as Parquet has it: what is free in shape as JSON texts."""
    columns = {name: _text(value) for name, value in row.items() if name != "transitions"}
    columns["transitions"] = [
        {name: _text(value) for name, value in step.items()} for step in row["transitions"]
    ]
    if row["seed"] is not None and row["seed"] not in _INT64:
        columns["seed"] = None
        columns["extra"] = _text(row["extra"] | {"seed": row["seed"]})
    return columns


def _text(value: Any) -> Any:
    if isinstance(value, msgspec.Raw):
        return bytes(value).decode()
    if isinstance(value, dict):
        return msgspec.json.encode(value).decode() if value else None
    return value


def _parts_of(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


def _finished(parts: Path) -> list[Path]:
    """Return the file of each group, or the journal of one that was not finished."""
    found = {path.stem: path for path in sorted(parts.glob("*.jsonl"))}
    found |= {path.stem: path for path in parts.glob("*.parquet")}
    return [found[stem] for stem in sorted(found)]


def _parquet_schema() -> Any:
    import pyarrow as pa

    types: dict[str, Any] = {
        "t": pa.int32(),
        "index": pa.int64(),
        "seed": pa.int64(),
        "steps": pa.int64(),
        "mistakes": pa.int64(),
        "group": pa.int64(),
        "member": pa.int64(),
        "attempts": pa.int64(),
        "started_at": pa.float64(),
        "ended_at": pa.float64(),
        "reward": pa.float64(),
        "reset_reward": pa.float64(),
        "episode_return": pa.float64(),
        "duration": pa.float64(),
        "terminated": pa.bool_(),
        "truncated": pa.bool_(),
    }
    transition = pa.struct([(name, types.get(name, pa.string())) for name in _TRANSITION])
    types["transitions"] = pa.list_(transition)
    return pa.schema([(name, types.get(name, pa.string())) for name in _EPISODE])


def _read_parquet(path: Path) -> Iterator[Trajectory]:
    parts = _parts_of(path)
    files = [path] if path.exists() or not parts.exists() else _finished(parts)
    for file in files:
        yield from _read_jsonl(file) if file.suffix == ".jsonl" else _read_table(file)


def _read_table(path: Path) -> Iterator[Trajectory]:
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as opened:
        for batch in opened.iter_batches(batch_size=64):
            for row in batch.to_pylist():
                row = _read_columns(row)
                row["transitions"] = [_read_columns(item) for item in row["transitions"]]
                yield _from_row(row)


def _read_columns(row: Row) -> Row:
    """A row of Parquet with its JSON texts read, and the keys of ``extra`` among the others."""
    extra = row.pop("extra", None)
    read = {
        name: decode(value) if name in _FREE and value is not None else value
        for name, value in row.items()
    }
    return read if extra is None else read | decode(extra)
