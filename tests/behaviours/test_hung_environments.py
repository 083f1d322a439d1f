"""Hung environments: server-enforced deadlines stop work, and only the session concerned."""

from __future__ import annotations

import asyncio
import time
from dataclasses import fields
from typing import Any

import pytest

from openenv_async import Environment, Timeouts
from openenv_async.errors import DeadlineExceeded, SessionClosed
from tests.behaviours.environments import (
    Commanded,
    CommandedProcess,
    Dict,
    Sleeper,
    Stubborn,
    client,
    clients,
    gather,
    served,
)
from tests.helpers import until


def test_no_deadline_of_a_call_is_infinite_by_default() -> None:
    defaults = {f.name: getattr(Timeouts(), f.name) for f in fields(Timeouts)}
    assert all(defaults[name] for name in ("connect", "open", "reset", "step", "state", "close"))


async def test_a_spinning_process_is_killed_at_its_deadline() -> None:
    async with served(CommandedProcess) as (url, engine), clients(url, 3) as made:
        await gather(c.reset() for c in made)
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught:
            await made[0].step({"do": "spin"}, timeout=1.0)
        assert 1.0 <= time.monotonic() - begun < 2.0
        assert caught.value.detail["field"] == "step"
        assert caught.value.detail["value"] == 1.0
        results = await gather(c.step({}) for c in made[1:])
        assert [r.observation["steps"] for r in results] == [1, 1]
        with pytest.raises(SessionClosed):
            await made[0].step({})
        assert engine.active == 2
        await made[0].reset()  # a new session in a new process
        assert (await made[0].step({})).observation["steps"] == 1


async def test_a_call_that_hangs_in_a_shared_worker_costs_its_session_alone() -> None:
    async with served(CommandedProcess, workers=2) as (url, engine), clients(url, 4) as made:
        pids = [r.observation["pid"] for r in await gather(c.reset() for c in made)]
        assert sorted(map(pids.count, set(pids))) == [2, 2]
        with pytest.raises(DeadlineExceeded):
            await made[0].step({"do": "spin", "seconds": 3}, timeout=0.5)
        results = await gather(c.step({}) for c in made[1:])
        assert [(r.observation["pid"], r.observation["steps"]) for r in results] == [
            (pid, 1) for pid in pids[1:]
        ]
        with pytest.raises(SessionClosed):
            await made[0].step({})
        await made[0].reset()
        assert engine.active == 4
        assert engine.stats.workers_died == 0


async def test_a_stuck_thread_costs_its_session_and_no_capacity() -> None:
    Commanded.closed = 0
    async with served(Commanded, max_sessions=2, max_threads=2) as (url, engine):
        for round_ in range(3):  # three stuck threads, and still two sessions at once
            one, two = client(url), client(url)
            await gather([one.reset(), two.reset()])
            with pytest.raises(DeadlineExceeded):
                await one.step({"do": "sleep", "seconds": 1.0}, timeout=0.2)
            with pytest.raises(SessionClosed):
                await one.step({})
            assert engine.active == 1
            assert (await two.step({})).observation["steps"] == 1
            await gather([one.close(), two.close()])
            assert engine.active == 0, round_
        await until(lambda: Commanded.closed == 6)  # the abandoned ones too, in the end


async def test_an_async_environment_that_ignores_cancellation() -> None:
    Stubborn.cancelled = Stubborn.closed = 0
    async with served(Stubborn, max_sessions=1, interrupt_grace=0.2) as (url, engine):
        one = client(url)
        await one.reset()
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await one.step({"seconds": 1.2}, timeout=0.3)
        assert time.monotonic() - begun < 1.0
        assert engine.active == 0
        await one.reset()  # the one place is free again
        await one.step({})
        await one.close()
        assert Stubborn.cancelled >= 1
        await until(lambda: Stubborn.closed == 2)


async def test_an_async_environment_that_can_be_stopped_goes_on() -> None:
    async with served(Sleeper) as (url, _), clients(url, 1) as (one,):
        await one.reset()
        with pytest.raises(DeadlineExceeded):
            await one.step({"seconds": 30}, timeout=0.2)
        assert (await one.step({})).observation["slept"]
        with pytest.raises(DeadlineExceeded) as caught:
            await one.reset(seconds=30, timeout=0.2)
        assert caught.value.detail["field"] == "reset"
        await one.reset()


class SlowToBuild(Environment[Dict, Dict, Dict]):
    def __init__(self) -> None:
        time.sleep(3.0)

    def reset(self) -> Dict:
        return {}

    def step(self, action: Dict) -> Dict:
        return {}


class SlowToBuildProcess(SlowToBuild):
    isolation = "process"


class SlowToClose(Environment[Dict, Dict, Dict]):
    async def reset(self) -> Dict:
        return {}

    async def step(self, action: Dict) -> Dict:
        return {}

    async def close(self) -> None:
        await asyncio.sleep(30)


@pytest.mark.parametrize("env", [SlowToBuild, SlowToBuildProcess])
async def test_building_has_a_deadline(env: Any) -> None:
    async with served(env, max_sessions=1, interrupt_grace=0.1) as (url, engine):
        one = client(url, timeouts=Timeouts(open=0.3))
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught:
            await one.open()
        assert time.monotonic() - begun < 2.5
        assert caught.value.detail["field"] == "open"
        assert engine.active == 0


async def test_closing_has_a_deadline() -> None:
    async with served(SlowToClose, max_sessions=1, interrupt_grace=0.1) as (url, engine):
        one = client(url, timeouts=Timeouts(close=0.3))
        await one.reset()
        begun = time.monotonic()
        await one.close()
        assert time.monotonic() - begun < 1.0
        assert engine.active == 0


@pytest.mark.parametrize("env", [Sleeper, Commanded])
async def test_the_whole_episode_has_a_deadline(env: Any) -> None:
    action = {"do": "sleep", "seconds": 0.2}
    async with served(env, timeouts=Timeouts(episode=0.5)) as (url, _), clients(url, 1) as (one,):
        await one.reset()
        begun = time.monotonic()
        for _ in range(2):
            await one.step(action)
        with pytest.raises(DeadlineExceeded) as caught:
            await one.step({**action, "seconds": 5.0})
        assert time.monotonic() - begun < 1.0
        assert caught.value.detail["field"] == "episode"
        await one.reset()
        await one.step(action)
