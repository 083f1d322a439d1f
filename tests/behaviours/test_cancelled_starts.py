"""A failed or cancelled start leaves nothing behind, wherever it was cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from openenv_async.client.launch import launch
from openenv_async.errors import DeadlineExceeded, OpenEnvError, WorkerStartFailed
from openenv_async.providers.docker import DockerProvider
from tests.providers.engines import BASE, SLEEP, Fault, Proxy, docker_tests, none_left, provider
from tests.providers.fixtures import engine as engine

pytestmark = docker_tests


class Interrupted(Coroutine[Any, Any, Any]):
    """A coroutine whose task is cancelled when it waits for the nth time, and maybe again."""

    def __init__(self, inner: Coroutine[Any, Any, Any], at: int, times: int) -> None:
        self._inner = inner
        self._at = at
        self._times = times
        self.waits = 0

    def _count(self, waited: Any) -> Any:
        self.waits += 1
        if self._at <= self.waits < self._at + self._times:
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)
        return waited

    def send(self, value: Any, /) -> Any:
        return self._count(self._inner.send(value))

    def throw(self, *args: Any) -> Any:
        return self._count(self._inner.throw(*args))

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Any:
        raise AssertionError("only as a task")


async def cut_everywhere(shared: DockerProvider | None, times: int) -> int:
    """Launch again and again, cancelled at the first wait, the second, …: how many waits.

    Each of a provider of its own, which has to find Engine and image first, unless one is given.
    """
    reached = 0

    async def cut_at(number: int) -> bool:
        if shared is not None:
            return await launch_cut(shared, number)
        async with provider() as own:
            return await launch_cut(own, number)

    async def launch_cut(containers: DockerProvider, number: int) -> bool:
        nonlocal reached
        start = Interrupted(launch(containers, timeout=120), number, times)
        task: asyncio.Task[Any] = asyncio.create_task(start)
        try:
            worker = await asyncio.wait_for(asyncio.shield(task), 120)
        except asyncio.CancelledError:
            reached = max(reached, number)
            return True
        await worker.aclose()
        return False

    number, step = 1, 8
    while True:
        cut = await asyncio.gather(*(cut_at(n) for n in range(number, number + step)))
        number += step
        if not all(cut):
            return reached


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_at_every_wait(times: int) -> None:
    """From the first look at the image to the last word of the handshake."""
    assert await cut_everywhere(None, times) >= 4
    await none_left()


@pytest.mark.parametrize("times", [1, 2])
async def test_cancelled_at_every_wait_of_a_further_start(times: int) -> None:
    async with provider() as containers:
        await (await containers.start()).aclose()
        assert await cut_everywhere(containers, times) >= 4
        await none_left()


FAULTS: dict[str, tuple[str, str]] = {
    "create": ("POST", "/containers/create"),
    "start": ("POST", "/start"),
    "inspect": ("GET", "/json"),
}


def at(where: str, fault: Fault) -> Any:
    method, path = FAULTS[where]

    def choose(asked_method: str, asked: str) -> Fault:
        hit = asked_method == method and asked.startswith("/containers/") and asked.endswith(path)
        return fault if hit and asked != "/containers/json" else "pass"

    return choose


@pytest.mark.parametrize("where", FAULTS)
@pytest.mark.parametrize("cancel", [False, True])
async def test_a_fault_of_the_engine_is_the_error(where: str, cancel: bool) -> None:
    async with Proxy().running() as proxy:
        proxy.choose = at(where, "400")
        async with provider(BASE, command=SLEEP, engine=proxy.url) as containers:
            starting = asyncio.ensure_future(launch(containers, timeout=60))
            if cancel:
                # The fault has happened; its container is being removed.
                while not any(seen.startswith("DELETE") for seen in proxy.seen):
                    await asyncio.wait([starting], timeout=0.01)
                starting.cancel()
                starting.cancel()
                with pytest.raises((asyncio.CancelledError, WorkerStartFailed)):
                    await starting
            else:
                with pytest.raises(WorkerStartFailed, match="an injected error"):
                    await starting
            await none_left()


@pytest.mark.parametrize("where", ["create", "start"])
async def test_cancelled_while_the_engine_obeys_and_its_answer_is_lost(where: str) -> None:
    async with Proxy().running() as proxy:
        proxy.choose = at(where, "lose")
        async with provider(BASE, command=SLEEP, engine=proxy.url) as containers:
            starting = asyncio.ensure_future(containers.start(timeout=30))
            method, path = FAULTS[where]
            while not any(s.startswith(method) and s.endswith(path) for s in proxy.seen):
                await asyncio.wait([starting], timeout=0.01)
            starting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await starting
            await none_left()


async def test_a_start_that_never_shakes_hands() -> None:
    async with provider(BASE, command=SLEEP) as containers:
        with pytest.raises(DeadlineExceeded):
            await launch(containers, timeout=2.0)
        starting = asyncio.ensure_future(launch(containers, timeout=60))
        while not containers._workers:
            await asyncio.wait([starting], timeout=0.01)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await none_left(seconds=0.0)


async def test_a_loop_that_ends_in_the_middle() -> None:
    """``asyncio.run`` cancels every task at once, those that clean up among them."""
    containers = provider(BASE, command=SLEEP)

    async def leave() -> None:
        starting = [asyncio.ensure_future(containers.start()) for _ in range(4)]
        while not containers._workers:
            await asyncio.wait(starting, timeout=0.01)

    await asyncio.to_thread(asyncio.run, leave())
    await containers.aclose()
    await none_left()


async def test_the_error_can_be_handled_as_any_other() -> None:
    async with provider(BASE, command=["false"]) as containers:
        with pytest.raises(OpenEnvError) as caught:
            await launch(containers, timeout=60)
        assert caught.value.phase == "open"
        assert caught.value.container_id
