"""Trajectories as Parquet: one row per episode, numbers as numbers.

Rules:

- An episode is written when ``write`` returns. A Parquet file has its index at the end, so the
  episodes of the row group that is being gathered are records of a journal, and finished row groups
  are files of their own, in ``NAME.parquet.parts/``; ``close`` joins them. Killed at any byte, no
  episode that was written is lost, and none is there twice.
- A record is an array of MessagePack behind its length and checksum; the first of a journal says
  which fields the others have, so that a later release reads it. A record that is not whole is one
  that was never acknowledged: it is the last, and is removed before the next is written.
- Columns of a shape that is the environment's have kinds; see ``columns``. They are found with the
  first row group; a later one may widen them, and then ``close`` writes the earlier ones again. A
  value that does not fit its column stands in ``extra``, under the column's name, and is read from
  there. The file's metadata has the kinds, and the header.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import operator
import os
import shutil
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from openenv_async.arrays import (
    EXT_INT,
    EXT_NDARRAY,
    ext_pieces,
    int_to_bytes,
    is_large_array,
    tag,
    to_ext,
)
from openenv_async.endpoints.redaction import Redactor
from openenv_async.models.decoding import ext_hook
from openenv_async.rollouts.columns import (
    JSON,
    NULL,
    Kind,
    arrow_type,
    column,
    fixed,
    json_text,
    kind_from,
    kind_of,
    merged,
    restored,
)
from openenv_async.rollouts.episode_rows import (
    EPISODE,
    FREE,
    STEP,
    Episode,
    Keys,
    Row,
    encoded,
    from_row,
)
from openenv_async.rollouts.files import TrajectoryWriter, finished_header, read_lines
from openenv_async.rollouts.headers import (
    HEADER_KEY,
    headers_of_lines,
    joined_headers,
    make_header,
)
from openenv_async.rollouts.record import Trajectory, decode

__all__ = ["ParquetWriter", "headers_of_parquet", "read_parquet", "read_row"]

log = logging.getLogger("openenv_async.rollouts")

KINDS_KEY: Final = "openenv_columns"
"""Name of the columns' kinds in the metadata."""
_FOUND: Final = (
    *("final_observation", "reset_info", "environment", "task", "reset_options", "error_detail"),
    *("observation", "action", "info", "action_mask"),
)
"""Columns whose kind is found in their values."""
_FIXED: Final = {
    "policy_versions": Kind("list", parts=(("", Kind("int")),)),
    "mistake": fixed({"kind": "text", "message": "text", "code": "text", "reward": "float"}),
    "timings": fixed(dict.fromkeys(("queue", "policy", "model", "environment", "codec"), "float")),
    "model_calls": Kind(
        "list",
        parts=(
            (
                "",
                fixed(
                    {
                        "messages": "json",
                        "reply": "json",
                        "continues": "bool",
                        "prompt_ids": "int32[]",
                        "completion_ids": "int32[]",
                        "logprobs": "float[]",
                        "mask": "int8[]",
                        "finish_reason": "text",
                        "model": "text",
                        "weight_version": "json",
                        "seconds": "float",
                        "error": "text",
                        "extra": "json",
                    }
                ),
            ),
        ),
    ),
}
"""Kinds of the columns that have one always."""
_TYPES: Final = {
    "t": "int32",
    "index": "int64",
    "seed": "int64",
    "steps": "int64",
    "mistakes": "int64",
    "group": "int64",
    "member": "int64",
    "attempts": "int64",
    "started_at": "float64",
    "ended_at": "float64",
    "reward": "float64",
    "reset_reward": "float64",
    "episode_return": "float64",
    "duration": "float64",
    "terminated": "bool_",
    "truncated": "bool_",
}
"""Arrow's names of the types of the other columns; those that are missing here are texts."""
_ROW_EXTRA: Final = EPISODE.index("extra")
_SEED: Final = EPISODE.index("seed")
_INT64: Final = range(-(1 << 63), 1 << 63)
_BATCH: Final = 64
"""Episodes that are read at once."""


