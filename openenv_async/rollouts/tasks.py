"""Tasks of rollouts: where they come from, in which order, and how far a run has come.

Rules:

- A source gives draws: each is one visit of one task. Its rows are read in a thread of its own,
  ahead of the episodes by a bounded number, so that neither a large file nor a slow iterable
  blocks the loop.
- A row becomes arguments of ``reset``, columns by name. Its id is the column ``id`` or
  ``task_id``, else a digest of what is in it; ids do not repeat. Private columns go to ``reset``
  and nowhere else. A task of the environment's own splits is reset by its id alone: its private
  part never leaves the server.
- A source goes on where it stands, and begins anew once it came to its end. Tasks that were given
  and not finished are given again first. ``position`` is where it stands, as plain JSON.
- A task is finished when each member of its group was handed to the reader; one that was
  cancelled or met an ``infra_error`` has no result, and leaves its task unfinished.
- An order depends on seeds alone, not on time: after ``resume`` the same draws follow.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
import operator
import random
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeAlias

from openenv_async.errors import InvalidTasks, OpenEnvError, error_text, shown
from openenv_async.rollouts.checking import check_count, check_seed
from openenv_async.rollouts.rows import (
    JsonLines,
    Listed,
    Parquet,
    Reader,
    Rows,
    checked_id_column,
    chosen_columns,
    listed,
    names_of,
    not_rows,
    rows_and_sampler,
    task_file,
)
from openenv_async.types import Task

__all__ = ["Draw", "Mixture", "Retire", "TaskSet", "TaskSource", "Tasks", "as_source", "as_task"]

_REMEMBERED: Final = 1 << 20
"""Ids of an iterable of unknown length that are compared with those that follow."""
_PAGE: Final = 500
"""Tasks of an environment's split that are asked for at once."""


@dataclass(slots=True)
class Draw:
    """One visit of one task.

    Attributes:
        task: which.
        epoch: which pass over its rows, from 0.
        place: which draw of that pass, from 0.
        where: its row, for messages.
        source: a mixture's name for the source that it is from.
        inner: the draw of that source.
    """

    task: Task
    epoch: int
    place: int
    where: str
    source: str | None = None
    inner: Draw | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retire:
    """A rule by which a task is given no more: nothing is to be learned from it.

    Args:
        solved: a group whose mean return is at least this counts as solved; ``None``: none does.
        hopeless: a group whose mean return is at most this counts as hopeless.
        window: visits in a row that count so before the task is retired. A group without any
            return counts as neither, and does not break the row.

    Raises:
        TypeError, ValueError: one of them makes no sense.
    """

    solved: float | None = None
    hopeless: float | None = None
    window: int = 4

    def __post_init__(self) -> None:
        check_count("window", self.window)
        for name in ("solved", "hopeless"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name} must be a number, got {shown(value)}")
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value!r}")
        if self.solved is None and self.hopeless is None:
            raise ValueError("a rule needs solved= or hopeless=, the mean returns that retire")
        if self.solved is not None and self.hopeless is not None and self.hopeless >= self.solved:
            raise ValueError(
                f"hopeless ({self.hopeless:g}) must be less than solved ({self.solved:g})"
            )


