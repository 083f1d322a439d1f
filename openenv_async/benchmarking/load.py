"""The load on a server: sessions over connections that they share, and their actions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from openenv_async.client.env import GenericEnvClient
from openenv_async.client.server_info import get_json
from openenv_async.client.vector import VectorSessions
from openenv_async.errors import OpenEnvError, ServerError
from openenv_async.types import Timeouts

__all__ = ["Load", "action_schema", "sessions", "vectors"]


@dataclass(frozen=True, slots=True)
class Load:
    """The load on a server.

    Attributes:
        sessions: at once.
        connections: that they share.
        seconds: measured.
        warmup: seconds before that, dropped.
        seed: of the actions.
        local: whether to use the Unix socket of a server on this machine.
    """

    sessions: int = 64
    connections: int = 1
    seconds: float = 5.0
    warmup: float = 1.0
    seed: int = 0
    local: bool = True

    def __post_init__(self) -> None:
        for name in ("sessions", "connections"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.seconds > 0 or not self.warmup >= 0:
            raise ValueError("seconds must be positive, and warmup not negative")


@contextlib.asynccontextmanager
async def sessions(
    url: str, load: Load, name: str, *, token: str | None, timeouts: Timeouts | None
) -> AsyncIterator[list[GenericEnvClient]]:
    """The sessions of a load, all opened at once, and closed at the end.

    Args:
        url: of the server.
        load: how many, over how many connections.
        name: no client of another name shares the connections.
        token: access token.
        timeouts: deadlines of the calls.

    Raises:
        OpenEnvError: one cannot be opened; then none is.
    """
    clients = [
        GenericEnvClient(
            url,
            token=token,
            timeouts=timeouts,
            share=f"{name}-{number % load.connections}",
            local=load.local,
        )
        for number in range(load.sessions)
    ]
    try:
        try:
            async with asyncio.TaskGroup() as group:
                for client in clients:
                    group.create_task(client.open())
        except BaseExceptionGroup as exc:
            raise _first(exc) from None
        yield clients
    finally:
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(_close(client))


@contextlib.asynccontextmanager
async def vectors(
    url: str,
    load: Load,
    size: int,
    name: str,
    *,
    token: str | None,
    timeouts: Timeouts | None,
) -> AsyncIterator[list[VectorSessions]]:
    """The sessions of a load in vectors of ``size``, the last of which may be smaller.

    Args:
        url, load, name, token, timeouts: as for ``sessions``.
        size: sessions of a vector.

    Raises:
        OpenEnvError: one cannot be opened; then none is.
    """
    made = [
        VectorSessions(
            GenericEnvClient(
                url,
                token=token,
                timeouts=timeouts,
                share=f"{name}-{number % load.connections}",
                local=load.local,
            ),
            min(size, load.sessions - first),
        )
        for number, first in enumerate(range(0, load.sessions, size))
    ]
    try:
        try:
            async with asyncio.TaskGroup() as group:
                for each in made:
                    group.create_task(asyncio.to_thread(each.open))
        except BaseExceptionGroup as exc:
            raise _first(exc) from None
        yield made
    finally:
        async with asyncio.TaskGroup() as group:
            for each in made:
                group.create_task(asyncio.to_thread(each.close))


async def action_schema(url: str, token: str | None) -> Any:
    """The JSON Schema of the actions that a server takes.

    Raises:
        ServerError: it gives none.
    """
    schema = await get_json(url, "/schema", token=token)
    if not isinstance(schema, dict) or "action" not in schema:
        raise ServerError(f"{url} gives no action schema (GET /schema)")
    return schema["action"]


async def _close(client: GenericEnvClient) -> None:
    with contextlib.suppress(OpenEnvError):  # the load is over: nothing that it measures failed
        await client.close()


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
