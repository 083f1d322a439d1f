"""Tasks of an environment: a table of them for authors, and the runtime's reading of any.

Rules:

- A client sees of a task its id, its index and ``data``. ``private`` leaves the process of the
  environment in no message, and stands in the text of no error.
- Files are read when they are first needed, never when they are named.
- An environment's own ``Tasks`` are code of an author: what they return is checked, and what they
  raise is an ``EnvironmentFailure``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from openenv_async.environment import Tasks
from openenv_async.errors import (
    EnvironmentRaised,
    InvalidOption,
    OpenEnvError,
    exception_name,
    exception_text,
    shown,
)
from openenv_async.types import Task

__all__ = ["MAX_PAGE", "TaskBook", "TaskRows", "TaskTable", "public_row"]

T = TypeVar("T")

TaskRows: TypeAlias = (
    str
    | os.PathLike[str]
    | Iterable[Mapping[str, Any] | Task]
    | Callable[[], Iterable[Mapping[str, Any] | Task]]
)
"""Rows of one split: themselves, the path of a JSONL file, or a function that makes them."""

MAX_PAGE: Final = 1000
"""Tasks that are listed at once."""
_MAX_ID: Final = 255
"""Characters of a task's id."""
_MAX_REASON: Final = 2000
_THREADS: Final = 4
"""Threads in which the tasks of one environment are read, for those who must not block."""
_DIGEST_BYTES: Final = 8
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