class TaskSource(ABC):
    """A source of tasks that stands somewhere. Its methods may be called from any thread."""

    kind: ClassVar[str]

    def __init__(self) -> None:
        self._lock = threading.RLock()  # of what it remembers; held for a moment
        self._reading = threading.RLock()  # held while rows are read, however long that takes
        self._handed_out = 0
        self._finished = 0
        self._is_resumed = False

    # -- for collections ----------------------------------------------------------------------

    @abstractmethod
    def parts(self) -> Iterator[TaskSet]:
        """Yield the sets of tasks that it is made of."""

    @abstractmethod
    def load(self) -> None:
        """Read what must be known before the first draw.

        Raises:
            InvalidTasks: the rows cannot be read, or are not tasks.
        """

    @abstractmethod
    def _begin(self) -> None:
        """Stand before the first draw of the first pass."""

    @abstractmethod
    def _has_open(self) -> bool:
        """Tell whether draws are not finished."""

    def prepare(self) -> None:
        """Load it, and begin anew if it is at its end; one that was just resumed stays there.

        Raises:
            InvalidTasks: the rows cannot be read, or are not tasks.
        """
        with self._reading:
            self.load()
            if not self._is_resumed and not self._has_open():
                draw = self.draw()
                if draw is None:
                    self._begin()
                else:
                    self.give_back([draw])
            self._is_resumed = False

    @abstractmethod
    def draw(self) -> Draw | None:
        """Return the next task, with all that it takes; ``None``: there are no more.

        Raises:
            InvalidTasks: the next row is not a task.
        """

    @abstractmethod
    def give_back(self, draws: Iterable[Draw]) -> None:
        """Take draws that were not finished: they come first, in the order of this call."""

    @abstractmethod
    def left(self) -> int | None:
        """Return how many draws there will be; ``None`` where nobody can know."""

    @abstractmethod
    def ids_left(self) -> list[str] | None:
        """Return the ids of the draws to come, where they are known."""

    @abstractmethod
    def is_retired(self, draw: Draw) -> bool:
        """Tell whether a task that was drawn is not to be given any more."""

    def hand_out(self, draw: Draw) -> None:
        """Note that a draw was given to a group of episodes."""
        with self._lock:
            self._handed_out += 1

    def finish(self, draw: Draw, mean: float | None) -> None:
        """Note that the group of a draw has ended.

        Args:
            draw: of this source.
            mean: return of its group; ``None`` without any.
        """
        with self._lock:
            self._finished += 1

    # -- for everybody ------------------------------------------------------------------------

    @property
    def handed_out(self) -> int:
        """Return how many groups of episodes were given a task, over all runs."""
        return self._handed_out

    @property
    def finished(self) -> int:
        """Return how many of them were finished, over all runs."""
        return self._finished

    @property
    @abstractmethod
    def retired(self) -> list[str]:
        """The ids of the tasks that are given no more; in a mixture ``source/id``."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what tells it from others, as plain values; reads files, so call it in a thread.

        Raises:
            InvalidTasks: the rows cannot be read, or are not tasks.
        """

    @property
    @abstractmethod
    def order(self) -> dict[str, Any]:
        """The arguments that decide which task comes when, as plain values; usual ones left out."""

    @abstractmethod
    def position(self) -> dict[str, Any]:
        """Return where it stands, as plain values for JSON: for ``resume``."""

    @abstractmethod
    def resume(self, position: Mapping[str, Any]) -> Self:
        """Stand where another one of the same tasks stood; return itself.

        Args:
            position: of ``position()``. That it is of the same tasks is checked when they are
                first read.

        Raises:
            InvalidTasks: it is not the position of such a source.
        """

    @abstractmethod
    def restart(self) -> Self:
        """Begin with the first task again, nothing retired; return itself."""

    def _check_position(self, position: Any) -> Mapping[str, Any]:
        if not isinstance(position, Mapping) or position.get("kind") != self.kind:
            raise InvalidTasks(
                f"this is not the position of a {type(self).__name__}: {shown(position)}; give"
                " what its position() returned"
            )
        for name in ("handed_out", "finished"):
            _natural(position, name)
        self._is_resumed = True
        self._handed_out = position["handed_out"]
        self._finished = position["finished"]
        return position


Tasks: TypeAlias = TaskSource | str | Path | Iterable[Any]
"""A source of tasks: a file (``.jsonl``, ``.parquet``), the name of a split of the environment,
a Hugging Face ``Dataset``, any iterable of rows (mappings, or ``Task``), a ``TaskSet`` or a
``Mixture``."""


