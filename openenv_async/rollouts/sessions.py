"""Sessions for many rollouts: the factories of clients, and clients opened and closed."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar

from openenv_async.client.env import EnvClient, GenericEnvClient
from openenv_async.errors import CallerError, OpenEnvError, ServerBusy
from openenv_async.rollouts.checking import check_call, check_client, check_count, remedy_of
from openenv_async.rollouts.summary import Summary
from openenv_async.types import ActT, ObsT

__all__ = [
    "Retry",
    "SessionSource",
    "Sessions",
    "Source",
    "TypedSource",
    "client_factories",
    "usual_retry",
]

log = logging.getLogger("openenv_async.rollouts")

_OPEN_WAIT: Final = 60.0
"""Seconds to wait for capacity at most while no session of ours is open."""

Retry = Literal["never", "unstarted", "seeded"]
"""Which episodes are played again when what carried their environment failed."""


SessionT = TypeVar("SessionT", covariant=True)


class SessionSource(Protocol[SessionT]):
    """A pool that leases clients, such as ``EnvPool``."""

    def session(self) -> SessionT:
        """Return a client that takes a slot when it is opened and gives it back when closed."""
        ...


Source: TypeAlias = str | Sequence[str] | Callable[[], Any] | SessionSource[Any]
"""A server's URL, several, a pool, or a factory of clients: ``functools.partial(MyEnv, url)``."""

TypedSource: TypeAlias = (
    Callable[[], EnvClient[ActT, ObsT, Any]] | SessionSource[EnvClient[ActT, ObsT, Any]]
)
"""A source whose clients have model classes, which type the outcomes."""


def usual_retry(source: Source) -> Retry:
    """Return the default of ``retry``: a pool has other workers to play an episode again."""
    return "unstarted" if hasattr(source, "session") else "never"


def client_factories(
    source: Source, connections: int | None, token: str | None
) -> list[Callable[[], Any]]:
    """Return the factories of the clients, which tasks use in turn.

    Raises:
        TypeError: nothing can be played on the source; the message has the remedy.
        ValueError: there is no URL in it, or an argument does not belong to it.
    """
    if not isinstance(source, str) and (remedy := remedy_of(source)) is not None:
        raise TypeError(f"cannot play on {source!r}: {remedy}")
    session: Callable[[], Any] | None = getattr(source, "session", None)
    if session is not None:
        if connections is not None or token is not None:
            raise ValueError("connections= and token= belong to URLs: a pool has its own")
        return [session]
    if callable(source):
        if connections is not None:
            raise ValueError("connections= belongs to URLs: a client factory decides for itself")
        if token is not None:
            raise ValueError("token= belongs to URLs: a client factory gives its own")
        if inspect.iscoroutinefunction(source):
            raise TypeError(f"{source!r} is async: a client factory returns a client at once")
        check_call(source, {}, getattr(source, "__name__", repr(source)))
        return [source]
    if not isinstance(source, Iterable) or isinstance(source, bytes | Mapping):
        raise TypeError(
            "episodes are played on a URL, several, a pool or what makes a client, got"
            f" {type(source).__name__}: {source!r}"
        )
    urls = [source] if isinstance(source, str) else list(source)
    if not urls:
        raise ValueError("no URL to collect from")
    for url in urls:
        GenericEnvClient(url, token=token)  # its errors are raised now, not by a task
    count = 1 if connections is None else check_count("connections", connections)
    return [
        functools.partial(
            GenericEnvClient, url, token=token, share=f"collect-{number}" if number else True
        )
        for number in range(count)
        for url in urls
    ]


class Sessions:
    """The clients of one ``collect``, opened and closed.

    Args:
        factories: make the clients, in turn.
        wanted: whether there is still something to play; else nobody waits for a session.
        summary: counts the refusals of servers that are full.
    """

    def __init__(
        self, factories: list[Callable[[], Any]], wanted: Callable[[], bool], summary: Summary
    ) -> None:
        self._factories = factories
        self._wanted = wanted
        self._summary = summary
        self._open_count = 0
        self._openers: set[asyncio.Task[None]] = set()

    async def open(self, number: int) -> tuple[Any, BaseException | None]:
        """Return an open client, or the error; neither when nothing is left to play.

        While the server is full this waits: for as long as sessions of ours are at work,
        otherwise for a bounded time.

        Args:
            number: says which of the factories makes it.

        Raises:
            CallerError: it may not be opened at all.
            TypeError: the factory did not make a client.
        """
        make = self._factories[number % len(self._factories)]
        clock = asyncio.get_running_loop().time
        since = clock()
        while self._wanted():
            client = make()
            check_client(client, "collect()")
            try:
                if hasattr(client, "open"):
                    await self._open(client)
            except ServerBusy as exc:
                await self._dispose(client)
                since = clock() if self._open_count else since
                if clock() - since >= _OPEN_WAIT:
                    return None, exc
                if not self._summary.refused:
                    log.info("waiting for capacity: %s", exc.message)
                self._summary.refused += 1
                await asyncio.sleep(min(float(exc.detail.get("retry_after") or 1.0), 1.0))
            except CallerError:
                await self._dispose(client)
                raise
            except (OpenEnvError, OSError) as exc:
                await self._dispose(client)
                return None, exc
            except BaseException:
                await self._dispose(client)
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
        await self._dispose(client)

    async def _dispose(self, client: Any) -> None:
        close = getattr(client, "close", None)
        if close is not None:
            try:
                await close()
            except OpenEnvError as exc:
                log.info("a session did not close: %s", exc)
