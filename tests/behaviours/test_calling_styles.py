"""Any calling style: several loops, several threads, a running loop, from inside a step."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from openenv_async import (
    Environment,
    GenericEnvClient,
    HTTPEnvClient,
    SyncEnvClient,
    serve,
)
from openenv_async.errors import OpenEnvError
from tests.helpers import Counter


class ToolUser(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """A sync environment whose step runs async tools in a loop of its own."""

    isolation = "thread"

    def reset(self) -> dict[str, Any]:
        return {}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        async def tool(number: int) -> int:
            await asyncio.sleep(0.001)
            return number * 2

        async def tools() -> list[int]:
            return await asyncio.gather(*(tool(number) for number in range(action["count"])))

        return {"results": asyncio.run(tools())}


@contextlib.contextmanager
def served(env: Any) -> Iterator[str]:
    """A server in a thread of its own, for tests that have no loop or many."""
    ready, stop = threading.Event(), threading.Event()
    urls: list[str] = []

    async def main() -> None:
        async with serve(env) as url:
            urls.append(url)
            ready.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(30)
    try:
        yield urls[0]
    finally:
        stop.set()
        thread.join(30)


def test_one_client_in_two_runs() -> None:
    with served(Counter) as url:
        client = GenericEnvClient(url)

        async def play(steps: int, last: bool) -> list[int]:
            await client.reset()
            counts = [(await client.step({})).observation["count"] for _ in range(steps)]
            if last:
                await client.close()
            return counts

        assert asyncio.run(play(3, False)) == [1, 2, 3]
        assert asyncio.run(play(2, False)) == [1, 2]
        assert asyncio.run(play(2, True)) == [1, 2]


def test_an_episode_goes_on_in_another_run() -> None:
    """The session outlives the loop that opened it, as it outlives a connection."""
    with served(Counter) as url:
        client = GenericEnvClient(url)

        async def begin() -> None:
            await client.reset()

        async def step() -> int:
            count: int = (await client.step({})).observation["count"]
            return count

        asyncio.run(begin())
        assert [asyncio.run(step()) for _ in range(3)] == [1, 2, 3]
        asyncio.run(client.close())


async def test_a_loop_that_runs_elsewhere_is_named() -> None:
    """Two running loops cannot share one async client: an error, never a hang."""
    async with serve(Counter) as url, GenericEnvClient(url) as client:
        await client.reset()

        def elsewhere() -> None:
            async def call() -> None:
                for attempt in (client.reset, lambda: client.step({}), client.state):
                    with pytest.raises(OpenEnvError, match="loop"):
                        await attempt()

            asyncio.run(call())

        await asyncio.wait_for(asyncio.to_thread(elsewhere), 20)
        assert (await client.step({})).observation["count"] == 1


def test_one_http_client_in_two_runs_and_without_a_loop() -> None:
    """Over HTTP the session is the server's: it goes on from loop to loop."""
    with served(Counter) as url:
        client: HTTPEnvClient[Any, Any, Any] = HTTPEnvClient(url)

        async def step() -> int:
            count: int = (await client.step({})).observation["count"]
            return count

        client.reset()
        counts = [asyncio.run(step()), asyncio.run(step()), client.step({}).observation["count"]]
        client.close()
        assert counts == [1, 2, 3]


def test_eight_threads() -> None:
    with served(Counter) as url:

        def play(number: int) -> list[Any]:
            with SyncEnvClient[Any, Any, Any](url) as env:
                env.reset()
                return [env.step({"nonce": number}).observation for _ in range(25)]

        with ThreadPoolExecutor(8) as pool:
            for number, trace in enumerate(pool.map(play, range(8))):
                assert [seen["nonce"] for seen in trace] == [number] * 25
                assert [seen["count"] for seen in trace] == list(range(1, 26))


def test_eight_threads_take_turns_on_one_client() -> None:
    with served(Counter) as url, SyncEnvClient[Any, Any, Any](url) as env:
        env.reset()
        lock = threading.Lock()

        def step(_: int) -> int:
            with lock:
                count: int = env.step({}).observation["count"]
                return count

        with ThreadPoolExecutor(8) as pool:
            assert sorted(pool.map(step, range(64))) == list(range(1, 65))


def test_a_running_loop_like_a_notebooks() -> None:
    """A cell of a notebook is sync code inside a running loop."""
    with served(Counter) as url:

        async def cell() -> list[int]:
            with GenericEnvClient(url).sync() as env:  # blocks this loop, as a cell does
                env.reset()
                counts = [env.step({}).observation["count"] for _ in range(3)]
                assert env.state()["count"] == 3
                return counts

        assert asyncio.run(cell()) == [1, 2, 3]


def test_one_blocking_client_over_several_runs() -> None:
    with served(Counter) as url, SyncEnvClient[Any, Any, Any](url) as env:
        env.reset()

        async def cell() -> int:
            count: int = env.step({}).observation["count"]
            return count

        assert [asyncio.run(cell()) for _ in range(3)] == [1, 2, 3]


async def test_a_sync_step_may_run_async_tools() -> None:
    async with serve(ToolUser) as url:

        async def play() -> None:
            async with GenericEnvClient(url) as env:
                await env.reset()
                for count in range(1, 5):
                    result = await env.step({"count": count})
                    assert result.observation["results"] == [2 * n for n in range(count)]

        await asyncio.gather(*(play() for _ in range(8)))


async def test_a_sync_step_may_use_another_environment() -> None:
    """An environment that is itself a client: its blocking calls are not on the server's loop."""
    async with serve(Counter) as inner_url:

        class Nested(ToolUser):
            def __init__(self) -> None:
                self.inner: SyncEnvClient[Any, Any, Any] = SyncEnvClient(inner_url)

            def reset(self) -> dict[str, Any]:
                self.inner.reset()
                return {}

            def step(self, action: dict[str, Any]) -> dict[str, Any]:
                return {"inner": self.inner.step({}).observation["count"]}

            def close(self) -> None:
                self.inner.close()

        async with serve(Nested) as url, GenericEnvClient(url) as env:
            await env.reset()
            for count in (1, 2, 3):
                assert (await env.step({})).observation == {"inner": count}