class TaskSet(TaskSource):
    """Tasks of one kind of row, in order, and how far they were played.

    It goes on where it stands from one collection to the next, and begins anew after its end.

    Args:
        rows: a ``.jsonl`` or ``.parquet`` file, the name of one of the environment's own splits, a
            Hugging Face ``Dataset`` or ``IterableDataset``, or any iterable of rows, which are
            mappings or ``Task``.
        columns: which columns become options of ``reset``: names, or the option of each by name.
            ``None``: all but the id.
        private: columns that go to ``reset`` and nowhere else, such as answers.
        id: the column with the ids; by default ``id`` or ``task_id`` where there is one, else the
            id is a digest of the row.
        shuffle: seed of the order, another one in each pass; ``None``: as they are.
        epochs: how often each task is given; ``None``: without end.
        sampler: numbers of rows in the order of each pass, such as a sampler of PyTorch.
        retire: a rule by which tasks are given no more.

    Attributes:
        given: the rows, as they were given.
        reading: ``columns``, ``private`` and ``id``: how a row becomes a task.

    Raises:
        TypeError, ValueError, InvalidTasks: an argument makes no sense; what is wrong with the
            rows is raised when they are read.
    """

    kind = "tasks"

    def __init__(
        self,
        rows: str | Path | Iterable[Any],
        *,
        columns: Sequence[str] | Mapping[str, str] | None = None,
        private: Sequence[str] = (),
        id: str | None = None,
        shuffle: int | None = None,
        epochs: int | None = 1,
        sampler: Iterable[int] | None = None,
        retire: Retire | None = None,
    ) -> None:
        super().__init__()
        self.split: str | None = None
        self.given = rows
        self.reading = {"columns": columns, "private": list(private), "id": id}
        hidden = names_of("private", private)
        self._reader = Reader(chosen_columns(columns), hidden, checked_id_column(id))
        if {*hidden} & ({"id", "task_id"} if id is None else {id}):
            raise ValueError(
                "the id of a task stands in outcomes and records: its column cannot be private;"
                " name another one with id="
            )
        self._shuffle = None if shuffle is None else check_seed("shuffle", shuffle)
        self._epochs = None if epochs is None else check_count("epochs", epochs)
        if retire is not None and not isinstance(retire, Retire):
            raise TypeError(f"retire must be a Retire(...), got {shown(retire)}")
        self._retire = retire
        self._rows: Rows | None = None
        self._stream: Iterable[Any] | None = None
        rows, sampler = rows_and_sampler(rows, sampler)
        self._sampler = sampler
        if isinstance(rows, str | Path):
            path = task_file(rows)
            if path is None:
                self.split = str(rows)
            else:
                self._rows = JsonLines(path) if path.suffix == ".jsonl" else Parquet(path)
        elif callable(getattr(rows, "__getitem__", None)) and hasattr(rows, "__len__"):
            self._rows = Listed(rows)
        elif isinstance(rows, Iterable):
            self._stream = rows
        else:
            raise InvalidTasks(not_rows(rows))
        self._check_order()
        self._ids: list[str] | None = None
        self._retired: dict[str, None] = {}
        self._streaks: dict[str, list[int]] = {}
        self._expected: Any = None
        self._found: str | None = None
        self._iterator: Iterator[Any] | None = None
        self._ended = False
        self._met_rows = False
        self._begin()

    def _check_order(self) -> None:
        if self._shuffle is not None and self._sampler is not None:
            raise ValueError("a sampler has an order already: leave out shuffle=")
        if self._stream is None:
            return
        if self._shuffle is not None or self._sampler is not None:
            raise InvalidTasks(
                "the order of an iterable of unknown length cannot be changed: shuffle it before,"
                " or give a list"
            )
        if self._epochs != 1 and self.is_one_shot:
            raise InvalidTasks(
                f"{shown(self._stream)} can be iterated over once only: for more passes give a"
                " list, or an iterable that begins anew each time"
            )

    @property
    def is_one_shot(self) -> bool:
        """True if its rows can be iterated over only once."""
        return self._stream is not None and isinstance(self._stream, Iterator)

    @property
    def is_single(self) -> bool:
        """True if it is one row of a list, which its own episodes show to fit or not."""
        return isinstance(self._rows, Listed) and len(self._rows) == 1

    @property
    def name(self) -> str:
        """Return what messages call it."""
        if self.split is not None:
            return f"the split {self.split!r}"
        return self._rows.name if self._rows is not None else type(self._stream).__name__

    # -- where it stands ----------------------------------------------------------------------

    def _begin(self) -> None:
        self._epoch = 0
        self._place = 0
        self._again: deque[tuple[int, int, Draw | None]] = deque()
        self._open: dict[tuple[int, int], Draw] = {}
        self._order: tuple[int, list[int]] | None = None
        self._seen: dict[bytes, int] = {}
        self._iterator = None
        self._ended = False

    def restart(self) -> Self:
        with self._reading, self._lock:
            self._retired.clear()
            self._streaks.clear()
            self._begin()
        return self

    def position(self) -> dict[str, Any]:
        with self._lock:
            unfinished = [
                place for place, draw in self._open.items() if draw.task.id not in self._retired
            ]
            unfinished += [(epoch, place) for epoch, place, _ in self._again]
            return {
                "kind": self.kind,
                "tasks": self._digest() or self._expected,
                "epoch": self._epoch,
                "place": self._place,
                "open": [list(each) for each in unfinished],
                "handed_out": self._handed_out,
                "finished": self._finished,
                "retired": list(self._retired),
                "streaks": {name: list(streak) for name, streak in self._streaks.items()},
            }

    def describe(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"kind": self.kind, "name": self.name}
        if self._rows is not None and self.split is None:
            self.load()
            facts["digest"] = self._digest()
        facts |= self._reader.describe()
        facts |= {"shuffle": self._shuffle, "epochs": self._epochs}
        if self._retire is not None:
            facts["retire"] = asdict(self._retire)
        return facts

    @property
    def order(self) -> dict[str, Any]:
        facts: dict[str, Any] = {} if self._shuffle is None else {"shuffle": self._shuffle}
        if self._sampler is not None:
            facts["sampler"] = type(self._sampler).__name__
        if self._retire is not None:
            facts["retire"] = asdict(self._retire)
        return facts

    def resume(self, position: Mapping[str, Any]) -> Self:
        with self._reading, self._lock:
            given = self._check_position(position)
            epoch, place = _natural(given, "epoch"), _natural(given, "place")
            try:
                unfinished = [(int(a), int(b), None) for a, b in given["open"]]
                retired = dict.fromkeys(map(str, given["retired"]))
                streaks = {str(k): [int(a), int(b)] for k, (a, b) in given["streaks"].items()}
            except (KeyError, TypeError, ValueError, AttributeError) as exc:
                raise InvalidTasks(f"this position is broken: {exc!r}") from exc
            self._begin()
            self._epoch, self._place = epoch, place
            self._again.extend(unfinished)
            self._retired, self._streaks = retired, streaks
            self._expected = given.get("tasks")
            if self._ids is not None:
                self._check_expected()
        return self

    def _digest(self) -> str | None:
        """Return what tells these tasks from others; ``None`` while that is not known."""
        if self._ids is None or self._found is not None:
            return self._found
        made = hashlib.sha256()
        for each in self._ids:
            made.update(each.encode("utf-8", "surrogatepass") + b"\0")
        order = f"{self._shuffle}" if self._sampler is None else "sampler"
        self._found = f"{len(self._ids)}-{made.hexdigest()[:16]}-{order}"
        return self._found

    def _check_expected(self) -> None:
        expected, found = self._expected, self._digest()
        if expected is not None and expected != found:
            raise InvalidTasks(
                f"the position is of other tasks: of {expected}, and {self.name} is {found} (number"
                " of rows, digest of their ids, seed of the order)",
                expected=expected,
                found=found,
            )

    # -- reading ------------------------------------------------------------------------------

    def parts(self) -> Iterator[TaskSet]:
        yield self

    async def load_split(self, client: Any) -> None:
        """Read the public part of the environment's own tasks.

        Args:
            client: of the environment, open.

        Raises:
            InvalidTasks: it has no such split.
        """
        if self.split is None or self._rows is not None:
            return
        ask = getattr(client, "tasks", None)
        if ask is None:
            raise InvalidTasks(
                f"there is no file {self.split!r}, and a {type(client).__name__} cannot be asked"
                " for a split of that name"
            )
        try:
            remote = await _awaited(ask())
            splits = [str(each) for each in await _awaited(remote.splits())]
        except OpenEnvError as exc:
            raise InvalidTasks(
                f"there is no file {self.split!r}, and no split of that name: {exc.message}"
            ) from exc
        if self.split not in splits:
            known = f"its splits are {', '.join(splits)}" if splits else "it has no tasks"
            raise InvalidTasks(
                f"there is no file {self.split!r}, and the environment has no split of that name:"
                f" {known}",
                splits=splits,
            )
        count = await _awaited(remote.count(self.split))
        rows: list[Task] = []
        while len(rows) < count:
            page = await _awaited(
                remote.range(self.split, len(rows), min(len(rows) + _PAGE, count))
            )
            if not page:
                raise InvalidTasks(f"{self.name} has {count} tasks and gives {len(rows)} of them")
            rows.extend(replace(each, split=self.split) for each in page)
        self._rows = Listed(rows, self.name)

    def take_options(self, options: frozenset[str]) -> None:
        """Note which options ``reset`` has: a row that has another column is refused."""
        self._reader.options = options

    def _has_open(self) -> bool:
        return bool(self._open or self._again)

    def load(self) -> None:
        with self._reading:
            if self._rows is None:
                return
            if self._ids is None:
                self._ids = self._checked_ids(self._rows)
            if self.split is None:
                self._reader.check_columns(self._rows)
            self._check_expected()

    def _checked_ids(self, rows: Rows) -> list[str]:
        """Read all rows once; return their ids."""
        rows.load()
        if not len(rows):
            raise InvalidTasks(f"{rows.name} has no rows: there are no tasks in it")
        found: dict[str, int] = {}
        for number, name in enumerate(self._reader.ids(rows)):
            first = found.setdefault(name, number)
            if first != number:
                raise _repeated(name, rows.where(first), rows.where(number))
        self._reader.check_named(rows.name)
        return list(found)

    def draw(self) -> Draw | None:
        with self._reading:
            if self._stream is not None and self._iterator is None and self._again:
                self._begin_pass()
            while self._again:
                epoch, place, drawn = self._again[0]
                if drawn is None:
                    drawn = self._drawn(epoch, place)
                with self._lock:
                    self._again.popleft()
                    if drawn.task.id not in self._retired:
                        self._open[epoch, place] = drawn
                        return drawn
            return self._next_row() if self._stream is None else self._next_of_stream()

    def _stand(self, epoch: int, place: int, drawn: Draw | None = None) -> Draw | None:
        """Stand behind what was drawn."""
        with self._lock:
            self._epoch, self._place = epoch, place
            if drawn is not None:
                self._open[drawn.epoch, drawn.place] = drawn
        return drawn

    def _next_row(self) -> Draw | None:
        """Draw the next row that is not retired."""
        assert self._ids is not None
        epoch, place = self._epoch, self._place
        while not self._ended and len(self._retired) < len(self._ids):
            if self._epochs is not None and epoch >= self._epochs:
                break
            order = self._order_of(epoch)
            if not order:
                break
            for each in range(place, len(order)):
                if self._ids[order[each]] not in self._retired:
                    return self._stand(epoch, each + 1, self._drawn(epoch, each))
            epoch, place = epoch + 1, 0
        self._ended = True
        return self._stand(epoch, place)

    def _order_of(self, epoch: int) -> Sequence[int]:
        """Return the numbers of the rows of a pass, in order."""
        assert self._ids is not None
        if self._sampler is None and self._shuffle is None:
            return range(len(self._ids))
        if self._order is None or self._order[0] != epoch:
            if self._sampler is None:
                order = list(range(len(self._ids)))
                random.Random(f"{self._shuffle}/{epoch}").shuffle(order)
            else:
                order = [self._sampled(each) for each in self._sampler]
            self._order = epoch, order
        return self._order[1]

    def _sampled(self, number: Any) -> int:
        assert self._ids is not None
        try:
            index = operator.index(number)
        except TypeError:
            raise InvalidTasks(
                f"a sampler gives numbers of rows, this one gave {shown(number)}"
            ) from None
        if not 0 <= index < len(self._ids):
            raise InvalidTasks(
                f"the sampler gave row {index}, and {self.name} has {len(self._ids)} rows"
            )
        return index

    def _drawn(self, epoch: int, place: int) -> Draw:
        """Read the row of a draw."""
        assert self._rows is not None
        order = self._order_of(epoch)
        if place >= len(order):
            raise InvalidTasks(
                f"the position is of other tasks: a pass over {self.name} has {len(order)} draws,"
                f" not {place + 1}"
            )
        number = order[place]
        where = self._rows.where(number)
        return Draw(self._reader.task(self._rows.row(number), where), epoch, place, where)

    # -- rows of an iterable ------------------------------------------------------------------

    def _next_of_stream(self) -> Draw | None:
        while not self._ended and (self._epochs is None or self._epoch < self._epochs):
            if self._iterator is None:
                self._begin_pass()
            epoch, place = self._epoch, self._place
            found = self._read(epoch, place)
            if found is not None:
                if found.task.id not in self._retired:
                    return self._stand(epoch, place + 1, found)
                self._stand(epoch, place + 1)
                continue
            self._iterator = None
            if place == 0 and epoch == 0:
                self._ended = True
                raise InvalidTasks(
                    f"{self.name} is used up, it can be iterated over once only: make a new one"
                    if self.is_one_shot and self._met_rows
                    else f"{self.name} has no rows: there are no tasks in it"
                )
            self._stand(epoch + 1, 0)
            self._ended = place == 0  # an iterable that is used up
        self._ended = True
        return None

    def _begin_pass(self) -> None:
        """Iterate anew, past the rows that were drawn before; keep those that were not finished."""
        assert self._stream is not None
        self._seen.clear()
        wanted = {place for _, place, kept in self._again if kept is None}
        self._iterator = iter(self._stream)
        found: dict[int, Draw] = {}
        for place in range(self._place):
            drawn = self._read(self._epoch, place)
            if drawn is None:
                raise InvalidTasks(
                    f"the position is of other tasks: {self._place} rows of {self.name} were drawn,"
                    f" and it has {place}"
                )
            if place in wanted:
                found[place] = drawn
        last = max(wanted, default=-1)
        if last >= self._place and not self.is_one_shot:  # of the pass before
            for place, row in enumerate(itertools.islice(self._stream, last + 1)):
                if place in wanted and place not in found:
                    where = f"row {place} of {self.name}"
                    found[place] = Draw(self._reader.task(row, where), 0, place, where)
        with self._lock:
            again = list(self._again)
            self._again.clear()
            for epoch, place, kept in again:
                drawn = kept or found.get(place)
                if drawn is not None:
                    self._again.append((epoch, place, replace(drawn, epoch=epoch)))

    def _read(self, epoch: int, place: int) -> Draw | None:
        """Read the next row of the iterable; ``None``: there are no more."""
        assert self._iterator is not None
        where = f"row {place} of {self.name}"
        try:
            row = next(self._iterator)
        except StopIteration:
            return None
        except Exception as exc:
            self._ended = True
            raise InvalidTasks(
                f"{where} cannot be read: {type(exc).__name__}: {error_text(exc)}", row=where
            ) from exc
        self._met_rows = True
        task = self._reader.task(row, where, remember=place == 0)
        if place == 0:
            self._reader.check_named(where)
        self._reader.check_task(task, where)
        key = hashlib.blake2b(task.id.encode("utf-8", "surrogatepass"), digest_size=10).digest()
        first = self._seen.setdefault(key, place)
        if first != place:
            raise _repeated(task.id, f"row {first}", where)
        if len(self._seen) > _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return Draw(task, epoch, place, where)

    # -- what becomes of draws ----------------------------------------------------------------

    def give_back(self, draws: Iterable[Draw]) -> None:
        with self._lock:
            back = []
            for draw in draws:
                there = self._open.pop((draw.epoch, draw.place), None) is not None
                if there and draw.task.id not in self._retired:
                    kept = draw if self._stream is not None else None
                    back.append((draw.epoch, draw.place, kept))
            self._again.extend(back)
            self._again = deque(sorted(self._again, key=lambda each: each[:2]))

    def finish(self, draw: Draw, mean: float | None) -> None:
        with self._lock:
            self._open.pop((draw.epoch, draw.place), None)
            super().finish(draw, mean)
            if self._retire is not None and mean is not None:
                self._judge(self._retire, draw.task.id, mean)

    def _judge(self, rule: Retire, task: str, mean: float) -> None:
        """Count a visit, and retire the task if it was one too many."""
        solved, hopeless = self._streaks.get(task, (0, 0))
        solved = solved + 1 if rule.solved is not None and mean >= rule.solved else 0
        hopeless = hopeless + 1 if rule.hopeless is not None and mean <= rule.hopeless else 0
        self._streaks.pop(task, None)
        if max(solved, hopeless) >= rule.window:
            self._retired[task] = None
        elif solved or hopeless:
            self._streaks[task] = [solved, hopeless]

    def use_rule(self, rule: Retire) -> None:
        """Retire tasks by a rule, unless it has one of its own."""
        self._retire = self._retire or rule

    @property
    def retired(self) -> list[str]:
        with self._lock:
            return list(self._retired)

    def is_retired(self, draw: Draw) -> bool:
        return draw.task.id in self._retired

    def left(self) -> int | None:
        with self._lock:
            if self._ids is None or self._epochs is None or self._sampler is not None:
                return None
            if self._retire is not None and self._epochs > 1:
                return None
            total = len(self._ids) * self._epochs
            done = min(self._epoch * len(self._ids) + self._place, total)
            retired = sum(
                self._ids[each] in self._retired
                for each in (self._order_of(self._epoch)[self._place :] if self._retired else ())
            )
            return total - done - retired + len(self._again)

    def ids_left(self) -> list[str] | None:
        with self._lock:
            if self._ids is None or self._epochs is None or self.left() is None:
                return None
            found = []
            for epoch, place, kept in self._again:
                order = self._order_of(epoch)
                found.append(self._ids[order[place]] if kept is None else kept.task.id)
            start = self._place
            for epoch in range(self._epoch, self._epochs):
                found.extend(
                    each
                    for number in self._order_of(epoch)[start:]
                    if (each := self._ids[number]) not in self._retired
                )
                start = 0
            return found


