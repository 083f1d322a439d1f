"""Streaming with flow control: what a reader does not read, the server does not make."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from openenv_async import Environment, GenericEnvClient, SyncEnvClient, serve
from openenv_async.errors import EnvironmentRaised
from openenv_async.server import HTTPEnvServer
from tests.helpers import Counter, settle, until

CREDIT = 64
"""Partial observations that a client lets the server send ahead."""


class Teller(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Tells a text letter by letter; counts what it made, and whether it was stopped."""

    made: ClassVar[int] = 0
    stopped: ClassVar[int] = 0

    async def reset(self) -> dict[str, Any]:
        return {}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        return {"text": action["text"], "reward": 1.0, "done": action.get("end", False)}

    async def step_stream(self, action: dict[str, Any]) -> AsyncIterator[Any]:
        try:
            for index, letter in enumerate(action["text"]):
                if index == action.get("break"):
                    raise RuntimeError("lost the thread")
                Teller.made += 1
                yield letter
        except (asyncio.CancelledError, GeneratorExit):
            Teller.stopped += 1
            raise
        yield await self.step(action)


@pytest.fixture(autouse=True)
def counts() -> None:
    Teller.made = Teller.stopped = 0


@pytest.mark.parametrize("subprotocol", ["openenv.v1.msgpack", "openenv.v1.json"])
async def test_partials_and_final_equal_the_plain_result(subprotocol: str) -> None:
    async with serve(Teller) as url, GenericEnvClient(url, subprotocol=subprotocol) as env:
        await env.reset()
        for text in ("", "a", "hello", "long " * 200):
            action = {"text": text}
            plain = await env.step(action)
            items = [item async for item in env.stream_step(action)]
            assert "".join(str(item.observation) for item in items[:-1]) == text
            assert items[-1] == plain
            for item in items[:-1]:
                assert (item.reward, item.done) == (None, False)


async def test_exactly_one_terminal_item() -> None:
    async with serve(Teller) as url, GenericEnvClient(url) as env:
        await env.reset()
        items = [item async for item in env.stream_step({"text": "abc", "end": True})]
        assert [item.done for item in items] == [False, False, False, True]
        assert env.episode is not None
        assert env.episode.step_count == 1


async def test_a_reader_that_stops_reading_holds_at_most_its_credit() -> None:
    server = HTTPEnvServer(Teller)
    from starlette.applications import Starlette

    app = Starlette(routes=server.router.routes, lifespan=server.router.lifespan_context)
    async with serve(app) as url, GenericEnvClient(url) as env, GenericEnvClient(url) as other:
        await env.reset()
        await other.reset()
        async with contextlib.aclosing(env.stream_step({"text": "x" * 10_000})) as stream:
            assert (await anext(stream)).observation == "x"
            for _ in range(50):  # the world goes on, the reader does not
                await other.step({"text": ""})
                await settle()
            assert Teller.made <= CREDIT + 1
            assert env.session_id is not None
            session = server.engine.sessions[env.session_id]
            assert session.stream is not None
            assert len(session.stream.kept) <= CREDIT
            count = 1
            async for _ in stream:
                count += 1
                assert Teller.made <= count + 2 * CREDIT
        assert count == 10_001


async def test_an_error_comes_after_the_partials() -> None:
    async with serve(Teller) as url, GenericEnvClient(url) as env:
        await env.reset()
        seen: list[Any] = []

        async def follow() -> None:
            async for item in env.stream_step({"text": "abcdef", "break": 4}):
                seen.append(item.observation)  # noqa: PERF401 - what came before the error counts

        with pytest.raises(EnvironmentRaised, match="lost the thread"):
            await follow()
        assert seen == ["a", "b", "c", "d"]
        assert (await env.step({"text": "on"})).observation["text"] == "on"


async def test_leaving_cancels_the_step() -> None:
    async with serve(Teller) as url, GenericEnvClient(url) as env:
        await env.reset()
        stream = env.stream_step({"text": "x" * 10_000})
        async for _ in stream:
            break
        await stream.aclose()
        await until(lambda: Teller.stopped == 1)
        assert Teller.made <= CREDIT + 1
        assert (await env.step({"text": "next"})).observation["text"] == "next"


async def test_a_cancelled_reader_cancels_the_step() -> None:
    async with serve(Teller) as url, GenericEnvClient(url) as env:
        await env.reset()
        reading = asyncio.Event()

        async def read() -> None:
            async for _ in env.stream_step({"text": "x" * 10_000}):
                reading.set()
                await asyncio.Event().wait()

        reader = asyncio.create_task(read())
        await reading.wait()
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await reader
        await until(lambda: Teller.stopped == 1)
        assert (await env.step({"text": "next"})).observation["text"] == "next"


async def test_environments_that_do_not_stream_give_one_item() -> None:
    async with serve(Counter) as url, GenericEnvClient(url) as env:
        await env.reset()
        items = [item async for item in env.stream_step({})]
        assert [item.observation["count"] for item in items] == [1]


async def test_the_blocking_client_streams_too() -> None:
    async with serve(Teller) as url:

        def read() -> list[Any]:
            with SyncEnvClient[Any, Any, Any](url) as env:
                env.reset()
                whole = [item.observation for item in env.stream_step({"text": "abc"})]
                for _ in env.stream_step({"text": "x" * 10_000}):
                    break
                return [*whole, env.step({"text": "next"}).observation["text"]]

        *letters, final, after = await asyncio.to_thread(read)
        assert letters == ["a", "b", "c"]
        assert final["text"] == "abc"
        assert after == "next"
        await until(lambda: Teller.stopped == 1)
