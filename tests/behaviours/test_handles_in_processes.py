"""Client and pool handles travel between processes, and notice that they did."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from openenv_async import (
    EngineOptions,
    EnvClient,
    Environment,
    HTTPEnvClient,
    SyncEnvClient,
    serve,
)
from openenv_async.client.loop_thread import background_loop
from openenv_async.pool import EnvPool, SyncEnvPool
from openenv_async.providers.process import ProcessProvider

ROOT = Path(__file__).parents[2]


@dataclass
class Add:
    number: int


@dataclass
class Total:
    total: int


class Adding(Environment[Add, Total, dict[str, Any]]):
    isolation = "inline"

    def reset(self) -> Total:
        self.total = 0
        return Total(0)

    def step(self, action: Add) -> Total:
        self.total += action.number
        return Total(self.total)


class AddClient(EnvClient[Add, Total, dict[str, Any]]):
    """Importable, as what is pickled must be."""


class AddHTTP(HTTPEnvClient[Add, Total, dict[str, Any]]):
    """As above, over HTTP."""


class AddSync(SyncEnvClient[Add, Total, dict[str, Any]]):
    """As above, blocking."""


async def play_async(client: Any, number: int) -> int:
    await client.reset()
    total: int = (await client.step(Add(number))).observation.total
    await client.close()
    return total


def play(client: Any, number: int) -> int:
    """What a child process does with a handle."""
    if isinstance(client, SyncEnvClient):
        client.reset()
        total: int = client.step(Add(number)).observation.total
        client.close()
        return total
    return asyncio.run(play_async(client, number))


@pytest.mark.parametrize("make", [AddClient, AddHTTP, AddSync])
async def test_an_open_client_pickles_and_the_copy_has_its_own_session(
    make: Callable[[str], Any],
) -> None:
    async with serve(Adding, options=EngineOptions(max_sessions=4)) as url:
        client = make(url)
        calls = asyncio.to_thread if isinstance(client, SyncEnvClient) else _await
        await calls(client.reset)
        await calls(client.step, Add(5))
        copy = pickle.loads(pickle.dumps(client))
        assert copy.session_id is None
        assert await asyncio.to_thread(play, copy, 7) == 7
        assert (await calls(client.step, Add(1))).observation.total == 6
        await calls(client.close)


async def _await(call: Any, *args: Any) -> Any:
    return await call(*args)


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_children_play_on_their_own_sessions(method: str) -> None:
    """A fork copies an open handle, loop thread and all; the parent's episode is not touched."""
    async with serve(Adding) as url:
        client = AddSync(url)
        await asyncio.to_thread(client.reset)
        await asyncio.to_thread(client.step, Add(5))
        assert background_loop().loop.is_running()
        context = multiprocessing.get_context(method)
        with context.Pool(2) as pool:
            played = pool.starmap_async(play, [(client, 1), (client, 2), (client, 3)])
            assert await asyncio.to_thread(played.get, 60) == [1, 2, 3]
        assert (await asyncio.to_thread(client.step, Add(1))).observation.total == 6
        await asyncio.to_thread(client.close)


def _inherited(client: Any, results: Any) -> None:
    results.put(play(client, 9))


async def test_an_inherited_handle_is_not_the_parents_session() -> None:
    """Not pickled but inherited by a fork, connection object and all."""
    async with serve(Adding) as url:
        client = AddSync(url)
        await asyncio.to_thread(client.reset)
        await asyncio.to_thread(client.step, Add(5))
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()
        child = context.Process(target=_inherited, args=(client, results))
        child.start()
        await asyncio.to_thread(child.join, 60)
        assert child.exitcode == 0
        assert results.get() == 9
        assert (await asyncio.to_thread(client.step, Add(1))).observation.total == 6
        await asyncio.to_thread(client.close)


# -- pools --------------------------------------------------------------------------------------


async def play_in_pool(pool: EnvPool, number: int) -> int:
    async with pool, pool.session() as env:
        await env.reset()
        total: int = (await env.step(Add(number))).observation.total
        return total


def play_pool(pool: Any, number: int) -> int:
    """What a child process does with a pool."""
    if isinstance(pool, EnvPool):
        return asyncio.run(play_in_pool(pool, number))
    with pool, pool.session() as env:
        env.reset()
        total: int = env.step(Add(number)).observation.total
        return total


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_pools_travel_and_open_where_they_are_used(method: str) -> None:
    """One that was opened, one that plays on its workers, and a blocking one."""
    async with serve(Adding) as url:
        options: dict[str, Any] = {"client": AddClient, "sessions_per_worker": 4}
        async with EnvPool.from_url(url, **options) as pool, pool.session() as env:
            await env.reset()
            await env.step(Add(5))
            blocking = SyncEnvPool.from_url(url, **options)
            context = multiprocessing.get_context(method)
            with context.Pool(2) as processes:
                played = processes.starmap_async(
                    play_pool, [(pool, 1), (pool.shared(), 2), (blocking, 3)]
                )
                assert await asyncio.to_thread(played.get, 60) == [1, 2, 3]
            assert (await env.step(Add(1))).observation.total == 6
            assert pool.statistics().sessions == 1


def _inherited_pool(pool: EnvPool, results: Any) -> None:
    async def play() -> None:
        try:
            results.put(await play_in_pool(pool, 9))
        except BaseException as exc:
            results.put(repr(exc))

    asyncio.run(play())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
async def test_a_forked_process_leaves_the_parents_workers_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It starts one of its own and ends that, and that only."""
    monkeypatch.chdir(ROOT)
    provider = ProcessProvider(f"{Adding.__module__}:Adding")
    async with EnvPool(provider, client=AddClient) as pool, pool.session() as env:
        await env.reset()
        await env.step(Add(5))
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()
        child = context.Process(target=_inherited_pool, args=(pool, results))
        child.start()
        await asyncio.to_thread(child.join, 60)
        assert child.exitcode == 0
        assert results.get() == 9
        assert (await env.step(Add(1))).observation.total == 6
        assert pool.statistics().workers_died == 0
