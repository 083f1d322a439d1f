"""The reaper spares the busy: work in flight is activity."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from openenv_async import Timeouts
from openenv_async.errors import SessionClosed
from tests.behaviours.environments import Commanded, Sleeper, client, served
from tests.helpers import until

CASES = [
    (Sleeper, {"seconds": 1.5}),
    (Commanded, {"do": "sleep", "seconds": 1.5}),
]


@pytest.mark.parametrize(("env", "action"), CASES)
async def test_a_long_step_is_activity_and_the_idle_are_reaped(
    env: Any, action: dict[str, Any]
) -> None:
    """Idle timeout 0.3 s, step of 1.5 s."""
    async with served(env, timeouts=Timeouts(idle=0.3)) as (url, engine):
        one = client(url)
        await one.reset()
        await one.step(action)
        ended = time.monotonic()
        assert len(engine.sessions) == 1
        assert engine.stats.expired == 0
        # The idle clock starts when the last request ends.
        await until(lambda: not engine.sessions, seconds=4)
        assert time.monotonic() - ended > 0.2
        assert engine.stats.expired == 1
        with pytest.raises(SessionClosed) as caught:
            await one.step({})
        assert caught.value.detail["field"] == "idle"
        assert caught.value.detail["value"] == 0.3
        await one.reset()  # in a new session
        await one.close()


async def test_waiting_for_capacity_is_not_being_idle() -> None:
    async with served(Sleeper, timeouts=Timeouts(idle=0.4), max_sessions=1, max_waiting=1) as (
        url,
        engine,
    ):
        first, second = client(url), client(url)
        await first.reset()
        opening = asyncio.ensure_future(second.open())
        await first.step({"seconds": 1.0})
        assert engine.waiting == 1
        await until(lambda: engine.stats.expired == 1)  # the first, idle from then on
        await opening
        await second.reset()
        await second.close()
        await first.close()
