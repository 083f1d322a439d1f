"""Death is noticed: what happened to the process, at once, with its log tail."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from typing import Any

import pytest

from openenv_async.engine.executors import child
from openenv_async.errors import EnvironmentDied
from tests.behaviours.environments import CommandedProcess, client, clients, gather, served
from tests.chaos import ChaosProxy
from tests.helpers import until


async def died(call: Any) -> EnvironmentDied:
    with pytest.raises(EnvironmentDied) as caught:
        await asyncio.wait_for(call, 10)
    return caught.value


async def test_kill_9_in_mid_step() -> None:
    async with served(CommandedProcess) as (url, engine), clients(url, 2) as (one, other):
        begun = await gather([one.reset(), other.reset()])
        pid = begun[0].observation["pid"]
        await one.step({"do": "say", "lines": 80, "last": "and then\n"})
        stepping = asyncio.ensure_future(one.step({"do": "sleep", "seconds": 60}))
        # Another session answers behind it, so it has been sent.
        await other.step({})
        at = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        error = await died(stepping)
        assert time.monotonic() - at < 2.0
        assert error.exit_code == -signal.SIGKILL
        assert error.oom is not True
        assert error.phase == "step"
        assert error.retryable
        assert error.log_tail is not None
        lines = error.log_tail.splitlines()
        assert len(lines) == 50
        assert lines[-1] == "and then"
        assert lines[0] == "line 31"
        assert "SIGKILL" in str(error)
        assert (await other.step({})).observation["steps"] == 2
        assert engine.active == 1


async def test_dying_by_itself_with_words() -> None:
    async with served(CommandedProcess) as (url, _), clients(url, 1) as (one,):
        await one.reset()
        error = await died(one.step({"do": "die"}))
        assert error.exit_code == -signal.SIGKILL
        assert error.log_tail is not None
        assert error.log_tail.endswith("the very last line")


async def test_os_exit() -> None:
    async with served(CommandedProcess) as (url, _), clients(url, 1) as (one,):
        await one.reset()
        at = time.monotonic()
        error = await died(one.step({"do": "os_exit", "code": 7}))
        assert time.monotonic() - at < 2.0
        assert error.exit_code == 7
        assert "exited with code 7" in str(error)
        await one.reset()
        assert (await one.step({})).observation["steps"] == 1


async def test_between_two_steps() -> None:
    async with served(CommandedProcess) as (url, engine), clients(url, 1) as (one,):
        pid = (await one.reset()).observation["pid"]
        os.kill(pid, signal.SIGKILL)
        await until(lambda: engine.active == 0, seconds=2)
        error = await died(one.step({}))
        assert error.exit_code == -signal.SIGKILL


async def test_out_of_memory() -> None:
    """A limit of the system: the environment raises or dies; the caller is told either way."""
    async with served(CommandedProcess) as (url, _), clients(url, 2) as (one, other):
        await gather([one.reset(), other.reset()])
        with pytest.raises(Exception) as caught:  # noqa: PT011 - one of two, told apart below
            await asyncio.wait_for(one.step({"do": "memory"}), 20)
        assert caught.value.code in ("environment_raised", "environment_died")  # type: ignore[attr-defined]
        if caught.value.code == "environment_raised":  # type: ignore[attr-defined]
            assert caught.value.detail["raised"] == "MemoryError"  # type: ignore[attr-defined]
        assert (await other.step({})).observation["steps"] == 1


async def test_killed_while_the_client_was_away() -> None:
    async with served(CommandedProcess) as (url, engine), ChaosProxy(url) as proxy:
        one = client(proxy.url)
        pid = (await one.reset()).observation["pid"]
        with proxy.outage():
            os.kill(pid, signal.SIGKILL)
            await until(lambda: engine.active == 0)
        error = await died(one.step({}))
        assert error.exit_code == -signal.SIGKILL
        await one.reset()
        await one.close()


async def test_killed_for_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's count of such kills grew; making it kill would take a victim of its choice."""
    kills = itertools.count()
    monkeypatch.setattr(child, "oom_kills", lambda: next(kills))
    async with served(CommandedProcess) as (url, _), clients(url, 1) as (one,):
        await one.reset()
        error = await died(one.step({"do": "die"}))
        assert error.oom is True
        assert "memory ran out" in str(error)


async def test_a_stopped_process_is_found_by_the_deadline() -> None:
    async with served(CommandedProcess) as (url, _), clients(url, 1) as (one,):
        pid = (await one.reset()).observation["pid"]
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError):
            await one.step({}, timeout=0.3)
        await until(lambda: not os.path.exists(f"/proc/{pid}"), seconds=3)  # and it is reaped
