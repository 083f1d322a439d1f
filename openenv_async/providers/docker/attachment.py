"""A provider's connection to its Engine, for as long as one event loop runs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from openenv_async.deadlines import wait_uncancelled
from openenv_async.errors import OpenEnvError
from openenv_async.providers.docker.client import DockerClient
from openenv_async.providers.docker.images import PullPolicy, ensure_image
from openenv_async.providers.docker.local_folders import LocalFolders, sweep_folders
from openenv_async.providers.docker.removals import Removals
from openenv_async.providers.docker.sweep import sweep
from openenv_async.providers.docker.watch import Watch

__all__ = ["Attachment"]

log = logging.getLogger("openenv_async.providers.docker")


class Attachment:
    """The Engine as the running event loop has it, and the tasks that go with it.

    It begins with a sweep of what owners of this host left behind. It ends with ``aclose``, or
    with its loop: that cancels every task, and one of them then closes the sockets.

    Attributes:
        loop: that it belongs to.
        gate: of the starts at once.
        starting: names of the containers whose start is under way.
        closing: the task that closes the provider, once there is one.
        folders: of the containers, through which they are reached without TCP.

    Args:
        engine: owned from now on.
        watch: of the provider's containers; owned, too.
        gone: called with the name of each container that was removed.
        max_starts: at once.
        folders: the provider's.
    """

    def __init__(
        self,
        engine: DockerClient,
        watch: Watch,
        gone: Callable[[str], None],
        max_starts: int,
        folders: LocalFolders | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.engine = engine
        self.watch = watch
        self.gate = asyncio.Semaphore(max_starts)
        self.starting: set[str] = set()
        self.folders = LocalFolders() if folders is None else folders
        self.removals = Removals(engine, self._gone, watch.suspect)
        self._told_gone = gone
        self.closing: asyncio.Task[None] | None = None
        self._none_starts = asyncio.Event()
        self._looking: asyncio.Task[dict[str, Any]] | None = None
        self._holding = asyncio.create_task(self._hold(), name="openenv-docker")
        self._sweeping = asyncio.create_task(self._sweep(), name="openenv-sweep")

    def _gone(self, name: str) -> None:
        self.folders.remove(name)
        self._told_gone(name)

    async def image(self, name: str, policy: PullPolicy, platform: str | None) -> dict[str, Any]:
        """Return the Engine's record of the provider's image; one request serves all callers."""
        looking = self._looking
        if looking is None or (
            looking.done() and (looking.cancelled() or looking.exception() is not None)
        ):
            looking = self._looking = asyncio.create_task(
                ensure_image(self.engine, name, policy, platform), name="openenv-image"
            )
        return await asyncio.shield(looking)

    @contextlib.contextmanager
    def start_of(self, name: str) -> Iterator[None]:
        """A start that the sockets are kept open for: the block ends with it."""
        self.starting.add(name)
        try:
            yield
        finally:
            self.starting.discard(name)
            self._none_starts.set()

    async def settle(self) -> None:
        """Wait until no start and no removal is under way."""
        while self.starting:
            self._none_starts.clear()
            await self._none_starts.wait()
        await self.removals.all()

    async def aclose(self) -> None:
        """Wait for starts and removals, stop everything else and close the sockets."""
        await self.settle()
        others = [task for task in (self._sweeping, self._looking) if task is not None]
        for task in others:
            task.cancel()
        await wait_uncancelled(*others)
        await self.watch.aclose()
        self._holding.cancel()
        await wait_uncancelled(self._holding)

    async def _hold(self) -> None:
        """Close the sockets when this is cancelled: by closing, or by a loop that ends."""
        try:
            await asyncio.Event().wait()
        finally:
            try:
                await self.settle()  # a loop that ends has cut every start off: they are undone
            finally:
                await self.engine.aclose()

    async def _sweep(self) -> None:
        """Remove what owners of this host left behind; what fails does not hurt a start."""
        try:
            await asyncio.to_thread(sweep_folders)
            removed = await sweep(self.engine)
        except OpenEnvError as exc:
            log.info("no sweep: %s", exc.message)
        else:
            if removed:
                log.warning("removed %d containers whose owners are gone", len(removed))
