"""Sources of episodes: run folders and files of trajectories, read as they are written.

Rules:

- ``refresh`` reads what was written since it was called last, for a limited time, so that a page
  has its first rows at once, whatever the size. A file that was replaced or cut is read anew.
- A line that is cut or broken costs that line alone; ``notices`` say what is missing. A value that
  is not of its field's kind is unknown, and costs not even the line.
- An episode's record stays where it is. ``record`` reads it, a limited number of bytes of steps at
  a time, as JSON with the tagged objects of ``arrays``, which the page understands.
- A source is used by one thread at a time.
"""

from __future__ import annotations

import bisect
import contextlib
import importlib
import os
import time
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec

from openenv_async.endpoints.redaction import redacted_command, redacted_value
from openenv_async.errors import InvalidOption, error_text
from openenv_async.rollouts.files import line_of, read_trajectories
from openenv_async.rollouts.headers import HEADER_KEY
from openenv_async.rollouts.run_folder import MANIFEST
from openenv_async.rollouts.run_journal import ATTEMPTS, Attempt, segments_of
from openenv_async.viewer.columns import EpisodeColumns

__all__ = ["EpisodeSource", "Found", "LinesSource", "ParquetSource", "RunSource"]

_MAX_LINE: Final = 256 * 1024 * 1024
"""Bytes of a line; what is longer is passed over."""
_MAX_NOTICES: Final = 20
_MAX_FOUND: Final = 10_000
"""Episodes that a search finds."""
_LOOKS: Final = 64
"""Lines between two looks at the clock."""
_TIMINGS: Final = ("queue", "policy", "model", "environment", "codec")
_UNREADABLE: Final = (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError)


class Found(NamedTuple):
    """The result of a search in the records.

    Attributes:
        rows: of the episodes in which the text is.
        whole: all records were looked at; ``False`` when the time was over, or there are more.
    """

    rows: list[int]
    whole: bool


