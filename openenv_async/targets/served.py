"""A running server of a target: started for it, or the one that there is.

Rules:

- A class, factory or instance is served in this process, on the background loop, since another
  process may not be able to import it.
- A server that was started ends with its block, or with this process: at exit if nobody closed it.
  A forked copy leaves it to the process that started it.
- Servers that run already, and the workers of a pool or of a provider that was given, stay their
  owner's.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import inspect
import itertools
import os
import secrets
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from openenv_async.client.arguments import refuse_unknown
from openenv_async.client.env import EnvClient
from openenv_async.client.launch import START_TIMEOUT, launch
from openenv_async.client.loop_thread import background_loop
from openenv_async.client.settings import SETTINGS
from openenv_async.environment import Environment
from openenv_async.errors import (
    ConnectFailed,
    InvalidOption,
    OpenEnvError,
    ProviderError,
    WrongTarget,
    shown,
)
from openenv_async.providers.base import Provider, Worker, WorkerExit
from openenv_async.renamed import renamed_attributes
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.resolve import ResolvedTarget, Target, environment_spec, is_elsewhere
from openenv_async.types import ActT, ObsT, StateT

if TYPE_CHECKING:
    from openenv_async.engine import EngineOptions

NewT = TypeVar("NewT", bound=EnvClient[Any, Any, Any])

__all__ = [
    "InProcessProvider",
    "InProcessWorker",
    "Server",
    "connect",
    "connect_in_process",
    "serve",
    "serving",
]

_EXIT_GRACE: Final = 5.0
"""Seconds that a server has to close when the process ends."""

_numbers = itertools.count(1)


@contextlib.asynccontextmanager
async def serve(
    env: Target,
    *args: Any,
    params: Mapping[str, Any] | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    options: EngineOptions | None = None,
    insecure: bool = False,
    ssl_certfile: str | None = None,
    ssl_keyfile: str | None = None,
    **server: Any,
) -> AsyncIterator[str]:
    """Serve an environment in this loop.

    ``async with serve(MyEnvironment) as url:``

    Args:
        env: an environment (class, factory, instance or ``EnvironmentSpec``), an installed name,
            ``module:Class``, a folder, an id of Gymnasium, or an ASGI application.
        args: action, observation and state type, as for ``create_app``.
        params: constructor arguments of the environment.
        host: where to listen.
        port: where to listen; 0 takes a free one.
        options: capacity, deadlines, sizes.
        insecure: listen without a token where other machines can connect.
        ssl_certfile, ssl_keyfile: PEM files, for https and wss.
        server: as for ``create_app``, ``token`` and ``allowed_origins`` among them.

    Raises:
        TypeError: ``env`` is not an environment, or an argument is of the wrong kind.
        TargetNotFound: there is no environment of this name.
        OSError: the address cannot be had.
        ValueError: other machines could connect and there is no token; or the certificate or key
            cannot be used.
    """
    from openenv_async.server import run

    if isinstance(env, str | os.PathLike) or is_elsewhere(env):
        env, params = environment_spec(env, params=params, entry="serve"), None
    given = {} if params is None else {"params": params}
    async with run.serve(
        env,
        *args,
        host=host,
        port=port,
        options=options,
        insecure=insecure,
        ssl_certfile=ssl_certfile,
        ssl_keyfile=ssl_keyfile,
        **given,
        **server,
    ) as url:
        yield url


@overload
def connect_in_process(
    env: Any,
    *args: Any,
    client: type[NewT],
    format: Literal["msgpack", "json"] = "msgpack",
    options: EngineOptions | None = None,
    params: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AbstractAsyncContextManager[NewT]: ...


@overload
def connect_in_process(
    env: type[Environment[ActT, ObsT, StateT]] | Environment[ActT, ObsT, StateT],
    *,
    client: None = None,
    format: Literal["msgpack", "json"] = "msgpack",
    options: EngineOptions | None = None,
    params: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AbstractAsyncContextManager[EnvClient[ActT, ObsT, StateT]]: ...


@overload
def connect_in_process(
    env: Any,
    *args: Any,
    client: None = None,
    format: Literal["msgpack", "json"] = "msgpack",
    options: EngineOptions | None = None,
    params: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AbstractAsyncContextManager[EnvClient[Any, Any, Any]]: ...


@contextlib.asynccontextmanager
async def connect_in_process(
    env: Any,
    *args: Any,
    client: type[EnvClient[Any, Any, Any]] | None = None,
    format: Literal["msgpack", "json"] = "msgpack",
    options: EngineOptions | None = None,
    params: Mapping[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Any]:
    """Open a client of an environment in this process and loop, without a socket.

    ``async with connect_in_process(MyEnvironment) as env:``

    The same frames, codecs and engine as over a socket, so what works here works there.
    ``connect`` is another name of it.

    Args:
        env: an environment (class, factory, instance or ``EnvironmentSpec``), an installed name,
            ``module:Class``, a folder or an id of Gymnasium; or an ``Engine``, to share it.
        args: action, observation and state type, as for ``create_app``.
        client: the client class; by default one with the environment's own types.
        format: of the messages.
        options: capacity, deadlines, sizes.
        params: constructor arguments of the environment.
        settings: for the client.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind; nothing was built then. One is
            ``WrongTarget``: a server, image or client has its environment elsewhere.
        TargetNotFound: there is no environment of this name.
    """
    from openenv_async.engine import Engine, EngineOptions
    from openenv_async.targets.in_process import client_of_engine

    if format not in ("msgpack", "json"):
        raise ValueError(f"format must be 'msgpack' or 'json', got {shown(format)}")
    if options is not None and not isinstance(options, EngineOptions):
        raise TypeError(
            f"options must be an EngineOptions, got {shown(options)}: constructor arguments of the"
            " environment are params={name: value}"
        )
    unknown = [name for name in settings if client is None and name not in SETTINGS]
    if unknown:
        known = ("client", "format", "options", "params", *SETTINGS)
        refuse_unknown("connect_in_process", unknown, known)
    given: Any = EnvClient if client is None else client
    if not (inspect.isclass(given) and issubclass(given, EnvClient)):
        raise TypeError(f"client must be a class of EnvClient, got {shown(client)}")
    if isinstance(env, Engine):
        if params:
            raise InvalidOption("an Engine has its environment's arguments: it takes no params")
        engine = env
    else:
        spec = environment_spec(env, *args, params=params, entry="connect_in_process")
        engine = Engine(spec, options)
    try:
        async with client_of_engine(engine, client, format, **settings) as opened:
            yield opened
    finally:
        if engine is not env:
            await engine.aclose()


connect = connect_in_process


class Server:
    """One running server.

    Attributes:
        url: ``http://HOST:PORT``.
        token: access token that it asks for; ``None`` for none.
        pid: of its process, where that is on this machine and known; this one's for a class.
    """

    def __init__(self, url: str, token: str | None = None, worker: Worker | None = None) -> None:
        self.url = url
        self.token = token
        self.pid: int | None = getattr(worker, "pid", None)
        self._worker = worker

    @property
    def cause_of_death(self) -> WorkerExit | None:
        """The reason, exit code and last log lines of a server that ended; ``None`` while it runs.

        Servers that were not started here are not watched.
        """
        exited = None if self._worker is None else self._worker.exited
        return exited.result() if exited is not None and exited.done() else None

    def died(self, phase: str = "step") -> OpenEnvError:
        """Return the error for callers of a server that ended."""
        if self._worker is None or self.cause_of_death is None:
            return ConnectFailed(f"the server at {self.url} is not watched", phase=phase)
        return self._worker.died(phase)

    async def log_tail(self) -> str:
        """Return the last lines that it wrote; empty where they cannot be had."""
        return "" if self._worker is None else await self._worker.log_tail()

    def __getstate__(self) -> dict[str, Any]:
        """The address; a copy watches nothing."""
        return {**self.__dict__, "_worker": None}

    def __repr__(self) -> str:
        return f"<Server {self.url}>"


@contextlib.asynccontextmanager
async def serving(
    target: ResolvedTarget,
    *,
    start_timeout: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> AsyncIterator[Server]:
    """Have a server of a target; ``ResolvedTarget.serve`` documents it."""
    seconds = START_TIMEOUT if start_timeout is None else start_timeout
    match target.kind:
        case "pool":
            yield await _of_pool(target.given)
        case "factory":
            yield _of_factory(target)
        case _:
            provider = target.provider(**(options or {}))
            worker: Worker | None = None
            try:
                worker = await start_worker(provider, seconds)
                yield Server(worker.url, worker.token, worker)
            finally:
                await close_worker(worker, provider, owned=target.kind != "provider")


async def start_worker(provider: Provider, seconds: float) -> Worker:
    """Return a worker of a provider: one that answers, where the provider starts it."""
    if provider.owns_workers:
        return await launch(provider, timeout=seconds)
    return await provider.start(timeout=seconds)


async def close_worker(worker: Worker | None, provider: Provider | None, *, owned: bool) -> None:
    """Close a worker, and its provider where it was made for it."""
    try:
        if worker is not None:
            await worker.aclose()
    finally:
        if provider is not None and owned:
            await provider.aclose()


async def _of_pool(pool: Any) -> Server:
    pool = getattr(pool, "pool", pool)  # the async one behind a blocking one
    opened = getattr(pool, "open", None)
    if opened is not None:
        await opened()
    workers = getattr(pool, "workers", None)
    if not workers:
        raise ProviderError("the pool has no worker whose server could be played on")
    return Server(workers[0].url, workers[0].token, workers[0])


def _of_factory(target: ResolvedTarget) -> Server:
    from openenv_async.targets.sessions import address_of, made_by

    client = made_by(target.given)
    if not hasattr(client, "base_url"):
        raise WrongTarget(f"{target.label} makes clients without a base_url: no server is known")
    return Server(*address_of(client))


# -- servers in this process --------------------------------------------------------------------


class InProcessWorker(Worker):
    """A server in this process, on the background loop."""

    def __init__(self, provider: InProcessProvider, holder: _Holder, url: str, token: str) -> None:
        super().__init__(f"in-process-{next(_numbers)}", url, token=token)
        self.pid = os.getpid()
        self._provider = provider
        self._holder = holder
        loop, exited = asyncio.get_running_loop(), self.exited

        def ended() -> None:
            if not exited.done():
                exited.set_result(WorkerExit("its server in this process ended"))

        def tell(_: Future[None]) -> None:
            if not holder.is_stopped and not loop.is_closed():
                loop.call_soon_threadsafe(ended)

        holder.held.add_done_callback(tell)

    async def aclose(self) -> None:
        """Stop serving; the sessions that are open end with it."""
        self._provider._worker = None
        if self.pid == os.getpid():
            await self._holder.aclose()


class InProcessProvider(Provider):
    """A provider of one server in this process: another would compute no faster.

    Args:
        spec: of the environment.
        max_sessions: environments that may exist at once; ``None``: the server's default.
    """

    name = "in process"

    def __init__(self, spec: EnvironmentSpec, *, max_sessions: int | None = None) -> None:
        self.spec = spec
        self._max_sessions = max_sessions
        self._worker: InProcessWorker | None = None

    def __getstate__(self) -> dict[str, Any]:
        """The settings."""
        return {**self.__dict__, "_worker": None}

    async def room(self) -> int:
        """Return 1 as long as there is no worker."""
        return 0 if self._worker is not None else 1

    async def start(self, *, timeout: float | None = None) -> InProcessWorker:
        """Start the server; it listens when this returns."""
        if self._worker is not None:
            raise ProviderError("an environment in this process has one worker, which is in use")
        token = secrets.token_urlsafe(16)  # of nobody else
        holder = _Holder(self.spec, self._max_sessions, token)
        try:
            async with asyncio.timeout(timeout):
                url = await holder.url()
        except BaseException:
            await holder.aclose()
            raise
        self._worker = InProcessWorker(self, holder, url, token)
        return self._worker

    async def aclose(self) -> None:
        """Stop the server."""
        if self._worker is not None:
            await self._worker.aclose()


class _Holder:
    """The task on the background loop that holds a server until it is stopped."""

    def __init__(self, spec: EnvironmentSpec, max_sessions: int | None, token: str) -> None:
        self.pid = os.getpid()
        self.is_stopped = False
        self._listening: Future[str] = Future()
        self._stop = asyncio.Event()
        self._loop = background_loop().loop
        self.held: Future[None] = asyncio.run_coroutine_threadsafe(
            self._hold(spec, max_sessions, token), self._loop
        )
        atexit.register(self._at_exit)

    async def url(self) -> str:
        """Return the address, as soon as it listens."""
        return await asyncio.shield(asyncio.wrap_future(self._listening))

    async def _hold(self, spec: EnvironmentSpec, max_sessions: int | None, token: str) -> None:
        from openenv_async.engine import EngineOptions
        from openenv_async.server.run import serve

        options = None if max_sessions is None else EngineOptions(max_sessions=max_sessions)
        try:
            async with serve(spec, options=options, token=token) as url:
                self._listening.set_result(url)
                await self._stop.wait()
        except BaseException as exc:
            if self._listening.done():
                raise
            self._listening.set_exception(exc)

    def _at_exit(self) -> None:
        """Close what nobody closed, while the loop still runs."""
        if self.pid == os.getpid():
            with contextlib.suppress(Exception):
                self.is_stopped = True
                self._loop.call_soon_threadsafe(self._stop.set)
                self.held.result(_EXIT_GRACE)

    async def aclose(self) -> None:
        """Stop serving and wait until it has ended; idempotent."""
        atexit.unregister(self._at_exit)
        self.is_stopped = True
        self._loop.call_soon_threadsafe(self._stop.set)
        await asyncio.wrap_future(self.held)


__getattr__ = renamed_attributes(
    __name__,
    {
        "Source": "openenv_async.targets.resolve.Target",
        "URL_SCHEMES": "openenv_async.targets.naming.URL_SCHEMES",
    },
)
