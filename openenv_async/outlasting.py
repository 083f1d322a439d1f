"""Waiting that a cancellation does not cut short: for tasks that must end before anybody leaves."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["outlast"]


async def outlast(*tasks: asyncio.Task[Any]) -> None:
    """Wait for tasks, however often the caller is cancelled meanwhile; then be cancelled.

    What the tasks raise stays with them.
    """
    interrupted: asyncio.CancelledError | None = None
    while waiting := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(waiting)
        except asyncio.CancelledError as exc:
            interrupted = exc
    if interrupted is not None:
        raise interrupted
