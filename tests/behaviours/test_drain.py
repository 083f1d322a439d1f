"""A server that drains: episodes end, none begins, and pools go elsewhere."""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import pytest

from openenv_async import EnvPool
from openenv_async.errors import GoingAway, OpenEnvError
from openenv_async.rollouts import collect_all
from tests.behaviours.environments import client, gather, outcomes, served_process
from tests.helpers import until

STEPS = 5


async def play(env: Any) -> list[Any]:
    """The results of an episode, from the step on."""
    results: list[Any] = []
    while not results or not results[-1].done:
        results.append(await env.step({}))
    return results


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        ("Counted", []),
        ("Counted", ["--workers", "2"]),
        ("CountedAsync", []),
        ("CountedAsync", ["--workers", "2"]),
        ("CountedInline", []),
    ],
)
async def test_episodes_end_and_none_begins(target: str, arguments: list[str]) -> None:
    slow = ["--param", "seconds=0.1", *arguments]
    async with served_process(target, "--drain", "30", *slow) as (url, process):
        made = [client(url) for _ in range(8)]
        await gather(env.reset() for env in made[:6])
        await made[6].open()  # it has no episode
        playing = [asyncio.ensure_future(play(env)) for env in made[:4]]
        await gather(play(env) for env in made[4:6])  # theirs are over
        again = asyncio.ensure_future(gather(env.reset() for env in made[4:5]))
        await again
        playing.append(asyncio.ensure_future(play(made[4])))
        connection = made[0].connection
        assert connection is not None
        process.send_signal(signal.SIGTERM)
        await until(lambda: connection.going_away is not None)
        refused = await outcomes(env.reset() for env in made[5:])
        assert all(isinstance(error, GoingAway) for error in refused), refused
        for results in await asyncio.wait_for(gather(playing), 20):
            assert len(results) == STEPS
        told = await gather(env.state() for env in made[:5])  # its client may still ask
        assert [state["left"] for state in told] == [0] * 5
        await gather(env.close() for env in made)
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_what_does_not_end_in_time_is_told() -> None:
    async with served_process("Counted", "--drain", "0.5", "--param", "steps=1000") as (
        url,
        process,
    ):
        async with client(url) as env:
            await env.reset()
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            with pytest.raises(GoingAway, match="drained"):
                await play(env)
            assert 0.4 < time.monotonic() - began < 5
        assert await asyncio.wait_for(process.wait(), 10) == 0


async def test_another_signal_does_not_wait() -> None:
    async with (
        served_process("Counted", "--drain", "60", "--param", "steps=1000") as (
            url,
            process,
        ),
        client(url) as env,
    ):
        await env.reset()
        connection = env.connection
        assert connection is not None
        process.send_signal(signal.SIGTERM)
        await until(lambda: connection.going_away is not None)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 5) == 0
        with pytest.raises(OpenEnvError):
            await play(env)


async def test_an_address_that_is_not_found_any_more_gets_no_episode() -> None:
    began: list[tuple[str, float]] = []
    async with (
        served_process("CountedAsync", "--param", "seconds=0.01") as (kept, _),
        served_process("CountedAsync", "--param", "seconds=0.01") as (removed, _),
    ):
        urls = [kept, removed]
        async with EnvPool.from_urls(lambda: list(urls), sessions_per_worker=4) as pool:

            async def play_on() -> None:
                async with asyncio.timeout(3), pool.session() as env:
                    while True:
                        await env.reset()
                        worker: Any = env.worker  # type: ignore[attr-defined]  # a leased one has
                        began.append((worker.url, time.monotonic()))
                        await play(env)

            players = [asyncio.ensure_future(play_on()) for _ in range(8)]
            await asyncio.sleep(0.5)
            urls.remove(removed)
            gone = time.monotonic()
            assert all(isinstance(each, TimeoutError) for each in await outcomes(players))
    assert {url for url, _ in began} == {kept, removed}
    late = [at - gone for url, at in began if url == removed and at > gone]
    assert max(late, default=0.0) < 1.0


async def test_a_rolling_upgrade_loses_no_episode() -> None:
    """Two servers are replaced one after the other under running episodes."""
    urls: list[str] = []

    async def server(told: asyncio.Future[Any]) -> None:
        async with served_process("CountedAsync", "--drain", "30", "--param", "seconds=0.02") as (
            url,
            process,
        ):
            urls.append(url)
            told.set_result((url, process))
            await process.wait()

    async def start() -> tuple[str, Any, asyncio.Task[None]]:
        told: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(server(told))
        return *(await told), task

    async def replace() -> None:
        for url, process, task in old:
            new.append(await start())
            urls.remove(url)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 20) == 0
            await task

    old = [await start(), await start()]
    new: list[Any] = []
    try:
        async with EnvPool.from_urls(lambda: list(urls), sessions_per_worker=8) as pool:
            replacing = asyncio.create_task(replace())
            ended = 0
            while not replacing.done():
                played = await collect_all(pool, lambda observation: {}, episodes=32)
                ended += len(played)
                assert not [each.error for each in played if each.error is not None]
            await replacing
            assert ended >= 64
    finally:
        for _, process, task in [*old, *new]:
            if process.returncode is None:
                process.terminate()
            await task


async def test_rollouts_on_several_servers_lose_no_episode_when_one_drains() -> None:
    slow = ("--param", "seconds=0.01")
    async with (
        served_process("CountedAsync", "--drain", "30", *slow) as (leaving, process),
        served_process("CountedAsync", *slow) as (staying, _),
    ):
        asyncio.get_running_loop().call_later(0.5, process.send_signal, signal.SIGTERM)
        played = await collect_all([leaving, staying], lambda _: {}, episodes=300, concurrency=16)
        assert [str(outcome.error) for outcome in played if outcome.error is not None] == []
        assert len(played) == 300
        assert (
            await asyncio.wait_for(process.wait(), 20) == 0
        )  # it was the one that drained, meanwhile
