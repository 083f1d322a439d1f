"""The tasks of a served environment, as a client sees them: their public part, read in pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol, TypeVar

import msgspec

from openenv_async.client.loop_thread import background_loop
from openenv_async.errors import ConnectionLost, InvalidOption, ProtocolError
from openenv_async.types import Task

__all__ = ["ListPage", "Listing", "ServedTasks", "SyncServedTasks"]

T = TypeVar("T")

_ATTEMPTS: Final = 3
"""Times that a page is asked for whose connection is lost."""
_PAGE: Final = 1000
"""Tasks that are asked for at once; a server may send fewer."""


class ListPage(Protocol):
    """A question to a server: for the splits, or for a page of one. Returns the map it answers."""

    async def __call__(self, split: str | None, start: int, stop: int) -> Any: ...


Listing = Callable[[], AbstractAsyncContextManager[ListPage]]
"""The means of a client to ask, for as long as the context lasts."""


class _Row(msgspec.Struct):
    id: str
    index: int
    data: dict[Any, Any]


class _Page(msgspec.Struct):
    count: int
    tasks: list[_Row]


class _Splits(msgspec.Struct):
    splits: dict[str, int]


class ServedTasks:
    """The tasks that a served environment declares, by split.

    They have no private part: that is the environment's, which gets it when a ``reset`` names the
    task, ``reset(task_id=task.id, split=task.split)``.

    Args:
        listing: the client's.
    """

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._splits: list[str] = []

    @classmethod
    async def opened(cls, listing: Listing) -> ServedTasks:
        """Return the tasks, once the server has told their splits."""
        made = cls(listing)
        made._splits = [*(await made._asked(None, 0, 0, _Splits)).splits]
        return made

    async def splits(self) -> list[str]:
        """Return the names of the splits."""
        return [*self._splits]

    async def count(self, split: str) -> int:
        """Return how many tasks a split has.

        Raises:
            InvalidOption: there is no such split.
        """
        return (await self._asked(split, 0, 0, _Page)).count

    async def get(self, split: str, index: int) -> Task:
        """Return one task.

        Raises:
            InvalidOption: there is no such split, or no such index in it.
        """
        _check("index", index)
        page = await self._asked(split, index, index + 1, _Page)
        if not page.tasks:
            raise InvalidOption(
                f"the split {split!r} has {page.count} tasks, and none with the index {index}",
                option="index",
            )
        return _task(split, page.tasks[0])

    async def range(self, split: str, start: int = 0, stop: int | None = None) -> list[Task]:
        """Return the tasks from ``start`` to before ``stop``, by default to the end of the split.

        They are read in pages, so a split of any size may be asked for.

        Raises:
            InvalidOption: there is no such split, or a bound makes no sense.
        """
        _check("start", start)
        if stop is not None:
            _check("stop", stop)
        tasks: list[Task] = []

        async def read(page: ListPage) -> list[Task]:
            while True:
                at = start + len(tasks)
                end = at + _PAGE if stop is None else min(at + _PAGE, stop)
                found = _read(await page(split, at, max(at, end)), _Page)
                tasks.extend(_task(split, row) for row in found.tasks)
                if at + len(found.tasks) >= min(found.count if stop is None else stop, found.count):
                    return tasks
                if not found.tasks:
                    raise ProtocolError(
                        f"the server lists no task {at} of {found.count} in {split!r}"
                    )

        return await self._reading(read)

    async def _asked(self, split: str | None, start: int, stop: int, reply: type[T]) -> T:
        async def read(page: ListPage) -> T:
            return _read(await page(split, start, stop), reply)

        return await self._reading(read)

    async def _reading(self, read: Callable[[ListPage], Awaitable[T]]) -> T:
        """Return what ``read`` does, which goes on where it was when a connection is lost."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                async with self._listing() as page:
                    return await read(page)
            except ConnectionLost:
                if attempt == _ATTEMPTS:
                    raise
        raise AssertionError("the last attempt returns or raises")


class SyncServedTasks:
    """The same as blocking calls.

    Args:
        tasks: what is asked, on the background loop.
    """

    def __init__(self, tasks: ServedTasks) -> None:
        self._tasks = tasks

    def splits(self) -> list[str]:
        """Return the names of the splits."""
        return background_loop().run(self._tasks.splits())

    def count(self, split: str) -> int:
        """Return how many tasks a split has; see ``ServedTasks.count``."""
        return background_loop().run(self._tasks.count(split))

    def get(self, split: str, index: int) -> Task:
        """Return one task; see ``ServedTasks.get``."""
        return background_loop().run(self._tasks.get(split, index))

    def range(self, split: str, start: int = 0, stop: int | None = None) -> list[Task]:
        """Return the tasks from ``start`` to before ``stop``; see ``ServedTasks.range``."""
        return background_loop().run(self._tasks.range(split, start, stop))


def _check(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise InvalidOption(f"{name} counts tasks from 0, and cannot be {value!r:.40}", option=name)


def _read(answer: Any, reply: type[T]) -> T:
    try:
        return msgspec.convert(answer, reply)
    except msgspec.ValidationError as exc:
        raise ProtocolError(f"the server lists tasks in a way unknown here: {exc}") from None


def _task(split: str, row: _Row) -> Task:
    return Task(row.id, row.data, {}, split)
