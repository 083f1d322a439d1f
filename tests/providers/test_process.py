"""Workers that are processes of this machine."""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # it has none
import pytest

from openenv_async import GenericEnvClient
from openenv_async.client.launch import launch
from openenv_async.errors import Unauthorized, WorkerDied, WorkerStartFailed
from openenv_async.providers.process import ProcessProvider
from tests.helpers import until

COUNTING = "tests.rollouts.environments:Counting"
ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


async def test_a_worker_answers_to_its_token_and_ends() -> None:
    async with ProcessProvider(COUNTING, {"goal": 2}, max_sessions=5) as provider:
        worker = await launch(provider)
        async with GenericEnvClient(worker.url, token=worker.token) as env:
            await env.reset()
            assert (await env.step({"amount": 2})).terminated
            assert env.connection is not None
            assert env.connection.server["max_sessions"] == 5
        with pytest.raises(Unauthorized):
            await GenericEnvClient(worker.url).open()
        other = await launch(provider)
        assert other.token != worker.token
        assert str(worker.token) not in " ".join(psutil.Process(worker.pid).cmdline())  # type: ignore[attr-defined]  # a ProcessWorker
        await worker.aclose()
        await worker.aclose()
        pids = [worker.pid, other.pid]  # type: ignore[attr-defined]
        assert not psutil.pid_exists(pids[0])
        assert not worker.exited.done()
    assert not psutil.pid_exists(pids[1])
    await provider.aclose()


async def test_death_is_told_with_its_reason() -> None:
    async with ProcessProvider(COUNTING) as provider:
        worker = await provider.start()
        os.kill(worker.pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            ended = await asyncio.shield(worker.exited)
        assert (ended.exit_code, ended.reason) == (-9, "its process was killed by SIGKILL")
        error = worker.died("step")
        assert isinstance(error, WorkerDied)
        assert (error.exit_code, error.phase) == (-9, "step")
        await worker.aclose()


async def test_what_does_not_start_leaves_nothing() -> None:
    async with ProcessProvider("nothing-here") as provider:
        with pytest.raises(WorkerStartFailed, match="there is no environment 'nothing-here'"):
            await provider.start()
        assert not provider._workers
    for turns in (0, 1, 5, 50):
        provider = ProcessProvider(COUNTING)
        starting = asyncio.create_task(provider.start())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await provider.aclose()
    children = [child for child in psutil.Process().children() if "serve" in child.cmdline()]
    assert children == []


async def test_a_copy_has_the_settings_and_none_of_the_workers() -> None:
    async with ProcessProvider(COUNTING, {"goal": 7}) as provider:
        worker = await provider.start()
        copy = pickle.loads(pickle.dumps(provider))
        assert (copy.target, copy.params, copy._workers) == (COUNTING, {"goal": 7}, set())
        await copy.aclose()
        assert psutil.pid_exists(worker.pid)


async def test_closing_the_provider_goes_on_when_cancelled() -> None:
    provider = ProcessProvider(COUNTING)
    worker = await provider.start()
    closing = asyncio.create_task(provider.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await until(lambda: not psutil.pid_exists(worker.pid))
