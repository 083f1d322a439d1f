"""Calls to the Engine: deadlines, other attempts, the breaker, removing; with a real Engine."""

from __future__ import annotations

import asyncio
import time
import uuid

import pytest

from openenv_async.client.launch import launch
from openenv_async.errors import DeadlineExceeded, OpenEnvError, ProviderError, WorkerStartFailed
from openenv_async.providers.docker import DockerProvider
from openenv_async.providers.docker.calls import (
    EngineError,
    NoSuchContainer,
    NoSuchImage,
)
from openenv_async.providers.docker.client import DockerClient
from tests.providers.engines import BASE, SLEEP, Fault, Proxy, docker_tests, none_left, provider

pytestmark = docker_tests


def reached(url: str | None = None) -> DockerClient:
    return DockerClient(url, max_calls=8, redact=lambda text: text)


async def test_no_engine_is_told_at_once() -> None:
    engine = reached("unix:///missing/engine.sock")
    try:
        with pytest.raises(EngineError, match="no Docker Engine answers at unix:///missing"):
            await engine.containers("x")
    finally:
        await engine.aclose()


async def test_what_is_not_there() -> None:
    engine = reached()
    try:
        with pytest.raises(NoSuchContainer):
            await engine.inspect("openenv-never-was")
        with pytest.raises(NoSuchImage):
            await engine.image("openenv-never-was:latest")
        await engine.remove("openenv-never-was", timeout=5.0)
    finally:
        await engine.aclose()


@pytest.mark.parametrize("fault", ["hang", "reset", "500"])
async def test_every_call_has_an_end(fault: Fault) -> None:
    async with Proxy().running() as proxy:
        engine = reached(proxy.url)
        proxy.choose = lambda method, path: fault
        try:
            at = time.monotonic()
            for call in (
                engine.inspect("x", timeout=0.3),
                engine.start("x", timeout=0.3),
                engine.image("x", timeout=0.3),
                engine.containers("x", timeout=0.3),
                engine.log_tail("x", lines=1, timeout=0.3),
                engine.remove("x", timeout=0.3),
                engine.create("x", {}, platform=None, timeout=0.3, wanted=lambda: True),
            ):
                with pytest.raises(EngineError) as caught:
                    await call
                assert caught.value.retryable
            assert time.monotonic() - at < 30
        finally:
            await engine.aclose()


async def test_a_lost_answer_of_create_is_found_by_its_name() -> None:
    async with Proxy().running() as proxy:
        faults: list[Fault] = ["lose", "lose"]
        lost = iter(faults)
        proxy.choose = lambda method, path: (
            next(lost, "pass") if path == "/containers/create" else "pass"
        )
        async with provider(BASE, command=SLEEP, engine=proxy.url) as containers:
            worker = await containers.start()
            assert worker.container_id
        assert proxy.seen.count("POST /containers/create") == 3
    await none_left()


async def test_removing_twice_or_at_once_is_removing() -> None:
    engine = reached()
    name = f"openenv-{uuid.uuid4().hex}"
    try:
        await engine.create(
            name, {"Image": BASE, "Cmd": list(SLEEP)}, platform=None, timeout=30, wanted=bool
        )
        await engine.start(name, timeout=30)
        await asyncio.gather(*(engine.remove(name, timeout=30) for _ in range(5)))
        await engine.remove(name, timeout=30)
        with pytest.raises(NoSuchContainer):
            await engine.inspect(name)
    finally:
        await engine.aclose()


async def test_an_image_that_is_not_here_and_must_not_be_pulled() -> None:
    async with DockerProvider("openenv-never-was:latest", pull_policy="never") as containers:
        with pytest.raises(WorkerStartFailed, match="build it, or allow pulling") as caught:
            await containers.start()
        assert not caught.value.retryable


async def test_a_command_that_is_not_in_the_image() -> None:
    async with provider(BASE, command=["no-such-command"]) as containers:
        with pytest.raises(OpenEnvError) as caught:
            await launch(containers, timeout=60)
        assert isinstance(caught.value, WorkerStartFailed)
    await none_left()


async def test_while_the_engine_fails_new_starts_wait_and_removing_goes_on() -> None:
    async with (
        Proxy().running() as proxy,
        provider(BASE, command=SLEEP, engine=proxy.url) as containers,
    ):
        worker = await containers.start()
        assert containers._attached is not None
        for _ in range(20):
            containers._attached.engine.breaker.failed(asyncio.get_running_loop().time() + 60)
        proxy.choose = lambda method, path: "500" if path == "/containers/json" else "pass"
        before = proxy.seen.count("POST /containers/create")
        with pytest.raises(DeadlineExceeded, match="failed too often"):
            await containers.start(timeout=0.5)
        assert proxy.seen.count("POST /containers/create") == before
        await worker.aclose()
        await none_left()


async def test_starts_under_way_end_with_their_provider() -> None:
    containers = provider(BASE, command=SLEEP)
    await (await containers.start()).aclose()
    starting = [asyncio.ensure_future(containers.start()) for _ in range(4)]
    await asyncio.sleep(0)
    await containers.aclose()
    for outcome in await asyncio.gather(*starting, return_exceptions=True):
        assert isinstance(outcome, ProviderError)
    await none_left(seconds=0.0)


async def test_closed_twice_at_once_while_starts_are_under_way() -> None:
    """Both wait for the same end, and the reaper stays with those who still use it."""
    async with provider(BASE, command=SLEEP) as others:
        await (await others.start()).aclose()
        reaper = others.reaper_pid
        containers = provider(BASE, command=SLEEP)
        await (await containers.start()).aclose()
        starting = [asyncio.ensure_future(containers.start()) for _ in range(2)]
        await asyncio.sleep(0)
        closing = [asyncio.ensure_future(containers.aclose()) for _ in range(3)]
        _, hung = await asyncio.wait(closing, timeout=60)
        for task in hung:
            task.cancel()
        assert not hung
        for outcome in await asyncio.gather(*starting, return_exceptions=True):
            assert isinstance(outcome, ProviderError)
        await containers.aclose()
        assert others.reaper_pid == reaper
        await (await others.start()).aclose()
    assert others.reaper_pid is None
    await none_left(seconds=0.0)
