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
  ``NAME.parquet.parts/`` until ``close`` joins them; after a crash ``read_trajectories`` finds
  them there.

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


def open_writer(path: str | Path) -> TrajectoryWriter:
    """The writer for a file name; an existing file is replaced.

    Raises:
        ValueError: the suffix is neither ``.jsonl`` nor ``.parquet``.
        ModuleNotFoundError: Parquet without pyarrow.
    """
    path = Path(path)
    match path.suffix:
        case ".jsonl":
            return JsonlWriter(path)
        case ".parquet":
            return ParquetWriter(path)
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
    """JSON Lines, one line per episode, flushed after each."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = self.path.open("wb", buffering=0)

    def write(self, outcome: Outcome) -> None:
        """Add an episode."""
        line = memoryview(_encode(_trajectory(outcome)) + b"\n")
        while line:  # a raw file may take less than it is given
            line = line[self._file.write(line) :]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


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
        max_group_size: bytes of JSON after which a row group is finished, written and safe.
        max_group_episodes: episodes after which it is.
    """

    def __init__(
        self,
        path: str | Path,
        *,
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
        self._part = 0
        self._rows: list[dict[str, Any]] = []
        self._size = 0
        self._max_group_size = max_group_size
        self._max_group_episodes = max_group_episodes
        self._closed = False
        if self._parts.exists():
            shutil.rmtree(self._parts)
        self._parts.mkdir(parents=True)
        self.path.unlink(missing_ok=True)

    def write(self, outcome: Outcome) -> None:
        """Add an episode; a full row group is written out."""
        trajectory = _trajectory(outcome)
        row = {name: getattr(trajectory, name) for name in _EPISODE}
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
        self._rows.append(row)
        if self._size >= self._max_group_size or len(self._rows) >= self._max_group_episodes:
            self.flush()

    def _json(self, value: Any) -> str:
        data = _encode(value)
        self._size += len(data)
        return data.decode()

    def flush(self) -> None:
        """Write what is gathered as a row group of its own, safe from then on."""
        if not self._rows:
            return
        import pyarrow

        table = pyarrow.Table.from_pylist(self._rows, schema=self._schema)
        target = self._parts / f"{self._part:06d}.parquet"
        unfinished = target.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            self._parquet.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(target)
        self._part += 1
        self._rows = []
        self._size = 0

    def close(self) -> None:
        """Join the row groups into one file."""
        if self._closed:
            return
        self.flush()
        self._closed = True
        joined = self.path.with_name(self.path.name + ".unfinished")
        with self._parquet.ParquetWriter(joined, self._schema, compression="zstd") as writer:
            for part in sorted(self._parts.glob("*.parquet")):
                writer.write_table(self._parquet.read_table(part))
        joined.replace(self.path)
        shutil.rmtree(self._parts)


def _parts_of(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


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
    files = [path] if path.exists() or not parts.exists() else sorted(parts.glob("*.parquet"))
    for file in files:
        with parquet.ParquetFile(file) as opened:
            for batch in opened.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    for name in _FREE_OF_EPISODE:
                        row[name] = untag(json.loads(row[name]))
                    for item in row["transitions"]:
                        for name in _FREE:
                            item[name] = untag(json.loads(item[name]))
                    yield _from_row(row)
