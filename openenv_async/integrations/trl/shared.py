"""One set of environments for all that a training process plays, and its end.

Trainers are synchronous: they call from their own thread, and everything here runs on the
background loop that all blocking clients of a process share.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import secrets
import threading
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeVar

from openenv_async.client.env import GenericEnvClient
from openenv_async.client.http import HTTPEnvClient
from openenv_async.client.loop_thread import background_loop
from openenv_async.errors import OperationUnsupported, SessionClosed, WrongTarget
from openenv_async.pool import EnvPool
from openenv_async.renamed import renamed_attributes
from openenv_async.targets.classes import async_class
from openenv_async.targets.resolve import ResolvedTarget, Target, resolve
from openenv_async.targets.sessions import copied_client, is_in_process

__all__ = ["SharedSessions", "close_all"]

T = TypeVar("T")

_GIVEN: Final = frozenset({"pool", "client", "factory"})
"""Kinds of target that bring their own sessions; the others are played on through a pool."""

_lock = threading.Lock()
_open: dict[str, SharedSessions] = {}


class SharedSessions:
    """The environments of a trainer; one set per process however often it is copied.

    Clients give and take plain values (dicts of the fields), except those of a client or factory.

    Args:
        source: any target, as ``openenv_async.resolve`` takes it. A pool must not be open on
            another loop.
        params: constructor arguments, for a name or a class.
        token: access token, for URLs.
        pool_options: more of ``EnvPool``, unless a pool, client or factory is given.

    Raises:
        WrongTarget: it is nothing that can be played on.
        TargetNotFound: there is no environment of this name.
    """

    def __init__(
        self,
        source: Target,
        *,
        params: Mapping[str, Any] | None = None,
        token: str | None = None,
        **pool_options: Any,
    ) -> None:
        self.key = secrets.token_hex(8)
        target = resolve(source, params=params, token=token, entry="a trainer")
        self._pool: EnvPool[Any] | None = None
        if target.kind == "engine" or is_in_process(target.given):
            raise WrongTarget(
                f"{target.label} belongs to its event loop, and a trainer plays on another: give"
                " the environment itself"
            )
        if target.kind not in _GIVEN:
            self._pool = EnvPool.of(target, client=GenericEnvClient, **pool_options)
            target = resolve(self._pool)
        elif pool_options:
            name = next(iter(pool_options))
            raise TypeError(f"{name!r} is an option of a pool that is made, and one was given")
        self._begin(target)

    @classmethod
    def of(cls, source: Target | SharedSessions, **options: Any) -> SharedSessions:
        """Return ``source`` as a set that may be shared already."""
        return source if isinstance(source, SharedSessions) else cls(source, **options)

    def _begin(self, target: ResolvedTarget) -> None:
        self._target = target
        self._closed = False
        with _lock:
            _open[self.key] = self

    def __reduce__(self) -> Any:
        """A copy in another process plays on the same workers, once there are any."""
        target = self._target
        if self.is_pool:
            pool = self._leasing
            target = resolve(pool.shared() if pool.workers else pool)
        return _restored, (self.key, target, self._pool is not None)

    @property
    def is_pool(self) -> bool:
        """Return whether sessions are leased from a pool."""
        return self._target.kind == "pool"

    def client(self) -> Any:
        """Return a client that opens when it is used, on the background loop."""
        if self._closed:
            raise SessionClosed("the trainer's environments were closed: make new ones")
        if self.is_pool:
            return self._leasing.session(client=GenericEnvClient)
        made = self._target.sessions().session()
        if isinstance(made, HTTPEnvClient):  # its calls would block the thread they are made in
            return copied_client(made, async_class(type(made)), None, {})
        return made

    @property
    def _leasing(self) -> Any:
        """The async pool, which belongs to the background loop."""
        return getattr(self._target.given, "pool", self._target.given)

    def schema(self) -> dict[str, Any]:
        """Return the JSON Schemas of what is served.

        Raises:
            ProviderError, ConnectFailed: no server answers.
            OperationUnsupported: a client factory does not say where its server is.
        """
        try:
            return self.run(self._target.sessions().schema())
        except OperationUnsupported as exc:
            raise OperationUnsupported(f"{exc.message}: give tools=") from exc

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the background loop and wait for it, from any other thread."""
        return background_loop().run(work)

    async def follow(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and await it from another event loop. Cancelling cancels it."""
        loop = background_loop().loop
        if loop is asyncio.get_running_loop():
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))

    def close(self) -> None:
        """End what was started for this; idempotent. A pool that was given is its giver's."""
        with _lock:
            _open.pop(self.key, None)
            closed, self._closed = self._closed, True
        if not closed and self._pool is not None:
            self.run(self._pool.aclose())


def _restored(key: str, target: ResolvedTarget, owned: bool) -> SharedSessions:
    """Return the set of ``key`` in this process: that which there is, or a copy."""
    with _lock:
        found = _open.get(key)
    if found is not None:
        return found
    made = SharedSessions.__new__(SharedSessions)
    made.key = key
    made._pool = target.given if owned else None
    made._begin(target)
    return made


def close_all() -> None:
    """Close every set of this process, whichever of them fails; done when it exits."""
    with contextlib.ExitStack() as closing:
        for sessions in [*_open.values()]:
            closing.callback(sessions.close)


atexit.register(close_all)

__getattr__ = renamed_attributes(
    __name__, {"SharedSource": "SharedSessions", "Source": "openenv_async.rollouts.sessions.Source"}
)