class ParquetWriter(TrajectoryWriter):
    """Parquet, one row per episode.

    Args:
        path: where the file lies after ``close``.
        append: go on with what is there.
        max_group_size: bytes of records after which a row group is finished and written.
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
        self._redactor = Redactor()
        self._parquet = parquet
        self._parts = _parts_of(self.path)
        self._journal: _Journal | None = None
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
        parts = _finished(self._parts)
        self._kinds: dict[str, Kind] = {}
        for part in parts:
            self._kinds = _merged(self._kinds, _kinds_of_part(part))
        self._part = 1 + max((int(part.stem) for part in parts), default=-1)

    @property
    def gathered(self) -> int:
        """Episodes of the row group that is not finished yet."""
        return 0 if self._journal is None else len(self._journal.ends)

    @property
    def gathered_size(self) -> int:
        """Bytes of their records."""
        return 0 if self._journal is None else self._journal.size

    def write(self, episode: Episode) -> None:
        """Add an episode; a full row group is written out."""
        record, row = encoded(episode, _record, self._redactor, self.header.get("run"))
        if self._journal is None:
            header = finished_header(self.header, row.get("environment"))
            self._journal = _Journal(self._parts / f"{self._part:06d}.journal", header)
        self._journal.append(record)
        if self.gathered >= self._max_group_episodes or self.gathered_size >= self._max_group_size:
            try:
                self.flush()
            except OSError as exc:  # the episode is in the journal: it is written
                log.warning("a row group of %s waits for the next write: %s", self.path, exc)

    def flush(self) -> None:
        """Write what is gathered as a row group of its own."""
        journal = self._journal
        if journal is None or not journal.ends:
            return
        rows = _Rows(_decoded(journal.records()))
        found = rows.kinds()
        self._kinds = _merged(self._kinds, rows.wanted_kinds(found))
        table = _table(rows, self._kinds, found, self.header)
        del rows
        target = self._parts / f"{self._part:06d}.arrow"
        unfinished = target.with_suffix(".unfinished")
        try:
            with unfinished.open("wb") as file:
                _write_part(table, file)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:  # its episodes are in the journal, and the next flush has them again
            unfinished.unlink(missing_ok=True)
            raise
        unfinished.replace(target)
        self._part += 1
        self._journal = None
        journal.remove()

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
        if self._journal is not None:
            self._journal.remove()
        shutil.rmtree(self._parts)

    def _join(self, target: Path) -> None:
        parts = _finished(self._parts)
        headers = _distinct(header for part in parts for header in _headers_of_part(part))
        header = joined_headers(headers) or self.header
        for part in parts:
            if part.suffix not in (".arrow", ".parquet"):  # of a crash
                rows = self._rows_again(_read_part(part))
                self._kinds = _merged(self._kinds, rows.wanted_kinds(rows.kinds()))
        kinds = {name: self._kinds.get(name, NULL) for name in _FOUND}
        schema = _schema(kinds, header)
        with self._parquet.ParquetWriter(target, schema, compression="zstd") as writer:
            for part in parts:
                if _has_kinds(part, kinds):
                    for table in _tables_of(part):
                        writer.write_table(table.replace_schema_metadata(schema.metadata))
                    continue
                # Of a crash, of an earlier release, or written before a column was widened.
                read = _read_part(part)
                while batch := list(itertools.islice(read, self._max_group_episodes)):
                    rows = self._rows_again(batch)
                    writer.write_table(_table(rows, kinds, rows.kinds(), header))

    def _rows_again(self, trajectories: Iterable[Trajectory]) -> _Rows:
        """Return the rows of episodes that were read."""
        records = (encoded(each, _record, self._redactor)[0] for each in trajectories)
        return _Rows(_decoded(map(b"".join, records)))


# -- the journal ----------------------------------------------------------------------------------

_RECORD_HEAD: Final = struct.Struct("<QI")
"""The length of a record, and the CRC-32 of its bytes."""
_JOURNAL: Final = "openenv_journal"


class _Journal:
    """The episodes of a row group that is not finished, each written at once.

    Attributes:
        ends: the offsets at which the records end.
        size: bytes of the records.
    """

    def __init__(self, path: Path, header: Keys) -> None:
        self.path = path
        self.ends: list[int] = []
        self.size = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        self._begin = self._end = 0
        self._is_torn = False
        about = {_JOURNAL: 1, "episode": [*EPISODE], "step": [*STEP], "header": header}
        try:
            self._begin = self._put([msgspec.msgpack.encode(about)])
        except BaseException:
            self.remove()
            raise

    def append(self, record: list[Any]) -> None:
        """Write a record, or nothing of it."""
        end = self._put(record)
        self.ends.append(end)
        self.size = end - self._begin

    def _put(self, record: list[Any]) -> int:
        """Write at the end; return where the end is then."""
        size = crc = 0
        for piece in record:
            size += len(piece)
            crc = zlib.crc32(piece, crc)
        fd = self._fd
        pieces: list[Any] = [_RECORD_HEAD.pack(size, crc), *record]
        if self._is_torn:
            self._mend()
        left = _RECORD_HEAD.size + size
        try:
            while left:
                done = os.writev(fd, pieces[:64])
                left -= done
                while pieces and done >= len(pieces[0]):
                    done -= len(pieces.pop(0))
                if done:
                    pieces[0] = memoryview(pieces[0])[done:]
        except BaseException:
            self._is_torn = True
            with contextlib.suppress(OSError):  # the next write tries again
                self._mend()
            raise
        self._end += _RECORD_HEAD.size + size
        return self._end

    def _mend(self) -> None:
        """Remove the part of a record that a failed write left."""
        os.ftruncate(self._fd, self._end)
        os.lseek(self._fd, self._end, os.SEEK_SET)
        self._is_torn = False

    def records(self) -> Iterator[bytes]:
        """Return the records, as they are in the file."""
        start = self._begin
        for end in self.ends:
            start += _RECORD_HEAD.size
            yield os.pread(self._fd, end - start, start)
            start = end

    def remove(self) -> None:
        """Remove the file: its episodes are elsewhere."""
        self._close()
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self._close()  # of a writer that was never closed


def _read_records(path: Path) -> Iterator[bytes]:
    """Return the whole records of a journal."""
    with path.open("rb") as file:
        while len(head := file.read(_RECORD_HEAD.size)) == _RECORD_HEAD.size:
            size, crc = _RECORD_HEAD.unpack(head)
            if size > os.fstat(file.fileno()).st_size:
                break
            record = file.read(size)
            if len(record) < size or zlib.crc32(record) != crc:
                break
            yield record


def _read_journal(path: Path) -> Iterator[Keys]:
    """Return the rows of a journal as dicts."""
    records = _read_records(path)
    first = next(records, None)
    if first is None:
        return
    about = _DECODE(first)
    for record in records:
        values, steps = _DECODE_ARRAYS(record)
        row = dict(zip(about["episode"], values, strict=True))
        row["transitions"] = [
            _with_extra(dict(zip(about["step"], step, strict=True))) for step in steps
        ]
        yield _with_extra(row)


def _with_extra(row: Keys) -> Keys:
    return row | (row.pop("extra") or {})


def _struct(name: str, fields: Sequence[str], *types: Any) -> Any:
    """Return a class of records, which are nothing to the garbage collector."""
    typed = zip(fields, types or [Any] * len(fields), strict=True)
    return msgspec.defstruct(name, list(typed), array_like=True, gc=False)


_STEPS: Final[Any] = list.__class_getitem__(_struct("_StepRecord", STEP))
_Record: Any = _struct("_Record", ["episode", "steps"], _struct("_EpisodeRecord", EPISODE), _STEPS)


_DECODE: Final = msgspec.msgpack.Decoder().decode
_DECODE_RECORD: Final = msgspec.msgpack.Decoder(_Record).decode
_DECODE_ARRAYS: Final = msgspec.msgpack.Decoder(ext_hook=ext_hook).decode


def _decoded(records: Iterable[bytes]) -> Iterator[Any]:
    """Return what records have, their arrays not made yet."""
    for record in records:
        try:
            yield _DECODE_RECORD(record)
        except msgspec.DecodeError:  # a NumPy scalar as a key
            yield msgspec.convert(_with_exts(_DECODE_ARRAYS(record)), _Record)


def _with_exts(value: Any) -> Any:
    """Return a tree with each array and NumPy scalar as the ``Ext`` that it was, but for keys."""
    kind = type(value)
    if kind is dict:
        return {key: _with_exts(item) for key, item in value.items()}
    if kind is list:
        return [_with_exts(item) for item in value]
    made = to_ext(value)
    return value if made is None else msgspec.msgpack.Ext(*made)


class _LargeArray(Exception):
    """Raised by the encoder when it meets an array that is worth no copy."""


def _hook(value: Any) -> Any:
    if is_large_array(value):
        raise _LargeArray
    made = to_ext(value)
    if made is None:
        raise TypeError(f"a {type(value).__name__} cannot be recorded")
    return msgspec.msgpack.Ext(*made)


_ENCODE: Final = msgspec.msgpack.Encoder(enc_hook=_hook).encode


def _record(row: Row) -> tuple[list[Any], Row]:
    """Return the record of a row, in pieces."""
    seed = row.episode[_SEED]
    if seed is not None and seed not in _INT64:  # has more bits than its column
        row.episode[_SEED] = None
        row.episode[_ROW_EXTRA] = {**(row.episode[_ROW_EXTRA] or {}), "seed": seed}
    try:
        return _pieces(row), row
    except OverflowError:  # an integer of more than 64 bits
        return _pieces(_with_large_ints(row)), row


def _pieces(row: Any) -> list[Any]:
    """Return the bytes of a record, large arrays as they lie: no call copies megabytes."""
    try:
        return [_ENCODE(row)]
    except _LargeArray:
        pass
    met: list[tuple[bytes, bytes, Any]] = []

    def hook(value: Any) -> Any:
        if not is_large_array(value):
            return _hook(value)
        token = os.urandom(16)  # that nothing else can contain
        met.append((token, *ext_pieces(value)))
        return msgspec.msgpack.Ext(EXT_NDARRAY, token)

    octets = msgspec.msgpack.Encoder(enc_hook=hook).encode(row)
    pieces: list[Any] = []
    at = 0
    for token, head, elements in met:
        place = octets.index(token, at)
        size = len(head) + len(elements)
        if size >= 1 << 32:
            raise ValueError(f"an array of {size:,} bytes: at most 4 GiB are recorded")
        pieces += octets[at : place - 2], _EXT32.pack(0xC9, size, EXT_NDARRAY), head, elements
        at = place + len(token)
    return [*pieces, octets[at:]]


_EXT32: Final = struct.Struct(">BIb")


def _with_large_ints(value: Any) -> Any:
    kind = type(value)
    if kind is dict:
        return {key: _with_large_ints(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_large_ints(item) for item in value]
    if kind is int and not -(1 << 63) <= value < 1 << 64:
        return msgspec.msgpack.Ext(EXT_INT, int_to_bytes(value))
    return value


# -- rows to a table ------------------------------------------------------------------------------


class _Rows:
    """The values of rows, column by column: one an episode, or one a step.

    Attributes:
        columns: the values by name, without those of ``extra``.
        extras: of the episodes.
        step_extras: of the steps.
        sizes: how many steps each episode has.
    """

    def __init__(self, records: Iterable[Any]) -> None:
        episodes, steps = [], []
        self.sizes: list[int] = []
        for record in records:
            episodes.append(record.episode)
            steps += record.steps
            self.sizes.append(len(record.steps))
        self.columns: dict[str, list[Any]] = {}
        for names, found in ((EPISODE, episodes), (STEP, steps)):
            for name in names:
                get = operator.attrgetter(name)
                self.columns[name] = list(map(get, found))
            if found is episodes:
                self.extras = self.columns.pop("extra")
        self.step_extras = self.columns.pop("extra")

    def kinds(self) -> dict[str, Kind]:
        """Return the kinds of the columns that have no fixed one."""
        return {name: kind_of(self.columns[name]) for name in _FOUND}

    def wanted_kinds(self, found: Mapping[str, Kind]) -> dict[str, Kind]:
        """Return the kinds that the columns should have.

        The reply of a model in which there is no action is a text, and would make texts of all
        actions: those of mistakes do not count where there are others.
        """
        acted = list(map(operator.not_, self.columns["mistake"]))
        if all(acted) or not any(acted):
            return dict(found)
        return {**found, "action": kind_of(list(itertools.compress(self.columns["action"], acted)))}


def _merged(kinds: Mapping[str, Kind], others: Mapping[str, Kind]) -> dict[str, Kind]:
    return {
        name: merged(kinds.get(name, NULL), others.get(name, NULL))
        for name in (*kinds, *(other for other in others if other not in kinds))
    }


def _table(rows: _Rows, kinds: Mapping[str, Kind], found: Mapping[str, Kind], header: Keys) -> Any:
    """Return rows as an Arrow table.

    Args:
        rows: of episodes.
        kinds: of the columns.
        found: the kinds of these rows.
        header: of the file.
    """
    import pyarrow as pa

    def arrays(names: Sequence[str], extras: list[Any]) -> dict[str, Any]:
        made = {
            name: _array(name, rows.columns[name], kinds, found, extras)
            for name in names
            if name != "extra"
        }
        texts = [None if not extra else json_text(extra) for extra in extras]
        return made | {"extra": pa.array(texts, pa.string())}

    steps = arrays(STEP, rows.step_extras)
    episodes = arrays(EPISODE, rows.extras)
    offsets = pa.array([0, *itertools.accumulate(rows.sizes)], pa.int32())
    episodes["transitions"] = pa.ListArray.from_arrays(
        offsets, pa.StructArray.from_arrays([steps[name] for name in STEP], list(STEP))
    )
    schema = _schema(kinds, header)
    return pa.Table.from_arrays([episodes[name] for name in schema.names], schema=schema)


def _array(
    name: str,
    values: Sequence[Any],
    kinds: Mapping[str, Kind],
    found: Mapping[str, Kind],
    extras: list[Any],
) -> Any:
    """Return a column; what does not fit it is put among the extras, under its name."""
    import pyarrow as pa

    if name in _FIXED:
        return _fixed_array(name, values, extras)
    if name not in FREE:
        return pa.array(values, getattr(pa, _TYPES.get(name, "string"))())
    kind = kinds.get(name, NULL)
    array, others = column(kind, values, found.get(name))
    for at in others:
        extras[at] = {**(extras[at] or {}), name: values[at]}
    return array


def _fixed_array(name: str, values: Sequence[Any], extras: list[Any]) -> Any:
    """Return a column of a fixed kind."""
    import pyarrow as pa

    kind = _FIXED[name]
    of = arrow_type(kind)
    if not any(values) and name != "timings":
        return pa.nulls(len(values), of)
    if name == "timings":
        blank: Keys = dict.fromkeys(part for part, _ in kind.parts)
        known = blank.keys()
        fitting = [
            None if value is None or not value.keys() <= known else blank | value
            for value in values
        ]
    else:
        fitting = [value or None for value in values]
    try:
        array = column(kind, fitting, kind)[0]
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):  # such as an id of 64 bits
        fitting = [value if _is_in(kind, value) else None for value in fitting]
        array = column(kind, fitting, kind)[0]
    for at, value in enumerate(values):
        if value and fitting[at] is None:
            extras[at] = {**(extras[at] or {}), name: value}
    return array


def _is_in(kind: Kind, value: Any) -> bool:
    """Return whether a column has a value."""
    import pyarrow as pa

    try:
        column(kind, [value], kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        return False
    return True


def _schema(kinds: Mapping[str, Kind], header: Keys) -> Any:
    import pyarrow as pa

    def type_of(name: str) -> Any:
        if name in _FIXED:
            return arrow_type(_FIXED[name])
        if name in FREE and name != "extra":
            return arrow_type(kinds.get(name, NULL))
        return getattr(pa, _TYPES.get(name, "string"))()

    fields = [(name, type_of(name)) for name in EPISODE]
    step = pa.struct([(name, type_of(name)) for name in STEP])
    fields.insert(EPISODE.index("seed") + 1, ("transitions", pa.list_(step)))
    all_kinds = {name: kinds.get(name, NULL) for name in _FOUND} | _FIXED
    plain = {name: kind.as_plain() for name, kind in all_kinds.items()}
    metadata = {
        HEADER_KEY: msgspec.json.encode(tag(header)),
        KINDS_KEY: msgspec.json.encode(plain),
    }
    return pa.schema(fields, metadata=metadata)


# -- parts ----------------------------------------------------------------------------------------


def _parts_of(path: Path) -> Path:
    return path.with_name(path.name + ".parts")


def _finished(parts: Path) -> list[Path]:
    """Return the file of each group, or the journal of one that was not finished."""
    found: dict[str, Path] = {}
    for suffix in ("jsonl", "journal", "parquet", "arrow"):  # the first is of old releases
        found |= {path.stem: path for path in parts.glob(f"*.{suffix}")}
    return [found[stem] for stem in sorted(found)]


def _kinds_of_part(path: Path) -> dict[str, Kind]:
    """Return the kinds of a part's columns; all are JSON in files of earlier releases."""
    schema = _schema_of_part(path)
    if schema is None:
        return {}
    return _kinds_in(schema.metadata or {}) or dict.fromkeys(_FOUND, JSON)


