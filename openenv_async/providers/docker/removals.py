"""Removing containers: each once, to its end, whichever caller is cancelled meanwhile.

Rules:

- Every removal is a task of its own. Callers wait for it; their cancellation does not stop it.
- One whose ``create`` is still under way waits for the Engine's answer first, see ``start``.
- A loop that ends cancels every task, these too: a removal then tries once more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from openenv_async.deadlines import wait_uncancelled
from openenv_async.errors import OpenEnvError
from openenv_async.providers.docker.client import DockerClient

__all__ = ["Removals"]

log = logging.getLogger("openenv_async.providers.docker")

_TIMEOUT: Final = 60.0


class Removals:
    """The removals under way at one Engine, in one event loop.

    Args:
        engine: where the containers are.
        gone: called with the name of each that was removed, or could not be.
        suspect: called when the Engine may still make one that was to be removed.
    """

    def __init__(
        self, engine: DockerClient, gone: Callable[[str], None], suspect: Callable[[], None]
    ) -> None:
        self._engine = engine
        self._gone = gone
        self._suspect = suspect
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, name: str) -> bool:
        """Return whether a container is being removed."""
        return name in self._tasks

    def begin(self, name: str, creating: asyncio.Task[str] | None = None) -> None:
        """Remove a container, unless that is under way.

        Args:
            name: of the container.
            creating: asks the Engine for it, and may still be under way.
        """
        if name in self._tasks:
            return
        task = asyncio.create_task(self._remove(name, creating), name=f"openenv-remove-{name}")
        self._tasks[name] = task
        task.add_done_callback(lambda _: self._tasks.pop(name, None))

    async def end(self, name: str) -> None:
        """Wait until a container is removed, if that is under way."""
        task = self._tasks.get(name)
        if task is not None:
            await wait_uncancelled(task)

    async def all(self) -> None:
        """Wait for all that are under way."""
        await wait_uncancelled(*self._tasks.values())

    async def _remove(self, name: str, creating: asyncio.Task[str] | None) -> None:
        interrupted: asyncio.CancelledError | None = None
        while True:
            try:
                if creating is not None and not creating.done():
                    await asyncio.wait([creating])
                await self._engine.remove(name, timeout=_TIMEOUT)
            except OpenEnvError as exc:
                log.error("the container %s could not be removed: %s", name, exc.message)
            except asyncio.CancelledError as exc:
                if interrupted is None:
                    interrupted = exc
                    continue
            break
        if creating is not None and (creating.cancelled() or creating.exception() is not None):
            # The Engine may obey a request whose answer was lost, later.
            self._suspect()
        self._gone(name)
        if interrupted is not None:
            raise interrupted
