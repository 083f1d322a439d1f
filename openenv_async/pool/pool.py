"""EnvPool: environments on workers that the pool starts, watches, replaces and ends.

Ownership: the pool owns its providers and, through them, every worker; a task of the pool starts
or ends each. A leased environment owns its slot until it is closed. What the pool decides is in
``book``; this file does it.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Self, TypeVar

from openenv_async.client.env import EnvClient, GenericEnvClient
from openenv_async.client.launch import START_TIMEOUT
from openenv_async.errors import (
    OpenEnvError,
    OperationUnsupported,
    ProviderError,
    ServerBusy,
    SessionClosed,
)
from openenv_async.pool.book import Book, Phase, SourceRules
from openenv_async.pool.crew import Crew
from openenv_async.pool.leasing import Lease, Leased, leased_class
from openenv_async.pool.playing import Playing
from openenv_async.pool.sources import Sources
from openenv_async.pool.statistics import PoolStatistics
from openenv_async.providers.base import Provider, Worker
from openenv_async.providers.static import StaticProvider

__all__ = ["EnvPool"]

log = logging.getLogger("openenv_async.pool")
T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_LOOK: Final = 1.0
"""Seconds between looks at what tells nobody when it changes."""
_REST: Final = 1.0

_inherited: list[Any] = []
"""What a forked process got from its parent: kept, since collecting it would end the parent's."""


