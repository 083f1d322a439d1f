"""Leases and workers: nothing is lost, nothing is left, and every error says what it was."""

from __future__ import annotations

import asyncio
import pickle
import ssl
import traceback
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme

from openenv_async import (
    EngineOptions,
    EnvClient,
    HTTPEnvClient,
    OutcomeStatus,
    Timeouts,
    serve,
)
from openenv_async.errors import (
    ConnectFailed,
    DeadlineExceeded,
    EnvironmentStartFailed,
    OperationUnsupported,
    ProviderError,
    ServerBusy,
    SessionClosed,
    TargetNotFound,
    WorkerDied,
    WorkerStartFailed,
    WrongTarget,
)
from openenv_async.pool import EnvPool, PoolStatistics
from openenv_async.protocol.frames import GoingAway
from openenv_async.providers.base import Worker
from openenv_async.providers.process import ProcessProvider
from openenv_async.providers.static import StaticProvider
from openenv_async.rollouts import collect_all
from openenv_async.server import create_app
from tests import in_memory
from tests.helpers import gather_all, settle, until
from tests.in_memory import MemoryClient, MemoryProvider, MemoryWorker
from tests.pool.workers import CountingEnv, Held, LoopProvider
from tests.rollouts.environments import CannotStart, Counting, Move, Seen
from tests.scheduling import run


async def test_a_lease_is_a_typed_client_and_ends_with_close() -> None:
    provider = LoopProvider()
    async with EnvPool(provider, client=CountingEnv) as pool:
        async with pool.session() as env:
            assert isinstance(env, CountingEnv)
            assert (await env.reset(seed=4)).observation == Seen(0, 4)
            assert (await env.step(Move(2))).reward == 2.0
            assert pool.worker_of(env) is provider.started[0]
            assert (pool.statistics().sessions, provider.sessions) == (1, 1)
        assert (pool.statistics().sessions, provider.sessions) == (0, 0)
        for call in (env.reset(), env.step(Move()), env.state()):
            with pytest.raises(SessionClosed, match="this client was closed"):
                await call
        await env.close()  # once more does no harm
        assert pool.statistics().sessions == 0
    assert provider.closed


async def test_a_lease_can_be_awaited_or_opened_by_its_first_call() -> None:
    provider = LoopProvider()
    async with EnvPool(provider) as pool:
        first = await pool.session()
        second = pool.session()
        await second.reset()
        assert pool.statistics().sessions == provider.sessions == 2
        await first.close()
        await second.close()
        assert pool.statistics().sessions == provider.sessions == 0
        await pool.session().close()  # never used