class Mixture(TaskSource):
    """Several sources of tasks, drawn by weight. The draws depend on the seed alone.

    Args:
        sources: tasks by a name of yours: what ``tasks=`` takes, each to be played again and again,
            a ``TaskSet`` as often as its ``epochs`` say. One that has come to its end is left out.
        weights: of each source by its name, or in their order; all alike when ``None``.
        seed: of the choice between them.
        retire: a rule for all of their tasks.

    Raises:
        TypeError, ValueError, InvalidTasks: an argument makes no sense.
    """

    kind = "mixture"

    def __init__(
        self,
        sources: Mapping[str, Tasks],
        *,
        weights: Mapping[str, float] | Sequence[float] | None = None,
        seed: int = 0,
        retire: Retire | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(sources, Mapping):
            raise TypeError(f"a mixture is of tasks by name, a dict, got {shown(sources)}")
        if not sources:
            raise ValueError("a mixture needs at least one source of tasks")
        self._sources: dict[str, TaskSource] = {}
        for name, given in sources.items():
            if not isinstance(name, str):
                raise TypeError(f"the sources of a mixture have names, got {shown(name)}")
            self._sources[name] = _of_mixture(name, given)
        if len({*map(id, self._sources.values())}) < len(self._sources):
            raise ValueError("a mixture has one source twice: make two of them")
        self._weights = _weights(weights, list(self._sources))
        self._seed = check_seed("seed", seed)
        if retire is not None:
            if not isinstance(retire, Retire):
                raise TypeError(f"retire must be a Retire(...), got {shown(retire)}")
            for part in self.parts():
                part.use_rule(retire)
        self._begin_draws()

    def _begin(self) -> None:
        for source in self._sources.values():
            source._begin()
        self._begin_draws()

    def _begin_draws(self) -> None:
        self._draws = 0
        self._again: deque[str] = deque()
        self._open: dict[int, Draw] = {}
        self._over: set[str] = set()

    def parts(self) -> Iterator[TaskSet]:
        for source in self._sources.values():
            yield from source.parts()

    def _has_open(self) -> bool:
        return bool(self._open or self._again)

    def load(self) -> None:
        with self._reading:
            for source in self._sources.values():
                source.load()

    def draw(self) -> Draw | None:
        with self._reading:
            while self._again:
                inner = self._sources[self._again[0]].draw()
                with self._lock:
                    name = self._again.popleft()
                    if inner is not None:
                        return self._opened(name, inner)
            rng = random.Random(f"{self._seed}/{self._draws}")
            while names := self._names_left():
                name = rng.choices(names, [self._weights[each] for each in names])[0]
                inner = self._sources[name].draw()
                if inner is not None:
                    with self._lock:
                        self._draws += 1
                        return self._opened(name, inner)
                self._over.add(name)
            self._over.update(self._sources)
            return None

    def _names_left(self) -> list[str]:
        return [name for name, w in self._weights.items() if w and name not in self._over]

    def _opened(self, name: str, inner: Draw) -> Draw:
        drawn = Draw(inner.task, inner.epoch, inner.place, inner.where, name, inner)
        self._open[id(drawn)] = drawn
        return drawn

    def give_back(self, draws: Iterable[Draw]) -> None:
        with self._lock:
            back = [draw for draw in draws if self._open.pop(id(draw), None) is not None]
            self._again.extendleft(draw.source for draw in reversed(back) if draw.source)
            for name, source in self._sources.items():
                source.give_back(d.inner for d in back if d.source == name and d.inner)

    def _inner(self, draw: Draw) -> tuple[TaskSource, Draw]:
        assert draw.source is not None
        assert draw.inner is not None
        return self._sources[draw.source], draw.inner

    def hand_out(self, draw: Draw) -> None:
        super().hand_out(draw)
        source, inner = self._inner(draw)
        source.hand_out(inner)

    def finish(self, draw: Draw, mean: float | None) -> None:
        with self._lock:
            self._open.pop(id(draw), None)
            super().finish(draw, mean)
            source, inner = self._inner(draw)
            source.finish(inner, mean)

    def is_retired(self, draw: Draw) -> bool:
        source, inner = self._inner(draw)
        return source.is_retired(inner)

    @property
    def retired(self) -> list[str]:
        with self._lock:
            return [f"{name}/{each}" for name, s in self._sources.items() for each in s.retired]

    def left(self) -> int | None:
        counts = [s.left() for name, s in self._sources.items() if self._weights[name]]
        return None if None in counts else sum(filter(None, counts))

    def ids_left(self) -> list[str] | None:
        return None

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "seed": self._seed,
            "weights": dict(self._weights),
            "sources": {name: source.describe() for name, source in self._sources.items()},
        }

    @property
    def order(self) -> dict[str, Any]:
        return {"seed": self._seed, "weights": dict(self._weights)}

    def position(self) -> dict[str, Any]:
        with self._lock:
            unfinished = [d.source for d in self._open.values()] + list(self._again)
            return {
                "kind": self.kind,
                "seed": self._seed,
                "draws": self._draws,
                "open": unfinished,
                "handed_out": self._handed_out,
                "finished": self._finished,
                "sources": {name: source.position() for name, source in self._sources.items()},
            }

    def resume(self, position: Mapping[str, Any]) -> Self:
        with self._reading, self._lock:
            given = self._check_position(position)
            draws = _natural(given, "draws")
            sources, unfinished = given.get("sources"), given.get("open")
            if not isinstance(sources, Mapping) or not isinstance(unfinished, list):
                raise InvalidTasks(f"this position is broken: {shown(position)}")
            if set(sources) != set(self._sources) or not set(unfinished) <= set(sources):
                raise InvalidTasks(
                    f"the position is of a mixture of {', '.join(map(str, sources))}, and this one"
                    f" is of {', '.join(self._sources)}"
                )
            if given.get("seed") != self._seed:
                raise InvalidTasks(
                    f"the position is of a mixture with the seed {given.get('seed')}, and this one"
                    f" has {self._seed}"
                )
            for name, source in self._sources.items():
                source.resume(sources[name])
            self._begin_draws()
            self._draws = draws
            self._again.extend(unfinished)
        return self

    def restart(self) -> Self:
        with self._reading, self._lock:
            for source in self._sources.values():
                source.restart()
            self._begin_draws()
        return self


