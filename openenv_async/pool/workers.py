"""The workers of a pool: started, watched and ended, each in a task of its own."""

from __future__ import annotations

import asyncio
import functools
import logging
import random
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from openenv_async.client.connection import ClientConnection
from openenv_async.client.launch import launch
from openenv_async.errors import OpenEnvError
from openenv_async.pool.leases import LeasedClient
from openenv_async.pool.scheduler import Scheduler
from openenv_async.providers.base import Provider, Worker

__all__ = ["LiveWorker", "Workers"]

log = logging.getLogger("openenv_async.pool")
T = TypeVar("T")

_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 30.0
_SHORT_LIFE: Final = 5.0
"""A worker that dies sooner counts as a failed start."""
_FREE_START: Final = 10.0
"""Seconds that a server which runs already has to answer."""
_FREE_GRACE: Final = 1.0
"""Seconds that opening waits for more of those once one answered."""


@dataclass(slots=True, eq=False)
class LiveWorker:
    """A worker that answers, and the connection that keeps the way to it warm."""

    id: int
    source: int
    worker: Worker
    warm_client: LeasedClient
    connection: ClientConnection
    ready_at: float


class Workers:
    """The workers that live and those that start. It tells the scheduler what becomes of them.

    Args:
        providers: start them.
        scheduler: learns when one is ready, failed or died.
        warm_client: makes an unopened client of a URL, whose connection is kept.
        start_timeout: seconds that a worker has to start and answer.
        changed: called when the scheduler learned something.
        lost: called with the leases of a worker that died, and why.
        none_left: called with the error when nothing lives or starts any more.

    Attributes:
        live, starting: by number in the scheduler.
        error: why the last one failed.
        started, failed, died, ended: counts.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        scheduler: Scheduler,
        warm_client: Callable[[Worker], LeasedClient],
        *,
        start_timeout: float,
        changed: Callable[[], None],
        lost: Callable[[list[int], OpenEnvError], None],
        none_left: Callable[[BaseException], None],
    ) -> None:
        self.live: dict[int, LiveWorker] = {}
        self.starting: dict[int, asyncio.Task[None]] = {}
        self.error: BaseException | None = None
        self.started = self.failed = self.died = self.ended = 0
        self._providers = providers
        self._scheduler = scheduler
        self._warm_client = warm_client
        self._start_timeout = start_timeout
        self._changed = changed
        self._lost = lost
        self._none_left = none_left
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failures = [0] * len(providers)
        self._held_until = [float("-inf")] * len(providers)
        self._closing = False

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A task that closing waits for."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def settled(self) -> None:
        """Return when every start has succeeded or failed.

        Of servers that run already, only while they come quickly: some may be down.
        """
        pending = set(self.starting.values())
        while pending:
            sources = [self._scheduler.workers[id].source for id in self.starting]
            patient = any(self._providers[source].owns_workers for source in sources)
            timeout = None if patient or not self.live else _FREE_GRACE
            done, pending = await asyncio.wait(
                pending, timeout=timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                return

    # -- starting -----------------------------------------------------------------------------

    def start(self, id: int, source: int) -> None:
        """Start a worker of the scheduler."""
        task = asyncio.create_task(self._start(id, source), name=f"openenv-pool-start-{id}")
        self.starting[id] = task

    async def _start(self, id: int, source: int) -> None:
        provider = self._providers[source]
        loop = asyncio.get_running_loop()
        most = self._start_timeout
        if not provider.owns_workers:
            most = min(most, _FREE_START)
        try:
            worker = await launch(provider, timeout=most)
            try:
                live = await self._warm(id, source, worker)
            except BaseException:
                await worker.aclose()
                raise
        except BaseException as exc:
            del self.starting[id]
            self._scheduler.start_failed(id, loop.time())
            if not isinstance(exc, Exception):
                raise
            self.failed += 1
            log.info("%s started no worker: %s", provider.name, exc)
            self._pause(source, exc)
        else:
            del self.starting[id]
            self.live[id] = live
            self.started += 1
            most_sessions = live.connection.server.get("max_sessions")
            capacity = most_sessions if isinstance(most_sessions, int) else None
            self._scheduler.ready(id, loop.time(), capacity or None)
            worker.exited.add_done_callback(functools.partial(self._exited, id))
        self._changed()

    async def _warm(self, id: int, source: int, worker: Worker) -> LiveWorker:
        warm_client = self._warm_client(worker)
        connection = await warm_client._acquire()
        now = asyncio.get_running_loop().time()
        return LiveWorker(id, source, worker, warm_client, connection, now)

    def _pause(self, source: int, error: BaseException) -> None:
        """Start nothing there for a while; tell those who wait in vain."""
        now = asyncio.get_running_loop().time()
        if now >= self._held_until[source]:  # failures at one time count as one
            pause = min(_FIRST_PAUSE * 2 ** min(self._failures[source], 10), _LONGEST_PAUSE)
            self._failures[source] += 1
            self._held_until[source] = now + pause * random.uniform(0.75, 1.25)
            self._scheduler.hold(source, self._held_until[source])
        self.error = error
        if not self.live and not self.starting:
            self._none_left(error)

    # -- ending -------------------------------------------------------------------------------

    def end(self, id: int) -> None:
        """End a worker that is in the scheduler no more."""
        self.ended += 1
        self.spawn(self._end(self.live.pop(id)), "openenv-pool-end")

    async def _end(self, live: LiveWorker) -> None:
        try:
            await live.warm_client._give_back(live.connection)
        finally:
            await live.worker.aclose()

    def _exited(self, id: int, _: object) -> None:
        """A worker ended by itself."""
        if self._closing:
            return  # that ends it
        live = self.live.pop(id, None)
        if live is None:
            return
        now = asyncio.get_running_loop().time()
        error = live.worker.died("step")
        log.warning("%s", error)
        self.died += 1
        self._lost(self._scheduler.died(id, now), error)
        self.spawn(self._end(live), "openenv-pool-end")
        if now - live.ready_at < _SHORT_LIFE:
            self._pause(live.source, error)
        self._changed()

    async def look(self) -> None:
        """Ask the providers for their room, and let workers go that are leaving."""
        starting = {self._scheduler.workers[id].source for id in self.starting}
        for source, provider in enumerate(self._providers):
            if source in starting:  # a place that is being taken would count as room
                continue
            try:
                self._scheduler.set_room(source, await provider.room())
            except OpenEnvError as exc:
                self.error = exc
                log.warning("%s does not say what room it has: %s", provider.name, exc)
        now = asyncio.get_running_loop().time()
        for live in self.live.values():
            if now - live.ready_at >= _SHORT_LIFE:
                self._failures[live.source] = 0
            connection = live.connection
            gone = connection.going_away is not None or connection.error is not None
            if (gone or live.worker.leaving) and not live.worker.exited.done():
                self._scheduler.drain(live.id)

    async def stop(self) -> None:
        """Cut off what starts; whatever dies now is no news any more."""
        self._closing = True
        starting = list(self.starting.values())
        for task in starting:
            task.cancel()
        if starting:
            await asyncio.wait(starting)

    async def aclose(self) -> None:
        """End every worker, after what else was spawned has ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        for id in list(self.live):
            self.spawn(self._end(self.live.pop(id)), "openenv-pool-end")
        while self._tasks:
            await asyncio.wait(self._tasks)
