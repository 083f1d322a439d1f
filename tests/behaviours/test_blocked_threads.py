"""No starving pool: blocked calls wait for nobody's default executor."""

from __future__ import annotations

import asyncio
import threading
import time
from math import inf

import pytest

from openenv_async.errors import ResourceLimit, ServerBusy
from tests.behaviours.environments import Commanded, client, clients, gather, outcomes, served
from tests.helpers import until

SESSIONS = 512


async def test_512_blocked_sessions_all_start_within_a_second() -> None:
    started = inf
    async with served(Commanded) as (url, engine):
        for _ in range(3):  # a machine that is busy once is not held against it
            async with clients(url, SESSIONS) as made:
                await gather(c.reset() for c in made)
                begun = time.monotonic()
                calls = [asyncio.ensure_future(c.step({"do": "sleep", "seconds": 5})) for c in made]
                await until(lambda: Commanded.working == SESSIONS, seconds=5)
                started = time.monotonic() - begun
                lags = []
                for _ in range(100):  # meanwhile the loop is free
                    at = time.perf_counter()
                    await asyncio.sleep(0)
                    lags.append(time.perf_counter() - at)
                results = await gather(calls)
            assert sorted(lags)[95] < 0.05
            assert {r.observation["steps"] for r in results} == {1}
            assert engine.stats.timeouts == 0
            if started < 1.5:
                break
        assert started < 1.5  # 1 s by itself; the other half is for a busy machine


async def test_too_few_threads_are_an_error_that_names_the_setting() -> None:
    async with served(Commanded, max_threads=2) as (url, engine), clients(url, 4) as made:
        await gather(c.reset() for c in made)
        blocked = [asyncio.ensure_future(c.step({"do": "sleep", "seconds": 1.0})) for c in made[:2]]
        await until(lambda: Commanded.working == 2)
        refused = await outcomes(c.step({}, timeout=0.3) for c in made[2:])
        for error in refused:
            assert isinstance(error, ServerBusy)
            assert error.retryable
            assert error.detail["setting"] == "max_threads"
            assert error.detail["limit"] == 2
        await gather(blocked)
        # Nothing ran in the refused sessions, so they are as they were.
        results = await gather(c.step({}) for c in made[2:])
        assert [r.observation["steps"] for r in results] == [1, 1]
        assert engine.active == 4


async def test_a_system_without_more_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(Commanded) as (url, engine), clients(url, 2) as (one, two):
        await one.reset()
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if thread.name.startswith("openenv-Commanded"):
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)
        blocked = asyncio.ensure_future(one.step({"do": "sleep", "seconds": 0.5}))
        await until(lambda: Commanded.working == 1)
        # There is one thread: what waits for it is served when it is free.
        assert (await two.reset()).observation["pid"]
        await blocked
    assert not engine.sessions

    async with served(Commanded) as (url, engine):  # and now there is none at all
        one = client(url)
        with pytest.raises(ResourceLimit) as caught:
            await one.open()
        assert caught.value.retryable
        assert not engine.sessions
