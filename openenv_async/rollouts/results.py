"""Results on their way from many makers to one reader."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

__all__ = ["Results"]

T = TypeVar("T")


class Results(Generic[T]):
    """What was made and not yet read. Makers that ask for room wait for a slow reader.

    Args:
        most: results that may wait for the reader before there is no more room.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._ready: deque[T] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    def put(self, result: T) -> None:
        """Add a result, room or not."""
        self._ready.append(result)
        self._news.set()
        if len(self._ready) >= self._most:
            self._room.clear()

    async def room(self) -> None:
        """Return when the reader has not too many results before it."""
        await self._room.wait()

    def wake(self) -> None:
        """Have the reader ask again whether it is over."""
        self._news.set()

    async def next(self, over: Callable[[], bool]) -> T | None:
        """The next result; ``None`` when there is none and it is over.

        Args:
            over: whether no more will come; what it raises is raised here.
        """
        while not self._ready:
            if over():
                return None
            self._news.clear()
            await self._news.wait()
        result = self._ready.popleft()
        if len(self._ready) < self._most:
            self._room.set()
        return result
