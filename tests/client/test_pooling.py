"""Connections shared by the clients of one address."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from openenv_async.client.pooling import SharedConnections
from openenv_async.errors import ConnectFailed, ConnectionLost


@dataclass(eq=False)
class FakeConnection:
    error: Exception | None = None
    channel_count: int = 0
    closed: int = 0

    async def aclose(self) -> None:
        self.closed += 1


async def test_a_broken_successor_does_not_disturb_who_gives_back_the_old_one() -> None:
    shared = SharedConnections()
    old: Any = FakeConnection()

    async def good() -> Any:
        return old

    async def refused() -> Any:
        raise ConnectFailed("refused")

    assert await shared.acquire("key", good) is old
    old.error = ConnectionLost("lost")
    with pytest.raises(ConnectFailed):
        await shared.acquire("key", refused)
    await shared.release(old)  # must not raise the other caller's ConnectFailed


async def test_the_last_user_closes() -> None:
    shared = SharedConnections()
    connection: Any = FakeConnection()

    async def dial() -> Any:
        return connection

    assert await shared.acquire("key", dial) is await shared.acquire("key", dial)
    await shared.release(connection)
    assert not connection.closed
    await shared.release(connection)
    assert connection.closed == 1
