"""A leased environment: a client whose session lies wherever the pool had room.

The class is made from the client class that the pool was given, so it has its types, hooks and
methods. It differs in this:

- Opening takes a slot first, and goes to another worker when the first one cannot.
- ``close`` gives the slot back, also when its caller is cancelled meanwhile.
- The death of the worker ends the running call at once; ``reset`` then begins an episode on
  another worker.
- So does ``reset`` when the worker is leaving (its address is not found any more, its server shuts
  down, its lifetime is over): an episode under way ends there, the next begins elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NoReturn, Protocol, TypeVar

from openenv_async.client.channel import Channel
from openenv_async.client.env import EnvClient
from openenv_async.errors import (
    GoingAway,
    OpenEnvError,
    OperationUnsupported,
    ServerBusy,
    TransportError,
    WorkerDied,
)
from openenv_async.providers.base import Worker

__all__ = ["Lease", "leased_class"]

T = TypeVar("T")

_ELSEWHERE: Final = (TransportError, GoingAway, WorkerDied)
"""A worker that answers an opening with these is left; the session is opened at another one."""
_ATTEMPTS: Final = 4
_SOON: Final = 1.0


@dataclass(slots=True, eq=False)
class Lease:
    """A slot that is held.

    Attributes:
        id: its number in the scheduler.
        worker_id: of the worker, in the scheduler.
        worker: where it is.
        env: who holds it.
        lost: why it ended early: its worker died, or the pool was closed.
    """

    id: int
    worker_id: int
    worker: Worker
    env: LeasedClient
    lost: OpenEnvError | None = None

    def lose(self, error: OpenEnvError) -> None:
        """Note that the slot is gone; the episode under way ends with ``error``."""
        self.lost = error
        self.env.lose(error)


class SlotOwner(Protocol):
    """The pool, as leased environments see it; ``EnvPool`` documents the methods."""

    async def acquire(self, env: LeasedClient, timeout: float | None) -> Lease: ...

    def release(self, lease: Lease, *, connection_lost: bool = False) -> None: ...

    def mark_full(self, lease: Lease, pause: float) -> None: ...

    def is_leaving(self, lease: Lease) -> bool: ...

    def drain_worker(self, lease: Lease, error: BaseException) -> None: ...

    def share_of(self, number: int) -> bool | str: ...

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]: ...


class LeasedClient(EnvClient[Any, Any, Any]):
    """The part of a leased environment that is mixed into its client class."""

    _has_address: ClassVar[bool] = False
    _pool: SlotOwner
    _lease: Lease | None = None
    _connection_number: int = 0
    _opening_at: asyncio.Future[Channel] | None = None
    _acquire_timeout: float | None = None

    def __reduce__(self) -> NoReturn:
        raise OperationUnsupported(
            "a leased environment does not leave its process: pickle the pool instead"
        )

    @property
    def worker(self) -> Worker | None:
        """The worker that it plays on."""
        return None if self._lease is None else self._lease.worker

    @property
    def leaving(self) -> bool:
        """Tell whether the next episode is to begin on another worker."""
        return self._lease is not None and self._pool.is_leaving(self._lease)

    async def reset(self, **arguments: Any) -> Any:
        """Begin an episode, on another worker when this one is leaving."""
        attempts = 0
        while True:
            if self.leaving:
                lease, self._lease = self._lease, None
                assert lease is not None
                await asyncio.shield(self._pool.spawn(self._leave(lease), "openenv-release"))
            attempts += 1
            try:
                return await super().reset(**arguments)
            except GoingAway as exc:  # it began to leave meanwhile: no episode has begun there
                if self._lease is None or attempts == _ATTEMPTS:
                    raise
                self._pool.drain_worker(self._lease, exc)

    async def _leave(self, lease: Lease) -> None:
        try:
            await self._close_session()
        finally:
            self._pool.release(lease)

    async def close(self) -> None:
        """Close the session and give the slot back; idempotent.

        That goes on when the caller is cancelled. Afterwards every call is an error.
        """
        self._closed = True
        lease, self._lease = self._lease, None
        if lease is None:
            await super().close()
            return
        await asyncio.shield(self._pool.spawn(self._finish(lease), "openenv-release"))

    async def _finish(self, lease: Lease) -> None:
        channel = self._channel
        connection_lost = channel is not None and isinstance(channel.error, TransportError)
        try:
            await super().close()
        finally:
            self._pool.release(lease, connection_lost=connection_lost)

    async def _open(self, left_behind: Channel | None) -> Channel:
        if self._lease is not None and self._lease.lost is not None:
            self._lease = None
        if self._lease is not None:
            try:
                return await self._open_at(self._lease, left_behind)  # in the slot that it has
            except _ELSEWHERE as exc:
                lease, self._lease = self._lease, None
                self._pool.drain_worker(lease, exc)
                self._pool.release(lease)
                if left_behind is not None:
                    raise
        attempts = 0
        while True:
            lease = await self._pool.acquire(self, self._acquire_timeout)
            self._lease = lease
            share = self._pool.share_of(self._connection_number)
            self._move(lease.worker.url, lease.worker.token, share)
            attempts += 1
            try:
                return await self._open_at(lease)
            except BaseException as exc:
                self._lease = None
                again = attempts < _ATTEMPTS
                if isinstance(exc, ServerBusy):
                    pause = float(exc.detail.get("retry_after") or _SOON)
                    self._pool.mark_full(lease, min(pause, _SOON))
                elif isinstance(exc, _ELSEWHERE):
                    self._pool.drain_worker(lease, exc)
                else:
                    again = False
                self._pool.release(lease)
                if not again:
                    raise

    async def _open_at(self, lease: Lease, left_behind: Channel | None = None) -> Channel:
        """Open the session, or learn that the slot was lost meanwhile."""
        opening = self._opening_at = asyncio.ensure_future(super()._open(left_behind))
        try:
            await asyncio.wait((opening, lease.worker.exited), return_when=asyncio.FIRST_COMPLETED)
            if lease.lost is not None:
                raise lease.lost
            if not opening.done():
                raise lease.worker.died("open")
            return opening.result()
        except BaseException:
            opening.cancel()
            opening.add_done_callback(self._opened_too_late)
            raise
        finally:
            self._opening_at = None

    def _opened_too_late(self, opening: asyncio.Future[Channel]) -> None:
        """Close a session that was opened although its caller no longer waits."""
        if opening.cancelled() or opening.exception() is not None:
            return
        channel = opening.result()
        if self._channel is not channel:
            return  # closed meanwhile, and its connection given back
        self._channel = None
        channel.close_soon()
        self._pool.spawn(self._give_back(channel.connection), "openenv-release")

    def lose(self, error: OpenEnvError) -> None:
        """End the running call, and every later one but ``reset``: the session is gone."""
        if self._opening_at is not None:
            self._opening_at.cancel()
        if self._channel is not None:
            self._channel.lose(error)


def leased_class(base: type[EnvClient[Any, Any, Any]]) -> type[LeasedClient]:
    """Return the class of leased environments for a client class.

    Raises:
        TypeError: ``base`` is not the class of an async WebSocket client.
    """
    if not issubclass(base, EnvClient):
        raise TypeError(f"client= must be a subclass of EnvClient, got {base!r}")
    types = zip(("action_type", "observation_type", "state_type"), base.model_types(), strict=True)
    return type(base.__name__, (LeasedClient, base), {"__module__": base.__module__, **dict(types)})
