"""Trajectories in files: JSON Lines or Parquet, one schema, one row (or line) per episode.

A row has the columns of ``Trajectory`` (index, episode_id, seed, status, episode_return, steps,
duration, error_code, error_message, reset_reward, reset_info, final_observation) and
``transitions``, a list of (t, observation, action, reward, terminated, truncated, info). What
was ``None`` is null.

- JSON Lines (``.jsonl``): one line per episode, written with one call and flushed, so a crash
  loses nothing that was finished; a line without its newline at the end is one that a crash cut.
  Arrays, bytes, NaN and infinity are the tagged objects of ``models``.
- Parquet (``.parquet``, extra ``parquet``): observations, actions and infos are JSON texts with
  the same tags, since their shape is the environment's; all else is typed columns. A Parquet
  file has its index at the end, so finished row groups are files of their own in
  ``NAME.parquet.parts/`` until ``close`` joins them, and the episodes of the group that is being
  gathered lie beside them as JSON Lines; after a crash ``read_trajectories`` finds both.

A writer replaces an existing file, or goes on with it (``append=True``), a crashed one included.

Typed observations are written as plain data and read back as plain data. Writers block for as
long as the disk does.
"""

from __future__ import annotations

import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final, Self

import msgspec

from openenv_async.arrays import tag, untag
from openenv_async.models import to_builtins
from openenv_async.rollouts.trajectory import Trajectory, Transition
from openenv_async.types import Outcome, OutcomeStatus

__all__ = [
    "JsonlWriter",
    "ParquetWriter",
    "TrajectoryWriter",
    "open_writer",
    "read_trajectories",
]

_TRANSITION: Final = tuple(Transition.__dataclass_fields__)
_EPISODE: Final = tuple(Trajectory.__dataclass_fields__)
_FREE: Final = ("observation", "action", "info")
"""Fields of a transition whose shape is the environment's."""
_FREE_OF_EPISODE: Final = ("reset_info", "final_observation")


class TrajectoryWriter(ABC):
    """Writes one trajectory after the other; a context manager."""

    path: Path

    @abstractmethod
    def write(self, outcome: Outcome) -> None:
        """Add an episode. One without a recorded trajectory is written without transitions."""

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
            raise ValueError(f"{suffix or path.name!r} is no trajectory format: .jsonl or .parquet")


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
            raise ValueError(f"{suffix or path.name!r} is no trajectory format: .jsonl or .parquet")


def _trajectory(outcome: Outcome) -> Trajectory:
    trajectory = outcome.trajectory
    if isinstance(trajectory, Trajectory):
        return trajectory
    trajectory = Trajectory(outcome.index)
    trajectory.begin(outcome.episode)
    trajectory.finish(outcome)
    return trajectory


def _encode(value: Any) -> bytes:
    """Tagged JSON. Unlike a payload it is read without a model, so bytes are tagged too."""
    return msgspec.json.encode(tag(to_builtins(value)))


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
            _cut_broken_line(self.path)
        self._file: BinaryIO = self.path.open("ab" if append else "wb", buffering=0)

    def write(self, outcome: Outcome) -> None:
        """Add an episode."""
        _write_line(self._file, _trajectory(outcome))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _write_line(file: BinaryIO, trajectory: Trajectory) -> None:
    line = memoryview(_encode(trajectory) + b"\n")
    while line:  # a raw file may take less than it is given
        line = line[file.write(line) :]


def _cut_broken_line(path: Path) -> None:
    """Remove what stands after the last newline."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65_536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        file.truncate(end)


def _read_jsonl(path: Path) -> Iterator[Trajectory]:
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.endswith(b"\n"):
                return  # a crash cut it
            try:
                yield _from_row(untag(msgspec.json.decode(line)))
            except (msgspec.DecodeError, ValueError, TypeError, KeyError) as exc:
                raise ValueError(f"line {number} of {path} is no trajectory: {exc}") from exc


def _from_row(row: dict[str, Any]) -> Trajectory:
    steps = [Transition(**item) for item in row.pop("transitions")]
    status = row.pop("status")
    return Trajectory(
        **row, transitions=steps, status=None if status is None else OutcomeStatus(status)
    )


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

    def write(self, outcome: Outcome) -> None:
        """Add an episode; a full row group is written out."""
        trajectory = _trajectory(outcome)
        with self._journal().open("ab", buffering=0) as journal:
            _write_line(journal, trajectory)
        self._rows.append(self._row(trajectory))
        if self._size >= self._max_group_size or len(self._rows) >= self._max_group_episodes:
            self.flush()

    def _journal(self) -> Path:
        """Where the episodes of the group that is being gathered are kept."""
        return self._parts / f"{self._part:06d}.jsonl"

    def _row(self, trajectory: Trajectory) -> dict[str, Any]:
        row: dict[str, Any] = {name: getattr(trajectory, name) for name in _EPISODE}
        row["status"] = None if trajectory.status is None else str(trajectory.status)
        for name in _FREE_OF_EPISODE:
            row[name] = self._json(row[name])
        row["transitions"] = [
            {
                name: self._json(getattr(item, name)) if name in _FREE else getattr(item, name)
                for name in _TRANSITION
            }
            for item in trajectory.transitions
        ]
        return row

    def _json(self, value: Any) -> str:
        data = _encode(value)
        self._size += len(data)
        return data.decode()

    def flush(self) -> None:
        """Write what is gathered as a row group of its own."""
        if not self._rows:
            return
        table = self._table(self._rows)
        target = self._parts / f"{self._part:06d}.parquet"
        unfinished = target.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            self._parquet.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
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
        self._closed = True
        joined = self.path.with_name(self.path.name + ".unfinished")
        with self._parquet.ParquetWriter(joined, self._schema, compression="zstd") as writer:
            for part in _finished(self._parts):
                if part.suffix == ".parquet":
                    writer.write_table(self._parquet.read_table(part))
                else:  # the journal of a crash
                    rows = [self._row(trajectory) for trajectory in _read_jsonl(part)]
                    writer.write_table(self._table(rows))
        joined.replace(self.path)
        shutil.rmtree(self._parts)


def _parts_of(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


def _finished(parts: Path) -> list[Path]:
    """What holds each group: its file, or the journal of one that was not finished."""
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
    import pyarrow.parquet as parquet

    parts = _parts_of(path)
    files = [path] if path.exists() or not parts.exists() else _finished(parts)
    for file in files:
        if file.suffix == ".jsonl":
            yield from _read_jsonl(file)
            continue
        with parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    for name in _FREE_OF_EPISODE:
                        row[name] = untag(json.loads(row[name]))
                    for item in row["transitions"]:
                        for name in _FREE:
                            item[name] = untag(json.loads(item[name]))
                    yield _from_row(row)
