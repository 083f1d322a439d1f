"""Slots for those who want one: asks the scheduler what to do, and has it done.

Rules:

- Whatever the scheduler learns, a plan follows, and is carried out in the same turn of the loop.
- A ticket is either with a waiter or with a lease. A waiter that gives up withdraws its ticket; a
  lease that it was granted in that very moment is given back.
- One task opens, another closes, however many wait for them; neither ends when a caller is
  cancelled. Once it closes nothing is planned any more.
- It belongs to the process and the loop that opened it; the pool sees to that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from openenv_async.deadlines import wait_uncancelled
from openenv_async.errors import (
    OpenEnvError,
    ProviderError,
    ServerBusy,
    SessionClosed,
    raised_again,
)
from openenv_async.pool.leases import Lease, LeasedClient
from openenv_async.pool.scheduler import WorkerPhase
from openenv_async.pool.settings import PoolSettings
from openenv_async.pool.statistics import PoolStatistics
from openenv_async.pool.workers import Workers
from openenv_async.providers.base import Provider, Worker

__all__ = ["Dispatch"]

log = logging.getLogger("openenv_async.pool")

_LOOK: Final = 1.0
"""Seconds between looks at what tells nobody when it changes."""
_REST: Final = 1.0


class Dispatch:
    """A pool at work: its scheduler, its workers, who waits for a slot and who holds one.

    Args:
        providers: start the workers; they are closed with it.
        settings: of the pool.
        warm_client: makes an unopened client of a worker, see ``Workers``.
        on_progress: called with ``statistics()`` when a worker came or went.

    Attributes:
        workers: the workers.
        closed: whether nothing is left.
    """

    def __init__(
        self,
        providers: Sequence[Provider],
        settings: PoolSettings,
        *,
        warm_client: Callable[[Worker], LeasedClient],
        on_progress: Callable[[PoolStatistics], None] | None,
    ) -> None:
        self._providers = providers
        self._min_workers = settings.min_workers
        self._on_progress = on_progress
        self._scheduler = settings.scheduler(providers)
        self.workers = Workers(
            providers,
            self._scheduler,
            warm_client,
            start_timeout=settings.start_timeout,
            changed=self._workers_changed,
            lost=self._lost,
            none_left=self._fail_waiters,
        )
        self.closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._upkeep: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: dict[int, tuple[asyncio.Future[Lease], LeasedClient]] = {}
        self._leases: dict[int, Lease] = {}
        self._leased_count = self._peak = 0

    # -- life ---------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether it can be asked for slots."""
        return self._opening is not None and self._opening.done() and self._closing is None

    @property
    def ending(self) -> bool:
        """Whether it is closed or about to be."""
        return self.closed or self._closing is not None

    async def open(self) -> None:
        """Start ``min_workers`` and wait for them; idempotent.

        Raises:
            ProviderError, DeadlineExceeded: not one worker could be started.
        """
        if self._opening is None:
            self._loop = asyncio.get_running_loop()
            self._opening = asyncio.create_task(self._open(), name="openenv-pool-open")
            self._opening.add_done_callback(self._opened)
        await asyncio.shield(self._opening)

    def _opened(self, opening: asyncio.Task[None]) -> None:
        if opening.cancelled() or opening.exception() is not None:
            self._opening = None  # the next caller tries again

    async def _open(self) -> None:
        await self.workers.look()
        self._replan()
        await self.workers.settled()
        error = self.workers.error
        if not self.workers.live and (self._min_workers or error is not None):
            raise (
                raised_again(error)
                if error is not None
                else ProviderError(
                    f"no worker can be started: {self.names} has room for none", phase="open"
                )
            )
        if self._upkeep is None:
            self._upkeep = asyncio.create_task(self._look_after(), name="openenv-pool-upkeep")

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            await self.workers.look()
            self._replan()

    async def aclose(self) -> None:
        """End every worker and close the providers; idempotent.

        It goes on when its caller is cancelled, and returns when nothing is left.
        """
        if self.closed:
            return
        if self._closing is None:
            self._closing = asyncio.create_task(self._shut_down(), name="openenv-pool-close")
        await wait_uncancelled(self._closing)
        self._closing.result()

    async def _shut_down(self) -> None:
        error = SessionClosed("the pool was closed")
        tasks = [task for task in (self._opening, self._upkeep) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self.workers.stop()
        if self._timer is not None:
            self._timer.cancel()
        self._fail_waiters(error)
        for lease in list(self._leases.values()):
            if self._providers[self.workers.live[lease.worker_id].source].owns_workers:
                lease.lose(raised_again(error))
            else:
                self.workers.spawn(lease.env.close(), "openenv-release")
        self._scheduler.close(asyncio.get_running_loop().time())
        await self.workers.aclose()
        self._leases.clear()
        for provider in self._providers:
            await provider.aclose()
        self.closed = True

    # -- slots --------------------------------------------------------------------------------

    async def acquire(self, env: LeasedClient, timeout: float | None) -> Lease:
        """As ``EnvPool.acquire``, of what is open."""
        ticket = self._scheduler.ask()
        waiter: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
        self._waiters[ticket] = waiter, env
        self._replan()
        if waiter.done():
            return waiter.result()
        try:
            async with asyncio.timeout(timeout):
                return await waiter
        except BaseException as exc:
            if self._waiters.pop(ticket, None) is not None:
                self._scheduler.withdraw(ticket)
            elif not waiter.cancelled() and waiter.exception() is None:
                self.release(waiter.result())
            if isinstance(exc, TimeoutError) and not isinstance(exc, OpenEnvError):
                raise self._busy(timeout or 0.0) from None
            raise

    def _busy(self, timeout: float) -> ServerBusy:
        now = self.statistics()
        return ServerBusy(
            f"no slot of the pool came free within {timeout:g} s: {now.sessions} of"
            f" {now.capacity} are held on {now.ready} workers and {now.waiting} more wait; raise"
            " max_workers or sessions_per_worker, or wait longer (acquire_timeout)",
            limit=now.capacity,
            active=now.sessions,
            depth=now.waiting,
            setting="max_workers",
            phase="open",
        )

    def release(self, lease: Lease, *, connection_lost: bool = False) -> None:
        """As ``EnvPool.release``."""
        if self._leases.pop(lease.id, None) is None:
            return
        now = asyncio.get_running_loop().time()
        if connection_lost and lease.worker_id in self.workers.live:
            self._scheduler.rest(lease.worker_id, now + _REST)
        self._scheduler.release(lease.id, now)
        self._replan()

    def mark_full(self, lease: Lease, pause: float) -> None:
        """As ``EnvPool.mark_full``."""
        if lease.worker_id in self.workers.live:
            self._scheduler.full(lease.worker_id, asyncio.get_running_loop().time() + pause)

    def is_leaving(self, lease: Lease) -> bool:
        """Return whether a worker is leaving, as ``EnvPool.is_leaving`` does."""
        live = self.workers.live.get(lease.worker_id)
        return live is not None and (
            live.worker.leaving
            or live.connection.going_away is not None
            or self._scheduler.leaves(live.id)
        )

    def drain_worker(self, lease: Lease, error: BaseException) -> None:
        """As ``EnvPool.drain_worker``."""
        live = self.workers.live.get(lease.worker_id)
        if live is not None and not live.worker.exited.done():
            log.warning("the worker %s is given up: %s", live.worker.name, error)
            self._scheduler.drain(live.id)

    def _replan(self) -> None:
        """Do what the scheduler says; called whenever it learned something."""
        if self._closing is not None:
            return
        loop = asyncio.get_running_loop()
        again = True
        while again:
            again = False
            plan = self._scheduler.plan(loop.time())
            for ticket, worker_id in plan.grants:
                waiter, env = self._waiters.pop(ticket)
                if waiter.cancelled():  # whoever waited will only learn it in its next turn
                    self._scheduler.release(ticket, loop.time())
                    again = True
                    continue
                lease = Lease(ticket, worker_id, self.workers.live[worker_id].worker, env)
                self._leases[ticket] = lease
                self._leased_count += 1
                waiter.set_result(lease)
            for worker_id, source in plan.starts:
                self.workers.start(worker_id, source)
            for worker_id in plan.ends:
                self.workers.end(worker_id)
        self._peak = max(self._peak, len(self._scheduler.workers))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if plan.wake_at != float("inf"):
            self._timer = loop.call_at(plan.wake_at, self._replan)

    # -- what the workers tell ------------------------------------------------------------------

    def _workers_changed(self) -> None:
        """A worker came or went."""
        self._replan()
        if self._on_progress is not None and self._closing is None:
            self._on_progress(self.statistics())

    def _lost(self, leases: list[int], error: OpenEnvError) -> None:
        for lease in leases:
            self._leases.pop(lease).lose(raised_again(error))

    def _fail_waiters(self, error: BaseException) -> None:
        waiters, self._waiters = self._waiters, {}
        for ticket, (waiter, _) in waiters.items():
            self._scheduler.withdraw(ticket)
            if not waiter.done():
                waiter.set_exception(raised_again(error))
                waiter.exception()  # it may be that nobody waits any more

    # -- facts --------------------------------------------------------------------------------

    @property
    def names(self) -> str:
        """Of the providers."""
        return " and ".join(sorted({provider.name for provider in self._providers}))

    def statistics(self) -> PoolStatistics:
        """What there is now, and was done so far; to be read in a turn of the loop."""
        workers = list(self._scheduler.workers.values())
        by_phase = {phase: [w for w in workers if w.phase is phase] for phase in WorkerPhase}
        now = 0.0 if self._loop is None or self.closed else self._loop.time()
        return PoolStatistics(
            ready=len(by_phase[WorkerPhase.READY]),
            starting=len(by_phase[WorkerPhase.STARTING]),
            draining=len(by_phase[WorkerPhase.DRAINING]),
            capacity=sum(worker.capacity for worker in by_phase[WorkerPhase.READY]),
            sessions=len(self._scheduler.holders),
            waiting=len(self._scheduler.waiting),
            sessions_leased=self._leased_count,
            workers_started=self.workers.started,
            starts_failed=self.workers.failed,
            workers_died=self.workers.died,
            workers_ended=self.workers.ended,
            peak_workers=self._peak,
            seconds=self._scheduler.seconds_at(now),
        )
