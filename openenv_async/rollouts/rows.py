"""Rows of tasks: where they are read from, and how a row becomes a task.

Rules:

- Rows whose number is known are read by number, when they are needed.
- A row is a mapping of columns, or a ``Task``. Names of columns that are in no row are refused, so
  that no answer is sent because of a slip in its name.
- Each error names the row.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from openenv_async.arrays import tag
from openenv_async.errors import InvalidTasks, error_text, shown
from openenv_async.models import to_builtins
from openenv_async.types import Task

__all__ = [
    "JsonLines",
    "Listed",
    "Parquet",
    "Reader",
    "Rows",
    "checked_id_column",
    "chosen_columns",
    "listed",
    "names_of",
    "not_rows",
    "rows_and_sampler",
    "task_file",
]

_SUFFIXES: Final = (".jsonl", ".parquet")
_ID_COLUMNS: Final = ("id", "task_id")
_ALWAYS_TAKEN: Final = frozenset({"seed", "episode_id"})
_SHOWN_COLUMNS: Final = 12


class Rows(Protocol):
    """Rows whose number is known, once they are loaded."""

    name: str

    def load(self) -> None: ...

    def __len__(self) -> int: ...

    def columns(self) -> list[str] | None:
        """Return the columns of every row, where all have the same."""
        ...

    def column(self, name: str) -> list[Any]:
        """Return the values of one of ``columns``."""
        ...

    def row(self, number: int) -> Any: ...

    def where(self, number: int) -> str: ...


class Listed:
    """Rows of an object with a length, by number."""

    def __init__(self, rows: Any, name: str | None = None) -> None:
        self._rows = rows
        self.name = name or f"the {type(rows).__name__}"

    def load(self) -> None:
        pass

    def __len__(self) -> int:
        return len(self._rows)

    def columns(self) -> list[str] | None:
        names = getattr(self._rows, "column_names", None)  # of a Hugging Face Dataset
        has = isinstance(names, list) and hasattr(self._rows, "select_columns")
        return names if has else None

    def column(self, name: str) -> list[Any]:
        return list(self._rows.select_columns([name])[:][name])

    def row(self, number: int) -> Any:
        try:
            return self._rows[number]
        except Exception as exc:
            raise InvalidTasks(
                f"{self.where(number)} cannot be read: {type(exc).__name__}: {error_text(exc)}"
            ) from exc

    def where(self, number: int) -> str:
        return f"row {number} of {self.name}"


class JsonLines:
    """Rows of a file with one JSON object a line, read when they are needed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = path.name
        self._lines: list[int] = []
        self._places: list[int] = []

    def load(self) -> None:
        self._lines, self._places = [], []
        place = 0
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        self._lines.append(number)
                        self._places.append(place)
                    place += len(line)
        except OSError as exc:
            raise InvalidTasks(f"{self._path} cannot be read: {exc.strerror}") from exc

    def __len__(self) -> int:
        return len(self._places)

    def columns(self) -> list[str] | None:
        return None

    def column(self, name: str) -> list[Any]:
        raise LookupError(name)

    def row(self, number: int) -> Any:
        try:
            with self._path.open("rb") as file:
                file.seek(self._places[number])
                line = file.readline()
        except OSError as exc:
            raise InvalidTasks(f"{self._path} cannot be read: {exc.strerror}") from exc
        try:
            return msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf"))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            cut = "" if line.endswith(b"\n") else "; the file may have been cut there"
            raise InvalidTasks(f"{self.where(number)} is not JSON: {exc}{cut}") from exc

    def where(self, number: int) -> str:
        return f"line {self._lines[number]} of {self.name}"


