"""Starting a worker and waiting for its handshake; a container of one client's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
from collections.abc import AsyncIterator
from typing import Any

import pytest

from openenv_async import serve
from openenv_async.client import launch as module
from openenv_async.client.launch import (
    OwnedContainer,
    docker_options,
    last_lines,
    launch,
    wait_ready,
)
from openenv_async.errors import (
    ConnectionLost,
    DeadlineExceeded,
    EnvironmentRaised,
    OpenEnvError,
    ProviderError,
    Unauthorized,
    WorkerDied,
    WorkerStartFailed,
)
from openenv_async.providers.base import Provider, Worker, WorkerExit
from openenv_async.types import Timeouts
from tests.rollouts.environments import Counting


class Mute(Worker):
    """Its last lines cannot be had."""

    container_id = "c0ffee"

    async def log_tail(self) -> str:
        raise ProviderError("the Engine does not answer")

    async def aclose(self) -> None:
        """Nothing is held."""


class Mutes(Provider):
    name = "mute"

    async def start(self, *, timeout: float | None = None) -> Worker:
        return Mute("mute", "http://127.0.0.1:1")

    async def aclose(self) -> None:
        """Nothing is held."""


async def test_a_log_that_cannot_be_had_hides_no_error() -> None:
    provider = Mutes()
    container = OwnedContainer(provider)
    container._worker = await provider.start()
    error = DeadlineExceeded("it did not answer in time")
    assert await container.explain(error) is error
    assert (error.container_id, error.log_tail) == ("c0ffee", None)
    await container.aclose()


class Kept(Worker):
    """A worker at an address, with last lines; counts how often it was closed."""

    container_id = "c1"
    closed = 0

    async def log_tail(self) -> str:
        return "last words"

    async def aclose(self) -> None:
        self.closed += 1


class Keeping(Provider):
    """Starts workers at one address, or fails."""

    name = "keeping"

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self.token = token
        self.error: OpenEnvError | None = None
        self.workers: list[Kept] = []
        self.closed = 0

    async def start(self, *, timeout: float | None = None) -> Worker:
        if self.error is not None:
            raise self.error
        worker = Kept("kept", self.url, token=self.token)
        self.workers.append(worker)
        return worker

    async def aclose(self) -> None:
        self.closed += 1

    def __copy__(self) -> Keeping:
        copied = Keeping(self.url, self.token)
        copied.workers = self.workers
        return copied


@contextlib.asynccontextmanager
async def keeping(token: str | None = None) -> AsyncIterator[Keeping]:
    async with serve(Counting, token=token) as url:
        yield Keeping(url, token)


async def test_a_worker_is_ready_when_its_server_shakes_hands() -> None:
    async with keeping("secret") as provider:
        worker = await launch(provider, timeout=10)
        assert worker is provider.workers[0]
        assert provider.workers[0].closed == 0
        await wait_ready(worker, timeout=10)


async def test_a_worker_may_begin_to_listen_later(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 6:
            worker.url = url
        await real(0)

    async with serve(Counting) as url:
        worker = Kept("kept", "http://127.0.0.1:1")
        monkeypatch.setattr(asyncio, "sleep", sleep)
        await wait_ready(worker, timeout=10)
        monkeypatch.undo()
    assert pauses[:6] == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.25, 0.25])


async def test_a_worker_that_never_answers_is_closed_and_its_lines_are_told() -> None:
    provider = Keeping("http://127.0.0.1:1")
    with pytest.raises(DeadlineExceeded, match=r"did not answer within 0\.1 s") as caught:
        await launch(provider, timeout=0.1)
    assert (caught.value.phase, caught.value.container_id) == ("open", "c1")
    assert caught.value.log_tail == "last words"
    assert [worker.closed for worker in provider.workers] == [1]


async def test_a_worker_that_answers_wrongly_is_closed() -> None:
    async with serve(Counting, token="other") as url:
        provider = Keeping(url, "secret")
        with pytest.raises(
            WorkerStartFailed, match=r"answers wrongly: .*check the token"
        ) as caught:
            await launch(provider, timeout=10)
    assert isinstance(caught.value.__cause__, Unauthorized)
    assert (caught.value.log_tail, caught.value.container_id) == ("last words", "c1")
    assert provider.workers[0].closed == 1


async def test_a_worker_that_ends_is_not_waited_for() -> None:
    worker = Kept("kept", "http://127.0.0.1:1")
    ended = WorkerExit("exited with code 3", exit_code=3, log_tail="at the end", oom=False)
    asyncio.get_running_loop().call_soon(worker.exited.set_result, ended)
    with pytest.raises(WorkerStartFailed, match="did not start: exited with code 3") as caught:
        await wait_ready(worker, timeout=10)
    error = caught.value
    assert (error.exit_code, error.oom, error.log_tail, error.phase) == (
        3,
        False,
        "at the end",
        "open",
    )


async def test_last_lines_are_had_soon_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Kept):
        async def log_tail(self) -> str:
            await asyncio.Event().wait()
            raise AssertionError

    class Quiet(Kept):
        async def log_tail(self) -> str:
            return ""

    monkeypatch.setattr(module, "_LOG_WAIT", 0.01)
    assert await last_lines(Slow("slow", "")) is None
    assert await last_lines(Quiet("quiet", "")) is None
    assert await last_lines(Kept("kept", "")) == "last words"


async def test_a_container_starts_once_and_goes_with_its_client() -> None:
    async with keeping() as provider:
        container = OwnedContainer(provider, 10)
        before = container.worker
        assert before is None
        worker = await container.start()
        assert await container.start() is worker
        assert container.worker is worker
        assert len(provider.workers) == 1
        copied = pickle.loads(pickle.dumps(OwnedContainer(Mutes(), 7)))
        assert copied.worker is None
        await container.aclose()
        await container.aclose()
        assert (provider.workers[0].closed, provider.closed) == (1, 2)


async def test_a_container_that_did_not_start_may_be_tried_again() -> None:
    async with keeping() as provider:
        provider.error = ProviderError("not now")
        container = OwnedContainer(provider, 10)
        with pytest.raises(ProviderError, match="not now"):
            await container.start()
        assert provider.closed == 1
        worker = await container.start()
        assert container.worker is worker
        await container.aclose()


async def test_the_client_of_a_container_that_ended_is_told() -> None:
    async with keeping() as provider:
        told: list[OpenEnvError] = []
        container = OwnedContainer(provider, 10)
        worker = await container.start(told.append)
        worker.exited.set_result(WorkerExit("exited with code 1", exit_code=1))
        await asyncio.sleep(0)
        assert isinstance(told[0], WorkerDied)
        with pytest.raises(WorkerDied):
            await container.start()
        died = await container.explain(ConnectionLost("lost"))
        assert isinstance(died, WorkerDied)
        assert await container.explain(died) is died
        await container.aclose()


async def test_errors_of_a_living_container_say_where_they_are_from(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_NEWS", 0.01)
    async with keeping() as provider:
        container = OwnedContainer(provider, 10)
        before = EnvironmentRaised("boom")
        assert await container.explain(before) is before
        assert before.container_id is None
        await container.start()
        for error, lines in (
            (EnvironmentRaised("boom"), None),
            (ConnectionLost("lost"), "last words"),
            (DeadlineExceeded("late"), "last words"),
        ):
            assert await container.explain(error) is error
            assert (error.container_id, error.log_tail) == ("c1", lines)
        await container.aclose()


async def test_a_forked_process_leaves_the_container_to_its_parent() -> None:
    async with keeping() as provider:
        container = OwnedContainer(provider, 10)
        worker = await container.start()
        container._pid = os.getpid() + 1
        error = ConnectionLost("lost")
        assert await container.explain(error) is error
        assert container.worker is None
        assert container._provider is not provider
        assert container._pid == os.getpid()
        await container.aclose()
        assert provider.workers[0].closed == 0
        await worker.aclose()


def test_options_are_dealt_out() -> None:
    timeouts = Timeouts(step=3.0)
    given: dict[str, Any] = {"image": "i:1", "timeouts": timeouts, "start_timeout": 7.0}
    container, client = docker_options({**given, "pull_policy": "never"}, 9000)
    assert client == {"timeouts": timeouts}
    assert container._timeout == 7.0
    assert container.worker is None
    assert docker_options({"image": "i:1"}, 8000)[0]._timeout == 60.0
    with pytest.raises(TypeError, match="nonsense"):
        docker_options({"image": "i:1", "nonsense": 1}, 8000)