async def test_closing_goes_on_when_its_caller_is_cancelled() -> None:
    provider = LoopProvider()
    async with EnvPool(provider, sessions_per_worker=1, max_workers=1) as pool:
        env = await pool.session()
        await env.reset()
        closing = asyncio.create_task(env.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        async with pool.session() as other:  # there is just one slot
            await other.reset()
            assert provider.sessions == 1


async def test_opening_cancelled_at_any_point_leaves_no_slot_behind() -> None:
    provider = LoopProvider()
    async with EnvPool(provider, sessions_per_worker=2, max_workers=1) as pool:
        for turns in range(25):
            opening = asyncio.create_task(pool.session().open())
            for _ in range(turns):
                await asyncio.sleep(0)
            opening.cancel()
            done = await gather_all([opening])
            if not isinstance(done[0], BaseException):
                await done[0].close()
        await until(lambda: pool.statistics().sessions == provider.sessions == 0)
        async with pool.session() as one, pool.session() as two:
            await one.reset()
            await two.reset()


async def test_opening_cancelled_at_any_point_leaves_the_connection_to_others() -> None:
    """It is given back once, whoever notices first that the session was opened in vain."""
    provider = LoopProvider()
    async with EnvPool(provider, client=CountingEnv, max_workers=1) as pool, pool.session() as env:
        await env.reset()
        session = env.session_id
        for turns in range(40):
            holding = asyncio.create_task(_hold(pool))
            await settle(turns)
            holding.cancel()
            await gather_all([holding])
            assert (await env.reset(seed=turns)).observation.seed == turns
            assert env.session_id == session  # and not one on another connection
        await until(lambda: provider.sessions == 1)


async def _hold(pool: EnvPool) -> None:
    env = pool.session()
    try:
        await env.open()
        await asyncio.get_running_loop().create_future()
    finally:
        await env.close()


async def test_who_waits_is_served_in_order_and_may_give_up() -> None:
    provider = LoopProvider()
    async with EnvPool(provider, sessions_per_worker=1, max_workers=1) as pool:
        holder = await pool.session()
        order: list[int] = []

        async def wait(number: int) -> None:
            async with pool.session():
                order.append(number)

        waiting = [asyncio.create_task(wait(number)) for number in range(4)]
        await settle()
        assert pool.statistics().waiting == 4
        waiting[1].cancel()
        await holder.close()
        await gather_all(waiting)
        assert order == [0, 2, 3]


async def test_a_slot_granted_to_who_was_just_cancelled_goes_to_the_next() -> None:
    provider = LoopProvider()
    async with EnvPool(provider, sessions_per_worker=1, max_workers=1) as pool:
        holder = await pool.session()
        unlucky = asyncio.create_task(pool.session().open())
        lucky = asyncio.create_task(pool.session().open())
        await settle()
        closing = asyncio.create_task(holder.close())
        await until(lambda: pool.statistics().waiting == 1)
        unlucky.cancel()  # it was granted, and has not run since
        await closing
        await gather_all([unlucky])
        if unlucky.cancelled():
            await (await lucky).close()
        else:  # too late: it has its slot
            await unlucky.result().close()
            await (await lucky).close()
        assert pool.statistics().sessions == 0


async def test_no_slot_in_time_says_what_to_raise() -> None:
    async with EnvPool(LoopProvider(), sessions_per_worker=1, max_workers=1) as pool:
        env = await pool.session()
        with pytest.raises(ServerBusy, match="raise max_workers or sessions_per_worker") as caught:
            await pool.session(acquire_timeout=0.01)
        assert (caught.value.detail["limit"], caught.value.detail["active"]) == (1, 1)
        assert pool.statistics().waiting == 0
        await env.close()


async def test_a_dead_worker_ends_the_call_at_once_and_reset_goes_elsewhere() -> None:
    Held.gate = asyncio.Event()
    provider = LoopProvider(Held)
    async with EnvPool(provider, client=CountingEnv, max_workers=1) as pool:
        async with pool.session() as env:
            await env.reset(seed=1)
            step = asyncio.create_task(env.step(Move()))
            await until(lambda: Held.stepping == 1)
            provider.started[0].die()
            with pytest.raises(WorkerDied, match="loop-1 died: exited with code 137") as caught:
                await step
            assert caught.value.exit_code == 137
            with pytest.raises(WorkerDied):
                await env.step(Move())
            assert (await env.reset(seed=2)).observation.seed == 2
            assert pool.worker_of(env) is provider.started[1]
        now = pool.statistics()
        assert (now.workers_died, now.workers_started, now.sessions) == (1, 2, 0)
        assert provider.started[0].closed == 1
        assert now.seconds.wasted > 0


async def test_death_while_a_session_opens_is_survived() -> None:
    provider = LoopProvider()
    async with EnvPool(provider, max_workers=2, min_workers=2) as pool:
        opening = asyncio.create_task(pool.session().open())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        provider.started[0].die()
        env = await opening
        await env.reset()
        assert pool.worker_of(env) is provider.started[1]
        await env.close()


async def test_an_environment_that_cannot_be_built_is_the_callers_error() -> None:
    provider = LoopProvider(CannotStart)
    async with EnvPool(provider) as pool:
        with pytest.raises(EnvironmentStartFailed, match="no licence"):
            await pool.session()
        assert pool.statistics().sessions == 0


async def test_a_pool_whose_workers_do_not_start_says_why_and_leaves_nothing() -> None:
    provider = LoopProvider()
    provider.failures = 99
    with pytest.raises(WorkerStartFailed, match="no such image"):
        async with EnvPool(provider, min_workers=2):
            pass
    assert provider.closed
    assert provider.asked == 2


async def test_what_a_provider_raises_is_what_opening_the_pool_raises() -> None:
    class NoQuota(Exception):
        """It takes other arguments than it keeps."""

        def __init__(self, region: str, *, limit: int) -> None:
            super().__init__(f"no room in {region}")
            self.region = region
            self.limit = limit

    class Barred(Exception):
        __slots__ = ("why",)
        why: str

    class Refusing(LoopProvider):
        def __init__(self, error: Exception) -> None:
            super().__init__()
            self.error = error

        async def start(self, *, timeout: float | None = None) -> Any:
            raise self.error

    barred = Barred("here")
    barred.why = "it is barred"
    noted = WorkerStartFailed("no image", phase="open", exit_code=3)
    noted.hint = "pull it"  # type: ignore[attr-defined]  # a provider's own
    noted.add_note("seen before")
    for error in (
        NoQuota("north", limit=3),
        barred,
        noted,
        OSError(2, "No such file", "docker"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        ExceptionGroup("two", [ValueError("a"), KeyError("b")]),
    ):
        pool = EnvPool(Refusing(error))
        opened = await asyncio.gather(pool.open(), pool.open(), return_exceptions=True)
        await pool.aclose()
        for caught in opened:
            assert type(caught) is type(error)
            assert isinstance(caught, Exception)
            assert (caught.args, str(caught)) == (error.args, str(error))
            assert caught.__dict__ == error.__dict__
            assert getattr(caught, "why", None) == getattr(error, "why", None)
            names = [frame.name for frame in traceback.extract_tb(caught.__traceback__)]
            assert "start" in names


async def test_a_failed_start_is_tried_again_for_who_comes_later() -> None:
    provider = LoopProvider()
    provider.failures = 2
    async with EnvPool(provider, min_workers=0) as pool:
        results = await gather_all(pool.session().open() for _ in range(3))
        assert all(isinstance(result, WorkerStartFailed) for result in results)
        assert len({id(result) for result in results}) == 3
        env: Any = None
        while env is None:
            try:
                env = await pool.session()
            except WorkerStartFailed:
                continue
        assert pool.statistics().starts_failed == 2
        await env.close()


async def test_opening_cancelled_leaves_nothing() -> None:
    for turns in (1, 2, 3, 5, 8, 13, 30, 60):
        provider = LoopProvider()
        pool = EnvPool(provider, min_workers=2)
        opening = asyncio.create_task(pool.__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        done = await gather_all([opening])
        if done[0] is pool:  # it was quicker
            await pool.aclose()
        assert provider.closed
        assert all(worker.closed for worker in provider.started)


async def test_demand_starts_workers_and_idleness_ends_them() -> None:
    told: list[PoolStatistics] = []
    provider = LoopProvider()
    async with EnvPool(
        provider, sessions_per_worker=2, max_workers=3, idle_ttl=0.05, on_progress=told.append
    ) as pool:
        assert pool.statistics().ready == 1
        envs = await asyncio.gather(*(pool.session().open() for _ in range(6)))
        assert pool.statistics().ready == 3
        await asyncio.gather(*(env.close() for env in envs))
        await until(lambda: pool.statistics().ready == 1)
        await until(lambda: sum(worker.closed for worker in provider.started) == 2)
        assert pool.statistics().workers_ended == 2
    assert max(seen.ready for seen in told) == 3
    assert pool.statistics().peak_workers == 3


async def test_warm_workers_are_there_before_they_are_needed() -> None:
    provider = LoopProvider()
    async with EnvPool(
        provider, sessions_per_worker=1, min_workers=0, warm_workers=1, max_workers=3
    ) as pool:
        await until(lambda: pool.statistics().ready == 1)
        env = await pool.session()
        await until(lambda: pool.statistics().ready == 2)
        await env.close()


async def test_a_worker_for_each_session_if_that_is_asked_for() -> None:
    provider = LoopProvider()
    async with EnvPool(provider, sessions_per_worker=1, max_workers=2, max_uses=1) as pool:
        for number in range(1, 4):
            async with pool.session() as env:
                assert pool.worker_of(env) is provider.started[number - 1]
        await until(lambda: sum(worker.closed for worker in provider.started) == 3)


async def test_a_server_that_says_how_much_it_holds_is_not_overfilled() -> None:
    provider = LoopProvider(options=EngineOptions(max_sessions=2))
    async with EnvPool(provider, sessions_per_worker=64, max_workers=2) as pool:
        envs = await asyncio.gather(*(pool.session().open() for _ in range(4)))
        assert [len(worker.engine.sessions) for worker in provider.started] == [2, 2]
        assert sum(worker.engine.stats.refused for worker in provider.started) == 0
        await asyncio.gather(*(env.close() for env in envs))


async def test_closing_ends_what_is_leased_and_what_waits() -> None:
    provider = LoopProvider()
    pool = EnvPool(provider, sessions_per_worker=1, max_workers=1)
    env = await pool.session()  # opens the pool
    await env.reset()
    waiting = asyncio.create_task(pool.session().open())
    await settle()
    closing = [asyncio.create_task(pool.aclose()) for _ in range(2)]
    await asyncio.sleep(0)
    closing[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing[0]
    await closing[1]
    with pytest.raises(SessionClosed, match="the pool was closed"):
        await waiting
    with pytest.raises(SessionClosed, match="the pool was closed"):
        await env.step({"amount": 1})
    with pytest.raises(SessionClosed, match="make a new one"):
        await pool.session()
    await env.close()
    await pool.aclose()
    assert provider.started[0].closed == 1


async def test_more_connections_share_the_sessions() -> None:
    provider = LoopProvider()
    async with EnvPool(provider, connections=3) as pool:
        envs = [await pool.session() for _ in range(6)]
        assert len({env.connection for env in envs}) == 3
        await asyncio.gather(*(env.close() for env in envs))


async def test_servers_that_run_already_share_the_load() -> None:
    apps = [create_app(Counting) for _ in range(3)]
    async with serve(apps[0]) as a, serve(apps[1]) as b, serve(apps[2]) as c:
        async with EnvPool.from_urls([a, b, c], client=CountingEnv) as pool:
            assert pool.statistics().ready == 3
            envs = await asyncio.gather(*(pool.session().open() for _ in range(9)))
            engines = [app.state.openenv.engine for app in apps]
            assert [len(engine.sessions) for engine in engines] == [3, 3, 3]
            copy = pickle.loads(pickle.dumps(pool))
            async with copy, copy.session() as env:
                assert (await env.reset(seed=1)).observation == Seen(0, 1)
        assert [len(engine.sessions) for engine in engines] == [0, 0, 0]
        assert all(env._closed for env in envs)


async def test_a_server_that_others_fill_is_passed_over() -> None:
    small = EngineOptions(max_sessions=1)
    async with (
        serve(Counting, options=small) as a,
        serve(Counting, options=small) as b,
        EnvPool.from_urls([a, b]) as pool,
        EnvClient(a),
        pool.session() as env,
    ):
        assert env.base_url == b


async def test_a_server_that_went_away_is_left_and_taken_back() -> None:
    async with serve(Counting) as stays:
        async with serve(Counting) as goes:
            pool = await EnvPool.from_urls([stays, goes]).open()
            assert pool.statistics().ready == 2
        port = int(goes.rpartition(":")[2])
        for _ in range(3):
            async with pool.session() as env:
                assert env.base_url == stays
                await env.reset()
        async with serve(Counting, port=port):
            await until(lambda: pool.statistics().ready == 2, 30.0)
        await pool.aclose()


async def test_an_address_that_is_not_found_any_more_gets_no_new_episode() -> None:
    """Those under way end there, whole; nothing is lost."""
    under_way, go_on = asyncio.Semaphore(0), asyncio.Event()
    where: dict[int, set[str]] = {}
    begun_late: list[str] = []

    class Noted(CountingEnv):
        async def reset(self, **arguments: Any) -> Any:
            result = await super().reset(**arguments)
            if go_on.is_set():
                begun_late.append(self.base_url)
            return result

        async def step(self, action: Move, **arguments: Any) -> Any:
            under_way.release()
            await go_on.wait()
            where.setdefault(self._lease.id, set()).add(self.base_url)  # type: ignore[attr-defined]  # it is leased
            return await super().step(action, **arguments)

    async with serve(Counting) as stays, serve(Counting) as goes:
        found = [stays, goes]

        def find() -> list[str]:
            return found

        async with EnvPool.from_urls(find, client=Noted, refresh_interval=0.05) as pool:
            assert pool.statistics().ready == 2
            collected = asyncio.create_task(
                collect_all(pool, lambda seen: Move(1), episodes=20, concurrency=4)
            )
            async with pool.session() as env:
                assert env.base_url in found
                for _ in range(4):
                    await under_way.acquire()
                found.remove(goes)
                await until(lambda: any(worker.leaving for worker in pool.workers), 30.0)
                go_on.set()
                await env.reset()  # and so does an environment that is just held
                assert env.base_url == stays
            outcomes = await collected
    assert {outcome.status for outcome in outcomes} == {OutcomeStatus.COMPLETED}
    assert set(begun_late) == {stays}
    assert {url for urls in where.values() for url in urls} == {stays, goes}


async def test_addresses_that_nobody_finds_are_an_error() -> None:
    with pytest.raises(ProviderError, match="has room for none"):
        async with EnvPool.from_urls(list):
            pass
    async with serve(Counting) as url:
        pass  # gone again
    with pytest.raises((DeadlineExceeded, ConnectFailed)):
        async with EnvPool(StaticProvider(url), start_timeout=0.2):
            pass


async def test_a_pool_belongs_to_its_loop() -> None:
    async with EnvPool(LoopProvider()) as pool:
        with pytest.raises(OperationUnsupported, match="another event loop"):
            await asyncio.to_thread(asyncio.run, pool.session().open())


async def test_a_lease_does_not_pickle() -> None:
    async with EnvPool(LoopProvider()) as pool, pool.session() as env:
        with pytest.raises(OperationUnsupported, match="pickle the pool"):
            pickle.dumps(env)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_workers": 0}, "max_workers must be at least 1"),
        ({"sessions_per_worker": 0}, "sessions_per_worker must be at least 1"),
        ({"min_workers": 3, "max_workers": 2}, "min_workers must be 0 to 2"),
        ({"warm_workers": -1}, "warm_workers must be"),
    ],
)
async def test_settings_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnvPool(LoopProvider(), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"max_workers": "3"},
        {"sessions_per_worker": 2.5},
        {"min_workers": True},
        {"max_uses": [1]},
        {"connections": "two"},
        {"acquire_timeout": "5"},
        {"idle_ttl": True},
    ],
    ids=str,
)
def test_settings_of_the_wrong_type_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match=next(iter(options))):
        EnvPool(LoopProvider(), **options)
    with pytest.raises(ValueError, match="start_timeout"):
        EnvPool(LoopProvider(), start_timeout=float("nan"))