class EpisodeSource(ABC):
    """Episodes of one run or file.

    Attributes:
        path: of the folder or file.
        name: that is shown.
        kind: of the source, for readers.
        columns: the index.
        is_current: all that was on the disk at the last ``refresh`` is in the index.
        lost: attempts without a result; ``None`` where that is not known.
        under_way: attempts that have begun and not ended; those of a process that died, too.
    """

    kind = "file"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name or str(path)
        self.columns = EpisodeColumns()
        self.is_current = False
        self.lost: int | None = None
        self.under_way: int | None = None
        self._notices: dict[str, int] = {}

    @abstractmethod
    def refresh(self, seconds: float = 1e9) -> bool:
        """Read what is new, and return whether anything changed.

        Args:
            seconds: after which it stops, with ``is_current`` false.
        """

    @abstractmethod
    def line(self, row: int) -> bytes:
        """Return the whole record of an episode as a line of JSON.

        Raises:
            InvalidOption: it cannot be read any more; the message says why.
        """

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return facts of the run by name, as far as known; secrets are taken out."""

    def close(self) -> None:  # noqa: B027  # most have nothing to give back
        """Give files back. Idempotent."""

    def described(self) -> dict[str, Any]:
        """Return what a page is told of it besides its episodes."""
        return {
            "name": self.name,
            "kind": self.kind,
            "facts": self.facts(),
            "notices": self.notices,
            "is_current": self.is_current,
            "lost": self.lost,
            "under_way": self.under_way,
        }

    @property
    def notices(self) -> list[str]:
        """The things that are missing or broken, in words."""
        found = [
            text if count == 1 else f"{text} ({count:,} times)"
            for text, count in self._notices.items()
        ]
        return found[:_MAX_NOTICES]

    def record(self, row: int, first: int = 0, max_size: int = 8 * 1024 * 1024) -> bytes:
        """Return a part of an episode's record as a JSON object.

        It has ``episode`` (the record without its steps), ``transitions`` (some of them),
        ``first`` (number of the first of these) and ``total`` (how many there are).

        Args:
            row: of the index.
            first: number of the first step.
            max_size: bytes of steps after which it stops; one step is given at least.

        Raises:
            InvalidOption: the episode cannot be read any more, or there is none.
        """
        if not 0 <= row < len(self.columns):
            raise InvalidOption(f"there is no episode {row} in {self.name}: it was read anew")
        try:
            parts = _RECORDS.decode(self.line(row))
            steps = _STEPS.decode(parts.pop("transitions", msgspec.Raw(b"[]")))
        except (msgspec.MsgspecError, ValueError) as exc:
            raise InvalidOption(
                f"the record of episode {row} is broken: {error_text(exc)}"
            ) from exc
        parts.pop(HEADER_KEY, None)
        given: list[msgspec.Raw] = []
        size = 0
        for step in steps[first:]:
            size += len(bytes(step))
            if given and size > max_size:
                break
            given.append(step)
        return msgspec.json.encode(
            {"episode": parts, "transitions": given, "first": first, "total": len(steps)}
        )

    def search(self, text: str, seconds: float = 5.0) -> Found:
        """Return the episodes whose records have a text, however its letters are written.

        Args:
            text: that is looked for, in messages, observations, actions and all else.
            seconds: after which it stops.
        """
        wanted = msgspec.json.encode(text)[1:-1].lower()
        ends = time.monotonic() + seconds
        found: list[int] = []
        for number, (row, line) in enumerate(self._lines()):
            if wanted in line.lower():
                found.append(row)
                if len(found) == _MAX_FOUND:
                    return Found(sorted(found), False)
            if number % _LOOKS == 0 and time.monotonic() > ends:
                return Found(sorted(found), False)
        return Found(sorted(found), True)

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        for row in range(len(self.columns)):
            with contextlib.suppress(InvalidOption):
                yield row, self.line(row)

    def _note(self, text: str) -> None:
        if text in self._notices or len(self._notices) < _MAX_NOTICES:
            self._notices[text] = self._notices.get(text, 0) + 1


# -- lines ----------------------------------------------------------------------------------------


class _Place(msgspec.Struct):
    """The parts of ``openenv_run`` that the index has."""

    task: str | None = None
    member: int | None = None
    visit: int = 0
    result: str | None = None
    recorded: bool = True
    unrecorded: str | None = None
    model_calls: int = 0
    model_tokens: int = 0


class _CallFacts(msgspec.Struct):
    completion_ids: msgspec.Raw = msgspec.Raw(b"null")


class _StepFacts(msgspec.Struct):
    timings: dict[str, float] | None = None
    model_calls: list[_CallFacts] | None = None


class _Line(msgspec.Struct):
    """The parts of a line that the index has."""

    transitions: list[_StepFacts]
    index: int = -1
    episode_return: float | dict[str, str] | None = None
    started_at: float | None = None
    ended_at: float | None = None
    duration: float | None = None
    task_id: str | None = None
    group: int | str | None = None
    member: int | None = None
    steps: int | None = None
    mistakes: int | None = None
    attempts: int | None = None
    status: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    openenv_run: _Place | None = None


_LINES: Final = msgspec.json.Decoder(_Line)
_RECORDS: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_STEPS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_ATTEMPT_LINES: Final = msgspec.json.Decoder(Attempt)


class _File:
    """A file that is read line by line, as far as it has come."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.offset = 0
        self.identity: tuple[int, int] | None = None


