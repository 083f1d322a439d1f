"""Parallel starts: the loop goes on, and one that never answers fails alone."""

from __future__ import annotations

import asyncio
import time

from openenv_async import GenericEnvClient
from openenv_async.client.launch import launch, wait_ready
from openenv_async.errors import DeadlineExceeded
from openenv_async.providers.base import Worker
from tests.providers.engines import BASE, docker_tests, provider
from tests.providers.fixtures import engine as engine

pytestmark = docker_tests

# A server that takes two seconds to begin, as many environments do.
SLOW = "sleep 2; exec openenv-async serve echo --host 0.0.0.0"


async def test_32_starts_at_once() -> None:
    """A start is mostly waiting; two cores begin some eight containers a second."""
    lags: list[float] = []

    async def watch() -> None:
        while True:
            at = time.perf_counter()
            await asyncio.sleep(0.01)
            lags.append(time.perf_counter() - at - 0.01)

    async with provider("echo-env:latest", command=["sh", "-c", SLOW]) as containers:
        await (await containers.start()).aclose()
        watching = asyncio.ensure_future(watch())
        each: list[float] = []

        async def one() -> Worker:
            at = time.perf_counter()
            worker = await launch(containers, timeout=240)
            each.append(time.perf_counter() - at)
            return worker

        workers = await asyncio.gather(*(one() for _ in range(32)))
        watching.cancel()
        assert len({worker.url for worker in workers}) == 32
        assert sum(each) > 4 * max(each), "they were started one after the other"
        assert sorted(lags)[int(len(lags) * 0.99)] < 2.0
        async with GenericEnvClient(workers[-1].url, token=workers[-1].token) as env:
            await env.reset()


async def test_one_that_never_answers_fails_alone() -> None:
    async with (
        provider() as good,
        provider(BASE, command=["sh", "-c", "echo not me; exec sleep 600"]) as bad,
    ):
        silent = await bad.start(timeout=120)
        outcomes = await asyncio.gather(
            *(launch(good, timeout=120) for _ in range(3)),
            wait_ready(silent, timeout=3.0),
            return_exceptions=True,
        )
        failed = outcomes.pop()
        assert isinstance(failed, DeadlineExceeded)
        assert failed.log_tail == "not me"
        assert not [one for one in outcomes if isinstance(one, BaseException)]