class TaskTable:
    """Tasks from rows: of a JSONL file, a list, or a function.

    Each row is a map of columns. Rows are read once, when a split is first asked for.

    Args:
        splits: rows by the name of the split. The path of a file is best made from
            ``__file__``.
        private: columns for the environment alone, such as answers; a row of the split must have
            each of them.
        id: the column that is the task's id. A row without one has a digest of its public columns
            for an id, which lasts as long as these do.

    Raises:
        TypeError, ValueError: an argument makes no sense.
    """

    def __init__(
        self, splits: Mapping[str, TaskRows], *, private: Collection[str] = (), id: str = "id"
    ) -> None:
        given: Any = splits
        if not isinstance(given, Mapping) or not given:
            raise TypeError(
                f"TaskTable takes a dict of rows by split, such as {{'train': 'train.jsonl'}}, got"
                f" {shown(splits)}"
            )
        if isinstance(private, str):
            raise TypeError(f"private takes names of columns: write private=({private!r},)")
        if id in private:
            raise ValueError(f"the id of a task is listed: the column {id!r} cannot be private")
        self._sources = dict(splits)
        self._private = tuple(private)
        self._id = id
        self._lock = threading.Lock()
        self._rows: dict[str, list[Any]] = {}
        self._places: dict[str, dict[str, int]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """The sources: a copy in another process reads them anew."""
        return {**self.__dict__, "_lock": None, "_rows": {}, "_places": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    def splits(self) -> Sequence[str]:
        """Return the names of the splits."""
        return [*self._sources]

    def count(self, split: str) -> int:
        """Return how many tasks a split has."""
        return len(self._read(split))

    def get(self, split: str, index: int) -> Task:
        """Return one task.

        Raises:
            IndexError: the split has no task of this index.
        """
        rows = self._read(split)
        if not 0 <= index < len(rows):
            raise IndexError(f"the split {split!r} has {len(rows)} tasks, none with index {index}")
        return self._task(split, "the row", rows[index])

    def range(self, split: str, start: int, stop: int) -> Sequence[Task]:
        """Return the tasks from ``start`` to before ``stop``."""
        rows = self._read(split)[max(start, 0) : max(stop, 0)]
        return [self._task(split, "the row", row) for row in rows]

    def find(self, split: str, task_id: str) -> Task | None:
        """Return the task of an id; ``None`` when there is none."""
        rows = self._read(split)
        place = self._places[split].get(task_id)
        return None if place is None else self._task(split, "the row", rows[place])

    def _read(self, split: str) -> list[Any]:
        found = self._rows.get(split)
        if found is None:
            with self._lock:
                found = self._rows.get(split)
                if found is None:
                    found = self._load(split)
                    self._rows[split] = found
        return found

    def _load(self, split: str) -> list[Any]:
        """Rows as they are: those of a file as text, which costs the garbage collector nothing."""
        source = self._sources[split]
        rows: list[Any] = []
        places: dict[str, int] = {}
        missing = set(self._private)
        for where, row in _rows(split, source):
            task = self._task(split, where, row)
            missing.difference_update(task.private)
            other = places.setdefault(task.id, len(rows))
            if other != len(rows):
                raise ValueError(
                    f"{_place(split, source, other)} and {where} have the same id {task.id!r:.80}:"
                    f" give each row its own, in the column {self._id!r}"
                )
            rows.append(row)
        if missing and rows:  # a typo here would list the answers
            raise ValueError(
                f"no row of the split {split!r} has the column {sorted(missing)[0]!r}, which"
                " private= names: correct the name"
            )
        self._places[split] = places
        return rows

    def _task(self, split: str, where: str, row: Any) -> Task:
        task_id: Any
        if isinstance(row, bytes):
            row = _columns(row, where)
        if isinstance(row, Task):
            data, private, task_id = dict(row.data), dict(row.private), row.id
        elif isinstance(row, Mapping):
            data, private = dict(row), {}
            task_id = data.pop(self._id, None)
        else:
            raise TypeError(f"{where} is a {type(row).__name__}: a row is a dict of columns")
        for name in self._private:
            if name in data:
                private[name] = data.pop(name)
        if task_id is None:
            task_id = _digest(data, where)
        elif isinstance(task_id, bool) or not isinstance(task_id, str | int):
            raise TypeError(f"{where}: an id is a text or an integer, not {shown(task_id)}")
        return Task(str(task_id), data, private, split)


def _digest(data: Mapping[str, Any], where: str) -> str:
    """The id of a row without one: of what is listed anyway, so that it tells no answer."""
    try:
        octets = msgspec.json.encode(data, order="sorted", enc_hook=repr)
    except (TypeError, ValueError, RecursionError) as exc:
        raise TypeError(f"{where} has no id and none can be made of its columns: {exc}") from None
    return hashlib.blake2s(octets, digest_size=_DIGEST_BYTES).hexdigest()


def _rows(split: str, source: TaskRows) -> Iterator[tuple[str, Any]]:
    """Each row of a source, with the words for its place."""
    if isinstance(source, str | os.PathLike):
        yield from _lines(Path(source))
        return
    made = source() if callable(source) else source
    for number, row in enumerate(made):
        yield f"row {number} of the split {split!r}", row


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """The lines of a file that are not empty."""
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text = line.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else line.strip()
            if text:
                yield f"line {number} of {path}", text


def _columns(line: bytes, where: str) -> dict[str, Any]:
    try:
        return _decode(line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise ValueError(f"{where} is not a JSON object: {exc}") from None


def _place(split: str, source: TaskRows, place: int) -> str:
    """The words for the place of a row that was read before."""
    if isinstance(source, str | os.PathLike):
        places = (where for where, _ in _lines(Path(source)))
        return next(itertools.islice(places, place, None), f"row {place}")
    return f"row {place} of the split {split!r}"


class TaskBook:
    """The tasks of one environment as the runtime reads them. Every call may block.

    Args:
        tasks: the environment's own.
        name: of the environment, for messages.

    Attributes:
        splits: names of the splits.

    Raises:
        TypeError: what it declares is not tasks.
    """

    def __init__(self, tasks: Tasks, name: str) -> None:
        for call in ("splits", "count", "get", "range"):
            if not callable(getattr(tasks, call, None)):
                raise TypeError(
                    f"the tasks of {name} are {shown(tasks)}, which has no {call}(): let `tasks` be"
                    " a TaskTable, or an object with splits, count, get and range"
                )
        self._tasks: Any = tasks
        self._name = name
        self._finds: Callable[[str, str], Task | None] | None = getattr(tasks, "find", None)
        self._places: dict[str, dict[str, int]] = {}
        self._found: set[str] = set()
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        names: Any = self._asked("splits")
        if isinstance(names, str) or not all(isinstance(each, str) and each for each in names):
            raise TypeError(f"splits() of the tasks of {name} must return names, got {names!r:.80}")
        self.splits: Final[tuple[str, ...]] = tuple(dict.fromkeys(names))

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Return what a call finds out, made in a thread of the tasks' own.

        The loop's default threads are the environments', and may all be blocked.
        """
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS, "openenv-tasks")
        return await asyncio.get_running_loop().run_in_executor(self._pool, call)

    def is_ready(self, split: str | None) -> bool:
        """Return whether a task of the split was found before, so that its file is read."""
        return (split is not None and split in self._found) or len(self._found) == len(self.splits)

    def read_all(self) -> None:
        """Read every split that can be read; the others fail when they are asked for."""
        for split in self.splits:
            with contextlib.suppress(OpenEnvError):
                self._find(split, "")

    def count(self, split: str) -> int:
        """Return how many tasks a split has.

        Raises:
            InvalidOption: there is no such split.
            EnvironmentRaised: the environment's own code failed.
        """
        count = self._asked("count", self._known(split))
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise self._wrong(f"count({split!r})", f"returned {count!r:.40}, which is not a number")
        return count

    def get(self, split: str, index: Any) -> Task:
        """Return one task.

        Raises:
            InvalidOption: there is no such split or index.
            EnvironmentRaised: the environment's own code failed.
        """
        count = self.count(split)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
            raise InvalidOption(
                f"the split {split!r} of {self._name} has {count} tasks, and none with the index"
                f" {index!r:.40}: they count from 0",
                option="index",
            )
        return self._checked(self._asked("get", split, index), split, index)

    def page(self, split: str, start: int, stop: int) -> list[Task]:
        """Return the tasks from ``start`` to before ``stop``, at most ``MAX_PAGE`` of them.

        Raises:
            InvalidOption: there is no such split.
            EnvironmentRaised: the environment's own code failed.
        """
        stop = min(stop, start + MAX_PAGE, self.count(split))
        if stop <= start:
            return []
        tasks = list(self._asked("range", split, start, stop))
        if len(tasks) != stop - start:
            raise self._wrong(f"range({split!r}, {start}, {stop})", f"returned {len(tasks)} tasks")
        return [self._checked(task, split, start + place) for place, task in enumerate(tasks)]

    def find(self, task_id: str, split: str | None = None) -> Task:
        """Return the task of an id.

        Raises:
            InvalidOption: there is no such split, no such task in it, or one in several splits.
            EnvironmentRaised: the environment's own code failed.
        """
        splits = self.splits if split is None else (self._known(split),)
        found = [task for each in splits if (task := self._find(each, task_id)) is not None]
        if len(found) == 1:
            return found[0]
        if found:
            there = " and ".join(repr(task.split) for task in found)
            raise InvalidOption(
                f"the task {task_id!r:.80} of {self._name} is in the splits {there}: name one of"
                " them, split=",
                option="split",
            )
        where = f"in the split {split!r}" if split is not None else f"in {', '.join(self.splits)}"
        raise InvalidOption(
            f"{self._name} has no task {task_id!r:.80} {where}: its ids are those that tasks() of a"
            " client lists",
            option="task_id",
            task_id=task_id[:_MAX_ID],
        )

    def _find(self, split: str, task_id: str) -> Task | None:
        if self._finds is not None:
            found = self._asked("find", split, task_id)
            self._found.add(split)
            return None if found is None else self._checked(found, split, task_id)
        place = self._index(split).get(task_id)
        if place is None:
            return None
        task = self._checked(self._asked("get", split, place), split, place)
        if task.id != task_id:
            raise self._wrong(
                f"get({split!r}, {place})",
                f"returned the task {task.id!r:.80}, and range() {task_id!r:.80}: ids must last",
            )
        return task

    def _index(self, split: str) -> dict[str, int]:
        """The place of each id; the split is read through once."""
        places = self._places.get(split)
        if places is not None:
            return places
        with self._lock:
            if split not in self._places:
                made: dict[str, int] = {}
                for start in range(0, self.count(split), MAX_PAGE):
                    for place, task in enumerate(self.page(split, start, start + MAX_PAGE), start):
                        if made.setdefault(task.id, place) != place:
                            raise self._wrong(
                                f"range({split!r})",
                                f"has the id {task.id!r:.80} at {made[task.id]} and at {place}:"
                                " ids must be unique",
                            )
                self._places[split] = made
                self._found.add(split)
        return self._places[split]

    def _known(self, split: str) -> str:
        if split not in self.splits:
            raise InvalidOption(
                f"{self._name} has no split {split!r:.80}: it has"
                f" {', '.join(self.splits) or 'none'}",
                option="split",
            )
        return split

    def _checked(self, task: Any, split: str, place: object) -> Task:
        if not isinstance(task, Task):
            raise self._wrong(
                f"task {place!r} of {split!r}", f"is {shown(type(task))}, where a Task is due"
            )
        task_id: Any = task.id
        if not isinstance(task_id, str) or not 0 < len(task_id) <= _MAX_ID:
            raise self._wrong(
                f"task {place!r} of {split!r}",
                f"has an id that is not a text of 1 to {_MAX_ID} characters",
            )
        return task if task.split == split else Task(task.id, task.data, task.private, split)

    def _asked(self, call: str, *arguments: Any) -> Any:
        """Return what the environment's own code does."""
        try:
            return getattr(self._tasks, call)(*arguments)
        except OpenEnvError:
            raise
        except Exception as exc:
            name, text = exception_name(exc), exception_text(exc, _MAX_REASON)
            raise EnvironmentRaised(
                f"the tasks of {self._name} cannot be read: {name}: {text}",
                raised=name,
                text=text,
                env=self._name,
            ) from exc

    def _wrong(self, call: str, problem: str) -> EnvironmentRaised:
        return EnvironmentRaised(
            f"the tasks of {self._name} are wrong: {call} {problem}", env=self._name
        )


def public_row(task: Task, index: int) -> dict[str, Any]:
    """A task as it is listed: all but its private part."""
    return {"id": task.id, "index": index, "data": dict(task.data)}