class LinesSource(EpisodeSource):
    """A file of trajectories in JSON Lines."""

    kind = "JSON Lines"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._files: dict[int, _File] = {}
        self._file_of = array("i")
        self._offset_of = array("q")
        self._size_of = array("q")
        self._header: dict[str, Any] | None = None
        self._cut: str | None = None

    def _paths(self) -> dict[int, Path]:
        return {0: self.path}

    def _key(self, line: _Line) -> Any:
        """Return what an episode is known by, if a later line may replace it."""
        return None

    def refresh(self, seconds: float = 1e9) -> bool:
        ends = time.monotonic() + seconds
        before = (self.columns.epoch, len(self.columns), tuple(self.notices))
        paths = self._paths()
        if any(self._is_another(number, path) for number, path in paths.items()) or any(
            number not in paths for number in self._files
        ):
            self._forget()
        self._cut = None
        self.is_current = True
        for number, path in sorted(paths.items()):
            known = self._files.setdefault(number, _File(path))
            try:
                with path.open("rb") as file:
                    self._read(number, known, file, ends)
            except OSError as exc:
                self._note(f"{path.name} cannot be read: {exc.strerror or exc}")
            if not self.is_current:
                break
        return before != (self.columns.epoch, len(self.columns), tuple(self.notices))

    @property
    def notices(self) -> list[str]:
        return [*super().notices, *([] if self._cut is None else [self._cut])]

    def facts(self) -> dict[str, Any]:
        return _facts_of_header(self._header or {})

    def line(self, row: int) -> bytes:
        if not 0 <= row < len(self._file_of):
            raise InvalidOption(f"there is no episode {row} in {self.name}")
        path = self._files[self._file_of[row]].path
        try:
            with path.open("rb") as file:
                file.seek(self._offset_of[row])
                return file.read(self._size_of[row])
        except OSError as exc:
            raise InvalidOption(
                f"the record of episode {row} cannot be read from {path.name}: {exc.strerror}"
            ) from exc

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        current, opened = -1, None
        try:
            for row, number in enumerate(self._file_of):
                if number != current or opened is None:
                    if opened is not None:
                        opened.close()
                    current, opened = number, self._files[number].path.open("rb")
                opened.seek(self._offset_of[row])
                yield row, opened.read(self._size_of[row])
        except OSError:
            return
        finally:
            if opened is not None:
                opened.close()

    def _is_another(self, number: int, path: Path) -> bool:
        """Return whether a file is not the one that was read before, or was cut."""
        known = self._files.get(number)
        if known is None or known.identity is None:
            return False
        try:
            now = path.stat()
        except OSError:
            return True
        return (now.st_dev, now.st_ino) != known.identity or now.st_size < known.offset

    def _forget(self) -> None:
        self.columns.clear()
        self._files.clear()
        self._notices.clear()
        self._file_of, self._offset_of, self._size_of = array("i"), array("q"), array("q")
        self._header = None

    def _read(self, number: int, known: _File, file: BinaryIO, ends: float) -> None:
        """Read lines until the end of the file, or of the time."""
        stat = _stat_of(file)
        known.identity = stat[:2]
        file.seek(known.offset)
        for count in range(1 << 62):
            if count % _LOOKS == _LOOKS - 1 and time.monotonic() > ends:
                self.is_current = False
                return
            begin = known.offset
            line = file.readline(_MAX_LINE)
            if not line:
                return
            if not line.endswith(b"\n"):
                if len(line) == _MAX_LINE:
                    known.offset = _after_line(file)
                    self._note(f"a line of {known.path.name} is longer than 256 MiB: passed over")
                    continue
                if not _is_whole(line):
                    self._cut = (
                        f"the last line of {known.path.name} is not whole ({len(line):,} bytes):"
                        " it is being written, or a crash cut it"
                    )
                    return
            known.offset = begin + len(line)
            if not line.isspace():
                self._take(number, known, begin, line)

    def _take(self, number: int, known: _File, begin: int, line: bytes) -> None:
        """Put the episode of a line into the index."""
        if begin == 0:
            line_text = line.removeprefix(b"\xef\xbb\xbf")
            begin += len(line) - len(line_text)
            line = line_text
        try:
            read = _LINES.decode(line)
        except (msgspec.MsgspecError, ValueError):
            read_slowly = _line_of_any(line)
            if read_slowly is None:
                self._note(f"a line of {known.path.name} is broken or no episode: it is missing")
                return
            read = read_slowly
        if self._header is None and line.startswith(b'{"' + HEADER_KEY.encode()):
            self._header = _header_of(line)
        facts = _facts_of(read)
        key = self._key(read)
        row = self._row_of_key(key)
        if row is None:
            self.columns.append(facts)
            self._file_of.append(number)
            self._offset_of.append(begin)
            self._size_of.append(len(line))
            self._added(key)
        else:
            self.columns.replace(row, facts)
            self._file_of[row], self._offset_of[row] = number, begin
            self._size_of[row] = len(line)
        if read.openenv_run is not None and read.openenv_run.unrecorded:
            self._note(f"an episode has no steps: {read.openenv_run.unrecorded}")

    def _row_of_key(self, key: Any) -> int | None:
        return None

    def _added(self, key: Any) -> None:
        return