class EnvPool(Playing, Sources):
    """Leases environments that live on many workers.

    ``async with EnvPool.from_env("echo") as pool, pool.session() as env:``

    Opening waits until ``min_workers`` are ready. A pickled pool is its settings: the copy opens
    when it is first used, with workers of its own (``shared`` makes one that plays on these). It
    belongs to the event loop that opened it; a forked process that uses an inherited one gets
    workers of its own as well.

    Args:
        provider: starts the workers; or several, the first that has room is used. The pool owns
            them and closes them.
        client: class of the leased environments, a subclass of ``EnvClient``.
        client_options: more arguments of that class, ``timeouts`` for one.
        max_workers: of each provider, at once; by default 8, and all that a provider finds which
            starts nothing itself.
        sessions_per_worker: slots of each worker; fewer where its server says so.
        min_workers: kept also when nothing is played.
        warm_workers: kept ready beyond those that are used.
        idle_ttl: seconds after which a worker that is not kept and not used is ended.
        max_lifetime: seconds after which a worker is replaced, when its sessions have ended.
        max_uses: sessions after which a worker is replaced; 1: a fresh worker for each.
        acquire_timeout: seconds to wait for a slot.
        start_timeout: seconds that a worker has to start and answer.
        connections: WebSocket connections to each worker that its sessions share.
        on_progress: called with ``statistics()`` when a worker came or went; must not block.
    """

    def __init__(
        self,
        provider: Provider | Sequence[Provider],
        *,
        client: type[EnvClient[Any, Any, Any]] = GenericEnvClient,
        client_options: dict[str, Any] | None = None,
        max_workers: int | None = None,
        sessions_per_worker: int = 64,
        min_workers: int = 1,
        warm_workers: int = 0,
        idle_ttl: float | None = 300.0,
        max_lifetime: float | None = None,
        max_uses: int | None = None,
        acquire_timeout: float | None = 60.0,
        start_timeout: float = START_TIMEOUT,
        connections: int = 1,
        on_progress: Callable[[PoolStatistics], None] | None = None,
    ) -> None:
        providers = [provider] if isinstance(provider, Provider) else list(provider)
        if not providers:
            raise ValueError("no provider to start workers with")
        counts = {
            "max_workers": max_workers,
            "sessions_per_worker": sessions_per_worker,
            "max_uses": max_uses,
            "connections": connections,
        }
        for name, count in counts.items():
            if count is not None and count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        for name, count in (("min_workers", min_workers), ("warm_workers", warm_workers)):
            if not 0 <= count <= (max_workers or count):
                raise ValueError(f"{name} must be 0 to {max_workers} (max_workers), got {count}")
        self.client = client
        self.providers = providers
        self._client_options = dict(client_options or {})
        self._max_workers = max_workers
        self._sessions_per_worker = sessions_per_worker
        self._min_workers = min_workers
        self._warm_workers = warm_workers
        self._idle_ttl = idle_ttl
        self._max_lifetime = max_lifetime
        self._max_uses = max_uses
        self._acquire_timeout = acquire_timeout
        self._start_timeout = start_timeout
        self._connections = connections
        self._on_progress = on_progress
        self._leased = leased_class(client)
        self._begin()

    def _begin(self) -> None:
        """The state of a pool that was never opened."""
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._closed = False
        self._book = Book(
            [self._rules(provider) for provider in self.providers],
            min_workers=self._min_workers,
            warm_workers=self._warm_workers,
            idle_ttl=self._idle_ttl,
            max_lifetime=self._max_lifetime,
            max_uses=self._max_uses,
        )
        self._crew = Crew(
            self.providers,
            self._book,
            self._keeper,
            start_timeout=self._start_timeout,
            changed=self._crew_changed,
            lost=self._lost,
            in_vain=self._fail_waiters,
        )
        self._waiters: dict[int, tuple[asyncio.Future[Lease], Leased]] = {}
        self._leases: dict[int, Lease] = {}
        self._upkeep: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lanes = itertools.count()
        self._leased_count = self._peak = 0

    def _rules(self, provider: Provider) -> SourceRules:
        most = self._max_workers
        if most is None:
            most = max(8, self._min_workers) if provider.owns_workers else 1 << 20
        return SourceRules(most, self._sessions_per_worker, free=not provider.owns_workers)

    def __getstate__(self) -> dict[str, Any]:
        """The settings."""
        names = [name for name in self.__dict__ if name not in _RUNTIME]
        state = {name: self.__dict__[name] for name in names}
        return state | {"_on_progress": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._leased = leased_class(self.client)
        self._begin()

    # -- life ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        try:
            return await self.open()
        except BaseException:
            await self.aclose()
            raise

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def open(self) -> Self:
        """Start ``min_workers`` and wait for them; idempotent.

        Raises:
            ProviderError, DeadlineExceeded: not one worker could be started.
            SessionClosed: the pool was closed.
        """
        self._check_place()
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="openenv-pool-open")
            self._opening.add_done_callback(self._opened)
        await asyncio.shield(self._opening)
        return self

    def _check_place(self) -> None:
        if self._pid != os.getpid():
            _inherited.append(self.__dict__.copy())
            self.providers = [copy.copy(provider) for provider in self.providers]
            self._begin()
        if self._closed or self._closing is not None:
            raise SessionClosed("this pool was closed: make a new one")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise OperationUnsupported(
                "this pool was opened on another event loop: make one per loop, or use"
                " SyncEnvPool, which any thread may call"
            )

    def _opened(self, opening: asyncio.Task[None]) -> None:
        if opening.cancelled() or opening.exception() is not None:
            self._opening = None  # the next caller tries again

    async def _open(self) -> None:
        await self._crew.look()
        self._replan()
        await self._crew.settled()
        error = self._crew.error
        if not self._crew.live and (self._min_workers or error is not None):
            raise (
                _fresh(error)
                if error is not None
                else ProviderError(
                    f"no worker can be started: {self._names()} has room for none", phase="open"
                )
            )
        if self._upkeep is None:
            self._upkeep = asyncio.create_task(self._look_after(), name="openenv-pool-upkeep")

    async def aclose(self) -> None:
        """End every worker and close the providers; idempotent.

        Environments that are still leased are closed. It goes on when its caller is cancelled,
        and returns when nothing is left.
        """
        if self._pid != os.getpid() or self._closed:
            self._closed = True
            return
        if self._closing is None:
            self._closing = asyncio.create_task(self._shut_down(), name="openenv-pool-close")
        await _outlast(self._closing)

    async def _shut_down(self) -> None:
        error = SessionClosed("the pool was closed")
        tasks = [task for task in (self._opening, self._upkeep) if task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._crew.stop()
        if self._timer is not None:
            self._timer.cancel()
        self._fail_waiters(error)
        for lease in list(self._leases.values()):
            if self.providers[self._crew.live[lease.worker_id].source].owns_workers:
                lease.lose(_fresh(error))
            else:
                self.spawn(lease.env.close(), "openenv-release")
        self._book.close(asyncio.get_running_loop().time())
        await self._crew.aclose()
        self._leases.clear()
        for provider in self.providers:
            await provider.aclose()
        self._closed = True

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A task that the pool waits for when it closes."""
        return self._crew.spawn(work, name)

    def _keeper(self, worker: Worker) -> Leased:
        keeper = self._leased(worker.url, **self._client_options)
        keeper._token = worker.token
        return keeper

    # -- leases -------------------------------------------------------------------------------

    def session(
        self,
        *,
        client: type[EnvClient[Any, Any, Any]] | None = None,
        acquire_timeout: float | None = None,
        **client_options: Any,
    ) -> Any:
        """An environment of the pool, once it is opened: a client as every other.

        ``async with pool.session() as env:``, or ``env = await pool.session()`` and later
        ``await env.close()``. Its first use opens it as well. ``close`` gives the slot back;
        after that it cannot be used any more. When its worker dies, calls raise ``WorkerDied``
        and ``reset`` begins an episode on another worker.

        Args:
            client: its class, instead of the pool's.
            acquire_timeout: seconds to wait for a slot, instead of the pool's.
            client_options: instead of the pool's: ``options`` of the environment, ``timeouts``.
        """
        cls = self._leased if client is None else leased_class(client)
        env = cls("pool:", **{**self._client_options, **client_options})
        env._pool = self
        env._lane = next(self._lanes)
        env._acquire_timeout = self._acquire_timeout if acquire_timeout is None else acquire_timeout
        return env

    def lane(self, number: int) -> bool | str:
        """With which other sessions of a worker one shares its connection."""
        lane = number % self._connections
        return f"pool-{lane}" if lane else True

    async def acquire(self, env: Leased, timeout: float | None) -> Lease:
        """A slot for ``env``; leased environments do this themselves.

        Raises:
            ServerBusy: none came free in time.
            ProviderError, DeadlineExceeded: there is no worker, and none could be started.
            SessionClosed: the pool is closed.
        """
        if self._opening is None or not self._opening.done() or self._closing is not None:
            await self.open()
        else:
            self._check_place()
        loop = asyncio.get_running_loop()
        ticket = self._book.ask()
        waiter: asyncio.Future[Lease] = loop.create_future()
        self._waiters[ticket] = waiter, env
        self._replan()
        if waiter.done():
            return waiter.result()
        try:
            async with asyncio.timeout(timeout):
                return await waiter
        except BaseException as exc:
            if self._waiters.pop(ticket, None) is not None:
                self._book.withdraw(ticket)
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

    def release(self, lease: Lease, *, troubled: bool = False) -> None:
        """Take a slot back; leased environments do this themselves.

        Args:
            lease: of the slot.
            troubled: its connection or session was lost: others get the next sessions first.
        """
        if self._leases.pop(lease.id, None) is None:
            return
        now = asyncio.get_running_loop().time()
        if troubled and lease.worker_id in self._crew.live:
            self._book.rest(lease.worker_id, now + _REST)
        self._book.release(lease.id, now)
        self._replan()

    def is_full(self, lease: Lease, pause: float) -> None:
        """A server refused a session: it has fewer slots than the book knows of."""
        if lease.worker_id in self._crew.live:
            self._book.full(lease.worker_id, asyncio.get_running_loop().time() + pause)

    def doubt(self, lease: Lease, error: BaseException) -> None:
        """A worker could not be reached: it gets no more sessions."""
        live = self._crew.live.get(lease.worker_id)
        if live is not None and not live.worker.exited.done():
            log.warning("the worker %s is given up: %s", live.worker.name, error)
            self._book.drain(live.id)

    # -- workers ------------------------------------------------------------------------------

    def _replan(self) -> None:
        """Do what the book says; called whenever it learned something."""
        if self._closing is not None:
            return
        loop = asyncio.get_running_loop()
        again = True
        while again:
            again = False
            plan = self._book.plan(loop.time())
            for ticket, worker_id in plan.grants:
                waiter, env = self._waiters.pop(ticket)
                if waiter.cancelled():  # whoever waited will only learn it in its next turn
                    self._book.release(ticket, loop.time())
                    again = True
                    continue
                lease = Lease(ticket, worker_id, self._crew.live[worker_id].worker, env)
                self._leases[ticket] = lease
                self._leased_count += 1
                waiter.set_result(lease)
            for worker_id, source in plan.starts:
                self._crew.start(worker_id, source)
            for worker_id in plan.ends:
                self._crew.end(worker_id)
        self._peak = max(self._peak, len(self._book.workers))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if plan.wake_at != float("inf"):
            self._timer = loop.call_at(plan.wake_at, self._replan)

    def _crew_changed(self) -> None:
        """A worker came or went."""
        self._replan()
        if self._on_progress is not None and self._closing is None:
            self._on_progress(self.statistics())

    def _lost(self, leases: list[int], error: OpenEnvError) -> None:
        for lease in leases:
            self._leases.pop(lease).lose(_fresh(error))

    def _fail_waiters(self, error: BaseException) -> None:
        waiters, self._waiters = self._waiters, {}
        for ticket, (waiter, _) in waiters.items():
            self._book.withdraw(ticket)
            if not waiter.done():
                waiter.set_exception(_fresh(error))
                waiter.exception()  # it may be that nobody waits any more

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            await self._crew.look()
            self._replan()

    # -- facts --------------------------------------------------------------------------------

    @property
    def workers(self) -> list[Worker]:
        """The workers that are ready."""
        return [live.worker for live in self._crew.live.values()]

    def shared(self) -> EnvPool:
        """A pool for other processes that plays on the workers of this one.

        It starts and ends none. Pickle it; it is good for as long as these workers are.
        """
        pairs = [(worker.url, worker.token) for worker in self.workers]
        if not pairs:
            raise OperationUnsupported("a pool without workers cannot be shared: open it first")
        return EnvPool(
            StaticProvider(*pairs),
            client=self.client,
            client_options=self._client_options,
            sessions_per_worker=self._sessions_per_worker,
            acquire_timeout=self._acquire_timeout,
            connections=self._connections,
        )

    def statistics(self) -> PoolStatistics:
        """What the pool has now, and has done so far."""
        workers = self._book.workers.values()
        by_phase = {phase: [w for w in workers if w.phase is phase] for phase in Phase}
        now = 0.0 if self._loop is None or self._closed else self._loop.time()
        return PoolStatistics(
            ready=len(by_phase[Phase.READY]),
            starting=len(by_phase[Phase.STARTING]),
            draining=len(by_phase[Phase.DRAINING]),
            capacity=sum(worker.capacity for worker in by_phase[Phase.READY]),
            sessions=len(self._book.holders),
            waiting=len(self._book.waiting),
            sessions_leased=self._leased_count,
            workers_started=self._crew.started,
            starts_failed=self._crew.failed,
            workers_died=self._crew.died,
            workers_ended=self._crew.ended,
            peak_workers=self._peak,
            seconds=self._book.seconds_at(now),
        )

    def _names(self) -> str:
        return " and ".join(sorted({provider.name for provider in self.providers}))

    def __repr__(self) -> str:
        now = self.statistics()
        return f"<EnvPool of {self._names()}: {now.ready} workers, {now.sessions} sessions>"


_RUNTIME: Final = frozenset(
    {
        *("_pid", "_loop", "_opening", "_closing", "_closed", "_book", "_crew", "_waiters"),
        *("_leases", "_upkeep", "_timer", "_lanes", "_leased_count", "_peak", "_leased"),
    }
)
"""Attributes that a copy makes anew."""


def _fresh(error: E) -> E:
    """The error once more: one exception object must not be raised by several tasks."""
    return copy.copy(error)


async def _outlast(task: asyncio.Task[Any]) -> None:
    """Wait for a task however often the caller is cancelled; then be cancelled."""
    interrupted: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            interrupted = exc
    if interrupted is not None:
        raise interrupted
    task.result()
