"""The end of a connection frees all that it had, without Python's cyclic collector.

Garbage that waits for the collector keeps its memory until then, environments and shared memory
included, and a server of many sessions collects seldom.
"""

from __future__ import annotations

import asyncio
import functools
import gc
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from openenv_async import GenericEnvClient
from openenv_async.hosts.vectors import make_vector
from openenv_async.integrations.gymnasium import GymVectorEnv
from tests.behaviours.environments import Ledger, LedgerAsync, LedgerThread, served
from tests.helpers import until

OF_A_CONNECTION = {
    "CartPoleVectorEnv",
    "DirectHTTP",
    "DirectWebSocket",
    "EnvironmentRunner",
    "HttpRequestParser",
    "Job",
    "Ledger",
    "LedgerAsync",
    "LedgerThread",
    "Lender",
    "LocalSocket",
    "NativeSocket",
    "ServerConnection",
    "ServerProtocol",
    "Session",
    "SharedCodecs",
    "SharedConnection",
}
"""Types of what a server makes for a connection and its sessions, by name."""


def alive() -> Counter[str]:
    names = (type(each).__name__ for each in gc.get_objects())
    return Counter(name for name in names if name in OF_A_CONNECTION)


async def check_nothing_is_left(use: Callable[[], Awaitable[None]]) -> None:
    """Check that ``use``, which opens and closes a client, leaves nothing of its connection."""
    gc.collect()
    gc.disable()
    try:
        before = alive()
        await use()
        await until(lambda: not alive() - before)
    finally:
        gc.enable()


@pytest.mark.parametrize("local", [True, False], ids=["unix", "tcp"])
@pytest.mark.parametrize("env", [Ledger, LedgerAsync, LedgerThread])
async def test_a_closed_session_is_freed_by_its_end(env: Any, local: bool) -> None:
    async with served(env) as (url, engine):

        async def use() -> None:
            async with GenericEnvClient(url, local=local) as client:
                await client.reset(label="let go")
                await client.step({"n": 1})
                assert engine.sessions

        await check_nothing_is_left(use)


async def test_a_closed_vector_is_freed_by_its_end() -> None:
    async with served(functools.partial(make_vector, "CartPole-v1", num_envs=8)) as (url, _):

        def play() -> None:
            vector = GymVectorEnv(url)
            vector.reset(seed=0)
            vector.step(vector.action_space.sample())
            vector.close()

        await check_nothing_is_left(lambda: asyncio.to_thread(play))
