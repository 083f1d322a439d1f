"""EnvPool: environments on workers that the pool starts, watches, replaces and ends.

Ownership: the pool owns its providers and, through them, every worker; a task of the pool starts
or ends each. A leased environment owns its slot until it is closed. ``scheduler`` decides; the
pool has it carried out.

Rules:

- A plan follows each fact that the scheduler learns, and is carried out in the same turn of the
  loop.
- A ticket is either with a waiter or with a lease. A waiter that is cancelled withdraws its ticket;
  a lease that it was granted in that very moment is given back.
- One task opens, another closes, however many wait for them; neither ends when a caller is
  cancelled. Once it closes nothing is planned any more.
- It belongs to the process and the loop that opened it. A copy in a forked process begins anew.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import inspect
import itertools
import logging
import os
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypedDict, Unpack, cast, overload

from openenv_async.client.agent_lease import AgentLease, ModelGateway
from openenv_async.client.env import EnvClient, GenericEnvClient
from openenv_async.client.launch import START_TIMEOUT
from openenv_async.deadlines import wait_uncancelled
from openenv_async.errors import (
    OpenEnvError,
    OperationUnsupported,
    ProviderError,
    ServerBusy,
    SessionClosed,
    raised_again,
)
from openenv_async.pool.leases import Lease, LeasedClient, leased_class
from openenv_async.pool.playing import ClientT, PlayingPool
from openenv_async.pool.scheduler import PoolSettings, PoolStatistics
from openenv_async.pool.sources import importable, installed_client
from openenv_async.pool.workers import Workers
from openenv_async.providers.base import Provider, Worker
from openenv_async.providers.process import ProcessProvider
from openenv_async.providers.static import Finder, StaticProvider
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.resolve import ResolvedTarget, Target, resolve

__all__ = ["EnvPool"]

log = logging.getLogger("openenv_async.pool")

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    NewT = TypeVar("NewT", bound=EnvClient[Any, Any, Any], default=GenericEnvClient)
else:  # the default is for type checkers alone
    from typing import TypeVar

    NewT = TypeVar("NewT")

T = TypeVar("T")

_LOOK: Final = 0.5
"""Seconds between looks at what tells nobody when it changes."""
_REST: Final = 1.0
"""Seconds for which a worker that lost a session gets the next ones last."""
_TURN: Final = 1.0
"""Seconds to wait for a turn of the loop."""

_inherited: list[Any] = []
"""State that a forked process got from its parent: kept, since collecting it would end the
parent's connections."""


def _providers_of(given: Target) -> tuple[list[Provider], ResolvedTarget | None]:
    """Return the providers of a pool, and the target that they were made for.

    Raises:
        WrongTarget: no workers can be had of it.
        TargetNotFound: it is text that names nothing.
    """
    providers = [given] if isinstance(given, Provider) else given
    is_several = isinstance(providers, list | tuple) and len(providers) > 0
    if is_several and all(isinstance(each, Provider) for each in providers):
        return list(providers), None
    target = resolve(given, entry="EnvPool")
    return [target.provider()], target


class PoolKeywords(TypedDict, total=False):
    """Keyword arguments of ``EnvPool``, except ``client``."""

    client_options: dict[str, Any] | None
    max_workers: int | None
    sessions_per_worker: int
    min_workers: int
    warm_workers: int
    idle_ttl: float | None
    max_lifetime: float | None
    max_uses: int | None
    acquire_timeout: float | None
    start_timeout: float
    connections: int
    on_progress: Callable[[PoolStatistics], None] | None


