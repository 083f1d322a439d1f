"""One pool for all that a training process plays, and its end.

Trainers are synchronous: they call from their own thread, and everything here runs on the
background loop that all blocking clients of a process share.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import secrets
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from openenv_async.client.env import GenericEnvClient
from openenv_async.client.loop_thread import background_loop
from openenv_async.client.server_info import fetch_schema
from openenv_async.errors import OperationUnsupported, SessionClosed
from openenv_async.pool import EnvPool, SyncEnvPool
from openenv_async.rollouts.checking import check_client, remedy_of
from openenv_async.targets.naming import URL_SCHEMES

__all__ = ["SharedSource", "Source", "close_all"]

T = TypeVar("T")
Source = str | Sequence[str] | EnvPool | SyncEnvPool | Callable[[], Any]
"""The name of an installed environment, a server's URL, several URLs, a pool, or what makes a
client (``functools.partial(MyEnv, url)``)."""

_lock = threading.Lock()
_open: dict[str, SharedSource] = {}


class SharedSource:
    """The source of a trainer's environments; one per process however often it is copied.

    Clients give and take plain values (dicts of the fields), except those of a client factory.

    Args:
        source: see ``Source``. A pool must not be open on another loop.
        params: constructor arguments, for a name.
        token: access token, for URLs.
        pool_options: more of ``EnvPool``, for names and URLs.

    Raises:
        TargetNotFound: there is no installed environment of this name.
    """

    def __init__(
        self,
        source: Source,
        *,
        params: Mapping[str, Any] | None = None,
        token: str | None = None,
        **pool_options: Any,
    ) -> None:
        self.key = secrets.token_hex(8)
        self._pool: EnvPool | None = None
        self._factory: Callable[[], Any] | None = None
        self._owned = False
        self._closed = False
        named = isinstance(source, str) and not source.startswith(URL_SCHEMES)
        if params is not None and not named:
            raise ValueError("params= belongs to the name of an environment")
        if isinstance(source, SyncEnvPool):
            self._pool = source.pool
        elif isinstance(source, EnvPool):
            self._pool = source
        elif isinstance(source, str) and named:
            self._pool = EnvPool.from_env(source, params, **pool_options)
            self._owned = True
        elif remedy := None if isinstance(source, str) else remedy_of(source):
            raise TypeError(f"a trainer cannot play on {source!r}: {remedy}")
        elif callable(source):
            self._factory = source
        else:
            urls = [source] if isinstance(source, str) else list(source)
            self._pool = EnvPool.from_urls(urls, token=token, **pool_options)
            self._owned = True
        self._keep()

    @classmethod
    def of(cls, source: Source | SharedSource, **options: Any) -> SharedSource:
        """``source`` as one that may be shared already."""
        return source if isinstance(source, SharedSource) else cls(source, **options)

    def _keep(self) -> None:
        with _lock:
            _open[self.key] = self

    def __reduce__(self) -> Any:
        """A copy in another process plays on the same workers, once there are any."""
        pool = self._pool
        if pool is not None and pool.workers:
            pool = pool.shared()
        return _restored, (self.key, pool, self._factory, self._owned)

    @property
    def is_pool(self) -> bool:
        """True if sessions are leased from a pool."""
        return self._pool is not None

    def client(self) -> Any:
        """A client that opens when it is used."""
        if self._closed:
            raise SessionClosed("the trainer's environments were closed: make new ones")
        if self._factory is not None:
            client = self._factory()
            check_client(client, "a trainer")
            return client
        assert self._pool is not None
        return self._pool.session(client=GenericEnvClient)

    def schema(self) -> dict[str, Any]:
        """The JSON Schemas of what is served.

        Raises:
            ProviderError, ConnectFailed: no server answers.
            OperationUnsupported: a client factory does not say where its server is.
        """
        return self.run(self._schema())

    async def _schema(self) -> dict[str, Any]:
        if self._factory is not None:
            client = self._factory()
            url = getattr(client, "base_url", None)
            if url is None:
                raise OperationUnsupported(
                    "these clients have no base_url to read the action schema from: give tools="
                )
            return dict(await fetch_schema(url, token=getattr(client, "_token", None)))
        assert self._pool is not None
        await self._pool.open()
        worker = self._pool.workers[0]
        return dict(await fetch_schema(worker.url, token=worker.token))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the background loop and wait for it, from any other thread."""
        return background_loop().run(work)

    async def follow(self, work: Coroutine[Any, Any, T]) -> T:
        """Await work of the I/O loop from another event loop. Cancelling cancels it."""
        loop = background_loop().loop
        if loop is asyncio.get_running_loop():
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))

    def close(self) -> None:
        """End the pool that was made for this; idempotent. A pool that was given is its giver's."""
        with _lock:
            _open.pop(self.key, None)
            closed, self._closed = self._closed, True
        if not closed and self._pool is not None and self._owned:
            self.run(self._pool.aclose())


def _restored(
    key: str, pool: EnvPool | None, factory: Callable[[], Any] | None, owned: bool
) -> SharedSource:
    """The source of ``key`` in this process: that which there is, or a copy."""
    with _lock:
        found = _open.get(key)
    if found is not None:
        return found
    made = SharedSource.__new__(SharedSource)
    made.key, made._pool, made._factory, made._owned = key, pool, factory, owned
    made._closed = False
    made._keep()
    return made


def close_all() -> None:
    """Close every source of this process, whichever of them fails; done when it exits."""
    with contextlib.ExitStack() as closing:
        for source in _open.values():
            closing.callback(source.close)


atexit.register(close_all)