def _schema_of_part(path: Path) -> Any:
    """Return the Arrow schema of a part; ``None`` of a journal."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    match path.suffix:
        case ".parquet":
            return parquet.read_schema(path)
        case ".arrow":
            with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as opened:
                return opened.schema
        case _:
            return None


def _write_part(table: Any, file: Any) -> None:
    """Write a row group as an Arrow file, which costs less to write and read than Parquet."""
    import pyarrow as pa

    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_file(file, table.schema, options=options) as writer:
        writer.write_table(table)


def _tables_of(path: Path) -> Iterator[Any]:
    """Return the row groups of a part."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    if path.suffix == ".parquet":
        with parquet.ParquetFile(path) as opened:
            for number in range(opened.num_row_groups):
                yield opened.read_row_group(number)
        return
    with pa.memory_map(str(path)) as file, pa.ipc.open_file(file) as part:
        yield part.read_all()


def _kinds_in(metadata: Mapping[bytes, bytes]) -> dict[str, Kind]:
    plain = metadata.get(KINDS_KEY.encode())
    if plain is None:
        return {}
    return {name: kind_from(kind) for name, kind in msgspec.json.decode(plain).items()}


def _has_kinds(path: Path, kinds: Mapping[str, Kind]) -> bool:
    """Return whether a part has columns of just these kinds."""
    schema = _schema_of_part(path)
    if schema is None:
        return False
    return _kinds_in(schema.metadata or {}) == {**kinds, **_FIXED} and bool(
        schema.equals(_schema(kinds, {}))
    )


