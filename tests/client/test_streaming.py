"""A streamed step counts, fails and ends as a plain one does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from openenv_async import Environment, GenericEnvClient
from openenv_async.client.launch import OwnedContainer
from openenv_async.errors import ConnectionLost, EnvironmentRaised, WorkerDied
from openenv_async.targets.served import connect
from tests.helpers import settle
from tests.pool.workers import LoopProvider

Dict = dict[str, Any]


class Letters(Environment[Dict, Dict, Dict]):
    """Shows ``text`` letter by letter; fails or hangs behind it if told so."""

    async def reset(self) -> Dict:
        return {}

    async def step(self, action: Dict) -> Dict:
        return {}

    async def step_stream(self, action: Dict) -> AsyncIterator[Any]:
        for letter in action["text"]:
            yield letter
        if action.get("fail"):
            raise RuntimeError("lost the thread")
        if action.get("hang"):
            await asyncio.Event().wait()
        yield await self.step(action)


async def test_streamed_steps_are_counted_as_plain_ones() -> None:
    async with connect(Letters) as env:
        await env.reset()
        await env.step({})
        async for _ in env.stream_step({"text": "abc"}):
            pass
        with pytest.raises(EnvironmentRaised, match="lost the thread"):
            async for _ in env.stream_step({"text": "abc", "fail": True}):
                pass
        assert env.episode is not None
        assert env.episode.step_count == 2
        assert env._channel is not None
        assert env._channel.steps == 2


async def test_leaving_a_stream_that_has_failed_already_is_no_news() -> None:
    """The loop reports a failure that nobody fetched; here nobody wanted it."""
    reports: list[Dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, report: reports.append(report))
    async with connect(Letters) as env:
        await env.reset()
        async with contextlib.aclosing(env.stream_step({"text": "abc", "fail": True})) as stream:
            partial: Any = await anext(stream)
            assert partial.observation == "a"
            await settle(20)  # the failure arrives meanwhile
        del stream
        await settle()
    assert reports == []


async def test_a_stream_from_a_dead_container_says_that_it_is_dead() -> None:
    provider = LoopProvider(Letters)
    client = GenericEnvClient("http://127.0.0.1")
    client._container = OwnedContainer(provider)
    await client.reset()
    [worker] = provider.started
    stream = client.stream_step({"text": "a", "hang": True})
    assert (await anext(stream)).observation == "a"
    assert client.connection is not None
    client.connection._fail(ConnectionLost("the connection was lost"))
    asyncio.get_running_loop().call_soon(worker.die)  # this news comes second
    with pytest.raises(WorkerDied, match="exited with code 137"):
        await anext(stream)
    await client.close()
