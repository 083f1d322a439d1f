"""No hidden caps from a library's default (aiohttp's 100 connections, 32 threads)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, ClassVar

import pytest

from openenv_async import Environment, GenericEnvClient, HTTPEnvClient, serve
from tests.helpers import until

COUNT = 300


class Gathering(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Steps wait until all of them are there: one too few, and none ever ends."""

    arrived: ClassVar[int] = 0
    gate: ClassVar[asyncio.Event]

    async def reset(self) -> dict[str, Any]:
        return {}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        Gathering.arrived += 1
        if Gathering.arrived == COUNT:
            self.gate.set()
        await self.gate.wait()
        return {}


class GatheringThreads(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """The same with threads that block."""

    barrier: ClassVar[threading.Barrier]

    def reset(self) -> dict[str, Any]:
        return {}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self.barrier.wait(60)
        return {}


@pytest.mark.parametrize("share", [True, False])
async def test_sessions_over_websockets(share: bool) -> None:
    Gathering.arrived, Gathering.gate = 0, asyncio.Event()
    async with serve(Gathering) as url:
        clients = [GenericEnvClient(url, share=share) for _ in range(COUNT)]
        await together(clients)


async def test_calls_over_http() -> None:
    Gathering.arrived, Gathering.gate = 0, asyncio.Event()
    async with serve(Gathering) as url:
        clients = [HTTPEnvClient[Any, Any, Any](url) for _ in range(COUNT)]
        await together(clients)


async def test_steps_in_threads() -> None:
    GatheringThreads.barrier = threading.Barrier(COUNT)
    async with serve(GatheringThreads) as url:
        await together([GenericEnvClient(url) for _ in range(COUNT)])


async def together(clients: list[Any]) -> None:
    """Every client steps; no step ends before all have begun."""
    async with asyncio.timeout(60):
        await asyncio.gather(*(client.open() for client in clients))
        await asyncio.gather(*(client.reset() for client in clients))
        await asyncio.gather(*(client.step({}) for client in clients))
        await asyncio.gather(*(client.close() for client in clients))


async def test_blocking_clients_in_threads() -> None:
    """Each waits in a thread of its own; the one I/O thread carries them all."""
    Gathering.arrived, Gathering.gate = 0, asyncio.Event()
    count = 120
    done = 0

    async with serve(Gathering) as url:

        def play() -> None:
            nonlocal done
            with GenericEnvClient(url).sync() as env:
                env.reset()
                env.step({})
                done += 1

        threads = [threading.Thread(target=play) for _ in range(count)]
        for thread in threads:
            thread.start()
        await until(lambda: Gathering.arrived == count, 60)
        Gathering.gate.set()
        await until(lambda: not any(thread.is_alive() for thread in threads), 60)
        assert done == count