async def test_calls_that_make_no_sense_are_refused_before_anything_starts() -> None:
    provider = LoopProvider()
    pool = EnvPool(provider)
    for n in ("3", 1.5, True):
        with pytest.raises(TypeError):
            pool.collect(lambda seen: Move(1), n)  # type: ignore[arg-type]  # what is refused
        with pytest.raises(TypeError):
            await pool.group(lambda seen: Move(1), n)  # type: ignore[arg-type]  # what is refused
    for policy in (None, "random", 3):
        with pytest.raises(TypeError):
            await pool.rollout(policy)  # type: ignore[arg-type]  # what is refused
    with pytest.raises(TypeError, match="callable"):
        await anext(pool.map(None, [1]))  # type: ignore[call-overload]  # what is refused
    assert provider.asked == 0
    await pool.aclose()


async def test_what_cannot_be_a_pool_is_told_at_once() -> None:
    with pytest.raises(WrongTarget, match="is empty"):
        EnvPool([])
    with pytest.raises(TypeError, match="subclass of EnvClient"):
        EnvPool(LoopProvider(), client=HTTPEnvClient)  # type: ignore[type-var]  # the point
    with pytest.raises(TypeError, match="colour"):
        EnvPool.from_env("echo", colour="red")
    with pytest.raises(TargetNotFound):
        EnvPool.from_env("nothing-here")
    for name in (f"{Counting.__module__}:Counting", "./folder", "CartPole-v1"):
        with pytest.raises(TargetNotFound, match=r"from_spec\(\) takes module:Class"):
            EnvPool.from_env(name)

    class Local(Counting):
        pass

    with pytest.raises(TargetNotFound, match="module of its own"):
        EnvPool.from_spec(Local)


