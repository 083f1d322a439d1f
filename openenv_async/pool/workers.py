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
from openenv_async.endpoints.tls import Trust
from openenv_async.errors import GoingAway, OpenEnvError
from openenv_async.pool.leases import LeasedClient
from openenv_async.pool.scheduler import Scheduler
from openenv_async.providers.base import Provider, Worker

__all__ = ["LiveWorker", "Workers"]

log = logging.getLogger("openenv_async.pool")
T = TypeVar("T")

_FREE_START: Final = 10.0
"""Seconds that a server which runs already has to answer."""
_FREE_GRACE: Final = 1.0
"""Seconds that opening waits for more of those once one answered."""


@dataclass(slots=True, eq=False)
class LiveWorker:
    """A worker that answers, and the connection that is kept open to it."""

    id: int
    source: int
    worker: Worker
    warm_client: LeasedClient
    connection: ClientConnection


class Workers:
    """The workers that are live and those that start. It tells the scheduler what becomes of them.

    Args:
        providers: start them.
        scheduler: learns when one is ready, failed or died.
        warm_client: makes an unopened client of a worker, whose connection is kept.
        start_timeout: seconds that a worker has to start and answer.
        ssl: as for ``ClientSettings``.
        changed: called when the scheduler learned something.
        lost: called with the leases of a worker that died, and why.
        none_left: called with the error when nothing is live or starts any more.

    Attributes:
        live, starting: by number in the scheduler.
        error: why the last one failed.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        scheduler: Scheduler,
        warm_client: Callable[[Worker], LeasedClient],
        *,
        start_timeout: float,
        ssl: Trust = None,
        changed: Callable[[], None],
        lost: Callable[[list[int], OpenEnvError], None],
        none_left: Callable[[BaseException], None],
    ) -> None:
        self.live: dict[int, LiveWorker] = {}
        self.starting: dict[int, asyncio.Task[None]] = {}
        self._unplaced: dict[int, int] = {}
        self.error: BaseException | None = None
        self._providers = providers
        self._scheduler = scheduler
        self._warm_client = warm_client
        self._start_timeout = start_timeout
        self._ssl = ssl
        self._changed = changed
        self._lost = lost
        self._none_left = none_left
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing = False

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start a task that closing waits for."""
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
        self._unplaced[id] = source

    async def _start(self, id: int, source: int) -> None:
        provider = self._providers[source]
        loop = asyncio.get_running_loop()
        try:
            live = await self._launched(id, source)
        except BaseException as exc:
            del self.starting[id]
            self._unplaced.pop(id, None)
            if not isinstance(exc, Exception):
                self._scheduler.start_abandoned(id, loop.time())
                raise
            if isinstance(exc, GoingAway):  # another server may soon be at its address
                self.error = exc
                self._scheduler.start_abandoned(id, loop.time())
                return
            log.info("%s started no worker: %s", provider.name, exc)
            self._scheduler.start_failed(id, loop.time(), _jitter())
            self._failed(exc)
        else:
            del self.starting[id]
            self.live[id] = live
            most_sessions = live.connection.server.get("max_sessions")
            capacity = most_sessions if isinstance(most_sessions, int) else None
            self._scheduler.ready(id, loop.time(), capacity or None)
            live.worker.exited.add_done_callback(functools.partial(self._exited, id))
        self._changed()

    async def _launched(self, id: int, source: int) -> LiveWorker:
        """Start a worker and shake hands with it; nothing is left of one that fails."""
        provider = self._providers[source]
        timeout = self._start_timeout
        if not provider.owns_workers:
            timeout = min(timeout, _FREE_START)
        worker = await launch(
            provider,
            timeout=timeout,
            on_started=functools.partial(self._placed, id),
            ssl=self._ssl,
        )
        try:
            warm_client = self._warm_client(worker)
            connection = await warm_client._acquire()
            if connection.going_away is not None:
                await warm_client._give_back(connection)
                worker.is_failing = True
                raise GoingAway(f"{worker.name} is going away: {connection.going_away.reason}")
        except BaseException:
            await worker.aclose()
            raise
        return LiveWorker(id, source, worker, warm_client, connection)

    def _placed(self, id: int) -> None:
        del self._unplaced[id]

    def _failed(self, error: BaseException) -> None:
        """Keep the error of a start; tell those who wait if there is nothing to wait for."""
        self.error = error
        if not self.live and not self.starting:
            self._none_left(error)

    # -- ending -------------------------------------------------------------------------------

    def end(self, id: int) -> None:
        """End a worker that is in the scheduler no more."""
        self.spawn(self._end(self.live.pop(id)), "openenv-pool-end")

    async def _end(self, live: LiveWorker) -> None:
        connection = live.connection
        live.worker.is_failing |= connection.going_away is not None or connection.error is not None
        try:
            await live.warm_client._give_back(live.connection)
        finally:
            await live.worker.aclose()

    def _exited(self, id: int, _: object) -> None:
        """Note that a worker ended by itself."""
        if self._closing:
            return  # that ends it
        live = self.live.pop(id, None)
        if live is None:
            return
        now = asyncio.get_running_loop().time()
        error = live.worker.died("step")
        log.warning("%s", error)
        short_lived = self._scheduler.is_short_lived(id, now)
        self._lost(self._scheduler.died(id, now, _jitter()), error)
        self.spawn(self._end(live), "openenv-pool-end")
        if short_lived:
            self._failed(error)
        self._changed()

    async def look(self) -> None:
        """Ask the providers for their room, and let workers go that are leaving."""
        starting = {self._scheduler.workers[id].source for id in self.starting}
        for source, provider in enumerate(self._providers):
            if provider.owns_workers and source in starting:  # what starts may count as room
                continue
            try:
                room = await provider.room()
                # An address that is about to be taken does not count.
                taking = sum(each == source for each in self._unplaced.values())
                self._scheduler.set_room(source, None if room is None else max(0, room - taking))
            except OpenEnvError as exc:
                self.error = exc
                log.warning("%s does not say what room it has: %s", provider.name, exc)
        self._scheduler.forgive(asyncio.get_running_loop().time())
        for live in self.live.values():
            connection = live.connection
            gone = connection.going_away is not None or connection.error is not None
            if (gone or live.worker.leaving) and not live.worker.exited.done():
                self._scheduler.drain(live.id)

    async def stop(self) -> None:
        """Cancel the starts; no death is reported from now on."""
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


def _jitter() -> float:
    """Return a factor for pauses, so that pools that failed together do not return together."""
    return random.uniform(0.75, 1.25)
