"""The start of one container: created, started and looked at, or undone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from openenv_async.errors import (
    DeadlineExceeded,
    OpenEnvError,
    ProviderError,
    WorkerStartFailed,
)
from openenv_async.providers.docker import DockerProvider
from openenv_async.providers.docker.attachment import Attachment
from openenv_async.providers.docker.start import ContainerRecipe, ContainerStart
from tests.providers.docker.fake_engine import FakeEngine, attached


def start_of(
    made: DockerProvider,
    at: Attachment,
    seconds: float = 10.0,
    is_closed: Callable[[], bool] = lambda: False,
) -> ContainerStart:
    recipe = ContainerRecipe("image", "missing", made.options, 40.0, {"group": "g"})
    return ContainerStart(made, recipe, at, seconds, is_closed)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come to that")


async def test_a_container_is_made_joined_to_its_networks_and_started() -> None:
    engine = FakeEngine()
    made = DockerProvider("image", networks=["one", "two", "three"])
    async with attached(made, engine) as at:
        start = start_of(made, at)
        worker = await start.run()
    [(name, body)] = engine.created
    assert name == start.name == worker.name
    assert name.startswith("openenv-")
    assert body["Labels"]["group"] == "g"
    assert "User" not in body, "the image's user is not root"
    assert engine.networks == [("two", name), ("three", name)]
    assert engine.started == [name]
    assert (worker.container_id, worker.url) == ("id-1", "http://127.0.0.1:4321")
    assert f"OPENENV_TOKEN={worker.token}" in body["Env"]
    assert engine.removed == []


async def test_two_starts_share_neither_name_nor_token() -> None:
    engine, made = FakeEngine(), DockerProvider("image")
    async with attached(made, engine) as at:
        workers = [await start_of(made, at).run() for _ in range(2)]
    assert len({worker.name for worker in workers}) == 2
    assert len({worker.token for worker in workers}) == 2


async def test_a_server_that_ends_at_once_says_why_and_is_removed() -> None:
    engine, made = FakeEngine(), DockerProvider("image")
    async with attached(made, engine) as at:
        start = start_of(made, at)
        engine.states[start.name] = {"Running": False, "ExitCode": 3}
        with pytest.raises(
            WorkerStartFailed, match=r"code 3; its log ends with: the log"
        ) as caught:
            await start.run()
    assert (caught.value.exit_code, caught.value.container_id) == (3, "id-1")
    assert not caught.value.retryable
    assert engine.removed == [start.name]


@pytest.mark.parametrize("ports", [{}, {"8000/tcp": None}, {"9000/tcp": [{"HostPort": "1"}]}])
async def test_a_port_that_is_not_published_is_told(ports: dict[str, Any]) -> None:
    engine, made = FakeEngine(), DockerProvider("image")
    engine.ports = ports
    async with attached(made, engine) as at:
        start = start_of(made, at)
        with pytest.raises(WorkerStartFailed, match="port 8000 of its container is not published"):
            await start.run()
    assert engine.removed == [start.name]


async def test_a_fault_after_create_is_a_failed_start_and_before_it_is_itself() -> None:
    engine, made = FakeEngine(), DockerProvider("image")
    async with attached(made, engine) as at:
        start = start_of(made, at)
        engine.answered.clear()
        running = asyncio.create_task(start.run())
        await until(lambda: bool(engine.created))
        engine.failure = ProviderError("the Engine is busy", retryable=True)
        engine.answered.set()
        with pytest.raises(WorkerStartFailed, match="did not start: the Engine is busy") as caught:
            await running
        assert caught.value.retryable
        engine.failure = None
        closed = start_of(made, at, is_closed=lambda: True)
        with pytest.raises(ProviderError, match="this provider was closed") as refused:
            await closed.run()
        assert not isinstance(refused.value, WorkerStartFailed)
    assert len(engine.created) == 1


async def test_a_provider_that_is_closed_meanwhile_keeps_no_container() -> None:
    engine, made, closed = FakeEngine(), DockerProvider("image"), False
    async with attached(made, engine) as at:
        start = start_of(made, at, is_closed=lambda: closed)
        engine.answered.clear()
        running = asyncio.create_task(start.run())
        await until(lambda: bool(engine.created))
        closed = True
        engine.answered.set()
        with pytest.raises(OpenEnvError, match="this provider was closed"):
            await running
    assert engine.removed == [start.name]


async def test_time_that_ran_out_says_what_was_being_done() -> None:
    engine, made = FakeEngine(), DockerProvider("image")
    async with attached(made, engine) as at:
        start = start_of(made, at, seconds=0.05)
        engine.breaker.failed(at.loop.time())
        engine.breaker._until = at.loop.time() + 60
        with pytest.raises(DeadlineExceeded, match=r"within 0\.05 s: .* failed too often to begin"):
            await start.run()
        assert engine.created == []
        engine.breaker.succeeded()
        async with at.gate, at.gate:
            with pytest.raises(DeadlineExceeded, match="the Docker Engine was busy"):
                await start_of(made, at, seconds=0.05).run()
    assert engine.removed == []


async def test_a_cancelled_start_waits_for_the_answer_and_removes() -> None:
    engine, made = FakeEngine(), DockerProvider("image")
    async with attached(made, engine) as at:
        start = start_of(made, at)
        engine.answered.clear()
        running = asyncio.create_task(start.run())
        await until(lambda: bool(engine.created))
        for _ in range(2):
            running.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
            assert not running.done()
        engine.answered.set()
        with pytest.raises(asyncio.CancelledError):
            await running
    assert engine.removed == [start.name]
    assert engine.started == []