class RunSource(LinesSource):
    """The folder of a run, also while it is being written."""

    kind = "run"

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._rows: dict[Any, int] = {}
        self._manifest: dict[str, Any] = {}
        self._attempts = _File(path / ATTEMPTS)
        self._begun = self._ended = 0

    def _paths(self) -> dict[int, Path]:
        return segments_of(self.path)

    def _key(self, line: _Line) -> Any:
        place = line.openenv_run
        return None if place is None else (place.task, place.member, place.visit)

    def _row_of_key(self, key: Any) -> int | None:
        return None if key is None else self._rows.get(key)

    def _added(self, key: Any) -> None:
        if key is not None:
            self._rows[key] = len(self.columns) - 1

    def _forget(self) -> None:
        super()._forget()
        self._rows.clear()

    def refresh(self, seconds: float = 1e9) -> bool:
        before = (self.lost, self.under_way)
        changed = super().refresh(seconds)
        try:
            self._manifest = msgspec.json.decode(
                (self.path / MANIFEST).read_bytes(), type=dict[str, Any]
            )
        except (OSError, msgspec.MsgspecError, ValueError) as exc:
            self._manifest = {}
            self._notices.setdefault(f"{MANIFEST} cannot be read: {error_text(exc)}", 1)
        self._read_attempts()
        return changed or before != (self.lost, self.under_way)

    def _read_attempts(self) -> None:
        """Count the attempts that were noted since the last time."""
        known = self._attempts
        try:
            with known.path.open("rb") as file:
                if _stat_of(file)[2] < known.offset:
                    known.offset = self._begun = self._ended = 0
                    self.lost = None
                file.seek(known.offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    known.offset += len(line)
                    self._count_attempt(line)
        except OSError:
            return
        self.lost = self.lost or 0
        self.under_way = max(0, self._begun - self._ended)

    def _count_attempt(self, line: bytes) -> None:
        try:
            attempt = _ATTEMPT_LINES.decode(line)
        except (msgspec.MsgspecError, ValueError):
            return
        if attempt.ended is None:
            self._begun += 1
        else:
            self._ended += 1
            self.lost = (self.lost or 0) + attempt.lost

    def facts(self) -> dict[str, Any]:
        manifest = self._manifest
        found: dict[str, Any] = {}
        if isinstance(manifest.get("id"), str):
            found["run"] = manifest["id"]
        if isinstance(created := manifest.get("created"), int | float):
            found["created"] = created
        if isinstance(wanted := manifest.get("wanted"), int):
            found["wanted"] = wanted
        if isinstance(command := manifest.get("command"), list):
            found["command"] = " ".join(redacted_command([str(each) for each in command]))
        if isinstance(parts := manifest.get("parts"), Mapping):
            for name, part in parts.items():
                if isinstance(part, Mapping) and isinstance(facts := part.get("facts"), Mapping):
                    found[str(name)] = redacted_value(facts)
        return found


def _stat_of(file: BinaryIO) -> tuple[int, int, int]:
    stat = os.fstat(file.fileno())
    return stat.st_dev, stat.st_ino, stat.st_size


def _after_line(file: BinaryIO) -> int:
    """Read to the end of a line that is too long to be kept, and return the place after it."""
    while piece := file.readline(1 << 20):
        if piece.endswith(b"\n"):
            break
    return file.tell()


def _is_whole(line: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(line), dict)
    except (msgspec.MsgspecError, ValueError):
        return False


def _header_of(line: bytes) -> dict[str, Any]:
    try:
        header = msgspec.json.decode(_RECORDS.decode(line)[HEADER_KEY])
    except (msgspec.MsgspecError, ValueError, KeyError):
        return {}
    return header if isinstance(header, dict) else {}


def _line_of_any(line: bytes) -> _Line | None:
    """Return what can be read of a line whose values are not all of the kinds of their fields."""
    try:
        parts = _RECORDS.decode(line)
        steps = _STEPS.decode(parts.pop("transitions"))
    except (msgspec.MsgspecError, ValueError, KeyError):
        return None
    made = _Line(transitions=[])
    for step in steps:
        with contextlib.suppress(msgspec.MsgspecError, ValueError):
            made.transitions.append(msgspec.json.decode(step, type=_StepFacts))
    for field in msgspec.structs.fields(_Line):
        if field.name in parts:
            with contextlib.suppress(msgspec.MsgspecError, ValueError):
                setattr(made, field.name, msgspec.json.decode(parts[field.name], type=field.type))
    return made


def _facts_of(line: _Line) -> dict[str, Any]:
    """Return the row of a line."""
    place = line.openenv_run or _Place()
    seconds: dict[str, float] = {}
    calls = tokens = 0
    for step in line.transitions:
        for name, value in (step.timings or {}).items():
            seconds[name] = seconds.get(name, 0.0) + value
        for call in step.model_calls or ():
            calls += 1
            tokens += _length(call.completion_ids)
    task = line.task_id if line.task_id is not None else place.task
    group = line.group
    if group is None and task is not None:
        group = f"{task} ({place.visit})" if place.visit else task
    return {
        "return": _number(line.episode_return),
        "started_at": line.started_at,
        "ended_at": line.ended_at,
        "duration": line.duration,
        **{name: seconds.get(name) for name in _TIMINGS},
        "index": line.index,
        "task": task,
        "group": group,
        "member": line.member if line.member is not None else place.member,
        "steps": line.steps,
        "mistakes": line.mistakes,
        "calls": place.model_calls or calls,
        "tokens": place.model_tokens or tokens,
        "attempts": line.attempts,
        "error_code": line.error_code,
        "error": _first_line(line.error_message),
        "status": line.status,
        "result": place.result,
    }


def _number(value: Any) -> float | None:
    if isinstance(value, dict):  # a tagged one: infinite, or none
        with contextlib.suppress(ValueError, TypeError):
            return float(value.get("__float__", "nan"))
        return None
    return None if value is None else float(value)


def _length(raw: msgspec.Raw) -> int:
    """Return the length of a JSON list of numbers without reading them."""
    octets = bytes(raw).strip()
    if not octets.startswith(b"[") or octets[1:-1].isspace() or octets == b"[]":
        return 0
    return octets.count(b",") + 1


def _first_line(text: str | None) -> str | None:
    return None if not text else text.strip().split("\n", 1)[0]


# -- Parquet --------------------------------------------------------------------------------------


class ParquetSource(EpisodeSource):
    """A finished Parquet file of trajectories: the index needs a few of its columns alone."""

    kind = "Parquet"

    _EPISODE: Final = (
        *("index", "episode_return", "started_at", "ended_at", "duration", "task_id", "group"),
        *("member", "steps", "mistakes", "attempts", "status", "error_code", "error_message"),
    )
    _STEP: Final = (
        *(f"transitions.list.element.timings.{name}" for name in _TIMINGS),
        "transitions.list.element.model_calls.list.element.completion_ids",
    )

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        importlib.import_module("pyarrow.parquet")  # it is told at once where it is missing

        self._identity: tuple[int, float] | None = None
        self._first_of_group = array("q")
        self._next_group = 0
        self._groups = 0
        self._header: dict[str, Any] = {}

    def refresh(self, seconds: float = 1e9) -> bool:
        import pyarrow as pa  # type: ignore[import-untyped]  # it has none
        import pyarrow.parquet as parquet  # type: ignore[import-untyped]  # it has none

        ends = time.monotonic() + seconds
        before = (self.columns.epoch, len(self.columns), tuple(self.notices))
        try:
            stat = self.path.stat()
            identity = (stat.st_ino, stat.st_mtime)
            if identity != self._identity:
                if self._identity is not None:
                    self.columns.clear()
                self._identity, self._next_group = identity, 0
                self._first_of_group = array("q")
                self._notices.clear()
            self.is_current = True
            with parquet.ParquetFile(self.path) as file:
                self._groups = file.num_row_groups
                metadata = file.schema_arrow.metadata or {}
                with contextlib.suppress(msgspec.MsgspecError, ValueError):
                    header = msgspec.json.decode(metadata.get(HEADER_KEY.encode(), b"{}"))
                    self._header = header if isinstance(header, dict) else {}
                while self._next_group < self._groups:
                    self._read_group(file, self._next_group)
                    self._next_group += 1
                    if self._next_group < self._groups and time.monotonic() > ends:
                        self.is_current = False
                        break
        except (OSError, pa.ArrowException) as exc:
            self.is_current = True
            self._note(f"{self.path.name} cannot be read as Parquet: {error_text(exc)}")
        return before != (self.columns.epoch, len(self.columns), tuple(self.notices))

    def _read_group(self, file: Any, number: int) -> None:
        """Put the episodes of a row group into the index."""
        table = file.read_row_group(number, columns=[*self._EPISODE, *self._STEP])
        columns = {
            name: table.column(name).to_pylist()
            for name in table.column_names
            if name != "transitions"
        }
        sums = _sums_of_steps(table) if "transitions" in table.column_names else {}
        self._first_of_group.append(len(self.columns))
        for at in range(table.num_rows):
            row = {name: values[at] for name, values in columns.items()}
            task, group = row.get("task_id"), row.get("group")
            self.columns.append(
                {
                    **row,
                    **{name: values[at] for name, values in sums.items()},
                    "return": row.get("episode_return"),
                    "task": task,
                    "group": task if group is None else group,
                    "error": _first_line(row.get("error_message")),
                }
            )

    def line(self, row: int) -> bytes:
        from openenv_async.rollouts.parquet import read_row

        group = bisect.bisect_right(self._first_of_group, row) - 1
        try:
            return line_of(read_row(self.path, group, row - self._first_of_group[group]))
        except _UNREADABLE as exc:
            raise InvalidOption(
                f"the record of episode {row} cannot be read from {self.name}: {error_text(exc)}"
            ) from exc

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        with contextlib.suppress(OSError, ValueError):
            for at, trajectory in enumerate(read_trajectories(self.path)):
                yield at, line_of(trajectory)

    def facts(self) -> dict[str, Any]:
        return _facts_of_header(self._header)


def _sums_of_steps(table: Any) -> dict[str, list[Any]]:
    """Return for each episode the seconds by name, the calls of models and their tokens."""
    import pyarrow as pa

    steps = table.column("transitions").combine_chunks()
    if isinstance(steps, pa.ChunkedArray):
        steps = pa.concat_arrays(steps.chunks) if steps.num_chunks else pa.array([], steps.type)
    sizes = [size or 0 for size in steps.value_lengths().to_pylist()]
    inner = steps.flatten()
    names = {field.name for field in inner.type}
    sums: dict[str, list[Any]] = {}
    if "timings" in names:
        timings = inner.field("timings")
        for field in timings.type:
            sums[field.name] = _sums(sizes, timings.field(field.name).to_pylist(), None)
    if "model_calls" in names:
        calls = inner.field("model_calls")
        lengths = [size or 0 for size in calls.value_lengths().to_pylist()]
        sums["calls"] = _sums(sizes, lengths, 0)
        ids = calls.flatten().field("completion_ids")
        tokens = [size or 0 for size in ids.value_lengths().to_pylist()]
        sums["tokens"] = _sums(sizes, _sums(lengths, tokens, 0), 0)
    return sums


def _sums(sizes: Sequence[int], values: Sequence[Any], none: Any) -> list[Any]:
    """Return the sums of consecutive values, of as many as ``sizes`` says each."""
    made, at = [], 0
    for size in sizes:
        known = [value for value in values[at : at + size] if value is not None]
        made.append(sum(known) if known else none)
        at += size
    return made


def _facts_of_header(header: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if isinstance(environment := header.get("environment"), Mapping):
        found["environment"] = redacted_value(environment)
    if isinstance(command := header.get("command"), list):
        found["command"] = " ".join(redacted_command([str(each) for each in command]))
    for name in ("run", "time"):
        if isinstance(value := header.get(name), str):
            found[name] = value
    return found
