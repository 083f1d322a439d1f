"""A leased environment: where its session is opened, and when its slot is given back."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from openenv_async import HTTPEnvClient
from openenv_async.errors import (
    ConnectFailed,
    EnvironmentStartFailed,
    InvalidOption,
    OpenEnvError,
    OperationUnsupported,
    ServerBusy,
    SessionClosed,
)
from openenv_async.pool.leases import Lease, LeasedClient, leased_class
from tests.in_memory import MemoryClient, MemoryProvider, MemoryWorker
from tests.pool.workers import CountingEnv
from tests.rollouts.environments import Move, Seen
from tests.scheduling import run

T = TypeVar("T")


class Slots:
    """A pool that lends a slot of the next worker each time, and notes everything."""

    def __init__(self, *workers: MemoryWorker) -> None:
        self.workers = workers
        self.told: list[tuple[str, Any]] = []
        self.lent: list[Lease] = []
        self.leaving = False
        self.timeouts: list[float | None] = []
        self.tasks: list[asyncio.Task[Any]] = []

    def session(self, cls: type[LeasedClient] | None = None) -> LeasedClient:
        env = (cls or leased_class(MemoryClient))("pool:")
        env._pool = self
        env._connection_number = 5
        env._acquire_timeout = 7.0
        return env

    async def acquire(self, env: LeasedClient, timeout: float | None) -> Lease:
        await asyncio.sleep(0)
        self.timeouts.append(timeout)
        number = len(self.lent)
        lease = Lease(number + 1, number, self.workers[number % len(self.workers)], env)
        self.lent.append(lease)
        return lease

    def release(self, lease: Lease, *, connection_lost: bool = False) -> None:
        self.told.append(("released" + " lost" * connection_lost, lease.id))

    def mark_full(self, lease: Lease, pause: float) -> None:
        self.told.append(("full", pause))

    def is_leaving(self, lease: Lease) -> bool:
        return self.leaving

    def drain_worker(self, lease: Lease, error: BaseException) -> None:
        self.told.append((f"drained {type(error).__name__}", lease.id))

    def share_of(self, number: int) -> bool | str:
        return f"shared-{number}"

    def spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=name)
        self.tasks.append(task)
        return task


async def started(count: int) -> list[MemoryWorker]:
    provider = MemoryProvider()
    return [await provider.start() for _ in range(count)]


def play(scenario: Coroutine[Any, Any, None]) -> None:
    run(lambda: scenario)


async def ended(workers: list[MemoryWorker]) -> None:
    for worker in workers:
        assert len(worker.server.engine.sessions) == 0
        await worker.aclose()


def test_a_session_is_opened_in_the_slot_that_was_lent() -> None:
    async def scenario() -> None:
        workers = await started(1)
        slots = Slots(*workers)
        env = slots.session()
        assert (env.worker, env.leaving) == (None, False)
        await env.open()
        assert env.worker is workers[0]
        assert slots.timeouts == [7.0]
        assert (env.base_url, env.settings.share) == (workers[0].url, "shared-5")
        slots.leaving = True
        assert env.leaving
        await env.close()
        assert slots.told == [("released", 1)]
        await env.close()
        assert slots.told == [("released", 1)]
        with pytest.raises(SessionClosed):
            await env.reset()
        await ended(workers)

    play(scenario())


def test_one_that_was_never_opened_gives_nothing_back() -> None:
    async def scenario() -> None:
        slots = Slots()
        await slots.session().close()
        assert (slots.told, slots.lent) == ([], [])

    play(scenario())


def test_a_worker_that_cannot_be_reached_is_drained_and_others_are_tried() -> None:
    async def scenario() -> None:
        workers = await started(4)
        for worker in workers[:3]:
            worker.server.reachable = False
        slots = Slots(*workers)
        async with slots.session() as env:
            assert env.worker is workers[3]
        assert slots.told == [
            ("drained ConnectFailed", 1),
            ("released", 1),
            ("drained ConnectFailed", 2),
            ("released", 2),
            ("drained ConnectFailed", 3),
            ("released", 3),
            ("released", 4),
        ]
        await ended(workers)

    play(scenario())


def test_the_fourth_failure_is_the_callers() -> None:
    async def scenario() -> None:
        workers = await started(5)
        for worker in workers[:4]:
            worker.server.reachable = False
        slots = Slots(*workers)
        env = slots.session()
        with pytest.raises(ConnectFailed):
            await env.open()
        assert [told for told in slots.told if told[0] == "released"] == [
            ("released", number) for number in (1, 2, 3, 4)
        ]
        assert env.worker is None
        await env.close()
        await ended(workers)

    play(scenario())


class Refused(MemoryClient):
    """Its sessions are refused with errors, one after the other."""

    errors: list[BaseException]

    async def _connect(self) -> Any:
        if self.errors:
            raise self.errors.pop(0)
        return await super()._connect()


@pytest.mark.parametrize(
    ("retry_after", "pause"), [(0.25, 0.25), (30.0, 1.0), (None, 1.0), (0.0, 1.0)]
)
def test_a_full_server_is_marked_so_for_a_second_at_most(
    retry_after: float | None, pause: float
) -> None:
    async def scenario() -> None:
        workers = await started(2)
        slots = Slots(*workers)
        env = slots.session(leased_class(Refused))
        env.errors = [ServerBusy("full", retry_after=retry_after)]  # type: ignore[attr-defined]  # of Refused
        await env.open()
        assert slots.told == [("full", pause), ("released", 1)]
        assert env.worker is workers[1]
        await env.close()
        await ended(workers)

    play(scenario())


@pytest.mark.parametrize(
    "error",
    [
        EnvironmentStartFailed("no licence", phase="open"),
        InvalidOption("no such option"),
        ValueError("a bug"),
        asyncio.CancelledError(),
    ],
)
def test_an_error_that_another_worker_would_give_too_is_the_callers(error: BaseException) -> None:
    async def scenario() -> None:
        workers = await started(2)
        slots = Slots(*workers)
        env = slots.session(leased_class(Refused))
        env.errors = [error]  # type: ignore[attr-defined]  # of Refused
        with pytest.raises(type(error)):
            await env.open()
        assert slots.told == [("released", 1)]
        assert env.worker is None
        await env.close()
        await ended(workers)

    play(scenario())


def test_a_leaving_worker_is_left_by_the_next_reset() -> None:
    async def scenario() -> None:
        workers = await started(2)
        slots = Slots(*workers)
        async with slots.session() as env:
            await env.reset()
            first = env.session_id
            await env.reset()
            assert (env.worker, slots.told) == (workers[0], [])
            slots.leaving = True
            await env.step({})  # the episode ends there
            resetting = asyncio.create_task(env.reset(seed=3))
            await asyncio.sleep(0)
            slots.leaving = False
            assert (await resetting).observation["seed"] == 3
            assert env.worker is workers[1]
            assert env.session_id != first
            assert slots.told == [("released", 1)]
        await ended(workers)

    play(scenario())


def test_a_lost_lease_is_not_given_back_and_the_next_reset_takes_another() -> None:
    async def scenario() -> None:
        workers = await started(2)
        slots = Slots(*workers)
        async with slots.session() as env:
            await env.reset()
            lost = SessionClosed("gone")
            slots.lent[0].lose(lost)
            assert slots.lent[0].lost is lost
            with pytest.raises(SessionClosed, match="gone"):
                await env.step({})
            await env.reset()
            assert env.worker is workers[1]
            assert slots.told == []
        assert slots.told == [("released", 2)]
        await ended(workers[1:])
        await workers[0].aclose()

    play(scenario())


@pytest.mark.parametrize("told", ["lost", "died"])
def test_a_death_while_it_opens_is_told_at_once(told: str) -> None:
    """By the pool, or by the worker itself where the pool has not yet learned of it."""

    async def scenario() -> None:
        workers = await started(2)
        workers[0].server.latency = 30.0
        slots = Slots(*workers)
        env = slots.session()
        opening = asyncio.create_task(env.open())
        await asyncio.sleep(1.0)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        if told == "lost":
            slots.lent[0].lose(ConnectFailed("it was lost", phase="open"))
        else:
            workers[0].die()
        await opening
        assert loop.time() - begun < 1.0
        assert env.worker is workers[1]
        error = "ConnectFailed" if told == "lost" else "WorkerDied"
        assert slots.told == [(f"drained {error}", 1), ("released", 1)]
        await env.close()
        await ended(workers)

    play(scenario())


def test_a_connection_that_was_lost_is_said_when_the_slot_is_given_back() -> None:
    async def scenario() -> None:
        workers = await started(1)
        slots = Slots(*workers)
        env = slots.session()
        await env.reset()
        workers[0].server.reachable = False
        workers[0].server.cut()
        with pytest.raises(OpenEnvError):
            async with asyncio.timeout(300):
                await env.step({})
        await env.close()
        assert slots.told == [("released lost", 1)]
        await asyncio.sleep(100)  # its session outlives its connection for a while
        await workers[0].aclose()

    play(scenario())


def test_the_class_is_that_of_the_client_with_its_types() -> None:
    made = leased_class(CountingEnv)
    assert issubclass(made, CountingEnv)
    assert issubclass(made, LeasedClient)
    assert (made.__name__, made.__module__) == ("CountingEnv", CountingEnv.__module__)
    assert made.model_types() == (Move, Seen, dict[str, Any])
    with pytest.raises(TypeError, match="subclass of EnvClient"):
        leased_class(HTTPEnvClient)  # type: ignore[arg-type]  # the point


def test_it_does_not_leave_its_process() -> None:
    with pytest.raises(OperationUnsupported, match="pickle the pool"):
        pickle.dumps(Slots().session())


class CancelsItsCaller(MemoryClient):
    """Its caller is cancelled in the very turn in which the session has opened."""

    caller: asyncio.Task[Any]
    closed_first = False

    async def _open(self, left_behind: Any) -> Any:
        channel = await super()._open(left_behind)
        self.caller.cancel()
        if self.closed_first:
            self._channel = None
            channel.close_soon()
            await self._give_back(channel.connection)
        return channel


@pytest.mark.parametrize("closed_first", [False, True])
def test_a_session_that_opened_too_late_is_closed_once(closed_first: bool) -> None:
    async def scenario() -> None:
        workers = await started(1)
        slots = Slots(*workers)
        env: Any = slots.session(leased_class(CancelsItsCaller))
        env.closed_first = closed_first
        env.caller = asyncio.create_task(env.open())
        await asyncio.wait([env.caller])
        assert env.caller.cancelled()
        await asyncio.sleep(1.0)
        assert env._channel is None
        assert env.worker is None
        assert slots.told == [("released", 1)]
        assert [task.get_name() for task in slots.tasks] == ["openenv-release"] * (not closed_first)
        assert len(workers[0].server.engine.sessions) == 0
        await env.close()
        assert slots.told == [("released", 1)]
        assert workers[0].server.open_transports == 0
        await ended(workers)

    play(scenario())


def test_an_opening_that_failed_or_was_cancelled_is_not_too_late() -> None:
    async def scenario() -> None:
        slots = Slots()
        env = slots.session()
        loop = asyncio.get_running_loop()
        failed, cancelled = loop.create_future(), loop.create_future()
        failed.set_exception(ConnectFailed("gone", phase="open"))
        cancelled.cancel()
        env._opened_too_late(failed)
        env._opened_too_late(cancelled)
        assert slots.tasks == []

    play(scenario())


def test_a_session_is_opened_again_in_its_slot_or_elsewhere_but_not_resumed_elsewhere() -> None:
    async def scenario() -> None:
        workers = await started(3)
        slots = Slots(*workers)
        env: Any = slots.session()
        await env.open()
        left_behind = env._channel
        assert left_behind is not None
        left_behind.lose(ConnectFailed("gone", phase="step"))
        await env._give_back(left_behind.connection)
        workers[0].server.reachable = False
        workers[0].server.cut()
        await asyncio.sleep(1.0)
        env._channel = None
        with pytest.raises(OpenEnvError):
            await env._open(left_behind)
        assert [what for what, _ in slots.told] == ["drained ConnectFailed", "released"]
        slots.told.clear()
        assert not env.worker
        await env.open()
        assert (env.worker, slots.told) == (workers[1], [])
        await env._close_session()
        env._channel = None
        await asyncio.sleep(1.0)
        workers[1].server.reachable = False
        workers[1].server.cut()
        await env._open(None)
        assert env.worker is workers[2]
        assert slots.told == [("drained ConnectFailed", 2), ("released", 2)]
        await env.close()
        await asyncio.sleep(100.0)  # what was cut off is kept for a while
        await ended(workers)

    play(scenario())
