"""Many rollouts: as completed, stragglers cancelled, nothing lost, nothing left open."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar

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
    ConnectionLost,
    InvalidAction,
    InvalidModel,
    InvalidOption,
    QuotaReached,
    ServerBusy,
    TransportError,
    WrongTarget,
)
from openenv_async.rollouts import Summary, Turn, collect, collect_all, stream
from openenv_async.rollouts.collection import (
    CollectKeywords,
    CollectOptions,
    Results,
    _Collection,
)
from openenv_async.rollouts.sessions import Retry
from openenv_async.rollouts.streaming import StreamKeywords
from openenv_async.server import create_app
from openenv_async.targets.served import connect
from openenv_async.testing import ManualClock
from tests.helpers import until
from tests.rollouts.environments import Counting, Hanging, Move, RaisesInStep, Seen
from tests.scheduling import run


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
            mistaken = [step.mistake is not None for step in outcome.trajectory.transitions]
            assert mistaken == ([False, True] if outcome.index in (5, 7) else [False])
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


async def test_the_result_of_least_rank_comes_first() -> None:
    results: Results[str] = Results(10, rank=len)
    for name in ("three", "one", "seven", "six"):
        results.put(name)
    assert [await results.next(lambda: True) for _ in range(2)] == ["one", "six"]
    results.put("ten")
    assert [await results.next(lambda: True) for _ in range(4)] == ["ten", "three", "seven", None]


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


# -- in virtual time ----------------------------------------------------------------------------

Failures = Sequence[tuple[int | str, BaseException]]


class TwoSteps:
    """A client whose episodes have two steps; the class notes what all of them did.

    Attributes:
        failing: errors with where they happen: the number of steps before, or ``reset``.
    """

    made: ClassVar[list[TwoSteps]] = []
    failing: ClassVar[list[tuple[int | str, BaseException]]] = []
    step_seconds: ClassVar[float] = 1.0
    close_seconds: ClassVar[float] = 0.0

    def __init__(self) -> None:
        self.resets = self.steps = self.closed = 0
        self.leaving = False
        self.made.append(self)

    async def reset(self, **arguments: Any) -> StepResult[int]:
        self.resets += 1
        self.steps = 0
        self.fail("reset")
        return StepResult(0)

    async def step(self, action: int) -> StepResult[int]:
        await asyncio.sleep(self.step_seconds)
        self.fail(self.steps)
        self.steps += 1
        return StepResult(self.steps, 1.0, terminated=self.steps == 2)

    def fail(self, where: int | str) -> None:
        if self.failing and self.failing[0][0] == where:
            raise self.failing.pop(0)[1]

    async def close(self) -> None:
        self.closed += 1
        await asyncio.sleep(self.close_seconds)


def new() -> Any:
    return TwoSteps()


def act(observation: int) -> int:
    return 1


def played(
    scenario: Callable[[], Coroutine[Any, Any, Any]],
    *,
    failing: Failures = (),
    step_seconds: float = 1.0,
    close_seconds: float = 0.0,
) -> Any:
    """Play on players of these settings; each of them is closed once in the end."""
    TwoSteps.made = []
    TwoSteps.failing = list(failing)
    TwoSteps.step_seconds, TwoSteps.close_seconds = step_seconds, close_seconds
    found = run(scenario)
    assert [player.closed for player in TwoSteps.made] == [1] * len(TwoSteps.made)
    return found


def elapsed() -> float:
    """Seconds since the scenario began."""
    return asyncio.get_running_loop().time() - ManualClock().now


LOST = ConnectionLost("gone", phase="step")


@pytest.mark.parametrize(
    ("retry", "seeds", "failing", "status", "retried"),
    [
        ("unstarted", None, [("reset", LOST)], OutcomeStatus.COMPLETED, 1),
        ("unstarted", None, [("reset", LOST)] * 2, OutcomeStatus.COMPLETED, 2),
        ("unstarted", None, [("reset", LOST)] * 3, OutcomeStatus.INFRA_ERROR, 2),
        ("unstarted", 4, [(0, LOST)], OutcomeStatus.INFRA_ERROR, 0),
        ("seeded", None, [("reset", LOST)], OutcomeStatus.COMPLETED, 1),
        ("seeded", None, [(0, LOST)], OutcomeStatus.INFRA_ERROR, 0),
        ("seeded", 4, [(1, LOST)] * 2, OutcomeStatus.COMPLETED, 2),
        ("seeded", 4, [(1, LOST)] * 3, OutcomeStatus.INFRA_ERROR, 2),
        ("never", 4, [("reset", LOST)], OutcomeStatus.INFRA_ERROR, 0),
        ("seeded", 4, [(1, TimeoutError())], OutcomeStatus.TIMEOUT, 0),
    ],
)
def test_an_episode_is_played_again_twice_at_most_and_where_that_is_allowed(
    retry: Retry, seeds: int | None, failing: Failures, status: OutcomeStatus, retried: int
) -> None:
    async def scenario() -> None:
        summary = Summary()
        (outcome,) = await collect_all(
            new, act, episodes=1, seeds=seeds, retry=retry, summary=summary
        )
        assert (outcome.status, outcome.index) == (status, 0)
        assert (summary.retried, summary.episodes) == (retried, 1)
        assert len(TwoSteps.made) == retried + 1  # each on another session

    played(scenario, failing=failing)


def test_a_session_is_kept_after_a_good_episode_and_while_its_worker_stays() -> None:
    async def scenario() -> None:
        async for outcome in collect(new, act, episodes=6, concurrency=1, max_ahead=1):
            if outcome.index == 3:
                TwoSteps.made[-1].leaving = True
        assert [player.resets for player in TwoSteps.made] in ([4, 2], [5, 1])

    played(scenario)


def test_the_deadline_stops_what_runs_and_what_has_not_begun() -> None:
    async def scenario() -> None:
        outcomes = await collect_all(new, act, episodes=7, concurrency=2, deadline=5.5)
        assert elapsed() == 5.5
        done, cancelled = OutcomeStatus.COMPLETED, OutcomeStatus.CANCELLED
        assert [o.status for o in outcomes] == [done] * 4 + [cancelled] * 3
        assert [o.steps for o in outcomes] == [2, 2, 2, 2, 1, 1, 0]
        assert [o.episode_return for o in outcomes] == [2.0] * 4 + [None] * 3

    played(scenario)


@pytest.mark.parametrize(("least", "seconds"), [(1, 2.0), (2, 2.0), (3, 4.0), (6, 6.0)])
def test_enough_usable_episodes_end_the_rest(least: int, seconds: float) -> None:
    async def scenario() -> None:
        outcomes = await collect_all(new, act, episodes=6, concurrency=2, min_episodes=least)
        assert elapsed() == seconds
        assert sum(o.status.usable for o in outcomes) == least
        assert sorted(o.index for o in outcomes) == list(range(6))

    played(scenario)


@pytest.mark.parametrize(
    ("options", "begun"),
    [({}, 6), ({"max_ahead": 1}, 2), ({"max_ahead": 5}, 7), ({"concurrency": 3}, 9)],
)
def test_a_slow_reader_has_so_many_episodes_before_it(options: dict[str, Any], begun: int) -> None:
    """Those that may wait for it, by default two for each session, and the one it reads."""

    async def scenario() -> None:
        arguments: dict[str, Any] = {"episodes": 50, "concurrency": 2, **options}
        outcomes = collect(new, act, **arguments)
        await anext(outcomes)
        await asyncio.sleep(1000.0)
        assert sum(player.resets for player in TwoSteps.made) == begun
        await outcomes.aclose()

    played(scenario)


def test_no_more_sessions_are_opened_than_there_are_episodes() -> None:
    async def scenario() -> None:
        await collect_all(new, act, episodes=3, concurrency=64)
        assert len(TwoSteps.made) == 3

    played(scenario)


@pytest.mark.parametrize(("concurrency", "episodes"), [(1, 32), (16, 32), (17, 34), (40, 80)])
def test_a_stream_whose_every_episode_fails_by_the_policy_ends(
    concurrency: int, episodes: int
) -> None:
    async def scenario() -> None:
        def fails(observation: int) -> int:
            raise LookupError("a bug")

        summary = Summary()
        endless = stream(
            new, fails, concurrency=concurrency, max_ahead=1000, failures=True, summary=summary
        )
        with pytest.raises(LookupError, match="a bug"):
            [episode async for episode in endless]
        assert summary.episodes == episodes

    played(scenario)


def test_a_stream_goes_on_if_one_episode_got_through() -> None:
    async def scenario() -> None:
        def fails_later(observation: int, turn: Turn) -> int:
            if turn.index:
                raise LookupError("a bug")
            return 1

        count = 0
        async with stream(new, fails_later, concurrency=1, failures=True) as episodes:
            async for _ in episodes:
                count += 1
                if count == 100:
                    break

    played(scenario)


def test_a_policy_that_always_fails_is_raised_once_all_outcomes_were_handed_over() -> None:
    async def scenario() -> None:
        def fails(observation: int) -> int:
            raise LookupError("a bug")

        outcomes = collect(new, fails, episodes=3, concurrency=1)
        for index in range(3):
            outcome = await anext(outcomes)
            assert (outcome.index, outcome.status) == (index, OutcomeStatus.POLICY_ERROR)
        with pytest.raises(LookupError) as caught:
            await anext(outcomes)
        assert caught.value.__notes__ == ["in episode 0 of collect()"]

    played(scenario)


@pytest.mark.parametrize(("deadline", "least", "most"), [(None, 1.0, 1.0), (2.5, 0.05, 1.1)])
def test_sessions_that_do_not_close_are_left_after_a_moment(
    deadline: float | None, least: float, most: float
) -> None:
    async def scenario() -> None:
        outcomes = collect(new, act, episodes=9, concurrency=2, deadline=deadline)
        async for _ in outcomes:
            if deadline is None:
                break
        begun = elapsed()
        await outcomes.aclose()
        took = elapsed() - (begun if deadline is None else deadline)
        assert least - 1e-6 <= took <= most + 1e-6

    played(scenario, close_seconds=60.0)


def test_a_reader_that_is_cancelled_while_it_closes_still_waits_for_the_sessions() -> None:
    async def scenario() -> None:
        outcomes = collect(new, act, episodes=9, concurrency=2)
        await anext(outcomes)
        closing = asyncio.create_task(outcomes.aclose())
        await asyncio.sleep(0.5)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert [player.closed for player in TwoSteps.made] == [1, 1]

    played(scenario, close_seconds=0.9)


def test_an_error_of_progress_ends_everything() -> None:
    async def scenario() -> None:
        told = []

        def progress(summary: Summary) -> None:
            told.append(summary.episodes)
            if len(told) == 2:
                raise LookupError("no disk")

        with pytest.raises(LookupError, match="no disk"):
            await collect_all(new, act, episodes=9, concurrency=1, on_progress=progress)
        assert told == [1, 2]

    played(scenario)


def test_a_caller_error_of_reset_is_raised_with_its_episode() -> None:
    async def scenario() -> None:
        with pytest.raises(InvalidOption) as caught:
            await collect_all(new, act, episodes=3, concurrency=1)
        assert caught.value.__notes__ == ["in episode 0 of collect()"]

    played(scenario, failing=[("reset", InvalidOption("no such level"))])


def test_options_have_their_defaults_and_seeds() -> None:
    def options(**changes: Any) -> CollectOptions:
        defaults: dict[str, Any] = {
            "policy": act,
            "episodes": 10,
            "concurrency": 4,
            "seeds": None,
            "retry": "never",
            "summary": Summary(),
        }
        return CollectOptions(**{**defaults, **changes})

    def seed(index: int, **changes: Any) -> int | None:
        return options(**changes).schedule().seed(index)

    assert options().sessions(10) == options().sessions(None) == 4
    assert options(concurrency=64).sessions(10) == 10
    assert seed(5) is None
    assert seed(5, seeds=7) == 12
    assert seed(5, seeds=list(range(20, 31))) == 25
    assert seed(9, seeds=(1 << 63) - 10) == (1 << 63) - 1
    assert seed(5, seeds=7, group_size=5) == 8
    with pytest.raises(ValueError, match="must be a multiple of group_size"):
        options(group_size=3)
    assert options(min_episodes=10, episodes=10).min_episodes == 10
    with pytest.raises(ValueError, match="last of seeds"):
        options(seeds=(1 << 63) - 9)
    with pytest.raises(ValueError, match="9 seeds do not suffice for 10 episodes"):
        options(seeds=list(range(9)))
    assert seed(9, seeds=list(range(10))) == 9
    for seeds in ("0123456789", b"0123456789", 1.5, {1, 2}):
        with pytest.raises(TypeError, match="seeds must be"):
            options(seeds=seeds)
    with pytest.raises(ValueError, match=r"min_episodes must be 1 to 10 \(episodes\), got 11"):
        options(min_episodes=11)
    with pytest.raises(TypeError, match="summary must be a Summary"):
        options(summary={})
    with pytest.raises(TypeError, match="on_progress must be callable"):
        options(on_progress=3)
    with pytest.raises(ValueError, match="retry must be one of never, unstarted, seeded"):
        options(retry="sometimes")


def test_the_keywords_that_are_passed_on_are_those_of_collect() -> None:
    taken = set(inspect.signature(collect).parameters)
    own = {"source", "policy", "episodes", "connections", "token", "params"}
    assert set(CollectKeywords.__annotations__) == taken - own
    assert set(StreamKeywords.__annotations__) < set(CollectKeywords.__annotations__) | {
        "seed",
        "max_staleness",
        "invalid_actions",
    }


# -- sessions of several factories ----------------------------------------------------------------


class Somewhere:
    """A client of a server of this name; the class notes the servers of all of them.

    Attributes:
        opening, resetting: errors by server, each raised once.
    """

    made: ClassVar[list[str]] = []
    opening: ClassVar[dict[str, BaseException]] = {}
    resetting: ClassVar[dict[str, BaseException]] = {}

    def __init__(self, server: str) -> None:
        self.server = server
        self.made.append(server)

    async def open(self) -> None:
        if (error := self.opening.pop(self.server, None)) is not None:
            raise error

    async def reset(self) -> StepResult[str]:
        await asyncio.sleep(1.0)
        if (error := self.resetting.pop(self.server, None)) is not None:
            raise error
        return StepResult(self.server, terminated=True)


def servers_of(
    *servers: str,
    opening: dict[str, BaseException] | None = None,
    resetting: dict[str, BaseException] | None = None,
    **changes: Any,
) -> tuple[list[str], list[OutcomeStatus]]:
    """The servers that were asked for sessions, and how the episodes on them ended."""
    Somewhere.made, Somewhere.resetting = [], resetting or {}
    Somewhere.opening = {} if opening is None else opening
    arguments: dict[str, Any] = {"episodes": 4, "concurrency": 1, "seeds": None, "retry": "never"}
    options = CollectOptions(policy=act, summary=Summary(), **{**arguments, **changes})

    async def scenario() -> list[OutcomeStatus]:
        makers: list[Callable[[], Any]] = [functools.partial(Somewhere, name) for name in servers]
        collection = _Collection(makers, options)
        collection.start()
        found = []
        while (outcome := await collection.next()) is not None:
            found.append(outcome.status)
        await collection.aclose()
        return found

    return Somewhere.made, run(scenario)


GOOD, INFRA, BAD = OutcomeStatus.COMPLETED, OutcomeStatus.INFRA_ERROR, OutcomeStatus.ENV_ERROR


def test_one_session_is_kept_while_all_goes_well() -> None:
    assert servers_of("a", "b") == (["a"], [GOOD] * 4)
    assert servers_of("a", "b", concurrency=3) == (["a", "b", "a"], [GOOD] * 4)


def test_after_a_failure_of_a_server_the_next_one_is_played_on() -> None:
    lost: dict[str, BaseException] = {"a": LOST}
    refused: dict[str, BaseException] = {"a": ConnectionLost("gone", phase="open")}
    assert servers_of("a", "b", resetting={**lost}) == (["a", "b"], [INFRA, *[GOOD] * 3])
    assert servers_of("a", "b", opening=refused) == (["a", "b"], [INFRA, *[GOOD] * 3])
    again = servers_of("a", "b", resetting={**lost}, retry="unstarted")
    assert again == (["a", "b"], [GOOD] * 4)


def test_after_a_failure_of_the_environment_the_same_server_is_played_on() -> None:
    assert servers_of("a", "b", resetting={"a": KeyError()}) == (["a", "a"], [BAD, *[GOOD] * 3])


def test_sessions_that_do_not_open_fail_as_many_episodes_as_there_are_and_no_more() -> None:
    class Never(dict[str, BaseException]):
        def pop(self, *anything: Any) -> Any:
            return ConnectionLost("gone", phase="open")

    made, found = servers_of("a", "b", opening=Never(), episodes=5, concurrency=2)
    assert found == [INFRA] * 5
    assert len(made) == 5


def test_an_error_of_a_task_ends_the_others_and_is_raised_after_what_was_made() -> None:
    Somewhere.made = []
    Somewhere.opening, Somewhere.resetting = {"b": InvalidOption("no such option")}, {}
    options = CollectOptions(
        policy=act, episodes=9, concurrency=2, seeds=None, retry="never", summary=Summary()
    )

    async def scenario() -> None:
        factories: list[Callable[[], Any]] = [functools.partial(Somewhere, name) for name in "ab"]
        collection = _Collection(factories, options)
        collection.start()
        with pytest.raises(InvalidOption):
            await collection.next()
        await asyncio.sleep(10.0)
        assert all(task.done() for task in collection._tasks)
        outcome = await collection.next()  # the one that was under way
        assert outcome is not None
        assert outcome.status is GOOD
        with pytest.raises(InvalidOption):
            await collection.next()
        await collection.aclose()
        await collection.aclose()

    run(scenario)


class Refused(GenericEnvClient):
    """A client whose token has used its quota at each second step."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:1")
        self.steps = 0

    async def open(self) -> Refused:
        return self

    async def reset(self, **options: Any) -> StepResult[Any]:
        return StepResult(0)

    async def step(self, action: Any, *, timeout: float | None = None) -> StepResult[Any]:
        self.steps += 1
        if self.steps % 2 == 0:
            raise QuotaReached("a quota", quota="steps", retry_after=0.01)
        return StepResult(0, 1.0, terminated=self.steps % 5 == 0)


async def test_a_quota_costs_no_episode_and_is_a_warning() -> None:
    summary = Summary()
    outcomes = await collect_all(
        functools.partial(Refused),
        lambda _: 0,
        episodes=4,
        concurrency=2,
        timeout=60,
        summary=summary,
    )
    assert {outcome.status for outcome in outcomes} == {OutcomeStatus.COMPLETED}
    [warning] = summary.warnings
    assert warning.kind == "quota_reached"
    assert warning.count > 1
    assert warning.message.endswith("Set concurrency lower, or ask for a larger quota")