async def test_a_worker_that_dies_while_a_session_is_opened_again_is_left() -> None:
    """A reset in the slot that the environment has: the server hangs, then it dies."""
    hanging = asyncio.Event()

    class HangsOnce(Counting):
        opened = 0
        isolation = None  # type: ignore[assignment]  # async

        async def reset(self, seed: int | None = None) -> Seen:  # type: ignore[override]
            cls = type(self)
            cls.opened += 1
            if cls.opened == 2:
                hanging.set()
                await asyncio.get_running_loop().create_future()
            return Seen(0, seed)

    provider = LoopProvider(HangsOnce)
    async with EnvPool(provider, client=CountingEnv, max_workers=1) as pool, pool.session() as env:
        await env.reset()
        resetting = asyncio.create_task(env.reset())
        await hanging.wait()
        provider.started[0].die()
        with pytest.raises(WorkerDied):
            await resetting
        assert (await env.reset(seed=5)).observation.seed == 5


async def test_sessions_are_given_the_options_of_the_pool_and_their_own() -> None:
    provider = LoopProvider()
    async with EnvPool(provider, client_options={"timeouts": Timeouts(step=3.0)}) as pool:
        async with pool.session() as first, pool.session(timeouts=Timeouts(step=4.0)) as second:
            assert (first.timeouts.step, second.timeouts.step) == (3.0, 4.0)
        async with pool.session(client=CountingEnv) as env:
            assert (await env.reset()).observation.total == 0


