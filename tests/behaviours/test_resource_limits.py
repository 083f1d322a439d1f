"""OS ceilings: what does not fit is refused by name, and what is there goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from openenv_async import GenericEnvClient, HTTPEnvClient
from openenv_async.engine.resources import Resources
from openenv_async.errors import ConnectFailed, ResourceLimit
from tests.behaviours.environments import (
    Ledger,
    client,
    clients,
    gather,
    outcomes,
    served,
    served_process,
)


async def test_too_few_file_descriptors_for_more_processes() -> None:
    """``ulimit -n 96``: a process a session soon takes them all."""
    limited = ("--max-sessions", "64")
    async with (
        served_process("CommandedProcess", *limited, open_files=96) as (url, _),
        clients(url, 4) as made,
    ):
        await gather(c.reset() for c in made)
        more = [type(made[0])(url) for _ in range(24)]
        results = await outcomes(c.open() for c in more)
        refused = [r for r in results if isinstance(r, BaseException)]
        assert refused
        assert all(isinstance(error, ResourceLimit) for error in refused)
        assert all(error.retryable for error in refused if isinstance(error, ResourceLimit))
        steps = await gather(c.step({}) for c in made)
        assert [r.observation["steps"] for r in steps] == [1] * 4
        await gather(c.close() for c in more)
        await made[0].close()
        await gather(c.step({}) for c in made[1:])


async def test_too_few_file_descriptors_for_more_connections() -> None:
    """``ulimit -n 256``: 300 sessions that share no connection, 20 at a time."""
    async with served_process("Ledger", open_files=256) as (url, _), clients(url, 4) as made:
        await gather(c.reset() for c in made)
        more = [client(url, share=False) for _ in range(300)]
        results: list[Any] = []
        for at in range(0, len(more), 20):
            results += await outcomes(c.open() for c in more[at : at + 20])
        refused = [r for r in results if isinstance(r, BaseException)]
        assert 40 < len(refused) < 230
        for error in refused:
            assert isinstance(error, ResourceLimit)
            assert error.retryable
            assert error.detail["limit"] == "RLIMIT_NOFILE"
            assert error.detail["value"] == 256
            assert error.phase == "connect"
        steps = await gather(c.step({"n": 0}) for c in made)
        assert [r.observation["count"] for r in steps] == [1] * 4
        await gather(c.close() for c in more)
        late = client(url, share=False)
        async with asyncio.timeout(10):  # there is room again, once the server has looked
            while True:
                try:
                    await late.reset()
                    break
                except ResourceLimit:
                    await asyncio.sleep(0.05)
        await late.close()


async def test_a_burst_harms_nobody_who_is_there() -> None:
    """More connections at once than descriptors: the system itself refuses some of them."""
    async with served_process("Ledger", open_files=128) as (url, _), clients(url, 4) as made:
        await gather(c.reset() for c in made)
        more = [client(url, share=False) for _ in range(300)]
        results = await outcomes(c.open() for c in more)
        refused = [r for r in results if isinstance(r, BaseException)]
        assert refused
        for error in refused:
            assert isinstance(error, ResourceLimit | ConnectFailed)
            assert error.retryable
        steps = await gather(c.step({"n": 0}) for c in made)
        assert [r.observation["count"] for r in steps] == [1] * 4
        await gather(c.close() for c in more)


async def test_an_upstream_client_is_refused_too() -> None:
    async with served(Ledger) as (url, engine):
        engine.resources = Resources(descriptors=lambda: 5)
        with pytest.raises(InvalidStatus) as caught:
            await connect(url.replace("http", "ws") + "/ws")
        assert caught.value.response.status_code == 503
        assert b"resource_limit" in caught.value.response.body
        assert engine.resources.refused == 1


@pytest.mark.parametrize("kind", [GenericEnvClient, HTTPEnvClient])
async def test_short_memory_refuses_the_next_session(kind: Any) -> None:
    async with served(Ledger) as (url, engine):
        first = kind(url)
        await first.reset()
        engine.resources = Resources(1 << 20, memory=lambda: 1000)
        other = kind(url)
        with pytest.raises(ResourceLimit, match="min-free-memory") as caught:
            await other.open()
        assert caught.value.retryable
        assert caught.value.phase == "open"
        assert (await first.step({"n": 1})).observation["count"] == 1
        engine.resources = Resources()
        await other.reset()
        await other.close()
        await first.close()