def as_source(tasks: Any) -> TaskSource:
    """Return the source of what ``tasks=`` was given.

    Raises:
        InvalidTasks, TypeError: it gives no tasks.
    """
    return tasks if isinstance(tasks, TaskSource) else TaskSet(tasks)


def as_task(task: Any) -> Task:
    """Return the task of one row.

    Raises:
        InvalidTasks: it is not a row.
    """
    return Reader(None, (), None).task(task, "the task")


def _of_mixture(name: str, given: Any) -> TaskSource:
    """Return a source that can be played again and again."""
    source = given if isinstance(given, TaskSource) else TaskSet(given)
    if not isinstance(given, TaskSource):
        assert isinstance(source, TaskSet)
        if source.is_one_shot:
            raise InvalidTasks(
                f"the source {name!r} can be iterated over once only: give a list, an iterable that"
                " begins anew each time, or TaskSet(rows, epochs=1)"
            )
        source._epochs = None
    return source


def _weights(weights: Any, names: list[str]) -> dict[str, float]:
    """Return the weight of each source, checked."""
    if weights is None:
        return dict.fromkeys(names, 1.0)
    if not isinstance(weights, Mapping):
        try:
            given = list(weights)
        except TypeError:
            raise TypeError(f"weights must be numbers by name, got {shown(weights)}") from None
        if len(given) != len(names):
            raise ValueError(f"{len(given)} weights for {len(names)} sources: {', '.join(names)}")
        weights = dict(zip(names, given, strict=True))
    if set(weights) != set(names):
        raise ValueError(
            f"weights are of {listed(weights)}, and the sources are {', '.join(names)}"
        )
    made = {}
    for name in names:
        try:
            weight = float(weights[name])
        except (TypeError, ValueError):
            raise TypeError(
                f"the weight of {name!r} must be a number, got {shown(weights[name])}"
            ) from None
        if not math.isfinite(weight) or weight < 0:
            raise ValueError(f"the weight of {name!r} must be finite and not negative: {weight!r}")
        made[name] = weight
    total = math.fsum(made.values())
    if not 0 < total < math.inf:
        raise ValueError("the weights of a mixture must not all be zero, nor their sum infinite")
    return made


def _natural(position: Mapping[str, Any], name: str) -> int:
    value = position.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidTasks(f"this position is broken: its {name} is {shown(value)}")
    return value


async def _awaited(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


def _repeated(task: str, first: str, second: str) -> InvalidTasks:
    return InvalidTasks(
        f"{first} and {second} have the same id {task!r}: each task needs its own (rows without"
        " ids have the same one when they are the same)",
        id=task,
        rows=[first, second],
    )