# -- in virtual time, with workers in this process ------------------------------------------------


@pytest.fixture
def _in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openenv_async.client.launch.dial", in_memory.dial)


in_virtual_time = pytest.mark.usefixtures("_in_memory")


class Looked(MemoryProvider):
    """Notes when it was asked for its room."""

    def __init__(self, rooms: int | None = None) -> None:
        super().__init__()
        self.looks: list[float] = []
        self.rooms = rooms

    async def room(self) -> int | None:
        self.looks.append(asyncio.get_running_loop().time())
        return self.rooms


def virtual_pool(provider: MemoryProvider, **settings: Any) -> EnvPool[Any]:
    defaults = {"max_workers": 2, "min_workers": 2, "sessions_per_worker": 1}
    return EnvPool(provider, **{"client": MemoryClient, **defaults, **settings})


@in_virtual_time
def test_an_open_pool_looks_at_its_providers_twice_a_second() -> None:
    async def scenario() -> None:
        provider = Looked()
        async with virtual_pool(provider):
            await asyncio.sleep(3.5)
            assert len(provider.looks) == 7  # once before it starts anything
            opened = provider.looks[0] + provider.start_seconds
            waits = [look - opened for look in provider.looks[1:]]
            assert waits == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.5, 3.0], abs=0.1)
        looks = len(provider.looks)
        await asyncio.sleep(5.0)
        assert len(provider.looks) == looks

    run(scenario)


