"""Trajectories as Parquet: one row per episode."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from openenv_async.rollouts.files import (
    _EPISODE,
    _FREE,
    _TRANSITION,
    Episode,
    Row,
    TrajectoryWriter,
    encoded_line,
    finished_header,
    from_row,
    read_lines,
    row_of,
    write_line,
)
from openenv_async.rollouts.headers import (
    HEADER_KEY,
    headers_of_lines,
    joined_headers,
    make_header,
)
from openenv_async.rollouts.record import Trajectory, decode

__all__ = ["ParquetWriter", "headers_of_parquet", "read_parquet"]

log = logging.getLogger("openenv_async.rollouts")

_INT64: Final = range(-(1 << 63), 1 << 63)


class ParquetWriter(TrajectoryWriter):
    """Parquet, one row per episode.

    Args:
        path: where the file lies after ``close``.
        append: go on with what is there.
        max_group_size: bytes of JSON after which a row group is finished and written.
        max_group_episodes: episodes after which it is.
        header: keys of the file's header.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        append: bool = False,
        max_group_size: int = 16 * 1024 * 1024,
        max_group_episodes: int = 1024,
        header: Mapping[str, Any] | None = None,
    ) -> None:
        try:
            import pyarrow.parquet as parquet  # type: ignore[import-untyped]  # it has none
        except ModuleNotFoundError as exc:
            raise ModuleNotFoundError(
                "writing Parquet needs pyarrow: pip install 'openenv-async[parquet]'",
                name=exc.name,
            ) from None
        self.path = Path(path)
        self.header = make_header(**(header or {}))
        self._began = False
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
        row = row_of(episode, self.header.get("run"))
        line = encoded_line(row)
        size = len(line)
        if not self._began:
            line = encoded_line(row, finished_header(self.header, row))
            self._began = True
        with self._journal().open("ab", buffering=0) as journal:
            write_line(journal, self._journal(), line)
        self._rows.append(_columns(row))
        self._size += size
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

        return pyarrow.Table.from_pylist(rows, schema=self._with_header(self.header))

    def _with_header(self, header: Row | None) -> Any:
        if header is None:
            return self._schema
        return self._schema.with_metadata({HEADER_KEY: msgspec.json.encode(header)})

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
        parts = _finished(self._parts)
        found = [header for part in parts for header in _headers_of_part(part)]
        headers = [each for at, each in enumerate(found) if each not in found[:at]]
        schema = self._with_header(joined_headers(headers))
        with self._parquet.ParquetWriter(target, schema, compression="zstd") as writer:
            for part in parts:
                if part.suffix == ".parquet" and self._parquet.read_schema(part) == self._schema:
                    writer.write_table(self._parquet.read_table(part).cast(schema))
                    continue
                # The journal of a crash, or a file of an earlier release or with more columns.
                read = read_lines(part) if part.suffix == ".jsonl" else _read_table(part)
                while batch := list(itertools.islice(read, 64)):
                    rows = [_columns(row_of(trajectory)) for trajectory in batch]
                    writer.write_table(self._table(rows).cast(schema))


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


def read_parquet(path: Path) -> Iterator[Trajectory]:
    parts = _parts_of(path)
    files = [path] if path.exists() or not parts.exists() else _finished(parts)
    for file in files:
        yield from read_lines(file) if file.suffix == ".jsonl" else _read_table(file)


def _read_table(path: Path) -> Iterator[Trajectory]:
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as opened:
        for batch in opened.iter_batches(batch_size=64):
            for row in batch.to_pylist():
                row = _read_columns(row)
                row["transitions"] = [_read_columns(item) for item in row["transitions"]]
                yield from_row(row)


def _read_columns(row: Row) -> Row:
    """A row of Parquet with its JSON texts read, and the keys of ``extra`` among the others."""
    extra = row.pop("extra", None)
    read = {
        name: decode(value) if name in _FREE and value is not None else value
        for name, value in row.items()
    }
    return read if extra is None else read | decode(extra)


def headers_of_parquet(path: Path) -> list[Row]:
    """Return the headers of a file, also of one whose writer crashed."""
    parts = _parts_of(path)
    files = [path] if path.exists() or not parts.exists() else _finished(parts)
    found = [header for file in files for header in _headers_of_part(file)]
    return [each for at, each in enumerate(found) if each not in found[:at]]


def _headers_of_part(path: Path) -> list[Row]:
    import pyarrow.parquet as parquet

    if path.suffix == ".jsonl":
        return headers_of_lines(path)
    metadata = parquet.read_schema(path).metadata or {}
    header = metadata.get(HEADER_KEY.encode())
    return [] if header is None else [msgspec.json.decode(header)]
