"""EnvPool: environments on workers that the pool starts, watches, replaces and ends.

Ownership: the pool owns its providers and, through them, every worker; a task of the pool starts
or ends each. A leased environment owns its slot until it is closed. What the pool decides is in
``scheduler``; ``dispatch`` does it. Here is what a pool is before and after that: its settings, and
the process and loop that it belongs to.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Self, TypeVar

from openenv_async.client.env import EnvClient, GenericEnvClient
from openenv_async.client.launch import START_TIMEOUT
from openenv_async.errors import OperationUnsupported, SessionClosed, shown
from openenv_async.pool.dispatch import Dispatch
from openenv_async.pool.leases import Lease, LeasedClient, leased_class
from openenv_async.pool.playing import Playing
from openenv_async.pool.settings import PoolSettings
from openenv_async.pool.sources import Sources
from openenv_async.pool.statistics import PoolStatistics, read_between_turns
from openenv_async.providers.base import Provider, Worker
from openenv_async.providers.static import StaticProvider

__all__ = ["EnvPool"]

T = TypeVar("T")

_inherited: list[Any] = []
"""What a forked process got from its parent: kept, since collecting it would end the parent's."""


def _providers_of(given: Any) -> list[Provider]:
    """The providers that a pool was given.

    Raises:
        TypeError, ValueError: there is none.
    """
    providers = [given] if isinstance(given, Provider) else given
    if isinstance(providers, list | tuple) and all(isinstance(p, Provider) for p in providers):
        if not providers:
            raise ValueError("no provider to start workers with")
        return list(providers)
    if isinstance(given, str) and "://" in given:
        cure = f"EnvPool.from_url({given!r}) plays on a server that runs"
    elif isinstance(given, str):
        cure = f"ProcessProvider({given!r}) starts servers of it"
    else:
        cure = "such as ProcessProvider('module:Class')"
    raise TypeError(f"a pool needs a Provider, got {shown(given)}: {cure}")


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
        providers = _providers_of(provider)
        self._settings = PoolSettings(
            max_workers=max_workers,
            sessions_per_worker=sessions_per_worker,
            min_workers=min_workers,
            warm_workers=warm_workers,
            idle_ttl=idle_ttl,
            max_lifetime=max_lifetime,
            max_uses=max_uses,
            acquire_timeout=acquire_timeout,
            start_timeout=start_timeout,
            connections=connections,
        )
        self.client = client
        self.providers = providers
        self._client_options = dict(client_options or {})
        self._on_progress = on_progress
        self._leased = leased_class(client)
        self._begin()

    def _begin(self) -> None:
        """The state of a pool that was never opened."""
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection_numbers = itertools.count()
        self._dispatch = Dispatch(
            self.providers,
            self._settings,
            warm_client=self._warm_client,
            on_progress=self._on_progress,
        )

    def _warm_client(self, worker: Worker) -> LeasedClient:
        return self._leased(worker.url, **{**self._client_options, "token": worker.token})

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
        await self._dispatch.open()
        return self

    def _check_place(self) -> None:
        if self._pid != os.getpid():
            _inherited.append(self.__dict__.copy())
            self.providers = [copy.copy(provider) for provider in self.providers]
            self._begin()
        if self._dispatch.ending:
            raise SessionClosed("this pool was closed: make a new one")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise OperationUnsupported(
                "this pool was opened on another event loop: make one per loop, or use"
                " SyncEnvPool, which any thread may call"
            )

    async def aclose(self) -> None:
        """End every worker and close the providers; idempotent.

        Environments that are still leased are closed. It goes on when its caller is cancelled,
        and returns when nothing is left.
        """
        if self._pid == os.getpid():
            await self._dispatch.aclose()

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A task that the pool waits for when it closes."""
        return self._dispatch.workers.spawn(work, name)

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
        env._connection_number = next(self._connection_numbers)
        env._acquire_timeout = (
            self._settings.acquire_timeout if acquire_timeout is None else acquire_timeout
        )
        return env

    def share_of(self, number: int) -> bool | str:
        """With which other sessions of a worker one shares its connection."""
        connection = number % self._settings.connections
        return f"pool-{connection}" if connection else True

    async def acquire(self, env: LeasedClient, timeout: float | None) -> Lease:
        """A slot for ``env``; leased environments do this themselves.

        Raises:
            ServerBusy: none came free in time.
            ProviderError, DeadlineExceeded: there is no worker, and none could be started.
            SessionClosed: the pool is closed.
        """
        self._check_place()
        if not self._dispatch.is_open:
            await self._dispatch.open()
        return await self._dispatch.acquire(env, timeout)

    def release(self, lease: Lease, *, connection_lost: bool = False) -> None:
        """Take a slot back; leased environments do this themselves.

        Args:
            lease: of the slot.
            connection_lost: its connection or session was lost: others get the next sessions first.
        """
        self._dispatch.release(lease, connection_lost=connection_lost)

    def mark_full(self, lease: Lease, pause: float) -> None:
        """A server refused a session: it has fewer slots than the scheduler knows of."""
        self._dispatch.mark_full(lease, pause)

    def is_leaving(self, lease: Lease) -> bool:
        """Tell whether the worker of a lease is to get no further episode."""
        return self._dispatch.is_leaving(lease)

    def drain_worker(self, lease: Lease, error: BaseException) -> None:
        """A worker could not be reached: it gets no more sessions."""
        self._dispatch.drain_worker(lease, error)

    # -- facts --------------------------------------------------------------------------------

    @property
    def workers(self) -> list[Worker]:
        """The workers that are ready."""
        return [live.worker for live in self._dispatch.workers.live.values()]

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
            sessions_per_worker=self._settings.sessions_per_worker,
            acquire_timeout=self._settings.acquire_timeout,
            connections=self._settings.connections,
        )

    def statistics(self) -> PoolStatistics:
        """What the pool has now, and has done so far; from any thread."""
        if self._loop is None or self._pid != os.getpid():
            return self._dispatch.statistics()
        return read_between_turns(self._loop, self._dispatch.statistics)

    def __repr__(self) -> str:
        now = self._dispatch.statistics()
        return f"<EnvPool of {self._dispatch.names}: {now.ready} workers, {now.sessions} sessions>"


_RUNTIME: Final = frozenset({"_pid", "_loop", "_connection_numbers", "_dispatch", "_leased"})
"""Attributes that a copy makes anew."""