@in_virtual_time
def test_a_worker_that_lost_a_session_rests_for_a_second() -> None:
    async def scenario() -> None:
        async with virtual_pool(MemoryProvider(), sessions_per_worker=2) as pool:
            first, second = pool.workers

            async def next_worker() -> Worker:
                async with pool.session() as env:
                    worker = pool.worker_of(env)
                    assert worker is not None
                    return worker

            lost = await pool.session()
            assert pool.worker_of(lost) is first
            now = asyncio.get_running_loop().time
            pool.release(lost._lease, connection_lost=True)
            rests_until = now() + 1.0
            assert await next_worker() is second
            await asyncio.sleep(rests_until - 0.1 - now())
            assert await next_worker() is second
            await asyncio.sleep(rests_until - now())
            assert await next_worker() is first
            pool.release(lost._lease, connection_lost=True)  # it was given back: nothing happens
            assert await next_worker() is first
            await lost.close()
            assert pool.statistics().sessions == 0

    run(scenario)


@in_virtual_time
@pytest.mark.parametrize("timeout", [0.0, 2.0])
def test_a_pool_without_a_free_slot_says_how_it_stands(timeout: float) -> None:
    async def scenario() -> None:
        async with virtual_pool(MemoryProvider(), acquire_timeout=timeout) as pool:
            held = [await pool.session() for _ in range(2)]
            other = asyncio.create_task(pool.session(acquire_timeout=9.0).open())
            await asyncio.sleep(0.5)
            with pytest.raises(ServerBusy) as caught:
                await pool.session()
            message = f"within {timeout:g} s: 2 of 2 are held on 2 workers and 1 more wait"
            assert message in caught.value.message
            detail = {name: caught.value.detail[name] for name in ("limit", "active", "depth")}
            assert detail == {"limit": 2, "active": 2, "depth": 1}
            assert (caught.value.detail["setting"], caught.value.phase) == ("max_workers", "open")
            for env in held:
                await env.close()
            await (await other).close()

    run(scenario)


