"""Sessions that share a worker process: what one does costs the others nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from openenv_async import GenericEnvClient, Limits, Timeouts
from openenv_async.errors import (
    DeadlineExceeded,
    EnvironmentDied,
    OpenEnvError,
    SessionClosed,
)
from tests.behaviours.environments import client, served, served_process
from tests.engine.neighbours import (
    ASYNC,
    SYNC,
    AsyncNeighbour,
    InlineNeighbour,
    Neighbour,
    OwningNeighbour,
    ProcessNeighbour,
    UnsafeNeighbour,
)
from tests.helpers import until

SYNC_CLASSES = [Neighbour, InlineNeighbour, ProcessNeighbour, OwningNeighbour]


class Steady:
    """A neighbour that steps on and on, and counts what it gets."""

    def __init__(self, env: GenericEnvClient) -> None:
        self.env = env
        self.count = 0
        self.slowest = 0.0

    async def step(self) -> None:
        begun = time.monotonic()
        result = await self.env.step({})
        self.slowest = max(self.slowest, time.monotonic() - begun)
        self.count += 1
        assert result.observation["count"] == self.count

    async def run(self) -> None:
        while True:
            await self.step()
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def beside(url: str, count: int = 2) -> AsyncIterator[list[Steady]]:
    """Within it neighbours step all the time; what they miss fails the test."""
    made = [Steady(client(url)) for _ in range(count)]
    pids = {(await each.env.reset()).observation["pid"] for each in made}
    assert len(pids) == 1
    running = [asyncio.ensure_future(each.run()) for each in made]
    try:
        yield made
        for each, task in zip(made, running, strict=True):
            assert not task.done(), task.exception()
            before = each.count
            await until(lambda each=each, n=before: each.count > n, seconds=10)  # type: ignore[misc]
            assert not task.done(), task.exception()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await asyncio.gather(*(each.env.close() for each in made), return_exceptions=True)


async def misbehave(url: str, action: dict[str, Any], **options: Any) -> OpenEnvError | None:
    """Return what a session gets that does it; it is closed if it lives."""
    bad = client(url)
    try:
        await bad.reset()
        await bad.step(action, **options)
    except OpenEnvError as exc:
        return exc
    finally:
        with contextlib.suppress(OpenEnvError):
            await bad.close()
    return None


@pytest.mark.parametrize("env", [*SYNC_CLASSES, UnsafeNeighbour, AsyncNeighbour])
async def test_whatever_one_session_does_the_others_lose_nothing(env: Any) -> None:
    deeds = ASYNC if env is AsyncNeighbour else SYNC
    async with served(env, workers=1) as (url, engine), beside(url) as neighbours:
        for deed in deeds:
            counts = [each.count for each in neighbours]
            try:
                error = await asyncio.wait_for(misbehave(url, {"do": deed}), 20)
            except TimeoutError:
                pytest.fail(f"no answer after: {deed}")
            if deed.startswith("raise "):
                assert error is not None, deed
                assert error.code in ("environment_raised", "invalid_observation"), deed
            for each, before in zip(neighbours, counts, strict=True):
                try:
                    await until(lambda e=each, n=before: e.count > n)  # type: ignore[misc]
                except TimeoutError:
                    pytest.fail(f"a neighbour stands still after: {deed}")
            assert engine.stats.workers_died == 0, deed
        assert engine.stats.workers_started == 1


async def test_a_session_cannot_cancel_what_another_one_awaits() -> None:
    async with served(AsyncNeighbour, workers=1) as (url, _):
        one, bad = client(url), client(url)
        await one.reset()
        await bad.reset()
        for count, sort in enumerate(("sleep", "child"), 1):
            stepping = asyncio.ensure_future(one.step({sort: 0.5}))
            await asyncio.sleep(0.15)
            await bad.step({"do": "cancel every task"})
            assert not stepping.done()
            assert (await stepping).observation["count"] == count
        await bad.step({})
        await one.close()
        await bad.close()


@pytest.mark.parametrize("env", SYNC_CLASSES)
@pytest.mark.parametrize("how", ["sleep", "spin"])
async def test_a_call_past_its_deadline_is_given_up_in_the_worker(env: Any, how: str) -> None:
    async with served(env, workers=1) as (url, engine), beside(url):
        bad = client(url)
        await bad.reset()
        with pytest.raises(DeadlineExceeded):
            await bad.step({how: 2.5}, timeout=0.3)
        with pytest.raises(SessionClosed):
            await bad.step({})
        await bad.reset()  # a new session, in the same worker
        assert (await bad.step({})).observation["count"] == 1
        await bad.close()
        assert engine.stats.workers_died == 0
        assert engine.stats.workers_started == 1


async def test_a_call_past_its_deadline_where_all_share_one_thread() -> None:
    """They wait for it, because the class is not safe in threads; none is lost."""
    async with served(UnsafeNeighbour, workers=1) as (url, engine), beside(url) as neighbours:
        bad = client(url)
        await bad.reset()
        with pytest.raises(DeadlineExceeded):
            await bad.step({"sleep": 2.0}, timeout=0.3)
        await until(lambda: max(each.slowest for each in neighbours) > 1.0, seconds=10)
        assert engine.stats.workers_died == 0


async def test_an_async_call_that_ignores_cancellation_is_given_up() -> None:
    async with served(AsyncNeighbour, workers=1) as (url, engine), beside(url):
        bad = client(url)
        await bad.reset()
        with pytest.raises(DeadlineExceeded):
            await bad.step({"unresponsive": 2.0}, timeout=0.2)
        with pytest.raises(SessionClosed):
            await bad.step({})
        assert engine.stats.workers_died == 0


@pytest.mark.parametrize("env", [Neighbour, InlineNeighbour])
async def test_a_client_that_departs_in_a_long_step(env: Any) -> None:
    timeouts = Timeouts(close=0.3)
    async with served(env, workers=1, timeouts=timeouts) as (url, engine), beside(url):
        leaving = client(url, share=False)
        await leaving.reset()
        stepping = asyncio.ensure_future(leaving.step({"sleep": 2.0}))
        await until(lambda: engine.active == 3)
        await asyncio.sleep(0.1)
        await leaving.close()
        stepping.cancel()
        await until(lambda: engine.active == 2)
        assert engine.stats.workers_died == 0


@pytest.mark.parametrize("env", SYNC_CLASSES)
async def test_a_constructor_past_its_deadline(env: Any) -> None:
    async with served(env, workers=1) as (url, engine), beside(url):
        slow = client(url, options={"build": 2.5}, timeouts=Timeouts(open=0.3))
        with pytest.raises(DeadlineExceeded) as caught:
            await slow.open()
        assert caught.value.detail["field"] == "open"
        assert engine.active == 2
        assert engine.stats.workers_died == 0


@pytest.mark.parametrize("env", [UnsafeNeighbour, AsyncNeighbour])
async def test_a_worker_whose_only_thread_hangs_is_killed_with_typed_errors(env: Any) -> None:
    async with served(env, workers=1, worker_silence=0.5) as (url, engine):
        one, other = client(url), client(url)
        await one.reset()
        await other.reset()
        hang = {"sleep": 60} if env is UnsafeNeighbour else {"unresponsive": 0, "do": "hang"}
        waiting = asyncio.ensure_future(other.step({"sleep": 0.3}))
        await asyncio.sleep(0.05)
        with pytest.raises((DeadlineExceeded, EnvironmentDied)):
            await one.step(hang, timeout=0.5)
        with pytest.raises(EnvironmentDied, match="nothing else could run") as caught:
            await _both(waiting, other)
        assert caught.value.retryable
        await other.reset()  # in another worker
        assert engine.stats.workers_started == 2


async def _both(waiting: Any, other: GenericEnvClient) -> None:
    await waiting
    await other.step({})


@pytest.mark.parametrize("seed", [2**63, 2**64, 2**70, -(2**70)])
@pytest.mark.parametrize("env", [Neighbour, AsyncNeighbour])
async def test_a_number_that_no_frame_can_carry_costs_its_own_request(env: Any, seed: int) -> None:
    """Over HTTP, where JSON has numbers of any size."""
    import httpx

    async with served(env, workers=1) as (url, engine), beside(url), httpx.AsyncClient() as http:
        refused = await http.post(f"{url}/reset", json={"seed": seed}, timeout=10)
        if seed < 2**63 or refused.status_code != 200:
            assert refused.status_code in (400, 422), refused.text
            assert refused.json()["error"]["code"] in ("invalid_option", "protocol_error")
        good = await http.post(f"{url}/reset", json={"seed": 7}, timeout=10)
        assert good.status_code == 200
        assert engine.stats.workers_died == 0


async def test_a_worker_full_of_abandoned_calls_is_replaced() -> None:
    limits = Limits(max_abandoned_calls=2)
    async with served(Neighbour, workers=1, limits=limits) as (url, engine), beside(url):
        for _ in range(3):
            assert isinstance(await misbehave(url, {"sleep": 30}, timeout=0.1), DeadlineExceeded)
        begun = time.monotonic()
        while engine.stats.workers_started == 1:
            assert await misbehave(url, {}) is None
            assert time.monotonic() - begun < 10
        assert engine.stats.workers_died == 0
    assert engine.stats.workers_started == 2


async def test_the_death_of_a_shared_worker_shows_no_output_of_others() -> None:
    async with served(Neighbour, workers=1) as (url, _):
        secret, spy = client(url), client(url)
        pid = (await secret.reset()).observation["pid"]
        await spy.reset()
        await secret.step({})  # it prints
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(EnvironmentDied) as caught:
            await spy.step({})
        assert caught.value.log_tail is None


async def test_what_environments_print_is_in_the_log_with_the_worker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with served(Neighbour, workers=1) as (url, _):
        one = client(url)
        await one.reset()
        await one.step({})

        def printed() -> list[Any]:
            return [r for r in caplog.records if r.name == "openenv_async.worker"]

        await until(lambda: any(r.getMessage() == "step 0" for r in printed()))
        [record] = [r for r in printed() if r.getMessage() == "step 0"]
        assert record.levelname == "WARNING"  # the level that `serve` shows without options
        assert record.worker == 1
        await one.close()


@pytest.mark.parametrize("arguments", [(), ("--workers", "1")])
async def test_kill_9_of_the_server_ends_what_environments_started(
    arguments: tuple[str, ...],
) -> None:
    target = "ProcessLeaver"
    async with served_process(target, *arguments) as (url, process):
        one = client(url)
        await one.reset()
        pids = (await one.step({})).observation["pids"]
        assert all(map(_runs, pids))
        process.kill()
        await process.wait()
        await until(lambda: not any(map(_runs, pids)), seconds=30)
        with contextlib.suppress(OpenEnvError):
            await asyncio.wait_for(one.close(), 5)


async def test_what_a_session_started_ends_with_its_worker() -> None:
    """Also children with a session of their own, when the worker is killed."""
    from tests.behaviours.environments import ProcessLeaver

    async with served(ProcessLeaver) as (url, _):
        one = client(url)
        worker = (await one.reset()).observation["pid"]
        pids = (await one.step({})).observation["pids"]
        os.kill(worker, signal.SIGKILL)
        await until(lambda: not any(map(_runs, pids)), seconds=30)
        with pytest.raises(EnvironmentDied):
            await one.step({})


def _runs(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


async def test_a_session_alone_has_the_main_thread_without_a_loop() -> None:
    async with served(ProcessNeighbour) as (url, _):
        one = client(url)
        await one.reset()
        assert (await one.step({})).observation["main"] is True
        with pytest.raises(OpenEnvError, match="KeyboardInterrupt"):
            await one.step({"do": "raise KeyboardInterrupt"})
        await one.step({})
        await one.close()
