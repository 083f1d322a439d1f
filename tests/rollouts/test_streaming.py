"""Streams: versions, staleness, groups, backpressure, partial episodes, and nothing left open."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from openenv_async import GenericEnvClient, Outcome, OutcomeStatus, serve
from openenv_async.errors import OperationCancelled
from openenv_async.pool import EnvPool
from openenv_async.providers.process import ProcessProvider
from openenv_async.rollouts import (
    EpisodeStream,
    GroupStream,
    ResponderPolicy,
    Summary,
    Turn,
    VersionedPolicy,
    stream,
    stream_groups,
)
from openenv_async.rollouts.versions import PolicyWatch
from openenv_async.server import create_app
from tests.helpers import until
from tests.rollouts.environments import Counting, Hanging, RaisesInStep


def move(observation: Any) -> dict[str, int]:
    return {"amount": 1}


async def test_episodes_come_until_it_is_closed() -> None:
    app = create_app(Counting)
    async with serve(app) as url:
        async with stream(url, move, concurrency=4, seed=100) as episodes:
            seen = [await anext(episodes) for _ in range(20)]
        engine = app.state.openenv.engine
        await until(lambda: not engine.sessions)
        assert engine.stats.opened == 4
    assert all(episode.usable and episode.episode_return == 3.0 for episode in seen)
    seeds = sorted(e.outcome.episode.seed for e in seen if e.outcome.episode)
    assert len(set(seeds)) == 20
    assert min(seeds) == 100
    assert {e.member for e in seen} == {0}


async def test_a_finite_stream_ends() -> None:
    summary = Summary()
    async with (
        serve(Counting) as url,
        stream(url, move, episodes=7, concurrency=3, summary=summary) as episodes,
    ):
        assert len([episode async for episode in episodes]) == 7
        with pytest.raises(StopAsyncIteration):
            await anext(episodes)
    assert summary.episodes == 7


async def test_giving_up_waiting_does_not_end_the_stream() -> None:
    go_on = asyncio.Event()

    async def slow(observation: Any) -> dict[str, int]:
        await go_on.wait()
        return {"amount": 3}

    async with serve(Counting) as url, stream(url, slow, episodes=2) as episodes:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(episodes)
        go_on.set()
        assert len([episode async for episode in episodes]) == 2


async def test_actions_note_the_version_of_the_policy() -> None:
    policy = VersionedPolicy(lambda observation: {"amount": 1}, version=5)

    def publishing(observation: Any, turn: Turn) -> dict[str, int]:
        if turn.t == 1:
            policy.publish()
        return {"amount": 1}

    policy.policy = publishing
    async with serve(Counting) as url, stream(url, policy, episodes=1, concurrency=1) as episodes:
        (episode,) = [episode async for episode in episodes]
    assert episode.versions == (5, 5, 6)


async def test_a_published_policy_is_used_by_running_episodes() -> None:
    def first(observation: Any) -> dict[str, int]:
        policy.publish(lambda observation: {"amount": 2})
        return {"amount": 1}

    policy = VersionedPolicy(first)
    async with serve(Counting) as url, stream(url, policy, episodes=1) as episodes:
        (episode,) = [episode async for episode in episodes]
    assert [t.action["amount"] for t in episode.outcome.trajectory.transitions] == [1, 2]  # type: ignore[union-attr]  # it is recorded
    assert episode.versions == (0, 1)


async def test_episodes_that_become_too_old_are_cut_off_and_left_out() -> None:
    ages = itertools.chain([1, 3], itertools.repeat(0))
    age: dict[int, int] = {}

    def aging(observation: Any, turn: Turn) -> dict[str, int]:
        if turn.index not in age:
            age[turn.index] = next(ages)
            for _ in range(age[turn.index]):
                policy.publish()
        return {"amount": 1}

    policy = VersionedPolicy(aging)
    async with (
        serve(Counting) as url,
        stream(url, policy, episodes=5, concurrency=1, max_staleness=1, failures=True) as episodes,
    ):
        seen = [episode async for episode in episodes]
        assert episodes.stale == 1
        assert episodes.summary.statuses[OutcomeStatus.CANCELLED] == 1
    assert [e.outcome.index for e in seen] == [0, 2, 3, 4]
    with pytest.raises(ValueError, match="VersionedPolicy"):
        stream("http://x", move, max_staleness=1)


async def test_groups_share_a_seed_and_are_whole_whatever_fails() -> None:
    async with (
        serve(RaisesInStep) as url,
        stream_groups(url, jumper, group_size=4, groups=3, concurrency=5, seed=50) as groups,
    ):
        made = [group async for group in groups]
    assert sorted(group.index for group in made) == [0, 1, 2]
    for group in made:
        assert [e.member for e in group.episodes] == [0, 1, 2, 3]
        assert {e.outcome.episode.seed for e in group.episodes if e.outcome.episode} == {
            50 + group.index
        }
        # Every other episode goes on after its first step, which fails.
        assert group.returns == [3.0, None, 3.0, None]
        assert group.baseline == 3.0
        assert [e.outcome.status for e in group.episodes][1] is OutcomeStatus.ENV_ERROR


def jumper(observation: Any, turn: Turn) -> dict[str, int]:
    return {"amount": 1 if turn.index % 2 else 3}


async def test_failures_are_left_out_unless_wanted() -> None:
    async with serve(RaisesInStep) as url:
        async with stream(url, jumper, episodes=6) as episodes:
            assert len([episode async for episode in episodes]) == 3
            assert episodes.left_out == 3
        async with stream(url, jumper, episodes=6, failures=True) as episodes:
            assert len([episode async for episode in episodes]) == 6


async def test_a_slow_reader_holds_the_episodes_back() -> None:
    app = create_app(Counting)
    async with (
        serve(app) as url,
        GenericEnvClient(url, share=False) as other,
        stream(url, move, concurrency=2, max_ahead=3) as episodes,
    ):
        await anext(episodes)

        async def settled() -> int:
            """Episodes that have ended by the time in which many more could have."""
            for _ in range(30):
                await other.reset()
            return episodes.summary.episodes

        # One read, three waiting, and one more for each worker that was playing.
        assert await settled() <= 1 + 3 + 2
        for _ in range(6):
            await anext(episodes)
        assert 7 + 3 <= await settled() <= 7 + 3 + 2


async def test_what_a_deadline_cuts_off_is_partial() -> None:
    def twice(observation: Any, turn: Turn) -> Any:
        return {"amount": 1} if turn.t < 2 else never()

    async def never() -> Any:
        await asyncio.get_running_loop().create_future()

    async with serve(Counting) as url:
        kinds: list[dict[str, Any]] = [{"deadline": 0.5}, {"timeout": 0.5}]
        for limit in kinds:
            async with stream(url, twice, episodes=2, partial=True, **limit) as episodes:
                seen = [episode async for episode in episodes]
            assert len(seen) == 2
            for episode in seen:
                assert episode.partial
                assert not episode.usable
                assert episode.episode_return is None
                assert [t.reward for t in episode.outcome.trajectory.transitions] == [1.0, 1.0]  # type: ignore[union-attr]  # it is recorded
    with pytest.raises(ValueError, match="endless"):
        stream("http://x", move, deadline=1.0)


async def test_leaving_it_cancels_the_environments() -> None:
    Hanging.cancelled = Hanging.closed = 0
    app = create_app(Hanging)
    async with serve(app) as url:
        async with stream(url, move, concurrency=2, seed=0, group_size=1) as episodes:
            await anext(episodes)  # the even seed's
            await until(lambda: app.state.openenv.engine.stats.steps >= 1)
        await until(lambda: not app.state.openenv.engine.sessions)
    assert Hanging.closed >= 1


async def test_a_reader_that_is_cancelled_twice_still_closes_its_sessions() -> None:
    reading, closing, gate = asyncio.Event(), asyncio.Event(), asyncio.Event()
    closed: list[int] = []

    class SlowToClose:
        async def reset(self, **options: Any) -> Any:
            reading.set()
            await asyncio.get_running_loop().create_future()

        async def close(self) -> None:
            closing.set()
            try:
                await gate.wait()
            finally:
                closed.append(1)

    async def read() -> None:
        async with stream(lambda: SlowToClose(), move, concurrency=1) as episodes:
            await anext(episodes)

    reader = asyncio.create_task(read())
    closed_at_end: list[int] = []
    reader.add_done_callback(lambda _: closed_at_end.append(len(closed)))
    await reading.wait()
    reader.cancel()
    await closing.wait()
    reader.cancel()
    for _ in range(20):
        await asyncio.sleep(0)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await reader
    assert closed_at_end == [1]


async def test_a_pool_is_a_source() -> None:
    provider = ProcessProvider("tests.rollouts.environments:Counting")
    async with (
        EnvPool(provider, max_workers=1) as pool,
        stream_groups(pool, move, group_size=2, groups=2, concurrency=4) as groups,
    ):
        assert [group.baseline async for group in groups] == [3.0, 3.0]


async def test_a_responder_is_a_policy() -> None:
    class Says:
        def __init__(self) -> None:
            self.heard: list[list[dict[str, str]]] = []

        async def respond(self, messages: list[dict[str, str]], **options: Any) -> Any:
            assert options["temperature"] == 0.5
            self.heard.append(list(messages))

            class Reply:
                text = str(len(messages))

            return Reply()

    responder = Says()
    to_action: Callable[[str], Any] = lambda text: {"amount": 1}  # noqa: E731  # one line says it
    policy = ResponderPolicy(
        responder, to_action, system="Count.", max_turns=2, temperature=0.5, seed=1
    )
    async with serve(Counting) as url, stream(url, policy, episodes=2, concurrency=2) as episodes:
        assert [e.episode_return async for e in episodes] == [3.0, 3.0]
    longest = max(responder.heard, key=len)
    assert [message["role"] for message in longest] == ["system", "user", "assistant", "user"]
    assert responder.heard[-1][-1]["content"] == '{"total": 2, "seed": null}'
    with pytest.raises(ValueError, match="max_turns"):
        ResponderPolicy(responder, to_action, max_turns=0)


# -- outcomes that are handed over ---------------------------------------------------------------


def stream_of(outcomes: list[Outcome[Any, Any]], **options: bool) -> EpisodeStream[Any, Any]:
    """A stream of these outcomes, of a policy that is at version 3 and may be 1 behind."""

    async def given() -> AsyncGenerator[Outcome[Any, Any], None]:
        for outcome in outcomes:
            yield outcome

    watch = PolicyWatch(VersionedPolicy(lambda observation: 1, version=3), 2, 1)
    arguments: dict[str, Any] = {"partial": False, "failures": False, **options}
    return EpisodeStream(given(), watch, Summary(), **arguments)


def outcomes_of_all_kinds() -> list[Outcome[Any, Any]]:
    stale = OperationCancelled("too old", stale=True)
    return [
        Outcome(0, OutcomeStatus.COMPLETED, steps=2),
        Outcome(1, OutcomeStatus.ENV_ERROR, steps=2, error=ValueError()),
        Outcome(2, OutcomeStatus.CANCELLED, steps=2),
        Outcome(3, OutcomeStatus.TIMEOUT, steps=0),
        Outcome(4, OutcomeStatus.CANCELLED, steps=1, error=stale),
        Outcome(5, OutcomeStatus.TRUNCATED, steps=1),
    ]


@pytest.mark.parametrize(
    ("options", "read", "left_out"),
    [
        ({}, [0, 5], 3),
        ({"partial": True}, [0, 2, 5], 2),
        ({"failures": True}, [0, 1, 2, 3, 5], 0),
    ],
)
async def test_only_what_is_wanted_is_handed_over(
    options: dict[str, bool], read: list[int], left_out: int
) -> None:
    episodes = stream_of(outcomes_of_all_kinds(), **options)
    assert [episode.outcome.index async for episode in episodes] == read
    assert (episodes.left_out, episodes.stale) == (left_out, 1)


async def test_groups_are_handed_over_as_they_become_complete() -> None:
    numbers = [3, 0, 5, 1, 2, 4, 7]
    outcomes = [Outcome(index, OutcomeStatus.COMPLETED, steps=1) for index in numbers]
    groups = GroupStream(stream_of(outcomes, partial=True, failures=True), 2)
    found = [
        (group.index, [episode.outcome.index for episode in group.episodes])
        async for group in groups
    ]
    assert found == [(0, [0, 1]), (1, [2, 3]), (2, [4, 5])]


async def test_a_group_is_whole_with_its_stale_episodes() -> None:
    groups = GroupStream(stream_of(outcomes_of_all_kinds(), partial=True, failures=True), 2)
    found = [[episode.stale for episode in group.episodes] async for group in groups]
    assert found == [[False, False], [False, False], [True, False]]
    assert groups.episodes.stale == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"speed": 1}, TypeError, "no argument 'speed'; there are deadline, max_ahead"),
        ({"deadline": 1.0}, ValueError, "deadline= needs a number of episodes"),
        ({"max_staleness": 1}, ValueError, "policy with a version"),
        ({"max_staleness": -1}, ValueError, "max_staleness must be at least 0"),
        ({"group_size": 0}, ValueError, "group_size must be at least 1"),
    ],
)
def test_streams_that_make_no_sense_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        stream("http://127.0.0.1:1", lambda observation: 1, **options)
    with pytest.raises(ValueError, match="groups must be at least 1"):
        stream_groups("http://127.0.0.1:1", lambda observation: 1, group_size=1, groups=0)
