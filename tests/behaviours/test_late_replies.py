"""Every request has an id; a late reply is dropped and counted, never given to another."""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

import pytest

from openenv_async import Environment, GenericEnvClient, serve
from openenv_async.client.connection import ClientConnection

SESSIONS = 64
CALLS = 80


class Nonce(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Gives the nonce back, after a while."""

    async def reset(self) -> dict[str, Any]:
        return {}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        for _ in range(action["turns"]):
            await asyncio.sleep(0)
        if action["stubborn"]:  # what cannot be stopped answers late
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.002)
        elif action["wait"]:
            await asyncio.sleep(0.002)
        return {"nonce": action["nonce"]}


@pytest.mark.parametrize("subprotocol", ["openenv.v1.msgpack", "openenv.v1.json"])
async def test_replies_belong_to_their_requests(subprotocol: str) -> None:
    rng = random.Random(1)
    given_up = answered = 0
    connections: set[ClientConnection] = set()

    async def call(env: GenericEnvClient, nonce: str) -> None:
        nonlocal given_up, answered
        action = {
            "nonce": nonce,
            "turns": rng.randrange(4),
            "wait": rng.random() < 0.3,
            "stubborn": rng.random() < 0.3,
        }
        step = asyncio.ensure_future(env.step(action))
        fate = rng.random()
        if fate < 0.3:  # cancelled at any await point
            for _ in range(rng.randrange(12)):
                await asyncio.sleep(0)
            step.cancel()
        try:
            async with asyncio.timeout(rng.uniform(0, 0.004) if 0.3 <= fate < 0.5 else None):
                result = await step
        except (asyncio.CancelledError, TimeoutError):
            given_up += 1
        else:
            assert result.observation["nonce"] == nonce
            answered += 1

    async def play(url: str, number: int) -> None:
        async with GenericEnvClient(url, subprotocol=subprotocol) as env:
            assert env.connection is not None
            connections.add(env.connection)
            await env.reset()
            for turn in range(CALLS):
                await call(env, f"{number}/{turn}")
            await call(env, f"{number}/last")

    async with serve(Nonce) as url:
        await asyncio.gather(*(play(url, number) for number in range(SESSIONS)))
    assert answered > SESSIONS * CALLS / 3
    assert given_up > SESSIONS * CALLS / 10
    assert sum(connection.late_replies for connection in connections) > 0
