"""Where the sessions of many rollouts come from: URLs, a pool, or what makes a client."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

from openenv_async.client.env import GenericEnvClient
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
    """What makes the clients; workers go round."""
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
        return [source]
    urls = [source] if isinstance(source, str) else list(cast(Sequence[str], source))
    if not urls:
        raise ValueError("no URL to collect from")
    lanes = 1 if connections is None else connections
    if lanes < 1:
        raise ValueError(f"connections must be at least 1, got {connections}")
    return [
        functools.partial(
            GenericEnvClient, url, token=token, share=f"collect-{lane}" if lane else True
        )
        for lane in range(lanes)
        for url in urls
    ]
