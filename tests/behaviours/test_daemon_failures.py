"""Gentle on the daemon: few calls at once, and a daemon that stumbles does not fail a start."""

from __future__ import annotations

import asyncio
import random

import pytest

from tests.providers.engines import BASE, SLEEP, Fault, Proxy, docker_tests, none_left, provider
from tests.providers.fixtures import engine as engine

pytestmark = docker_tests

FAULTS: tuple[Fault, ...] = ("500", "reset", "lose")


async def starts(count: int, rate: float, max_calls: int) -> Proxy:
    """Start so many containers while that share of all calls fails."""
    dice = random.Random(17)
    async with Proxy().running() as proxy:
        proxy.choose = lambda method, path: (
            dice.choice(FAULTS) if dice.random() < rate and path != "/events" else "pass"
        )
        async with provider(
            BASE, command=SLEEP, engine=proxy.url, max_calls=max_calls, memory="32m"
        ) as containers:

            async def one() -> None:
                await (await containers.start(timeout=240)).aclose()

            await asyncio.gather(*(one() for _ in range(count)))
        proxy.choose = lambda method, path: "pass"
        await none_left()
        return proxy


async def test_a_third_of_all_calls_fails_and_every_start_succeeds() -> None:
    proxy = await starts(24, 0.3, 6)
    # A cancelled call here may still be under way there for a moment.
    assert proxy.most <= 2 * 6
    assert len(proxy.seen) > 24 * 4


@pytest.mark.heavy
async def test_200_starts() -> None:
    proxy = await starts(200, 0.3, 12)
    assert proxy.most <= 2 * 12
