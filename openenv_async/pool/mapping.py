"""Calls of a function for many items, each with an environment of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, TypeVar

from openenv_async.deadlines import wait_uncancelled
from openenv_async.rollouts.checking import check_count
from openenv_async.rollouts.collection import Results

__all__ = ["Mapped", "mapped"]

ClientT = TypeVar("ClientT")
ItemT = TypeVar("ItemT")
ValueT = TypeVar("ValueT")


@dataclass(slots=True)
class Mapped(Generic[ItemT, ValueT]):
    """The result of ``map`` for one item.

    Attributes:
        index: of the item.
        item: it.
        value: what the function returned; ``None`` if it raised.
        error: what it raised.
    """

    index: int
    item: ItemT
    value: ValueT | None = None
    error: Exception | None = None

    def unwrap(self) -> ValueT:
        """Return the value, or raise the error if there was one."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]  # None only if that was returned


async def mapped(
    session: Callable[[], AbstractAsyncContextManager[ClientT]],
    function: Callable[[ClientT, ItemT], Awaitable[ValueT]],
    items: Iterable[ItemT],
    concurrency: int,
) -> AsyncGenerator[Mapped[ItemT, ValueT], None]:
    """Call ``await function(client, item)`` for every item; yield results as they are made.

    Args:
        session: makes the client of one item, which is entered and left.
        function: raises what becomes the error of its item.
        items: are taken as they are needed; an error of theirs ends everything.
        concurrency: calls at once.
    """
    concurrency = check_count("concurrency", concurrency)
    if not callable(function):
        raise TypeError(f"function must be callable, got {function!r}")
    results: Results[Mapped[ItemT, ValueT]] = Results(2 * concurrency)
    left = iter(enumerate(items))
    limit = min(concurrency, len(items)) if isinstance(items, Sequence) else concurrency

    async def work() -> None:
        for index, item in left:
            made: Mapped[ItemT, ValueT] = Mapped(index, item)
            try:
                async with session() as client:
                    made.value = await function(client, item)
            except Exception as exc:
                made.error = exc
            results.put(made)
            await results.room()

    def over() -> bool:
        return all(task.done() for task in tasks)

    tasks = [asyncio.create_task(work(), name=f"openenv-map-{number}") for number in range(limit)]
    for task in tasks:
        task.add_done_callback(lambda _: results.wake())
    try:
        while (result := await results.next(over)) is not None:
            yield result
        for task in tasks:
            task.result()  # what iterating over ``items`` raised
    finally:
        for task in tasks:
            task.cancel()
        await wait_uncancelled(*tasks)
