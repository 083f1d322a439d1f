"""Workers: started, watched, drained and ended, and what the scheduler and the pool are told."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from openenv_async import EngineOptions
from openenv_async.errors import (
    ConnectFailed,
    OpenEnvError,
    ProviderError,
    WorkerDied,
    WorkerStartFailed,
)
from openenv_async.pool.leases import LeasedClient, leased_class
from openenv_async.pool.scheduler import Plan, ProviderRules, Scheduler, WorkerPhase
from openenv_async.pool.workers import Workers, _jitter
from openenv_async.protocol.frames import GoingAway
from openenv_async.providers.base import Provider, Worker
from tests import in_memory
from tests.in_memory import MemoryClient, MemoryProvider
from tests.scheduling import run

Leased = leased_class(MemoryClient)


@pytest.fixture(autouse=True)
def _no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openenv_async.client.launch.dial", in_memory.dial)


class Pool:
    """A pool as its workers see it: everything that it was told, in order."""

    def __init__(self, *providers: Provider, start_timeout: float = 60.0, slots: int = 4) -> None:
        rules = [ProviderRules(8, slots, free=not provider.owns_workers) for provider in providers]
        self.scheduler = Scheduler(rules)
        self.told: list[Any] = []
        self.workers = Workers(
            providers,
            self.scheduler,
            lambda worker: Leased(worker.url),
            start_timeout=start_timeout,
            changed=lambda: self.told.append("changed"),
            lost=lambda leases, error: self.told.append((leases, error)),
            none_left=lambda error: self.told.append(error),
        )

    def plan(self) -> Plan:
        plan = self.scheduler.plan(asyncio.get_running_loop().time())
        for worker, source in plan.starts:
            self.workers.start(worker, source)
        return plan

    def wanted(self, count: int) -> Plan:
        """Ask for so many slots, and start what is needed."""
        for _ in range(count):
            self.scheduler.ask()
        return self.plan()

    async def aclose(self) -> None:
        await self.workers.stop()
        self.scheduler.close(asyncio.get_running_loop().time())
        await self.workers.aclose()


class Named(MemoryProvider):
    """With a room that can be set, and addresses if it does not own its workers."""

    def __init__(self, *, owned: bool = True, options: EngineOptions | None = None) -> None:
        super().__init__(options=options)
        self.owns_workers = owned
        self.rooms: list[int | OpenEnvError | None] = []
        self.timeouts: list[float | None] = []

    async def room(self) -> int | None:
        if not self.rooms:
            return None
        room = self.rooms.pop(0)
        if isinstance(room, OpenEnvError):
            raise room
        return room

    async def start(self, *, timeout: float | None = None) -> Any:
        self.timeouts.append(timeout)
        return await super().start(timeout=timeout)


def play(scenario: Coroutine[Any, Any, None]) -> None:
    run(lambda: scenario)


class Asked(set[asyncio.Task[Any]]):
    """Tasks; nobody may ask again and again whether there are any without waiting for them."""

    asked = 0

    def __len__(self) -> int:
        self.asked += 1
        assert self.asked < 100, "it does not wait, and holds up the loop"
        return super().__len__()


@pytest.mark.parametrize("spawned", [False, True])
def test_closing_waits_instead_of_asking_again(spawned: bool) -> None:
    async def scenario() -> None:
        provider = Named()
        pool = Pool(provider)
        pool.workers._tasks = Asked()
        pool.wanted(1)
        await pool.workers.settled()
        if spawned:
            pool.workers.spawn(asyncio.sleep(1.0), "spawned")
        await pool.aclose()
        assert provider.started[0].closed == 1

    play(scenario())


def test_a_worker_is_ready_once_it_answers() -> None:
    async def scenario() -> None:
        provider = Named(options=EngineOptions(max_sessions=3))
        pool = Pool(provider)
        pool.wanted(1)
        assert list(pool.workers.starting) == [1]
        assert pool.workers.live == {}
        await pool.workers.settled()
        live = pool.workers.live[1]
        assert pool.workers.starting == {}
        assert (live.id, live.source, live.worker) == (1, 0, provider.started[0])
        assert pool.told == ["changed"]
        entry = pool.scheduler.workers[1]
        assert (entry.phase, entry.capacity) == (WorkerPhase.READY, 3)  # as its server says
        await pool.aclose()
        assert pool.workers.live == {}
        assert [worker.closed for worker in provider.started] == [1]

    play(scenario())


@pytest.mark.parametrize(
    ("owned", "given", "timeout"),
    [(True, 60.0, 60.0), (False, 60.0, 10.0), (True, 3.0, 3.0), (False, 3.0, 3.0)],
)
def test_an_address_has_less_time_to_answer(owned: bool, given: float, timeout: float) -> None:
    async def scenario() -> None:
        provider = Named(owned=owned)
        pool = Pool(provider, start_timeout=given)
        pool.wanted(1)
        await pool.workers.settled()
        assert provider.timeouts[0] == timeout
        await pool.aclose()

    play(scenario())


def test_a_start_that_fails_is_told_to_those_that_wait_in_vain() -> None:
    async def scenario() -> None:
        provider = Named()
        provider.failures = 1
        pool = Pool(provider)
        pool.wanted(1)
        await pool.workers.settled()
        error, then = pool.told
        assert isinstance(error, WorkerStartFailed)
        assert pool.workers.error is error
        assert then == "changed"
        now = pool.scheduler.statistics(0.0)
        assert (now.starts_failed, now.starting, pool.workers.starting) == (1, 0, {})
        assert pool.plan().starts == []  # not before its pause is over
        await pool.aclose()

    play(scenario())


def test_nobody_waits_in_vain_while_another_worker_starts_or_is_live() -> None:
    async def scenario() -> None:
        provider = Named()
        provider.failures = 1
        pool = Pool(provider, slots=1)
        pool.wanted(2)
        await pool.workers.settled()
        assert pool.told == ["changed", "changed"]
        assert isinstance(pool.workers.error, WorkerStartFailed)
        provider.failures = 1
        pool.wanted(3)
        await asyncio.sleep(1.0)
        pool.plan()
        await pool.workers.settled()
        assert pool.told.count("changed") == len(pool.told)
        await pool.aclose()

    play(scenario())


def test_a_worker_that_answers_but_refuses_the_warm_connection_is_ended() -> None:
    async def scenario() -> None:
        class Refused(MemoryClient):
            async def _connect(self) -> Any:
                raise ConnectFailed("refused", phase="connect")

        provider = Named()
        pool = Pool(provider)
        refused = leased_class(Refused)

        def warm(worker: Worker) -> LeasedClient:
            return refused(worker.url)

        pool.workers._warm_client = warm
        pool.wanted(1)
        await pool.workers.settled()
        assert isinstance(pool.workers.error, ConnectFailed)
        assert [worker.closed for worker in provider.started] == [1]
        await pool.aclose()

    play(scenario())


def test_a_start_that_is_cancelled_is_no_failure() -> None:
    async def scenario() -> None:
        provider = Named()
        pool = Pool(provider)
        pool.wanted(1)
        await asyncio.sleep(provider.start_seconds / 2)
        await pool.workers.stop()
        assert pool.workers.starting == {}
        assert (pool.told, pool.workers.error) == ([], None)
        assert pool.scheduler.statistics(1.0).starts_failed == 0
        assert pool.scheduler.workers == {}
        await pool.aclose()
        assert provider.started == []

    play(scenario())


def test_a_death_is_told_with_the_leases_that_it_ended() -> None:
    async def scenario() -> None:
        provider = Named()
        pool = Pool(provider)
        pool.wanted(2)
        await pool.workers.settled()
        grants = pool.plan().grants
        await asyncio.sleep(5.0)  # it has been up long enough
        pool.told.clear()
        provider.started[0].die()
        await asyncio.sleep(0.1)
        (leases, error), then = pool.told
        assert leases == [ticket for ticket, _ in grants]
        assert isinstance(error, WorkerDied)
        assert then == "changed"
        assert pool.workers.live == {}
        assert pool.workers.error is None
        assert provider.started[0].closed == 1
        assert pool.scheduler.statistics(0.0).workers_died == 1
        assert len(pool.wanted(1).starts) == 1  # at once
        await pool.aclose()

    play(scenario())


def test_a_death_soon_after_the_start_counts_as_a_failed_start() -> None:
    async def scenario() -> None:
        provider = Named()
        pool = Pool(provider)
        pool.wanted(1)
        await pool.workers.settled()
        await asyncio.sleep(4.9)
        pool.told.clear()
        provider.started[0].die()
        await asyncio.sleep(0)
        (_, died), failed, then = pool.told
        assert failed is died is pool.workers.error
        assert then == "changed"
        assert pool.wanted(1).starts == []
        await pool.aclose()

    play(scenario())


def test_a_worker_that_the_pool_ends_has_not_died() -> None:
    async def scenario() -> None:
        provider = Named()
        pool = Pool(provider)
        pool.wanted(1)
        await pool.workers.settled()
        pool.workers.end(1)
        provider.started[0].die()
        await asyncio.sleep(0.1)
        assert pool.told == ["changed"]
        assert (pool.workers.live, provider.started[0].closed) == ({}, 1)
        await pool.aclose()

    play(scenario())


def test_no_death_is_told_while_everything_ends() -> None:
    async def scenario() -> None:
        provider = Named()
        pool = Pool(provider)
        pool.wanted(1)
        await pool.workers.settled()
        await pool.workers.stop()
        provider.started[0].die()
        await asyncio.sleep(0.1)
        assert (pool.told, list(pool.workers.live)) == (["changed"], [1])
        await pool.aclose()

    play(scenario())


def rooms_after(rooms: Sequence[int | OpenEnvError | None], slots: int) -> tuple[int, Any]:
    """Starts that are planned for as many slots after a look, and the error of the look."""
    found: list[Any] = []

    async def scenario() -> None:
        provider = Named()
        provider.rooms = list(rooms)
        pool = Pool(provider, slots=1)
        await pool.workers.look()
        found.append(len(pool.wanted(slots).starts))
        found.append(pool.workers.error)
        await pool.aclose()

    play(scenario())
    return found[0], found[1]


def test_a_look_learns_the_room_of_a_provider() -> None:
    assert rooms_after([2], 4) == (2, None)
    assert rooms_after([None], 4) == (4, None)
    silent = ProviderError("no answer", phase="open")
    assert rooms_after([silent], 4) == (4, silent)


def test_a_look_asks_nothing_of_a_provider_that_starts_something() -> None:
    async def scenario() -> None:
        provider = Named()
        pool = Pool(provider, slots=1)
        pool.wanted(1)
        provider.rooms = [0]
        await pool.workers.look()
        assert provider.rooms == [0]
        await pool.workers.settled()
        await pool.workers.look()
        assert provider.rooms == []
        assert pool.wanted(2).starts == []
        await pool.aclose()

    play(scenario())


def test_a_look_forgets_failures_of_long_ago() -> None:
    async def scenario() -> None:
        provider = Named()
        provider.failures = 3
        pool = Pool(provider)
        pool.wanted(1)
        await pool.workers.settled()
        for _ in range(3):
            await asyncio.sleep(5.0)
            pool.plan()
            await pool.workers.settled()
        await asyncio.sleep(5.0)
        await pool.workers.look()
        provider.failures = 1
        pool.wanted(8)
        await pool.workers.settled()
        now = asyncio.get_running_loop().time()
        assert pool.scheduler.plan(now).wake_at - now <= 0.5 * 1.25
        await pool.aclose()

    play(scenario())


@pytest.mark.parametrize("reason", ["leaving", "going away", "cut"])
def test_a_worker_that_leaves_is_drained(reason: str) -> None:
    async def scenario() -> None:
        provider = Named()
        pool = Pool(provider, slots=1)
        pool.wanted(2)
        await pool.workers.settled()
        await pool.workers.look()
        assert all(w.phase is WorkerPhase.READY for w in pool.scheduler.workers.values())
        live = pool.workers.live[1]
        if reason == "leaving":
            live.worker.leaving = True
        elif reason == "going away":
            live.connection.going_away = GoingAway("it is drained", 10.0)
        else:
            provider.started[0].server.cut()
        await asyncio.sleep(0.1)
        await pool.workers.look()
        phases = {id: entry.phase for id, entry in pool.scheduler.workers.items()}
        assert phases == {1: WorkerPhase.DRAINING, 2: WorkerPhase.READY}
        await pool.aclose()

    play(scenario())


def test_of_addresses_only_those_are_waited_for_that_answer_soon() -> None:
    async def scenario() -> None:
        quick, slow = Named(owned=False), Named(owned=False)
        slow.start_seconds = 5.0
        pool = Pool(quick, slow, slots=1)
        pool.wanted(1)
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await pool.workers.settled()
        assert loop.time() - begun == pytest.approx(1.0 + quick.start_seconds, abs=0.1)
        sources = [pool.scheduler.workers[id].source for id in pool.workers.starting]
        assert sources == [1] * 8
        assert len(pool.workers.live) == 8
        await pool.aclose()

    play(scenario())


def test_an_owned_worker_is_waited_for_however_long_it_takes() -> None:
    async def scenario() -> None:
        quick, slow = Named(owned=False), Named()
        slow.start_seconds = 5.0
        pool = Pool(quick, slow, slots=1)
        pool.scheduler.set_room(0, 1)
        pool.wanted(2)
        await pool.workers.settled()
        assert len(pool.workers.live) == 2
        await pool.aclose()

    play(scenario())


def test_closing_waits_for_what_was_spawned() -> None:
    async def scenario() -> None:
        pool = Pool(Named())
        done: list[str] = []

        async def work(name: str) -> None:
            await asyncio.sleep(1.0)
            done.append(name)
            if name == "first":
                pool.workers.spawn(work("second"), "second")

        task = pool.workers.spawn(work("first"), "first")
        assert task.get_name() == "first"
        await pool.aclose()
        assert done == ["first", "second"]

    play(scenario())


@pytest.mark.parametrize("how", ["ended", "died"])
def test_a_worker_is_ended_though_its_warm_connection_cannot_be_given_back(how: str) -> None:
    async def scenario() -> None:
        class Stubborn(MemoryClient):
            async def _give_back(self, connection: Any) -> None:
                await super()._give_back(connection)
                raise ConnectFailed("gone", phase="step")

        provider = Named()
        pool = Pool(provider)
        stubborn = leased_class(Stubborn)
        pool.workers._warm_client = lambda worker: stubborn(worker.url)
        pool.wanted(1)
        await pool.workers.settled()
        if how == "ended":
            pool.workers.end(1)
        else:
            provider.started[0].die()
            await asyncio.sleep(0)
        (ending,) = pool.workers._tasks
        await asyncio.wait([ending])
        assert isinstance(ending.exception(), ConnectFailed)
        assert ending.get_name() == "openenv-pool-end"
        assert provider.started[0].closed == 1
        await pool.aclose()
        assert provider.started[0].closed == 1

    play(scenario())


def test_a_start_that_is_cancelled_while_it_connects_ends_its_worker() -> None:
    async def scenario() -> None:
        connecting = asyncio.Event()

        class Slow(MemoryClient):
            async def _connect(self) -> Any:
                connecting.set()
                await asyncio.get_running_loop().create_future()

        provider = Named()
        pool = Pool(provider)
        slow = leased_class(Slow)
        pool.workers._warm_client = lambda worker: slow(worker.url)
        pool.wanted(1)
        await connecting.wait()
        assert provider.started[0].closed == 0
        await pool.workers.stop()
        assert provider.started[0].closed == 1
        assert (pool.told, pool.scheduler.workers) == ([], {})
        await pool.aclose()

    play(scenario())


@pytest.mark.parametrize(("said", "capacity"), [(None, 4), (0, 4), ("many", 4), (2, 2)])
def test_a_server_that_does_not_say_what_it_holds_has_the_slots_of_the_settings(
    said: Any, capacity: int
) -> None:
    async def scenario() -> None:
        class Saying(MemoryClient):
            async def _connect(self) -> Any:
                connection = await super()._connect()
                connection.server = {**connection.server, "max_sessions": said}
                return connection

        pool = Pool(Named())
        saying = leased_class(Saying)
        pool.workers._warm_client = lambda worker: saying(worker.url)
        pool.wanted(1)
        await pool.workers.settled()
        assert pool.scheduler.workers[1].capacity == capacity
        await pool.aclose()

    play(scenario())


def test_a_provider_that_does_not_answer_keeps_no_other_from_being_asked() -> None:
    async def scenario() -> None:
        silent, other = Named(), Named()
        silent.rooms = [ProviderError("no answer", phase="open")]
        other.rooms = [0]
        pool = Pool(silent, other, slots=1)
        await pool.workers.look()
        assert other.rooms == []
        starts = pool.wanted(9).starts
        assert [source for _, source in starts] == [0] * 8  # of the silent one, as before
        await pool.aclose()

    play(scenario())


def test_pauses_differ_by_a_quarter_at_most() -> None:
    factors = [_jitter() for _ in range(1000)]
    assert 0.75 <= min(factors) < 0.8
    assert 1.2 < max(factors) <= 1.25
