"""Where the sessions of many rollouts come from: URLs, a pool, or what makes a client."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from openenv_async.client.env import GenericEnvClient
from openenv_async.rollouts.checking import check_call, check_count, remedy_of
from openenv_async.rollouts.options import Retry

__all__ = ["SessionSource", "Source", "client_factories", "usual_retry"]


class SessionSource(Protocol):
    """What leases clients, such as an ``EnvPool``."""

    def session(self) -> Any:
        """A client that takes its place when it is opened and gives it back when closed."""


Source = str | Sequence[str] | Callable[[], Any] | SessionSource
"""A server's URL, several, a pool, or what makes a client: ``functools.partial(MyEnv, url)``."""


def usual_retry(source: Source) -> Retry:
    """What ``retry`` is by default: a pool has other workers to play an episode again."""
    return "unstarted" if hasattr(source, "session") else "never"


def client_factories(
    source: Source, connections: int | None, token: str | None
) -> list[Callable[[], Any]]:
    """The factories of the clients; workers go round.

    Raises:
        TypeError: the source is none; the message has the remedy.
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
        GenericEnvClient(url, token=token)  # what it refuses is told now, not by a worker
    lanes = 1 if connections is None else check_count("connections", connections)
    return [
        functools.partial(
            GenericEnvClient, url, token=token, share=f"collect-{lane}" if lane else True
        )
        for lane in range(lanes)
        for url in urls
    ]
