"""The clients of a target: they open on use, on the servers that ``open`` started or found.

Rules:

- Clients of one server share its connections, as all clients do; a pool leases its own.
- A pickled copy plays on the servers that run, and starts and ends none. A forked one leaves them
  to the process that started them.
- A client that was given is not used: its settings are copied.
"""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import functools
import inspect
import itertools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

from openenv_async.client.env import EnvClient
from openenv_async.client.http import HTTPEnvClient
from openenv_async.client.launch import START_TIMEOUT
from openenv_async.client.loop_thread import background_loop, close_blocking, on_background_thread
from openenv_async.client.models import ModelHooks
from openenv_async.client.server_info import fetch_schema
from openenv_async.client.sync import SyncEnvClient
from openenv_async.environment import Environment
from openenv_async.errors import OperationUnsupported, SessionClosed, WrongTarget, shown
from openenv_async.providers.base import Provider, Worker
from openenv_async.targets.served import Server, close_worker, start_worker

if TYPE_CHECKING:
    from openenv_async.targets.resolve import ResolvedTarget

__all__ = [
    "BlockingSessions",
    "TargetSessions",
    "address_of",
    "at_one_server",
    "copied_client",
    "is_in_process",
    "made_by",
    "own_provider",
    "refuse_leased",
    "settings_of",
]

_ONE_LOOP: Final = (
    "an in-process client belongs to its event loop, and this entry point plays on another: give"
    " the environment class itself"
)
_forked: list[Any] = []
"""The sessions that a forked process got from its parent: collecting them would end the parent's.
"""


