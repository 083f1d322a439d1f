"""Noticing that a container ended: the Engine's events are a hint, looking at it decides.

The event stream may end, hang or miss something, so the containers are also looked at every second
or so, all of them with one call.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from openenv_async.errors import OpenEnvError
from openenv_async.providers.docker.client import DockerClient

__all__ = ["Watch"]

log = logging.getLogger("openenv_async.providers.docker")

_INTERVAL: Final = 1.0
_PER_CONTAINER: Final = 0.005
"""Seconds that the interval grows with each container: a list of many is work for the Engine."""
_LISTEN_AGAIN: Final = 1.0
_SUSPECT: Final = 60.0
"""Seconds after a failed start in which a container may still appear."""
_ALIVE: Final = frozenset({"created", "running", "paused", "restarting"})


class Watch:
    """The watch over the containers of one provider.

    Args:
        engine: where they are.
        label: that all of them have.
        confirm: called with the id of one that may have ended; it looks, and acts.
        stray: called with the name of one that is not looked after.
        tick: called at every look.
    """

    def __init__(
        self,
        engine: DockerClient,
        label: str,
        confirm: Callable[[str], Awaitable[None]],
        stray: Callable[[str], None],
        tick: Callable[[], None],
    ) -> None:
        self.ids: set[str] = set()
        self._engine = engine
        self._label = label
        self._confirm = confirm
        self._stray = stray
        self._tick = tick
        self._some = asyncio.Event()
        self._suspect_until = 0.0
        self._confirming: dict[str, asyncio.Task[None]] = {}
        self._tasks = [
            asyncio.create_task(self._listen(), name="openenv-docker-events"),
            asyncio.create_task(self._poll(), name="openenv-docker-poll"),
        ]

    def add(self, id: str) -> None:
        """Look after a container."""
        self.ids.add(id)
        self._some.set()

    def drop(self, id: str) -> None:
        """Forget a container: it is gone, or its owner ends it."""
        self.ids.discard(id)

    def suspect(self) -> None:
        """Look out for a container that may still appear although nobody waits for it."""
        self._suspect_until = asyncio.get_running_loop().time() + _SUSPECT
        self._some.set()

    async def aclose(self) -> None:
        """Stop looking."""
        tasks = [*self._tasks, *self._confirming.values()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _listen(self) -> None:
        while True:
            await self._some.wait()
            async with contextlib.aclosing(self._engine.deaths(self._label)) as deaths:
                async for id in deaths:
                    self._look(id)
            await asyncio.sleep(_LISTEN_AGAIN)

    async def _poll(self) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(_INTERVAL + _PER_CONTAINER * len(self.ids))
            self._tick()
            if not self.ids and asyncio.get_running_loop().time() > self._suspect_until:
                self._some.clear()
                continue
            watched = set(self.ids)
            try:
                listed = await self._engine.containers(self._label)
            except OpenEnvError as exc:
                log.warning("the Docker Engine does not list containers: %s", exc.message)
                continue
            for container in listed:
                if container["Id"] not in self.ids and container.get("Names"):
                    self._stray(container["Names"][0].removeprefix("/"))
            alive = {c["Id"] for c in listed if c.get("State") in _ALIVE}
            for id in watched - alive:
                self._look(id)

    def _look(self, id: str) -> None:
        if id in self.ids and id not in self._confirming:
            task = asyncio.ensure_future(self._confirm(id))
            self._confirming[id] = task
            task.add_done_callback(lambda _: self._confirming.pop(id, None))