@in_virtual_time
def test_a_worker_leaves_for_three_reasons_and_is_drained_unless_it_died() -> None:
    async def scenario() -> None:
        provider = MemoryProvider()
        async with virtual_pool(provider) as pool:
            env = await pool.session()
            lease = env._lease
            live = pool._workers.live[lease.worker_id]
            assert not pool.is_leaving(lease)
            live.worker.leaving = True
            assert pool.is_leaving(lease)
            live.worker.leaving = False
            live.connection.going_away = GoingAway("it shuts down", 9.0)
            assert pool.is_leaving(lease)
            live.connection.going_away = None
            assert not pool.is_leaving(lease)
            pool.drain_worker(lease, ConnectFailed("no answer", phase="open"))
            assert pool.is_leaving(lease)
            assert pool.statistics().draining == 1
            provider.started[0].die()
            await asyncio.sleep(0.1)
            assert not pool.is_leaving(lease)  # it has left
            pool.mark_full(lease, 1.0)
            pool.drain_worker(lease, ConnectFailed("no answer", phase="open"))
            await env.close()
            other = await pool.session()
            worker = pool._workers.live[other._lease.worker_id].worker
            assert isinstance(worker, MemoryWorker)
            worker.die()
            pool.drain_worker(other._lease, ConnectFailed("no answer", phase="open"))
            assert pool.statistics().draining == 0  # its death will be told
            await other.close()

    run(scenario)


@in_virtual_time
def test_a_full_worker_is_left_alone_for_as_long_as_it_says() -> None:
    async def scenario() -> None:
        async with virtual_pool(MemoryProvider(), min_workers=1, max_workers=1) as pool:
            env = await pool.session()
            lease = env._lease
            await env.close()
            loop = asyncio.get_running_loop()
            begun = loop.time()
            pool.mark_full(lease, 3.0)
            async with pool.session():
                assert loop.time() - begun == pytest.approx(3.0, abs=0.1)

    run(scenario)


@in_virtual_time
def test_progress_is_told_when_a_worker_came_or_went_until_it_closes() -> None:
    async def scenario() -> None:
        told: list[tuple[int, int]] = []
        provider = MemoryProvider()

        def progress(now: PoolStatistics) -> None:
            told.append((now.ready, now.workers_died))

        async with virtual_pool(provider, on_progress=progress):
            assert told == [(1, 0), (2, 0)]
            await asyncio.sleep(6.0)
            provider.started[0].die()
            await asyncio.sleep(1.0)
            assert told[2:] == [(1, 1), (2, 1)]
        assert len(told) == 4

    run(scenario)


@in_virtual_time
def test_a_pool_says_what_it_is_of() -> None:
    async def scenario() -> None:
        pool = virtual_pool(MemoryProvider())
        assert repr(pool) == "<EnvPool of memory: 0 workers, 0 sessions>"
        async with pool, pool.session() as env:
            assert repr(pool) == "<EnvPool of memory: 2 workers, 1 sessions>"
            assert len(pool.workers) == 2
            async with virtual_pool(MemoryProvider()) as other, other.session() as foreign:
                assert pool.worker_of(foreign) is None
                assert other.worker_of(foreign) in other.workers
            assert pool.worker_of(env) in pool.workers
            assert pool.worker_of(MemoryClient("http://memory:0")) is None
        assert pool.workers == []

    run(scenario)


