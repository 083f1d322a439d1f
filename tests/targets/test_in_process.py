"""A client and an engine joined in memory: messages, the end of either side, settings."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from openenv_async import EnvClient, Limits, Timeouts
from openenv_async.errors import ConnectionLost, OpenEnvError
from openenv_async.targets.in_process import MemoryTransport, client_of_engine, dial_memory
from tests.helpers import Counter, make_engine


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_an_episode_without_a_socket(format: Any) -> None:
    engine = make_engine(Counter)
    async with client_of_engine(engine, format=format) as env:
        assert (await env.reset(seed=4)).observation["seed"] == 4
        assert (await env.step({})).observation["count"] == 1
        assert len(engine.sessions) == 1
    assert not engine.sessions
    await engine.aclose()


async def test_clients_of_one_engine_and_format_share_a_connection() -> None:
    engine, other = make_engine(Counter), make_engine(Counter)
    async with (
        client_of_engine(engine) as one,
        client_of_engine(engine) as two,
        client_of_engine(engine, format="json") as three,
        client_of_engine(other) as four,
    ):
        keys = [each._key() for each in (one, two, three, four)]
        assert keys[0] == keys[1]
        assert len(set(keys)) == 3
        for env in (one, two, three, four):
            await env.reset()
    await engine.aclose()
    await other.aclose()


async def test_the_class_and_the_settings_are_the_callers() -> None:
    class Mine(EnvClient[Any, Any, Any]):
        pass

    engine = make_engine(Counter)
    timeouts = Timeouts(step=3.0)
    env = client_of_engine(engine, Mine, timeouts=timeouts)
    assert isinstance(env, Mine)
    assert type(env).__name__ == "Mine"
    assert env.timeouts == timeouts
    assert type(client_of_engine(engine)).__name__ == "CounterEnv"
    await engine.aclose()


async def test_a_message_is_delivered_in_the_next_turn() -> None:
    engine = make_engine(Counter)
    connection = await dial_memory(engine, "openenv.v1.msgpack", Limits(), Timeouts())
    transport: Any = connection._transport
    assert type(transport) is MemoryTransport
    received: list[Any] = []
    server: Any = transport._server
    server.receive = received.append
    transport.send(b"one", False)
    transport.send(b"two", False)
    assert received == []
    await asyncio.sleep(0)
    assert received[:2] == [b"one", b"two"]
    await connection.aclose()
    transport.send(b"three", False)
    await asyncio.sleep(0)
    assert received[-1] != b"three"  # nothing arrives after the end
    await engine.aclose()


async def test_a_cut_is_a_lost_connection_which_is_made_again() -> None:
    engine = make_engine(Counter)
    async with client_of_engine(engine) as env:
        await env.reset()
        transport: Any = env._channel.connection._transport  # type: ignore[union-attr]
        transport._server.lost()
        transport._cut()
        assert (await env.step({})).observation["count"] == 1
        assert env._channel.connection._transport is not transport  # type: ignore[union-attr]
    await engine.aclose()


async def test_an_engine_that_shuts_down_ends_its_sessions() -> None:
    engine = make_engine(Counter)
    async with client_of_engine(engine) as env:
        await env.reset()
        await engine.aclose()
        with pytest.raises(OpenEnvError) as caught:
            await env.step({})
        assert not isinstance(caught.value, ConnectionLost)


async def test_leaving_is_told_from_vanishing() -> None:
    for leaving, left in ((True, 0), (False, 1)):
        engine = make_engine(Counter)
        env = client_of_engine(engine)
        await env.reset()
        transport: Any = env._channel.connection._transport  # type: ignore[union-attr]
        await transport.aclose(leaving)
        await transport.aclose(leaving)
        await asyncio.sleep(0.01)
        assert len(engine.sessions) == left
        await engine.aclose()
