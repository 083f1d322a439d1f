"""Many rollouts: as completed, stragglers cut off, nothing lost, nothing left open."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import time
from typing import Any

import pytest

from openenv_async import (
    EngineOptions,
    EnvClient,
    Environment,
    GenericEnvClient,
    Outcome,
    OutcomeStatus,
    StepResult,
    serve,
)
from openenv_async.errors import (
    InvalidAction,
    InvalidModel,
    InvalidOption,
    ServerBusy,
    TransportError,
    WrongTarget,
)
from openenv_async.rollouts import Summary, Turn, collect, collect_all, stream
from openenv_async.rollouts.collection import Results
from openenv_async.server import create_app
from openenv_async.targets.served import connect
from tests.helpers import until
from tests.rollouts.environments import Counting, Hanging, Move, RaisesInStep, Seen


def move(observation: Any) -> dict[str, int]:
    return {"amount": 1}


def one_jump(observation: Any) -> Move:
    return Move(3)


class HangingEnv(EnvClient[Move, Seen, dict[str, Any]]):
    pass


async def test_all_episodes_come_once_and_sessions_are_reused() -> None:
    app = create_app(Counting)
    summary = Summary()
    seen: list[int] = []
    async with serve(app) as url:
        outcomes = await collect_all(
            url, move, episodes=50, concurrency=8, seeds=100, summary=summary,
            on_progress=lambda s: seen.append(s.episodes),
        )  # fmt: skip
        engine = app.state.openenv.engine
        assert engine.stats.opened == 8
        assert not engine.sessions
    assert [o.index for o in outcomes] == list(range(50))
    assert {o.status for o in outcomes} == {OutcomeStatus.COMPLETED}
    assert [o.episode.seed for o in outcomes if o.episode] == list(range(100, 150))
    assert len({o.episode.episode_id for o in outcomes if o.episode}) == 50
    assert (summary.episodes, summary.steps, summary.return_mean) == (50, 150, 3.0)
    assert summary.latencies.count == 150
    assert len(seen) == 50


async def test_outcomes_come_as_they_end() -> None:
    released = asyncio.Event()

    async def policy(observation: Any, turn: Turn) -> dict[str, int]:
        if turn.index == 0:
            await released.wait()
        return {"amount": 3}

    async with serve(Counting) as url:
        order = []
        async for outcome in collect(url, policy, episodes=5, concurrency=2):
            order.append(outcome.index)
            if len(order) == 4:
                released.set()
    assert order == [1, 2, 3, 4, 0]


async def test_given_seeds_are_used() -> None:
    async with serve(Counting) as url:
        outcomes = await collect_all(url, move, episodes=3, seeds=[5, 3, 5])
        assert [o.episode.seed for o in outcomes if o.episode] == [5, 3, 5]
        with pytest.raises(ValueError, match="2 seeds"):
            collect(url, move, episodes=3, seeds=[1, 2])


async def test_the_deadline_cuts_off_stragglers_and_loses_nothing() -> None:
    """One of many hangs; the others come, it is named, its slot is free again."""
    cancelled = Hanging.cancelled
    app = create_app(Hanging, options=EngineOptions(max_sessions=64))
    async with serve(app) as url:
        begun = time.perf_counter()
        outcomes = await collect_all(
            functools.partial(HangingEnv, url),
            lambda observation: Move(1),
            episodes=64,
            concurrency=64,
            seeds=[2 * i + (i == 17) for i in range(64)],
            deadline=1.0,
        )
        took = time.perf_counter() - begun
        assert 1.0 <= took < 2.0
        again = await collect_all(url, move, episodes=64, concurrency=64, seeds=[2] * 64)
        assert {o.status for o in again} == {OutcomeStatus.COMPLETED}
    assert [o.index for o in outcomes] == list(range(64))
    missing = [o for o in outcomes if o.status is not OutcomeStatus.COMPLETED]
    assert [(o.index, o.status, o.episode_return) for o in missing] == [
        (17, OutcomeStatus.CANCELLED, None)
    ]
    assert Hanging.cancelled == cancelled + 1


async def test_what_had_not_begun_at_the_deadline_is_cancelled_too() -> None:
    async with serve(Hanging) as url:
        outcomes = await collect_all(
            url, move, episodes=6, concurrency=2, seeds=[2, 1, 1, 2, 2, 2], deadline=0.3
        )
    statuses = [str(o.status) for o in outcomes]
    assert statuses == ["completed"] + ["cancelled"] * 5
    assert [o.steps for o in outcomes] == [1, 0, 0, 0, 0, 0]


async def test_enough_is_enough() -> None:
    async with serve(Hanging) as url:
        outcomes = await collect_all(
            url, move, episodes=10, concurrency=10, seeds=[0] * 7 + [1] * 3, min_episodes=7
        )
    assert [str(o.status) for o in outcomes] == ["completed"] * 7 + ["cancelled"] * 3


async def test_failures_are_outcomes_and_their_sessions_are_replaced() -> None:
    app = create_app(RaisesInStep)
    async with serve(app) as url:
        outcomes = await collect_all(url, move, episodes=6, concurrency=2)
        assert app.state.openenv.engine.stats.opened == 6
    assert {o.status for o in outcomes} == {OutcomeStatus.ENV_ERROR}
    assert {o.episode_return for o in outcomes} == {None}


async def test_no_server_gives_outcomes_too() -> None:
    async with serve(Counting) as url:
        pass
    summary = Summary()
    outcomes = await collect_all(url, move, episodes=5, concurrency=2, summary=summary)
    assert {o.status for o in outcomes} == {OutcomeStatus.INFRA_ERROR}
    assert summary.failures == 5
    assert summary.return_mean is None


async def test_a_full_server_is_waited_for() -> None:
    app = create_app(Counting, options=EngineOptions(max_sessions=3))
    summary = Summary()
    async with serve(app) as url:
        outcomes = await collect_all(url, move, episodes=40, concurrency=10, summary=summary)
        assert app.state.openenv.engine.stats.peak_sessions <= 3
    assert {o.status for o in outcomes} == {OutcomeStatus.COMPLETED}
    assert summary.refused > 0


async def test_a_server_that_stays_full_fails_the_episode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openenv_async.rollouts.sessions._OPEN_WAIT", 0.0)
    async with (
        serve(Counting, options=EngineOptions(max_sessions=1)) as url,
        GenericEnvClient(url),
    ):
        [outcome] = await collect_all(url, move, episodes=1)
    assert outcome.status is OutcomeStatus.INFRA_ERROR
    assert isinstance(outcome.error, ServerBusy)


async def test_leaving_early_closes_everything() -> None:
    app = create_app(Hanging)
    closed = Hanging.closed
    async with serve(app) as url:
        stream = collect(url, move, episodes=100, concurrency=4, seeds=[0] + [1] * 99)
        async with contextlib.aclosing(stream):
            async for outcome in stream:
                assert outcome.index == 0
                break
        assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("openenv-rollout")]
    assert not app.state.openenv.engine.sessions
    assert Hanging.closed == closed + 4


async def test_cancelling_the_reader_closes_everything() -> None:
    app = create_app(Hanging)
    async with serve(app) as url:
        first = asyncio.Event()

        async def read() -> None:
            async for _ in collect(url, move, episodes=8, concurrency=4, seeds=[0] + [1] * 7):
                first.set()

        reader = asyncio.create_task(read())
        await first.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        assert not [t for t in asyncio.all_tasks() if t.get_name().startswith("openenv-rollout")]


async def test_an_error_of_the_policy_is_the_outcome_of_its_episode() -> None:
    def broken(observation: Any, turn: Turn) -> Any:
        match turn.index, turn.t:
            case 3, 1:
                raise ZeroDivisionError
            case 5, 1:
                return "no such move"
            case 7, 1:
                return {"amount": object()}
            case 9, 1:
                raise asyncio.CancelledError
        return {"amount": 1}

    async with serve(Counting) as url:
        outcomes = await collect_all(url, broken, episodes=20, concurrency=4)
    failed = {o.index: type(o.error) for o in outcomes if o.status is OutcomeStatus.POLICY_ERROR}
    assert failed == {
        3: ZeroDivisionError,
        5: InvalidAction,
        7: InvalidModel,
        9: asyncio.CancelledError,
    }
    for outcome in outcomes:
        assert outcome.status.usable is (outcome.index not in failed)
        if outcome.index in failed:
            assert (outcome.steps, outcome.episode_return) == (1, None)
            assert outcome.trajectory is not None
            assert len(outcome.trajectory.transitions) == 1
        else:
            assert outcome.episode_return == 3.0


async def test_a_policy_that_fails_in_every_episode_is_a_bug_and_raised_at_the_end() -> None:
    def broken(observation: Any) -> Any:
        raise ZeroDivisionError

    async with serve(Counting) as url:
        seen: list[Outcome] = []

        async def read(outcomes: Any) -> None:
            async for outcome in outcomes:
                seen.append(outcome)  # noqa: PERF401  # a comprehension would lose those

        with pytest.raises(ZeroDivisionError) as caught:
            await read(collect(url, broken, episodes=7, concurrency=2))
        assert [o.status for o in seen] == [OutcomeStatus.POLICY_ERROR] * 7
        assert f"episode {seen[0].index}" in caught.value.__notes__[0]
        with pytest.raises(InvalidAction):
            await collect_all(url, lambda observation: 3, episodes=2)
        async with stream(url, broken, concurrency=2) as endless:
            with pytest.raises(ZeroDivisionError):
                await anext(endless)


async def test_a_bug_in_on_progress_ends_it() -> None:
    def broken(summary: Summary) -> None:
        raise ZeroDivisionError

    async with serve(Counting) as url:
        with pytest.raises(ZeroDivisionError):
            await collect_all(url, move, episodes=5, on_progress=broken)


async def test_several_servers_and_connections_share_the_work() -> None:
    apps = [create_app(Counting), create_app(Counting)]
    async with serve(apps[0]) as first, serve(apps[1]) as second:
        outcomes = await collect_all(
            [first, second], move, episodes=20, concurrency=8, connections=2
        )
    assert len(outcomes) == 20
    assert [app.state.openenv.engine.stats.opened for app in apps] == [4, 4]


async def test_observations_need_not_be_dicts() -> None:
    class Ints(Environment[int, int, int]):
        isolation = "inline"

        def reset(self) -> int:
            return 0

        def step(self, action: int) -> StepResult[int]:
            return StepResult(action, terminated=True)

    async with serve(Ints) as url:
        [outcome] = await collect_all(url, lambda observation: 5, episodes=1)
    assert outcome.trajectory is not None
    assert outcome.trajectory.final_observation == 5


async def test_a_slow_reader_holds_the_workers_back() -> None:
    app = create_app(Counting)
    async with serve(app) as url:
        stream = collect(url, move, episodes=1000, concurrency=2)
        async with contextlib.aclosing(stream):
            await anext(stream)
            async with GenericEnvClient(url) as other:  # the workers have all the time they want
                for _ in range(200):
                    await other.state()
            assert app.state.openenv.engine.stats.steps < 60


async def test_a_client_factory_decides_what_is_played_on() -> None:
    async with connect(Counting) as env:

        class Borrowed:
            episode = None
            reset, step = env.reset, env.step

        outcomes = await collect_all(
            lambda: Borrowed(), lambda observation: Move(3), episodes=3, concurrency=1
        )
    assert [o.episode_return for o in outcomes] == [3.0] * 3


@pytest.mark.parametrize(
    "wrong",
    [
        {"episodes": 0},
        {"concurrency": 0},
        {"min_episodes": 0},
        {"min_episodes": 4},
        {"deadline": 0.0},
        {"connections": 0},
        {"max_steps": 0},
        {"timeout": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        collect("http://127.0.0.1:1", move, **{"episodes": 3, **wrong})


def test_sources_that_make_no_sense_are_refused_at_once() -> None:
    with pytest.raises(WrongTarget, match="no URL"):
        collect([], move, episodes=1)
    with pytest.raises(ValueError, match="connections"):
        collect(lambda: None, move, episodes=1, connections=2)


async def test_a_session_that_may_not_be_opened_is_the_callers_error() -> None:
    async with serve(Counting) as url:
        source = functools.partial(GenericEnvClient, url, options={"goal": 3})
        with pytest.raises(InvalidOption, match="goal"):
            await collect_all(source, move, episodes=10, concurrency=4)


async def test_a_session_that_does_not_close_changes_no_outcome() -> None:
    class Clinging:
        episode = None

        async def reset(self) -> StepResult[int]:
            return StepResult(0, terminated=True)

        async def close(self) -> None:
            raise TransportError("gone")

    [outcome] = await collect_all(lambda: Clinging(), move, episodes=1)
    assert outcome.status is OutcomeStatus.COMPLETED


# -- results on their way to the reader -------------------------------------------------------


async def test_results_come_in_order_and_then_it_is_over() -> None:
    results: Results[str] = Results(10)
    for name in "abc":
        results.put(name)
    assert [await results.next(lambda: True) for _ in range(4)] == ["a", "b", "c", None]


async def test_makers_wait_for_a_slow_reader() -> None:
    results: Results[int] = Results(2)
    made: list[int] = []

    async def make() -> None:
        for number in range(6):
            made.append(number)
            results.put(number)
            await results.room()

    maker = asyncio.create_task(make())
    for read in range(6):
        most = min(6, read + 2)  # one is there to read, one more may wait
        await until(lambda: len(made) == most)  # noqa: B023  # it is awaited here
        await asyncio.sleep(0)
        assert len(made) == most
        assert await results.next(maker.done) == read
    await maker
    assert await results.next(maker.done) is None


async def test_a_reader_is_woken_to_learn_that_it_is_over() -> None:
    results: Results[int] = Results(1)
    over = False
    reader = asyncio.create_task(results.next(lambda: over))
    await asyncio.sleep(0)
    results.wake()
    await asyncio.sleep(0)
    assert not reader.done()
    over = True
    results.wake()
    assert await reader is None


async def test_why_it_is_over_may_be_an_error() -> None:
    results: Results[int] = Results(1)

    def failed() -> bool:
        raise LookupError("the maker")

    results.put(1)
    assert await results.next(failed) == 1, "what was made is handed over first"
    with pytest.raises(LookupError, match="the maker"):
        await results.next(failed)
