"""Connections shared by the clients of one address."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from openenv_async.client.pooling import SharedConnections, shared_connections
from openenv_async.errors import ConnectFailed, ConnectionLost
from tests.helpers import gather_all, settle


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

    assert await shared.acquire("key", good) == old
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


class Dialing:
    """Dials that a test lets succeed or fail; each gives a connection of its own."""

    def __init__(self) -> None:
        self.dialed: list[asyncio.Future[Any]] = []
        self.cancelled = 0

    async def __call__(self) -> Any:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.dialed.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    def succeed(self, number: int = -1) -> Any:
        connection = FakeConnection()
        self.dialed[number].set_result(connection)
        return connection


def held(shared: SharedConnections) -> tuple[int, int]:
    return len(shared._entries), len(shared._in_use)


async def test_all_who_come_while_it_is_dialled_share_one_connection() -> None:
    shared, dial = SharedConnections(), Dialing()
    callers = [asyncio.ensure_future(shared.acquire("key", dial)) for _ in range(3)]
    other = asyncio.ensure_future(shared.acquire("other", dial))
    await settle()
    assert len(dial.dialed) == 2
    connection, another = dial.succeed(0), dial.succeed(1)
    assert await asyncio.gather(*callers) == [connection] * 3
    assert await other == another
    assert await shared.acquire("key", dial) == connection
    for left in (3, 2, 1, 0):
        assert connection.closed == 0
        await shared.release(connection)
        assert connection.closed == (left == 0)
    assert another.closed == 0
    await shared.release(another)
    assert (another.closed, held(shared)) == (1, (0, 0))


async def test_a_caller_that_is_cancelled_leaves_the_dial_to_the_others() -> None:
    for first in (True, False):
        shared, dial = SharedConnections(), Dialing()
        callers = [asyncio.ensure_future(shared.acquire("key", dial)) for _ in range(2)]
        await settle()
        callers[0 if first else 1].cancel()
        await settle()
        assert dial.cancelled == 0
        connection = dial.succeed()
        assert await callers[1 if first else 0] == connection
        await shared.release(connection)
        assert (connection.closed, held(shared)) == (1, (0, 0))


async def test_a_dial_that_nobody_waits_for_any_more_is_cancelled() -> None:
    shared, dial = SharedConnections(), Dialing()
    callers = [asyncio.ensure_future(shared.acquire("key", dial)) for _ in range(2)]
    await settle()
    for caller in callers:
        caller.cancel()
    ends = await gather_all(callers)
    assert all(isinstance(end, asyncio.CancelledError) for end in ends)
    assert (dial.cancelled, held(shared)) == (1, (0, 0))
    again = asyncio.ensure_future(shared.acquire("key", dial))
    await settle()
    assert len(dial.dialed) == 2
    connection = dial.succeed()
    assert await again == connection
    await shared.release(connection)


async def test_a_dial_that_ends_well_although_it_was_cancelled_is_closed() -> None:
    shared = SharedConnections()
    connection: Any = FakeConnection()

    async def dial() -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await settle()
        return connection

    caller = asyncio.ensure_future(shared.acquire("key", dial))
    await settle()
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert (connection.closed, held(shared)) == (1, (0, 0))


async def test_a_connection_that_is_made_when_its_only_caller_is_cancelled_is_closed() -> None:
    shared, dial = SharedConnections(), Dialing()
    caller = asyncio.ensure_future(shared.acquire("key", dial))
    await settle()
    connection = dial.succeed()
    await asyncio.sleep(0)
    await asyncio.sleep(0)  # the dial is done, its caller has not run yet
    caller.cancel()
    [end] = await gather_all([caller])
    if end == connection:
        await shared.release(connection)
    assert (connection.closed, held(shared)) == (1, (0, 0))


async def test_a_dial_that_fails_fails_for_all_and_the_next_caller_dials() -> None:
    shared, dial = SharedConnections(), Dialing()
    callers = [asyncio.ensure_future(shared.acquire("key", dial)) for _ in range(2)]
    await settle()
    dial.dialed[0].set_exception(ConnectFailed("refused"))
    ends = await gather_all(callers)
    assert all(isinstance(end, ConnectFailed) for end in ends)
    assert held(shared) == (0, 0)
    again = asyncio.ensure_future(shared.acquire("key", dial))
    await settle()
    connection = dial.succeed()
    assert await again == connection


async def test_a_connection_that_broke_is_replaced_and_given_back_by_itself() -> None:
    shared, dial = SharedConnections(), Dialing()
    first = asyncio.ensure_future(shared.acquire("key", dial))
    await settle()
    old = dial.succeed()
    assert await first == old
    old.error = ConnectionLost("lost")
    second = asyncio.ensure_future(shared.acquire("key", dial))
    await settle()
    new = dial.succeed()
    assert await second == new
    assert len(dial.dialed) == 2
    await shared.release(old)
    assert (old.closed, new.closed, held(shared)) == (1, 0, (1, 1))
    assert await shared.acquire("key", dial) == new
    await shared.release(new)
    await shared.release(new)
    assert (new.closed, held(shared)) == (1, (0, 0))


async def test_a_connection_that_broke_as_it_was_made_is_dialled_again() -> None:
    shared, dial = SharedConnections(), Dialing()
    callers = [asyncio.ensure_future(shared.acquire("key", dial)) for _ in range(2)]
    await settle()
    broken = dial.succeed()
    broken.error = ConnectionLost("lost")
    await settle()
    assert len(dial.dialed) == 2
    whole = dial.succeed()
    assert await asyncio.gather(*callers) == [whole, whole]
    await shared.release(whole)
    assert whole.closed == 0
    await shared.release(whole)
    assert (whole.closed, held(shared)) == (1, (0, 0))


async def test_a_connection_that_is_not_shared_is_closed_when_it_is_given_back() -> None:
    shared = SharedConnections()
    connection: Any = FakeConnection()
    await shared.release(connection)
    assert connection.closed == 1


async def test_each_loop_has_its_own() -> None:
    here = shared_connections()
    assert shared_connections() is here

    async def elsewhere() -> bool:
        return shared_connections() is here

    assert not await asyncio.to_thread(asyncio.run, elsewhere())