class EnvPool(PlayingPool[ClientT]):
    """A pool of environments on many workers.

    ``async with EnvPool.from_env("echo") as pool, pool.session() as env:``

    Opening waits until ``min_workers`` are ready. A pickled pool is its settings: the copy opens
    when it is first used, with workers of its own (``shared`` makes one that plays on these). It
    belongs to the event loop that opened it; a forked process that uses an inherited one gets
    workers of its own as well.

    Args:
        provider: starts the workers; or several, the first that has room is used. The pool owns
            them and closes them. Any other target is resolved: an installed name, a URL, several,
            an environment class (served in this process), …; see ``of``.
        client: class of the leased environments, a subclass of ``EnvClient``; by default the
            target's own where it is known.
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

    @overload
    def __init__(
        self: EnvPool[GenericEnvClient],
        provider: Provider | Sequence[Provider],
        **options: Unpack[PoolKeywords],
    ) -> None: ...

    @overload
    def __init__(
        self,
        provider: Provider | Sequence[Provider] | Target,
        *,
        client: type[ClientT],
        **options: Unpack[PoolKeywords],
    ) -> None: ...

    @overload
    def __init__(
        self: EnvPool[EnvClient[Any, Any, Any]],
        provider: Target,
        **options: Unpack[PoolKeywords],
    ) -> None: ...

    def __init__(
        self,
        provider: Provider | Sequence[Provider] | Target,
        *,
        client: type[EnvClient[Any, Any, Any]] | None = None,
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
        providers, target = _providers_of(provider)
        if target is not None:
            client = client or target.client_class()
            client_options = {**target.client_settings(), **(client_options or {})}
        client = client or GenericEnvClient
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
        self.client = cast(type[ClientT], client)
        self.providers = providers
        self._client_options = dict(client_options or {})
        self._on_progress = on_progress
        self._leased = leased_class(client)
        self._begin()

    # -- constructors -------------------------------------------------------------------------
    #
    # Options that the pool does not know go to the provider.

    @overload
    @classmethod
    def of(
        cls,
        target: Target,
        *,
        params: Mapping[str, Any] | None = None,
        token: str | None = None,
        client: type[NewT],
        **options: Any,
    ) -> EnvPool[NewT]: ...

    @overload
    @classmethod
    def of(
        cls,
        target: Target,
        *,
        params: Mapping[str, Any] | None = None,
        token: str | None = None,
        **options: Any,
    ) -> EnvPool[EnvClient[Any, Any, Any]]: ...

    @classmethod
    def of(
        cls,
        target: Target,
        *,
        params: Mapping[str, Any] | None = None,
        token: str | None = None,
        client: type[EnvClient[Any, Any, Any]] | None = None,
        **options: Any,
    ) -> EnvPool[Any]:
        """Return a pool of anything that can be played on.

        Args:
            target: a URL, several, an installed name, ``module:Class``, a folder, an image,
                ``owner/space``, an environment class or factory (one worker in this process),
                a client, a factory of clients or a provider.
            params: constructor arguments, for a name or a class.
            token: access token, for URLs.
            client: class of the leased environments; by default the target's own.
            options: of ``EnvPool`` and of the provider that is made for the target.

        Raises:
            WrongTarget: it is nothing that has workers; a pool is one already.
            TargetNotFound: it is text that names nothing.
        """
        found = resolve(target, params=params, token=token, entry="EnvPool.of")
        if found.kind == "provider":
            return cls(found.given, client=client or GenericEnvClient, **options)
        settings = {**found.client_settings(), **(options.pop("client_options", None) or {})}
        return cls._of(
            found.provider,
            client=client or found.client_class(),
            client_options=settings,
            sized=found.kind in ("named", "environment"),
            **options,
        )

    @overload
    @classmethod
    def from_env(
        cls,
        name: str,
        params: Mapping[str, Any] | None = None,
        *,
        client: type[NewT],
        **options: Any,
    ) -> EnvPool[NewT]: ...

    @overload
    @classmethod
    def from_env(
        cls, name: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> EnvPool[EnvClient[Any, Any, Any]]: ...

    @classmethod
    def from_env(
        cls,
        name: str,
        params: Mapping[str, Any] | None = None,
        *,
        client: type[EnvClient[Any, Any, Any]] | None = None,
        **options: Any,
    ) -> EnvPool[Any]:
        """Return a pool of server processes of an installed environment.

        Args:
            name: of the environment.
            params: its constructor arguments.
            client: class of the leased environments; by default the environment's own.
            options: of ``EnvPool`` and ``ProcessProvider``.

        Raises:
            TargetNotFound: no installed environment has this name.
        """
        if client is None:
            client = installed_client(name) or GenericEnvClient
        return cls._of(ProcessProvider, name, params, client=client, **options)

    @classmethod
    def from_spec(
        cls,
        spec: EnvironmentSpec | type | str | Path,
        params: Mapping[str, Any] | None = None,
        *,
        client: type[NewT] = GenericEnvClient,  # type: ignore[assignment]  # the default of NewT
        **options: Any,
    ) -> EnvPool[NewT]:
        """Return a pool of server processes of an environment that need not be installed.

        Args:
            spec: ``module:Class``, a folder with an ``openenv.yaml``, the id of a registered
                Gymnasium environment, an ``Environment`` class or an ``EnvironmentSpec`` of one;
                a class must be importable by its name.
            params: constructor arguments.
            client: class of the leased environments.
            options: of ``EnvPool`` and ``ProcessProvider``.

        Raises:
            TargetNotFound: another process could not import it.
        """
        target, params = importable(spec, params)
        return cls._of(ProcessProvider, target, params, client=client, **options)

    @classmethod
    def from_docker_image(
        cls,
        image: str,
        *,
        client: type[NewT] = GenericEnvClient,  # type: ignore[assignment]  # the default of NewT
        **options: Any,
    ) -> EnvPool[NewT]:
        """Return a pool of containers of an image.

        Args:
            image: its name.
            client: class of the leased environments.
            options: of ``EnvPool`` and ``DockerProvider``.
        """
        from openenv_async.providers.docker import DockerProvider

        return cls._of(DockerProvider, image, client=client, **options)

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        client: type[NewT] = GenericEnvClient,  # type: ignore[assignment]  # the default of NewT
        **options: Any,
    ) -> EnvPool[NewT]:
        """Return a pool on a server that runs already.

        Args:
            url: of the server.
            client: class of the leased environments.
            options: of ``EnvPool``, and ``token``.
        """
        return cls._of(StaticProvider, url, client=client, **options)

    @classmethod
    def from_urls(
        cls,
        urls: Iterable[str] | Finder,
        *,
        client: type[NewT] = GenericEnvClient,  # type: ignore[assignment]  # the default of NewT
        **options: Any,
    ) -> EnvPool[NewT]:
        """Return a pool on servers that run already.

        Args:
            urls: theirs, or a callable, sync or async, that gives them and is asked again.
            client: class of the leased environments.
            options: of ``EnvPool`` and ``StaticProvider``, ``token`` among them.
        """
        addresses = (urls,) if callable(urls) or isinstance(urls, str) else urls
        return cls._of(StaticProvider, *addresses, client=client, **options)

    @classmethod
    def from_dns(
        cls,
        url: str,
        *,
        client: type[NewT] = GenericEnvClient,  # type: ignore[assignment]  # the default of NewT
        **options: Any,
    ) -> EnvPool[NewT]:
        """Return a pool on the servers at all addresses of a host name, looked up repeatedly.

        Args:
            url: with the host name.
            client: class of the leased environments.
            options: of ``EnvPool`` and ``StaticProvider``, ``token`` among them.
        """
        return cls._of(StaticProvider.from_dns, url, client=client, **options)

    @classmethod
    def from_space(
        cls,
        space: str,
        *,
        client: type[NewT] = GenericEnvClient,  # type: ignore[assignment]  # the default of NewT
        **options: Any,
    ) -> EnvPool[NewT]:
        """Return a pool on a Hugging Face Space.

        Args:
            space: ``owner/name``.
            client: class of the leased environments.
            options: of ``EnvPool`` and ``SpaceProvider``.
        """
        from openenv_async.providers.space import SpaceProvider

        return cls._of(SpaceProvider, space, client=client, **options)

    @classmethod
    def _of(cls, make: Any, *args: Any, sized: bool = False, **options: Any) -> EnvPool[Any]:
        """Return a pool of the provider that ``make`` makes of the options it does not take.

        Args:
            make: makes the provider.
            args: its arguments.
            sized: whether the provider is told how many sessions a worker may have.
            options: of the pool and of the provider.
        """
        own = set(inspect.signature(cls).parameters) - {"provider"}
        given = {name: options.pop(name) for name in own & options.keys()}
        if (sized or make is ProcessProvider) and "sessions_per_worker" in given:
            options.setdefault("max_sessions", given["sessions_per_worker"])
        provider: Provider = make(*args, **options)
        return cls(provider, **given)

    # -- life ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Set up the state of a pool that was never opened."""
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connection_numbers = itertools.count()
        self._scheduler = self._settings.scheduler([p.owns_workers for p in self.providers])
        self._workers = Workers(
            self.providers,
            self._scheduler,
            self._warm_client,
            start_timeout=self._settings.start_timeout,
            ssl=self._client_options.get("ssl"),
            changed=self._workers_changed,
            lost=self._lost,
            none_left=self._fail_waiters,
        )
        self._closed = False
        self._opening: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._upkeep: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiters: dict[int, tuple[asyncio.Future[Lease], LeasedClient]] = {}
        self._leases: dict[int, Lease] = {}

    def _warm_client(self, worker: Worker) -> LeasedClient:
        return self._leased(worker.url, **{**self._client_options, "token": worker.token})

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings."""
        names = [name for name in self.__dict__ if name not in _RUNTIME]
        state = {name: self.__dict__[name] for name in names}
        return state | {"_on_progress": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._leased = leased_class(self.client)
        self._begin()

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
        self._check_usable()
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(), name="openenv-pool-open")
            self._opening.add_done_callback(self._opened)
        opening = self._opening
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if opening.cancelled() and task is not None and not task.cancelling():
                raise SessionClosed("the pool was closed while it opened") from None
            raise
        return self

    @property
    def is_closed(self) -> bool:
        """Return whether it was closed, or closes; a forked process has a pool of its own."""
        return self._pid == os.getpid() and (self._closed or self._closing is not None)

    def _check_usable(self) -> None:
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
        await self._workers.look()
        self._replan()
        await self._workers.settled()
        error = self._workers.error
        if not self._workers.live and (self._settings.min_workers or error is not None):
            raise (
                raised_again(error)
                if error is not None
                else ProviderError(
                    f"no worker can be started: {self._names} has room for none", phase="open"
                )
            )
        if self._upkeep is None:
            self._upkeep = asyncio.create_task(self._look_after(), name="openenv-pool-upkeep")

    async def _look_after(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            await self._workers.look()
            self._replan()

    async def aclose(self) -> None:
        """End every worker and close the providers; idempotent.

        Environments that are still leased are closed. It goes on when its caller is cancelled,
        and returns when nothing is left.
        """
        if self._closed or self._pid != os.getpid():
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
        await self._workers.stop()
        if self._timer is not None:
            self._timer.cancel()
        self._fail_waiters(error)
        for lease in list(self._leases.values()):
            if self.providers[self._workers.live[lease.worker_id].source].owns_workers:
                lease.lose(raised_again(error))
            else:
                self.spawn(lease.env.close(), "openenv-release")
        self._scheduler.close(asyncio.get_running_loop().time())
        await self._workers.aclose()
        self._leases.clear()
        for provider in self.providers:
            await provider.aclose()
        self._closed = True

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Start a task that the pool waits for when it closes."""
        return self._workers.spawn(work, name)

    # -- slots --------------------------------------------------------------------------------

    @overload
    def session(
        self,
        *,
        client: type[NewT],
        acquire_timeout: float | None = None,
        **client_options: Any,
    ) -> NewT: ...

    @overload
    def session(
        self, *, acquire_timeout: float | None = None, **client_options: Any
    ) -> ClientT: ...

    def session(
        self,
        *,
        client: type[EnvClient[Any, Any, Any]] | None = None,
        acquire_timeout: float | None = None,
        **client_options: Any,
    ) -> Any:
        """Return an environment of the pool, which is opened as every other client.

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

    def lease(
        self,
        *,
        gateway: ModelGateway | None = None,
        budget: Any = None,
        client: type[EnvClient[Any, Any, Any]] | None = None,
        acquire_timeout: float | None = None,
        **client_options: Any,
    ) -> AgentLease[Any, Any]:
        """Return an environment of the pool with all that an agent needs to play it.

        ``async with pool.lease(gateway=gateway) as lease:``. Its ``env`` is as ``session`` gives
        it, ``mcp`` the address at which an agent takes steps in it, and ``model`` a key of the
        gateway with its base URLs. All end with the lease.

        Args:
            gateway: opens the model's side; ``None``: the lease has none.
            budget: of the model's side, as the gateway takes it.
            client, acquire_timeout, client_options: as for ``session``.
        """
        env = self.session(
            client=client or self.client, acquire_timeout=acquire_timeout, **client_options
        )
        return AgentLease(env, gateway=gateway, budget=budget)

    def worker_of(self, env: EnvClient[Any, Any, Any]) -> Worker | None:
        """Return the worker that an environment of this pool plays on, if it holds a slot."""
        return env.worker if isinstance(env, LeasedClient) and env._pool is self else None

    def share_of(self, number: int) -> bool | str:
        """Name the sessions of a worker with which this one shares its connection."""
        connection = number % self._settings.connections
        return f"pool-{connection}" if connection else True

    async def acquire(self, env: LeasedClient, timeout: float | None) -> Lease:
        """Wait for a slot for ``env``; leased environments do this themselves.

        Raises:
            ServerBusy: none came free in time.
            ProviderError, DeadlineExceeded: there is no worker, and none could be started.
            SessionClosed: the pool is closed.
        """
        self._check_usable()
        if self._opening is None or not self._opening.done():
            await self.open()
            self._check_usable()  # it may have been closed since
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
        now = self._read()
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
        """Take a slot back; leased environments do this themselves.

        Args:
            lease: of the slot.
            connection_lost: its connection or session was lost: other workers get the next
                sessions first.
        """
        if self._leases.pop(lease.id, None) is None:
            return
        now = asyncio.get_running_loop().time()
        if connection_lost and lease.worker_id in self._workers.live:
            self._scheduler.rest(lease.worker_id, now + _REST)
        self._scheduler.release(lease.id, now)
        self._replan()

    def mark_full(self, lease: Lease, pause: float) -> None:
        """Note that a server refused a session: it has fewer slots than the scheduler knows of."""
        if lease.worker_id in self._workers.live:
            self._scheduler.full(lease.worker_id, asyncio.get_running_loop().time() + pause)

    def is_leaving(self, lease: Lease) -> bool:
        """Tell whether the worker of a lease is to get no further episode."""
        live = self._workers.live.get(lease.worker_id)
        return live is not None and (
            live.worker.leaving
            or live.connection.going_away is not None
            or self._scheduler.leaves(live.id)
        )

    def drain_worker(self, lease: Lease, error: BaseException) -> None:
        """Give the worker of a lease no more sessions: it could not be reached."""
        live = self._workers.live.get(lease.worker_id)
        if live is None or live.worker.exited.done() or self._scheduler.leaves(live.id):
            return
        log.warning("the worker %s gets no more sessions: %s", live.worker.name, error)
        self._scheduler.drain(live.id)

    def _replan(self) -> None:
        """Carry out the scheduler's plan; called whenever it learned something."""
        if self._closing is not None:
            return
        loop = asyncio.get_running_loop()
        again = True
        while again:
            again = False
            plan = self._scheduler.plan(loop.time())
            for ticket, worker_id in plan.grants:
                waiter, env = self._waiters.pop(ticket)
                if waiter.cancelled():  # its caller will only learn it in its next turn
                    self._scheduler.revoke(ticket, loop.time())
                    again = True
                    continue
                lease = Lease(ticket, worker_id, self._workers.live[worker_id].worker, env)
                self._leases[ticket] = lease
                waiter.set_result(lease)
            for worker_id, source in plan.starts:
                self._workers.start(worker_id, source)
            for worker_id in plan.ends:
                self._workers.end(worker_id)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if plan.wake_at != float("inf"):
            self._timer = loop.call_at(plan.wake_at, self._replan)

    # -- reports of the workers ---------------------------------------------------------------

    def _workers_changed(self) -> None:
        """Plan anew after a worker came or went."""
        self._replan()
        if self._on_progress is not None and self._closing is None:
            self._on_progress(self._read())

    def _lost(self, leases: list[int], error: OpenEnvError) -> None:
        for lease in leases:
            self._leases.pop(lease).lose(raised_again(error))

    def _fail_waiters(self, error: BaseException) -> None:
        waiters, self._waiters = self._waiters, {}
        for ticket, (waiter, _) in waiters.items():
            self._scheduler.withdraw(ticket)
            if not waiter.done():
                waiter.set_exception(raised_again(error))
                waiter.exception()  # its caller may have been cancelled

    # -- facts --------------------------------------------------------------------------------

    @property
    def workers(self) -> list[Worker]:
        """The workers that are ready."""
        return [live.worker for live in self._workers.live.values()]

    @property
    def _names(self) -> str:
        """The providers' names."""
        return " and ".join(sorted({provider.name for provider in self.providers}))

    def shared(self) -> EnvPool[ClientT]:
        """Return a pool for other processes that plays on the workers of this one.

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
        """Return the pool's counts now and so far; from any thread."""
        if self._loop is None or self._pid != os.getpid():
            return self._read()
        return _read_between_turns(self._loop, self._read)

    def _read(self) -> PoolStatistics:
        """Return the counts; to be called in a turn of the loop."""
        return self._scheduler.statistics(
            0.0 if self._loop is None or self._closed else self._loop.time()
        )

    def __repr__(self) -> str:
        now = self._read()
        return f"<EnvPool of {self._names}: {now.ready} workers, {now.sessions} sessions>"


_RUNTIME: Final = frozenset(
    {
        "_pid",
        "_loop",
        "_connection_numbers",
        "_scheduler",
        "_workers",
        "_closed",
        "_opening",
        "_closing",
        "_upkeep",
        "_timer",
        "_waiters",
        "_leases",
        "_leased",
    }
)
"""Attributes that a copy makes anew."""


def _read_between_turns(
    loop: asyncio.AbstractEventLoop, read: Callable[[], PoolStatistics]
) -> PoolStatistics:
    """Read what ``loop`` changes, from any thread: never in the middle of a change.

    A loop that gives no turn for a second is busy with other code than the pool's, whose turns
    are short: then it is read as it stands.
    """
    if _runs_here(loop) or not loop.is_running():
        return read()
    reading: concurrent.futures.Future[PoolStatistics] = concurrent.futures.Future()

    def take_turn() -> None:
        if reading.set_running_or_notify_cancel():
            reading.set_result(read())

    try:
        loop.call_soon_threadsafe(take_turn)
    except RuntimeError:  # it was closed meanwhile
        return read()
    try:
        return reading.result(_TURN)
    except TimeoutError:
        reading.cancel()
        return read()


def _runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