class TargetSessions:
    """Clients of one target; ``ResolvedTarget.sessions`` documents the arguments.

    ``async with resolve(MyEnvironment).sessions() as sessions: client = sessions.session()``

    Attributes:
        target: what it is of.
        servers: that were started or found; empty for a pool, a factory, a client or an engine.
    """

    def __init__(
        self,
        target: ResolvedTarget,
        *,
        client: type[EnvClient[Any, Any, Any]] | None = None,
        connections: int | None = None,
        start_timeout: float | None = None,
        server: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.target = target
        self.servers: list[Server] = []
        self._client = client
        self._connections = connections or 1
        self._start_timeout = START_TIMEOUT if start_timeout is None else start_timeout
        self._server_options = dict(server or {})
        self._settings = {k: v for k, v in (settings or {}).items() if v is not None}
        self._providers: list[Provider] = []
        self._workers: list[Worker] = []
        self._pool: Any = None
        self._is_pool_shared = False
        self._is_open = False
        self._pid = os.getpid()
        self._turn = itertools.count()
        self._check(connections)

    def _check(self, connections: int | None) -> None:
        """Refuse settings that no client takes now, not when one is made."""
        if self.target.kind in ("client", "factory", "pool", "engine"):
            if connections is not None:
                raise ValueError(
                    f"connections= belongs to URLs and to servers that are started, and"
                    f" {self.target.label} decides for itself"
                )
            return
        if self._client is None:
            self._client = self.target.client_class()
        self._client("http://127.0.0.1", token=self.target.token, **self._settings)

    # -- life ---------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def open(self) -> Self:
        """Start or find the servers; idempotent.

        Raises:
            WorkerStartFailed, ProviderError, DeadlineExceeded: there is none.
        """
        if self._is_open:
            return self
        try:
            match self.target.kind:
                case "pool":
                    await self._take_pool()
                case "client" | "factory" | "engine":
                    pass
                case "provider":
                    self._providers = list(self.target.given)
                    await self._start()
                case _:
                    self._providers = [self.target.provider(**self._server_options)]
                    await self._start()
        except BaseException:
            await self.aclose()
            raise
        self._is_open = True
        return self

    async def _start(self) -> None:
        """One worker of each provider that starts some, every one of those that finds some."""
        for provider in self._providers:
            count = 1 if provider.owns_workers else await provider.room() or 1
            for _ in range(count):
                worker = await start_worker(provider, self._start_timeout)
                self._workers.append(worker)
                self.servers.append(Server(worker.url, worker.token, worker))

    async def _take_pool(self) -> None:
        """Lease from the pool that was given, or from its workers where it is on another loop."""
        pool = self.target.given
        inner = getattr(pool, "pool", None)
        if getattr(inner or pool, "is_closed", False) is True:
            raise SessionClosed("this pool was closed: make a new one")
        if inner is None:
            self._pool = pool
        elif on_background_thread():
            self._pool = inner
        else:
            await _on_background(inner.open())
            self._pool = inner.shared()
            self._is_pool_shared = True

    async def aclose(self) -> None:
        """End the servers that were started for this; idempotent."""
        workers, self._workers = self._workers, []
        providers, self._providers = self._providers, []
        pool, self._pool = self._pool, None
        self._is_open = False
        if self._pid != os.getpid():
            _forked.append((workers, providers, pool))
            return
        try:
            for worker in workers:
                await worker.aclose()
        finally:
            for provider in providers:
                await close_worker(None, provider, owned=self.target.kind != "provider")
            if pool is not None and self._is_pool_shared:
                await pool.aclose()

    def __getstate__(self) -> dict[str, Any]:
        """The addresses: a copy in another process plays on the same servers."""
        target = self.target
        if target.kind == "pool" and self._is_open:
            pool = getattr(target.given, "pool", target.given)
            target = _replaced(target, pool.shared())
        elif self.servers:
            target = _address_only(target)
        own: dict[str, Any] = {
            "target": target,
            "_workers": [],
            "_providers": [],
            "_pool": None,
            "_turn": itertools.count(),
            "_is_open": bool(self.servers),
        }
        return {**self.__dict__, **own}

    # -- clients ------------------------------------------------------------------------------

    @property
    def leases(self) -> bool:
        """Return whether the clients are leased from a pool."""
        return self.target.kind == "pool"

    @property
    def factories(self) -> list[Callable[[], Any]]:
        """The makers of clients: one for each connection of each server; of an open one only."""
        if not self.servers:
            return [self._one]
        make: Any = self._client
        return [
            functools.partial(
                make,
                server.url,
                **{
                    "token": server.token,
                    "share": f"connection-{number}" if number else True,
                    **self._settings,
                },
            )
            for number in range(self._connections)
            for server in self.servers
        ]

    def session(self) -> Any:
        """Return a client that opens when it is used, on one server after the other."""
        factories = self.factories
        return factories[next(self._turn) % len(factories)]()

    def _one(self) -> Any:
        given, settings = self.target.given, self._settings
        match self.target.kind:
            case "pool":
                assert self._pool is not None, "open it first"
                own = {} if self._client is None else {"client": self._client}
                return self._pool.session(**own, **settings)
            case "client":
                return copied_client(given, self._client, self.target.token, settings)
            case "factory":
                made = made_by(given)
                if self._client is None and not settings:
                    return made
                return copied_client(made, self._client, None, settings)
            case "engine":
                from openenv_async.targets.in_process import client_of_engine

                return client_of_engine(given, self._client, **settings)
        raise AssertionError("open it first")

    async def schema(self) -> dict[str, Any]:
        """Return the JSON Schemas of what is served.

        Raises:
            ConnectFailed: no server gives them.
            OperationUnsupported: the clients do not say where their server is.
        """
        if self.servers:
            url, token = self.servers[0].url, self.servers[0].token
        elif self.leases:
            async with self.target.serve() as server:
                url, token = server.url, server.token
        else:
            client = self.session()
            if getattr(client, "base_url", None) is None:
                raise OperationUnsupported(
                    "these clients have no base_url to read the action schema from"
                )
            url, token = address_of(client)
        return dict(await fetch_schema(url, token=token))


class BlockingSessions:
    """The sessions of a target for adapters that block: open from the beginning.

    Args:
        target: what they are of.
        arguments: of ``ResolvedTarget.sessions``.

    Raises:
        WorkerStartFailed, ProviderError, DeadlineExceeded: there is no server.
    """

    def __init__(self, target: ResolvedTarget, **arguments: Any) -> None:
        self._sessions = target.sessions(**arguments)
        self._others: BlockingSessions | None = None
        background_loop().run(self._sessions.open())

    def session(self) -> Any:
        """Return a client, whose calls belong to the background loop."""
        return self._sessions.session()

    def clients(self, target: ResolvedTarget) -> list[Any]:
        """Return a client of each server, whose calls belong to the background loop.

        Args:
            target: of which these are the sessions: of a pool more servers may be known.
        """
        pool = getattr(target.given, "pool", target.given) if target.kind == "pool" else None
        workers = [] if pool is None else pool.workers
        if len(workers) > 1:
            sessions = dataclasses.replace(
                target, kind="urls", given=[(worker.url, worker.token) for worker in workers]
            )
            self._others = BlockingSessions(sessions, client=self._sessions._client)
            return [make() for make in self._others._sessions.factories]
        return [make() for make in self._sessions.factories]

    def schemas(self, clients: Sequence[Any]) -> list[dict[str, Any]]:
        """Return the JSON Schemas that the servers of clients give, of those that say where.

        Raises:
            ConnectFailed: one does not give them.
        """

        async def read() -> list[dict[str, Any]]:
            known = [each for each in clients if getattr(each, "base_url", None) is not None]
            found = [fetch_schema(url, token=token) for url, token in map(address_of, known)]
            return [dict(each) for each in await asyncio.gather(*found)]

        return background_loop().run(read())

    @property
    def server_pid(self) -> int | None:
        """Return the process of the server that was started; this one's for a class."""
        return self._sessions.servers[0].pid if self._sessions.servers else None

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schemas of what is served.

        Raises:
            ConnectFailed: it does not give them.
        """
        return background_loop().run(self._sessions.schema())

    def close(self) -> None:
        """End the server that was started for this; idempotent."""
        if self._others is not None:
            self._others.close()
        close_blocking(self._sessions.aclose())


def at_one_server(target: ResolvedTarget) -> ResolvedTarget:
    """Return the first server of a pool as a target, for calls that need one connection."""
    if target.kind != "pool":
        return target

    async def look() -> tuple[str, str | None]:
        async with target.serve() as server:
            return server.url, server.token

    found = background_loop().run(look())
    return dataclasses.replace(target, kind="urls", given=[found])


async def _on_background(work: Any) -> Any:
    loop = background_loop().loop
    return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))


def _replaced(target: ResolvedTarget, given: Any) -> ResolvedTarget:
    return dataclasses.replace(target, given=given)


def _address_only(target: ResolvedTarget) -> ResolvedTarget:
    """A target whose servers are known: what it was of stays with who started them."""
    return dataclasses.replace(target, kind="urls", given=[], params=None)


# -- clients that were given --------------------------------------------------------------------


def refuse_leased(client: Any) -> None:
    """Refuse a client whose settings make no other one.

    Raises:
        WrongTarget: it was leased from a pool.
    """
    inner = client.client if isinstance(client, SyncEnvClient) else client
    if isinstance(inner, EnvClient) and not inner._has_address:
        raise WrongTarget("a leased environment makes no others: give the pool itself")


def is_in_process(client: Any) -> bool:
    """Return whether it is a client of an engine in the loop that made it."""
    inner = client.client if isinstance(client, SyncEnvClient) else client
    return bool(getattr(type(inner), "in_process", False))


def address_of(client: Any) -> tuple[str, str | None]:
    """Return the URL and token of a client.

    Raises:
        WrongTarget: it has none, since its session is in this process.
    """
    if is_in_process(client):
        raise WrongTarget(_ONE_LOOP)
    inner = client.client if isinstance(client, SyncEnvClient) else client
    settings = getattr(inner, "settings", None)
    return inner.base_url, None if settings is None else settings.token


def settings_of(client: Any) -> dict[str, Any]:
    """Return the settings of a client, or of those that a factory makes, but for the token."""
    made = client if isinstance(client, ModelHooks) else made_by(client)
    settings = getattr(made, "settings", None)
    given = {} if settings is None else settings.arguments()
    return {name: value for name, value in given.items() if name not in ("token", "share")}


def made_by(factory: Callable[[], Any]) -> Any:
    """Return the client that a factory makes; the async one behind a blocking one.

    Raises:
        WrongTarget: it made something else.
    """
    made = factory()
    if isinstance(made, SyncEnvClient):
        return made.client
    of_gymnasium = getattr(sys.modules.get("gymnasium"), "Env", Environment)
    is_environment = isinstance(made, Environment | of_gymnasium)
    if isinstance(made, type) or is_environment or not callable(getattr(made, "reset", None)):
        name = getattr(factory, "__name__", shown(factory))
        remedy = (
            f"annotate what it returns, -> {type(made).__name__}, and it makes environments"
            if is_environment
            else "what makes clients is functools.partial(MyEnv, url)"
        )
        if inspect.iscoroutine(made):
            made.close()
        raise WrongTarget(
            f"a client with async reset and step is needed, and {name} made {shown(made)}: {remedy}"
        )
    return made


def copied_client(
    given: Any,
    cls: type[EnvClient[Any, Any, Any]] | None,
    token: str | None,
    settings: Mapping[str, Any],
) -> Any:
    """Return a client with the settings of one that was given, which is not used itself.

    Args:
        given: an ``EnvClient``, ``SyncEnvClient`` or ``HTTPEnvClient``.
        cls: class of the copy; ``None``: its own.
        token: instead of its own.
        settings: instead of its own; ``options`` beside them.
    """
    if isinstance(given, SyncEnvClient):
        given = given.client
    if cls is None and token is None and not settings:
        return _with_container(copy.copy(given), given)
    if not isinstance(given, EnvClient | HTTPEnvClient):
        raise WrongTarget(f"the settings of {type(given).__name__} cannot be copied: give its URL")
    if cls is not None and is_in_process(given):
        raise WrongTarget(_ONE_LOOP)
    changes = {**settings}
    if token is not None:
        changes["token"] = token
    if "options" in changes:
        changes["options"] = {**(given.settings.options or {}), **changes["options"]}
    make: Any = cls or type(given)
    made = make.with_settings(given.base_url, given.settings.replace(**changes))
    return _with_container(made, given)


def _with_container(made: Any, given: Any) -> Any:
    """Give a copy a container of its own where the client that it is of has one."""
    container = getattr(given, "_container", None)
    if container is not None:
        made._container = copy.copy(container)
        if isinstance(made, HTTPEnvClient):
            made._session = made._fresh_session()
    return made


def own_provider(client: Any) -> Provider | None:
    """Return what starts containers for a client with one of its own; ``None`` for others."""
    inner = client.client if isinstance(client, SyncEnvClient) else client
    container = getattr(inner, "_container", None)
    return None if container is None else copy.copy(container._provider)