def headers_of_parquet(path: Path) -> list[Keys]:
    """Return the headers of a file, also of one whose writer crashed."""
    return _distinct(header for part in _parts_or_file(path) for header in _headers_of_part(part))


def _distinct(headers: Iterable[Keys]) -> list[Keys]:
    found: list[Keys] = []
    for header in headers:
        if header not in found:
            found.append(header)
    return found


def _headers_of_part(path: Path) -> list[Keys]:
    if path.suffix == ".jsonl":
        return headers_of_lines(path)
    if path.suffix == ".journal":
        first = next(_read_records(path), None)
        return [] if first is None else [_DECODE(first)["header"]]
    header = (_schema_of_part(path).metadata or {}).get(HEADER_KEY.encode())
    return [] if header is None else [msgspec.json.decode(header)]


def _parts_or_file(path: Path) -> list[Path]:
    parts = _parts_of(path)
    return [path] if path.exists() or not parts.exists() else _finished(parts)


# -- reading --------------------------------------------------------------------------------------


def read_parquet(path: Path) -> Iterator[Trajectory]:
    """The trajectories of a file, also of one whose writer crashed."""
    for part in _parts_or_file(path):
        yield from _read_part(part)


def read_row(path: Path, group: int, row: int) -> Trajectory:
    """Return one episode of a finished file.

    Args:
        path: of the file.
        group: number of a row group.
        row: which of its rows.

    Raises:
        OSError, ValueError, IndexError: the file cannot be read, or has no such row.
    """
    import pyarrow.parquet as parquet

    with parquet.ParquetFile(path) as opened:
        table = opened.read_row_group(group).slice(row, 1)
    [batch] = table.combine_chunks().to_batches()
    kinds = _kinds_in(table.schema.metadata or {})
    names = batch.schema.names
    [found] = _rows(names, [batch.column(name) for name in names], kinds)
    return from_row(found)


