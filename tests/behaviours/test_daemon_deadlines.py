"""Own deadline on every daemon call; removing is idempotent; events are a hint."""

from __future__ import annotations

import asyncio

import pytest

from openenv_async.errors import DeadlineExceeded, ProviderError
from tests.providers.engines import (
    BASE,
    SLEEP,
    Fault,
    Proxy,
    docker,
    docker_tests,
    none_left,
    provider,
)
from tests.providers.fixtures import engine as engine

pytestmark = docker_tests


@pytest.mark.parametrize("path", ["/version", "/images/", "/containers/create", "/start", "/json"])
async def test_a_daemon_that_hangs_ends_a_start_in_time(path: str) -> None:
    """Whatever call it hangs at; what was made is removed when the daemon is well again."""
    async with Proxy().running() as proxy:
        is_ill = True

        def choose(method: str, asked: str) -> Fault:
            hit = asked.endswith(path) or (path.endswith("/") and asked.startswith(path))
            return "hang" if is_ill and hit and asked != "/events" else "pass"

        proxy.choose = choose
        containers = provider(BASE, command=SLEEP, engine=proxy.url)
        with pytest.raises((DeadlineExceeded, ProviderError)):
            await asyncio.wait_for(containers.start(timeout=1.0), 120)
        is_ill = False
        await containers.aclose()
        await none_left()


async def test_removed_behind_its_back_and_again() -> None:
    async with provider(BASE, command=SLEEP) as containers:
        worker = await containers.start()
        await asyncio.to_thread(docker, "rm", "-f", worker.name)
        await worker.aclose()
        await worker.aclose()


async def test_a_daemon_that_loses_its_answers_to_a_removal() -> None:
    lost = iter(range(3))
    async with Proxy().running() as proxy:
        proxy.choose = lambda method, path: (
            "lose" if method == "DELETE" and next(lost, None) is not None else "pass"
        )
        async with provider(BASE, command=SLEEP, engine=proxy.url) as containers:
            await (await containers.start()).aclose()
            await none_left(seconds=1.0)
