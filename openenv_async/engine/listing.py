"""Answers to what clients ask of an environment's tasks and tools: one at a time, in a thread."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Final, TypeVar

from openenv_async.errors import OperationUnsupported
from openenv_async.models import Format
from openenv_async.schemas.tools import ONE_TOOL
from openenv_async.spec import EnvironmentSpec
from openenv_async.tasks import TaskBook, public_row
from openenv_async.types import Tool

__all__ = ["PAGE_SIZE", "TaskListing"]

T = TypeVar("T")

PAGE_SIZE: Final = 256 * 1024
"""Bytes of a page, beyond which it has one task."""


class TaskListing:
    """The public part of an environment's tasks, in pages.

    One question at a time is looked into, so that a large file that is being read takes one thread
    and not all there are.

    Args:
        spec: whose tasks they are.
    """

    def __init__(self, spec: EnvironmentSpec) -> None:
        self._spec = spec
        self._lock = asyncio.Lock()

    async def ask(self, call: Callable[[TaskBook], T]) -> T:
        """Return what ``call`` finds out in a thread.

        Raises:
            OperationUnsupported: the environment declares no tasks.
            InvalidOption, EnvironmentRaised: by the call.
        """
        book = self._spec.tasks
        if book is None:
            raise OperationUnsupported(
                f"{self._spec.name} declares no tasks: its class has no `tasks`"
            )
        async with self._lock:
            return await book.in_thread(functools.partial(call, book))

    async def payload(
        self, split: str | None, start: int, stop: int, format: Format, limit: int = PAGE_SIZE
    ) -> bytes:
        """Return the splits with their counts, or a page of a split, as a payload.

        Args:
            split: ``None`` asks for the splits.
            start, stop: of the page; it has fewer where more are not sent at once.
            format: of the payload.
            limit: bytes of the page, unless its first task is larger.

        Raises:
            OperationUnsupported: the environment declares no tasks.
            InvalidOption, InvalidModel, EnvironmentRaised: they cannot be listed.
        """
        encode = self._spec.codec("any", format).encode

        def made(book: TaskBook) -> bytes:
            if split is None:
                return encode({"splits": {name: book.count(name) for name in book.splits}})
            count = book.count(split)
            is_one = stop - start == 1 and start < count
            tasks = [book.get(split, start)] if is_one else book.page(split, start, stop)
            rows = [public_row(task, n) for n, task in enumerate(tasks, start)]
            while True:
                octets = encode({"count": count, "tasks": rows})
                if len(octets) <= limit or len(rows) < 2:
                    return octets
                rows = rows[: max(1, len(rows) * limit // len(octets))]

        return await self.ask(made)

    async def tools(self, format: Format) -> bytes:
        """Return what agents may call, with how a call becomes an action, as a payload.

        Raises:
            InvalidModel: the environment's tools cannot be read.
        """
        async with self._lock:
            tools = await asyncio.to_thread(self._spec.tools, ONE_TOOL)
        return self._spec.codec("any", format).encode({"tools": list(map(_as_map, tools))})


def _as_map(tool: Tool) -> dict[str, Any]:
    return {field.name: getattr(tool, field.name) for field in dataclasses.fields(tool)}