def _read_part(path: Path) -> Iterator[Trajectory]:
    match path.suffix:
        case ".jsonl":
            yield from read_lines(path)
        case ".journal":
            yield from map(from_row, _read_journal(path))
        case _:
            yield from _read_table(path)


def _read_table(path: Path) -> Iterator[Trajectory]:
    import pyarrow.parquet as parquet

    with contextlib.ExitStack() as stack:
        if path.suffix == ".arrow":
            schema = _schema_of_part(path)
            batches = (batch for table in _tables_of(path) for batch in table.to_batches(_BATCH))
        else:
            opened = stack.enter_context(parquet.ParquetFile(path))
            schema, batches = opened.schema_arrow, opened.iter_batches(batch_size=_BATCH)
        kinds = _kinds_in(schema.metadata or {})
        for batch in batches:
            names = batch.schema.names
            rows = _rows(names, [batch.column(name) for name in names], kinds)
            for row in rows:
                yield from_row(row)


def _rows(names: Sequence[str], arrays: Sequence[Any], kinds: Mapping[str, Kind]) -> list[Keys]:
    """Return the rows of columns as dicts, with the keys of ``extra`` among the others."""
    columns = [_values(name, array, kinds) for name, array in zip(names, arrays, strict=True)]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    for row in rows:
        extra = row.pop("extra", None)
        if extra is not None:
            row |= decode(extra)
    return rows


def _read_text(value: Any) -> Any:
    """Return the value of a JSON text; in a file that another program wrote, what is there."""
    if not isinstance(value, str):
        return value
    try:
        return decode(value)
    except ValueError:
        return value


def _values(name: str, array: Any, kinds: Mapping[str, Kind]) -> list[Any]:
    if name == "transitions":
        inner = array.flatten()
        fields = [field.name for field in inner.type]
        steps = iter(_rows(fields, [inner.field(field) for field in fields], kinds))
        sizes = array.value_lengths().to_pylist()
        return [list(itertools.islice(steps, size or 0)) for size in sizes]
    kind = kinds.get(name)
    if kind is None:
        values: list[Any] = array.to_pylist()
        if name not in FREE or name == "extra":
            return values
        return [_read_text(value) for value in values]
    values = restored(kind, array)
    if name == "timings":
        return [
            value and {part: given for part, given in value.items() if given is not None}
            for value in values
        ]
    return values
