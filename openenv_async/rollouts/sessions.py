"""Sessions for many rollouts: the factories of clients, and clients opened and closed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar

from openenv_async.client.env import EnvClient
from openenv_async.client.http import HTTPEnvClient
from openenv_async.client.sync import SyncEnvClient
from openenv_async.environment import Environment
from openenv_async.errors import CallerError, GoingAway, InvalidOption, OpenEnvError, ServerBusy
from openenv_async.rollouts.checking import check_client, check_count, is_client
from openenv_async.rollouts.summary import Summary
from openenv_async.targets.resolve import Target, resolve
from openenv_async.targets.sessions import TargetSessions
from openenv_async.types import ActT, ObsT

__all__ = [
    "Retry",
    "SessionSource",
    "Sessions",
    "Source",
    "TypedSource",
    "client_for",
    "sessions_of",
    "usual_retry",
]

log = logging.getLogger("openenv_async.rollouts")

_OPEN_WAIT: Final = 60.0
"""Seconds to wait for capacity at most while no session of ours is open."""

Retry = Literal["never", "unstarted", "seeded", "always"]
"""Which episodes are played again when what carried their environment failed."""


SessionT = TypeVar("SessionT", covariant=True)


class SessionSource(Protocol[SessionT]):
    """A pool that leases clients, such as ``EnvPool``."""

    def session(self) -> SessionT:
        """Return a client that takes a slot when it is opened and gives it back when closed."""
        ...


Source: TypeAlias = Target
"""Anything that can be played on, as ``openenv_async.resolve`` takes it."""

TypedSource: TypeAlias = (
    Callable[[], EnvClient[ActT, ObsT, Any]]
    | SessionSource[EnvClient[ActT, ObsT, Any]]
    | EnvClient[ActT, ObsT, Any]
    | HTTPEnvClient[ActT, ObsT, Any]
    | SyncEnvClient[ActT, ObsT, Any]
    | type[Environment[ActT, ObsT, Any]]
    | Environment[ActT, ObsT, Any]
)
"""A source whose clients have model classes, which type the outcomes."""


def sessions_of(
    source: Source,
    *,
    connections: int | None,
    token: str | None,
    params: Mapping[str, Any] | None,
    entry: str,
) -> TargetSessions:
    """Return the sessions of a source, which open when the first episode is asked for.

    Raises:
        TypeError: nothing can be played on the source (``WrongTarget``), or an argument is of the
            wrong kind.
        TargetNotFound: it names nothing.
        ValueError: a URL is not valid, or an argument does not belong to the source.
    """
    target = resolve(source, params=params, token=token, entry=entry)
    if connections is not None:
        connections = check_count("connections", connections)
    return target.sessions(connections=connections)


def usual_retry(sessions: TargetSessions, run: object = None) -> Retry:
    """Return the default of ``retry``: a pool has other workers to play an episode again.

    So have several servers. A run keeps no outcome of an episode that was lost: it may as well be
    played again.
    """
    if run is not None:
        return "always"
    target = sessions.target
    has_others = sessions.leases or (target.kind == "urls" and len(target.given) > 1)
    return "unstarted" if has_others else "never"


@contextlib.asynccontextmanager
async def client_for(
    env: Any, params: Mapping[str, Any] | None, token: str | None, entry: str
) -> AsyncIterator[Any]:
    """Have a client to play on: the one that was given, which stays open, or one of a target.

    Raises:
        WrongTarget, TargetNotFound: nothing can be played on it.
        InvalidOption: a client takes no params and no token.
        SessionClosed: it is a client that was closed.
    """
    if is_client(env):
        if params or token is not None:
            raise InvalidOption(f"{entry} plays on the client itself: it takes no params, no token")
        check_client(env, entry)
        yield env
        return
    target = resolve(env, params=params, token=token, entry=entry)
    async with target.sessions() as sessions:
        client = sessions.session()
        try:
            yield client
        finally:
            await close_client(client)


async def close_client(client: Any) -> None:
    """Close a client, if it can be closed; an error of that does not count as an outcome."""
    close = getattr(client, "close", None)
    if close is not None:
        try:
            await close()
        except OpenEnvError as exc:
            log.info("a session did not close: %s", exc)


class Sessions:
    """The clients of one ``collect``, opened and closed.

    Args:
        factories: make the clients, in turn.
        wanted: whether there is still something to play; else nobody waits for a session.
        summary: counts the refusals of servers that are full.

    Attributes:
        waiting: callers of ``open`` that have no session yet.
    """

    def __init__(
        self, factories: list[Callable[[], Any]], wanted: Callable[[], bool], summary: Summary
    ) -> None:
        self._factories = factories
        self._wanted = wanted
        self._summary = summary
        self.waiting = 0
        self._open_count = 0
        self._openers: set[asyncio.Task[None]] = set()

    async def open(self, number: int) -> tuple[Any, BaseException | None]:
        """Return an open client, or the error; neither when nothing is left to play.

        A server that drains is left for the next one, if there is another. While the server is
        full this waits: for as long as sessions of ours are at work, otherwise for a bounded time.

        Args:
            number: says which of the factories makes it.

        Raises:
            CallerError: it may not be opened at all.
            TypeError: the factory did not make a client.
        """
        self.waiting += 1
        try:
            return await self._opened(number)
        finally:
            self.waiting -= 1

    async def _opened(self, number: int) -> tuple[Any, BaseException | None]:
        clock = asyncio.get_running_loop().time
        since = clock()
        left = 0
        while self._wanted():
            client = self._factories[(number + left) % len(self._factories)]()
            check_client(client, "collect()")
            try:
                if hasattr(client, "open"):
                    await self._open(client)
            except ServerBusy as exc:
                await close_client(client)
                since = clock() if self._open_count else since
                if clock() - since >= _OPEN_WAIT:
                    return None, exc
                if not self._summary.refused:
                    log.info("waiting for capacity: %s", exc.message)
                self._summary.refused += 1
                await asyncio.sleep(min(float(exc.detail.get("retry_after") or 1.0), 1.0))
            except GoingAway as exc:
                await close_client(client)
                left += 1
                if left == len(self._factories):
                    return None, exc
            except CallerError:
                await close_client(client)
                raise
            except (OpenEnvError, OSError) as exc:
                await close_client(client)
                return None, exc
            except BaseException:
                await close_client(client)
                raise
            else:
                self._open_count += 1
                return client, None
        return None, None

    async def _open(self, client: Any) -> None:
        """Open it, unless ``stop_opening`` cancels this."""
        task = asyncio.current_task()
        assert task is not None
        self._openers.add(task)
        try:
            await client.open()
        finally:
            self._openers.discard(task)

    def stop_opening(self) -> None:
        """Cancel the tasks that wait for a session: there is nothing left to play."""
        for task in self._openers:
            task.cancel()

    async def close(self, client: Any) -> None:
        """Close an open client."""
        self._open_count -= 1
        await close_client(client)