@in_virtual_time
def test_a_shared_pool_has_the_workers_and_the_settings_of_this_one() -> None:
    async def scenario() -> None:
        pool = virtual_pool(
            MemoryProvider(),
            client_options={"timeouts": Timeouts(step=3.0)},
            sessions_per_worker=5,
            acquire_timeout=7.0,
            connections=3,
        )
        with pytest.raises(OperationUnsupported, match="open it first"):
            pool.shared()
        async with pool:
            shared = pool.shared()
            (provider,) = shared.providers
            assert not provider.owns_workers
            assert shared.client is MemoryClient
            assert shared.session().timeouts.step == 3.0
            settings = shared._settings
            assert (settings.sessions_per_worker, settings.connections) == (5, 3)
            assert settings.acquire_timeout == 7.0
            async with shared, shared.session() as env:
                assert env.base_url in [worker.url for worker in pool.workers]
                await env.reset()
            assert len(pool.workers) == 2

    run(scenario)


def test_sessions_are_dealt_out_over_the_connections() -> None:
    pool: EnvPool[Any] = EnvPool(LoopProvider(), connections=3)
    assert [pool.share_of(number) for number in range(4)] == [True, "pool-1", "pool-2", True]
    assert EnvPool(LoopProvider()).share_of(7) is True
    assert [pool.session()._connection_number for _ in range(3)] == [0, 1, 2]
    assert pool.session()._acquire_timeout == 60.0
    assert pool.session(acquire_timeout=0.0)._acquire_timeout == 0.0


def test_the_slots_of_a_pool_are_what_its_processes_may_hold() -> None:
    (provider,) = EnvPool.from_spec(Counting, sessions_per_worker=7).providers
    assert isinstance(provider, ProcessProvider)
    assert "--max-sessions=7" in provider._arguments
    (provider,) = EnvPool.from_spec(Counting, sessions_per_worker=7, max_sessions=9).providers
    assert isinstance(provider, ProcessProvider)
    assert "--max-sessions=9" in provider._arguments
    (provider,) = EnvPool.from_spec(Counting).providers
    assert isinstance(provider, ProcessProvider)
    assert not any("--max-sessions" in argument for argument in provider._arguments)


@in_virtual_time
@pytest.mark.parametrize(("min_workers", "opens"), [(0, True), (1, False)])
def test_a_pool_without_room_opens_only_if_it_needs_no_worker(
    min_workers: int, opens: bool
) -> None:
    async def scenario() -> None:
        pool = virtual_pool(Looked(rooms=0), min_workers=min_workers)
        if opens:
            await pool.open()
        else:
            with pytest.raises(ProviderError, match="memory has room for none") as caught:
                await pool.open()
            assert caught.value.phase == "open"
        await pool.aclose()

    run(scenario)


@in_virtual_time
def test_every_waiter_learns_of_the_failure_by_an_error_of_its_own() -> None:
    async def scenario() -> None:
        provider = MemoryProvider()
        provider.failures = 1
        pool = virtual_pool(provider, min_workers=0, max_workers=1)
        ends = await gather_all([pool.session().open() for _ in range(3)])
        assert all(isinstance(end, WorkerStartFailed) for end in ends)
        assert len({id(end) for end in ends}) == 3
        assert pool.statistics().waiting == 0
        await pool.aclose()
        assert provider.closed == 1

    run(scenario)


def test_a_copy_has_the_settings_and_tells_nobody_its_progress() -> None:
    pool = EnvPool.from_url(
        "http://127.0.0.1:1", client=CountingEnv, connections=2, on_progress=lambda now: None
    )
    copied = pickle.loads(pickle.dumps(pool))
    assert copied._on_progress is None
    assert (copied._settings, copied.client) == (pool._settings, CountingEnv)
    assert isinstance(copied.session(), CountingEnv)
    assert copied.statistics().workers_started == 0


async def test_servers_of_an_authority_of_ones_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority, trusted = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trusted)
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    async with serve(Counting, ssl_certfile=certificate, ssl_keyfile=key) as url:
        async with (
            EnvPool.from_urls([url], client_options={"ssl": trusted}) as pool,
            pool.session() as env,
        ):
            await env.reset()
        # The end of a TLS connection over HTTP was a traceback in the server's log.
        async with aiohttp.ClientSession() as http, http.get(f"{url}/health", ssl=trusted) as reply:
            assert reply.status == 200
    assert not [record for record in caplog.records if record.name == "asyncio"]