class Parquet:
    """Rows of a Parquet file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = path.name
        self._table: Any = None
        self._batch: tuple[int, list[Any]] = (-1, [])

    def load(self) -> None:
        try:
            import pyarrow as pa  # type: ignore[import-untyped]  # it has none
            from pyarrow import parquet
        except ModuleNotFoundError as exc:
            raise ModuleNotFoundError(
                "tasks in Parquet need pyarrow: pip install 'openenv-async[parquet]'",
                name=exc.name,
            ) from None
        try:
            self._table = parquet.read_table(self._path)
        except (OSError, pa.ArrowException) as exc:
            raise InvalidTasks(f"{self._path} cannot be read: {error_text(exc)}") from exc

    def __len__(self) -> int:
        return int(self._table.num_rows)

    def columns(self) -> list[str] | None:
        return list(self._table.column_names)

    def column(self, name: str) -> list[Any]:
        return list(self._table.column(name).to_pylist())

    def row(self, number: int) -> Any:
        batch, place = divmod(number, 64)
        if self._batch[0] != batch:
            self._batch = batch, self._table.slice(batch * 64, 64).to_pylist()
        return self._batch[1][place]

    def where(self, number: int) -> str:
        return f"row {number} of {self.name}"


class Reader:
    """The maker of tasks from rows.

    Attributes:
        options: those that ``reset`` has, where that is known.
    """

    def __init__(
        self, columns: dict[str, str] | None, private: tuple[str, ...], id_column: str | None
    ) -> None:
        self.options: frozenset[str] | None = None
        self._columns = columns
        self._private = private
        self._id = id_column
        self._met: dict[str, str] = {}
        self._sent: dict[str, str] = {}

    def describe(self) -> dict[str, Any]:
        """Return the choice of columns, as plain values."""
        facts = {"columns": self._columns, "private": list(self._private), "id": self._id}
        return {name: value for name, value in facts.items() if value}

    def task(self, row: Any, where: str, *, remember: bool = False) -> Task:
        """Return the task of a row.

        Args:
            row: a mapping or a task.
            where: which, for messages.
            remember: note which columns it has.

        Raises:
            InvalidTasks: it is neither, or its id is not valid.
        """
        if isinstance(row, Task):
            _check_task(row, where)
            data, private = row.data, dict(row.private)
            named: str | None = row.id
            id_column = None
        else:
            if not isinstance(row, Mapping):
                raise InvalidTasks(_not_a_row(row, where), row=where)
            data, private = row, {}
            id_column, named = self._id_of(row, where)
        public: dict[str, Any] = {}
        columns = self._columns
        for name, value in data.items():
            if not isinstance(name, str):
                raise InvalidTasks(
                    f"{where} has the column {shown(name)}: names of columns are text", row=where
                )
            if remember:
                self._met.setdefault(name, where)
            option = name if columns is None else columns.get(name)
            if name in self._private:
                private[option or name] = value
            elif option is not None and (columns is not None or name != id_column):
                public[option] = value
        if remember:
            for name in (*public, *private):
                self._sent.setdefault(name, where)
        if named is None:
            named = _digest(data, private, where)
        split = row.split if isinstance(row, Task) else None
        return Task(named, public, private, split)

    def ids(self, rows: Rows) -> Iterator[str]:
        """Yield the id of each row, and note which columns there are.

        Raises:
            InvalidTasks: a row is not a task, or its id is not valid.
        """
        names = rows.columns()
        column = self._id
        if names is not None and column is None:
            column = next((name for name in _ID_COLUMNS if name in names), None)
        if names is None or column is None or column not in names:
            for number in range(len(rows)):
                yield self.task(rows.row(number), rows.where(number), remember=True).id
            return
        self.task(dict.fromkeys(names, "") | {column: "0"}, rows.where(0), remember=True)
        for number, value in enumerate(rows.column(column)):  # and no other one is read
            yield _id(value, rows.where(number))

    def _id_of(self, row: Mapping[Any, Any], where: str) -> tuple[str | None, str | None]:
        """Return the column with the id, and the id."""
        column = self._id
        if column is None:
            column = next((name for name in _ID_COLUMNS if name in row), None)
            if column is None:
                return None, None
        elif column not in row:
            raise InvalidTasks(
                f"{where} has no column {column!r} for its id; it has {listed(row)}", row=where
            )
        return column, _id(row[column], where)

    def check_named(self, where: str) -> None:
        """Refuse names of columns that there are not.

        Raises:
            InvalidTasks: a private column, or one to be sent, is in no row.
        """
        for name in (*self._private, *(self._columns or ())):
            if name not in self._met:
                raise InvalidTasks(
                    f"{where} has no column {name!r}; it has {listed(self._met)}", column=name
                )

    def check_columns(self, rows: Rows) -> None:
        """Refuse rows with a column that is not an option of ``reset``.

        Raises:
            InvalidTasks: one has.
        """
        for name, where in self._sent.items():
            self._check_option(name, where)

    def check_task(self, task: Task, where: str) -> None:
        """Refuse a task with a column that is not an option of ``reset``.

        Raises:
            InvalidTasks: it has one.
        """
        if self.options is not None and task.split is None:
            for name in (*task.data, *task.private):
                self._check_option(name, where)

    def _check_option(self, name: str, where: str) -> None:
        known = self.options
        if known is None or name in known or name in _ALWAYS_TAKEN:
            return
        there = f"has {listed(sorted(known))}" if known else "has no options"
        raise InvalidTasks(
            f"{where} has the column {name!r}, which is not an option of reset: it {there}; choose"
            " or rename columns (--column, TaskSet(rows, columns=...))",
            row=where,
            column=name,
        )


def rows_and_sampler(rows: Any, sampler: Any) -> tuple[Any, Any]:
    """Return the rows and the sampler of what may be a sampler with its own rows."""
    if isinstance(rows, Mapping):
        raise InvalidTasks(
            f"a dict is not a list of rows: choose one of its splits ({listed(rows)}), or put a row"
            " into a list"
        )
    if hasattr(rows, "to_dicts"):  # a data frame of polars
        rows = rows.to_dicts()
    elif hasattr(rows, "iloc"):  # one of pandas
        rows = rows.to_dict("records")
    source = getattr(rows, "data_source", None)
    if sampler is None and source is not None and not hasattr(rows, "__getitem__"):
        return source, rows
    if sampler is not None and not isinstance(sampler, Iterable):
        raise TypeError(f"a sampler is an iterable of numbers of rows, got {shown(sampler)}")
    return rows, sampler


def task_file(given: str | Path) -> Path | None:
    """Return the file that is named; ``None`` for the name of a split."""
    if not str(given):
        raise InvalidTasks("the name of a file or split of tasks is empty")
    path = Path(given)
    if path.suffix in _SUFFIXES:
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "not there"
            raise InvalidTasks(f"the file of tasks {str(path)!r} is {kind}", path=str(path))
        return path
    if isinstance(given, Path) or path.suffix or len(path.parts) > 1 or path.exists():
        raise InvalidTasks(
            f"tasks are read from {' and '.join(_SUFFIXES)}, not from {str(given)!r}",
            path=str(given),
        )
    return None


def not_rows(rows: Any) -> str:
    if hasattr(rows, "__aiter__"):
        return f"tasks are iterated over in a thread, {shown(rows)} is async: give an iterable"
    return (
        f"tasks are a file, a data set, an iterable of rows or the name of a split, not"
        f" {shown(rows)}"
    )


def _not_a_row(row: Any, where: str) -> str:
    said = f"{where} is {shown(row)}: a row is a mapping of columns, or a Task"
    if isinstance(row, int) or hasattr(row, "__index__"):
        return f"{said}; for the numbers of a sampler give TaskSet(rows, sampler=...)"
    if isinstance(row, str):
        return f"{said}; read the file or the JSON that it stands for"
    return said


def _check_task(task: Task, where: str) -> None:
    _id(task.id, where)
    for part in (task.data, task.private):
        if not isinstance(part, Mapping):
            raise InvalidTasks(f"{where} has {shown(part)} for its columns: a mapping is needed")


def _id(value: Any, where: str) -> str:
    if isinstance(value, str) and value:
        return value
    if not isinstance(value, bool | str):
        with contextlib.suppress(TypeError):
            return str(operator.index(value))
    raise InvalidTasks(
        f"{where} has the id {shown(value)}: an id is a text or an integer", row=where
    )


def _digest(public: Mapping[str, Any], private: Mapping[str, Any], where: str) -> str:
    """Return an id for what is in a row, whatever the order of its columns."""
    content = {**public, **private}
    try:
        plain = tag(to_builtins({name: content[name] for name in sorted(content)}))
        text = msgspec.json.encode(plain, order="deterministic")
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise InvalidTasks(
            f"{where} has no id, and none can be made of what is in it: {error_text(exc)}; give it"
            " a column id",
            row=where,
        ) from exc
    return hashlib.sha256(text).hexdigest()[:16]


def chosen_columns(columns: Any) -> dict[str, str] | None:
    """Return the option of each column that is sent; ``None`` for all."""
    if columns is None:
        return None
    if not isinstance(columns, Mapping):
        return {name: name for name in names_of("columns", columns)}
    made = dict(columns)
    for name, option in made.items():
        if not isinstance(name, str) or not isinstance(option, str):
            raise TypeError(
                f"columns= are names of options by names of columns, got {name!r}: {option!r}"
            )
    twice = [option for option in made.values() if [*made.values()].count(option) > 1]
    if twice:
        raise ValueError(f"two columns are to be the option {twice[0]!r}")
    return made


def names_of(argument: str, names: Any) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"{argument}= must be a list of names of columns, got {shown(names)}")
    made = tuple(names)
    for name in made:
        if not isinstance(name, str):
            raise TypeError(f"{argument}= must be names of columns, got {shown(name)}")
    return made


def checked_id_column(name: Any) -> str | None:
    if name is not None and not isinstance(name, str):
        raise TypeError(f"id= must be the name of a column, got {shown(name)}")
    return name


def listed(names: Iterable[Any]) -> str:
    found = [str(name) for name in itertools.islice(names, _SHOWN_COLUMNS + 1)]
    more = ", …" if len(found) > _SHOWN_COLUMNS else ""
    return ", ".join(found[:_SHOWN_COLUMNS]) + more if found else "none"
