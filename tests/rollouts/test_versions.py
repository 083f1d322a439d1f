"""Episodes of a stream begin when they can still be used; what is thrown away is told."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import types
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from openenv_async import Outcome, OutcomeStatus, StepResult
from openenv_async.errors import (
    ConnectionLost,
    EnvironmentDied,
    OperationCancelled,
    ServerBusy,
)
from openenv_async.rollouts import Turn, VersionedPolicy, stream, stream_groups
from openenv_async.rollouts.streaming import StreamStatistics
from openenv_async.rollouts.versions import Admission, Pace, PolicyWatch, WatchedClient
from openenv_async.testing import ManualClock
from tests.helpers import settle
from tests.scheduling import Interruption, cancel_at_every_await, explore, run


def test_an_episode_that_may_not_begin_waits_for_a_change() -> None:
    looks = 0

    def version() -> int:
        nonlocal looks
        looks += 1
        assert looks < 100, "it does not wait, and blocks the loop"
        return 0

    async def scenario() -> None:
        admission = Admission(version, 1, 0)
        await admission.admit()
        waiting = asyncio.create_task(admission.admit())
        await settle(10)
        assert not waiting.done()
        asked = looks
        await settle(10)
        assert looks == asked  # nothing has changed since
        admission.close()
        await waiting

    run(scenario)


@given(
    size=st.integers(1, 8),
    groups_per_version=st.integers(1, 6),
    max_staleness=st.integers(0, 3),
    concurrency=st.integers(1, 64),
)
def test_what_ends_in_order_is_never_too_old(
    size: int, groups_per_version: int, max_staleness: int, concurrency: int
) -> None:
    """A reader that publishes every so many groups, and episodes as quick as can be."""
    version = 0
    admission = Admission(lambda: version, size, max_staleness)
    begun: deque[int] = deque()
    read, stale = 0, [0]
    while read < 30:
        admission.asked()
        began = False
        while len(begun) < concurrency + size and admission._may_begin():
            with pytest.raises(StopIteration):  # it returns at once
                admission.admit().send(None)
            begun.append(version)
            began = True
        assert began or len(begun) >= size, "the reader waits for ever"
        group = [begun.popleft() for _ in range(size)]
        stale[-1] += sum(version - each > max_staleness for each in group)
        admission.read(size)
        read += 1
        if read % groups_per_version == 0:
            version += 1
            stale.append(0)
    # The number read per version is a guess only before the first is published.
    assert sum(stale) <= sum(stale[: max_staleness + 2])
    assert sum(stale) <= (size * groups_per_version if not max_staleness else 0)


class Even:
    """A client whose episodes take three turns of the loop."""

    episode = None

    async def reset(self, **options: Any) -> StepResult[int]:
        self.count = 0
        return StepResult(0)

    async def step(self, action: Any) -> StepResult[int]:
        await asyncio.sleep(0)
        self.count += 1
        return StepResult(self.count, 1.0, terminated=self.count == 3)


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
@pytest.mark.parametrize("groups_per_version", [1, 4])
async def test_groups_stay_whole_at_the_defaults(
    max_staleness: int, groups_per_version: int
) -> None:
    policy = VersionedPolicy(lambda observation: 1)
    whole = 0
    async with stream_groups(
        Even, policy, group_size=8, groups=56, max_staleness=max_staleness
    ) as groups:
        read = 0
        async for group in groups:
            whole += not any(episode.stale for episode in group.episodes)
            read += 1
            if read % groups_per_version == 0:
                for _ in range(20):  # the learner learns, and the players go on
                    await asyncio.sleep(0)
                policy.publish()
        assert read == 56
        assert groups.episodes.stale <= 0.05 * 448
    assert whole >= 53


class Varied(Even):
    """A client whose episodes are of varied length, in the loop's own time."""

    def __init__(self, draw: random.Random, spread: float) -> None:
        self.draw = draw
        self.spread = spread

    async def step(self, action: Any) -> StepResult[int]:
        await asyncio.sleep(self.draw.lognormvariate(-self.spread * self.spread / 2, self.spread))
        return await super().step(action)


@dataclass
class Taken:
    """Groups that a learner took, in the loop's own time."""

    groups: int = 0
    whole: int = 0
    stale: int = 0
    waited: float = 0.0
    seconds: float = 0.0


async def learn(
    spread: float, max_staleness: int, batch: int, training: float, versions: int = 20
) -> Taken:
    """Take batches of groups of 8; episodes take 3 s in the mean, 64 are played at once."""
    loop, draw, taken = asyncio.get_running_loop(), random.Random(1), Taken()
    policy = VersionedPolicy(lambda observation: 1)
    begun = loop.time()
    async with stream_groups(
        lambda: Varied(draw, spread), policy, group_size=8, max_staleness=max_staleness
    ) as groups:
        for version in range(versions):
            if version == 2:  # by then it is known how many are taken
                taken, begun = Taken(), loop.time()
            since = loop.time()
            for _ in range(batch):
                group = await anext(groups)
                ages = [policy.version - each.versions[0] for each in group.episodes]
                stale = sum(age > max_staleness for age in ages)
                taken.groups, taken.whole = taken.groups + 1, taken.whole + (not stale)
                taken.stale += stale
            taken.waited += loop.time() - since
            await asyncio.sleep(training)
            policy.publish()
    taken.seconds = loop.time() - begun
    return taken


@pytest.mark.parametrize(
    ("spread", "max_staleness", "batch"),
    [(0.0, 1, 8), (0.5, 1, 8), (0.5, 1, 16), (0.5, 2, 8), (0.5, 3, 4), (1.0, 2, 16)],
)
def test_a_learner_at_half_the_pace_throws_little_away_and_hardly_waits(
    spread: float, max_staleness: int, batch: int
) -> None:
    # 64 episodes of 3 s are 8 groups in 3 s; the learner takes twice as long for them.
    training = 2 * 3.0 * batch / 8
    taken = run(lambda: learn(spread, max_staleness, batch, training))
    assert taken.stale <= 0.02 * 8 * taken.groups
    assert taken.whole >= 0.98 * taken.groups
    assert taken.waited <= 0.1 * taken.seconds


async def test_an_episode_begins_however_slow_the_reader_is() -> None:
    """A reader that never publishes, and one whose groups are larger than all else, go on."""
    policy = VersionedPolicy(lambda observation: 1)
    async with stream(Even, policy, episodes=200, max_staleness=0) as episodes:
        assert len([episode async for episode in episodes]) == 200
        assert episodes.stale == 0
    async with stream_groups(
        Even, policy, group_size=50, groups=3, concurrency=2, max_staleness=0
    ) as groups:
        assert len([group async for group in groups]) == 3


async def test_failed_episodes_do_not_stop_a_stream() -> None:
    def fails(observation: Any, turn: Turn) -> int:
        if turn.index % 3:
            raise ValueError
        return 1

    policy = VersionedPolicy(fails)
    async with stream(Even, policy, episodes=60, max_staleness=0) as episodes:
        async for _ in episodes:
            policy.publish()
        assert episodes.left_out == 40
        assert episodes.summary.episodes == 60


async def test_what_is_thrown_away_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def aging(observation: Any) -> int:
        policy.publish()
        return 1

    policy = VersionedPolicy(aging)
    async with stream(Even, policy, episodes=9, concurrency=1, max_staleness=1) as episodes:
        assert [episode async for episode in episodes] == []
        assert episodes.stale == 9
    told = [record.getMessage() for record in caplog.records]
    assert [text.split(" are thrown away")[0] for text in told] == [
        "4 of 4 episodes (100 %)",
        "8 of 8 episodes (100 %)",
    ]
    assert all(re.search("allow (more|max_staleness=[0-9])", text) for text in told)


async def test_little_waste_is_counted_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    def aging(observation: Any, turn: Turn) -> int:
        if turn.index % 4 == 3:
            policy.publish()
        return 1

    policy = VersionedPolicy(aging)
    async with stream(Even, policy, episodes=40, concurrency=1, max_staleness=1) as episodes:
        assert len([episode async for episode in episodes]) == 30
    figures = episodes.statistics()
    assert (figures.begun, figures.used, figures.stale, figures.unfinished) == (40, 30, 10, 0)
    assert figures.waste == 0.25
    assert not caplog.records  # a quarter is not past a quarter


def test_the_use_of_a_stream_is_told_while_it_goes_on() -> None:
    async def scenario() -> None:
        policy = VersionedPolicy(lambda observation: 1)
        async with stream_groups(
            lambda: Varied(random.Random(1), 0.0), policy, group_size=4, concurrency=8
        ) as groups:
            assert groups.statistics() == StreamStatistics(0, 0, 0, 0, 0, 0, 0, 0.0, 0.0)
            assert (groups.statistics().waste, groups.statistics().waiting) == (0.0, 0.0)
            await anext(groups)
            await asyncio.sleep(1.0)
            await anext(groups)
            figures = groups.statistics()
            # Steps take a second; the second group was there with the first, the next eight run.
            assert (figures.begun, figures.used, figures.unfinished) == (16, 8, 8)
            assert (figures.groups, figures.whole_groups) == (2, 2)
            assert (figures.waited, figures.seconds, figures.waiting) == (3.0, 4.0, 0.75)

    run(scenario)


def test_a_group_is_judged_when_it_is_handed_over() -> None:
    """Members that ended in time are too old when the last one ends too late."""

    class Slow(Even):
        async def step(self, action: Any) -> StepResult[int]:
            await asyncio.sleep(action)
            self.count = 3
            return StepResult(3, 1.0, terminated=True)

    async def scenario() -> None:
        policy = VersionedPolicy(lambda observation, turn: 10 if turn.index == 1 else 1)
        async with stream_groups(
            lambda: Slow(), policy, group_size=2, groups=2, max_staleness=1
        ) as groups:
            asyncio.get_running_loop().call_later(5.0, policy.publish)
            asyncio.get_running_loop().call_later(6.0, policy.publish)
            second, first = [group async for group in groups]
            assert [episode.stale for episode in second.episodes] == [False, False]
            assert [episode.stale for episode in first.episodes] == [True, True]
            assert first.returns == [None, None]
            figures = groups.statistics()
            assert (figures.used, figures.stale, figures.waste) == (2, 2, 0.5)
            assert (figures.groups, figures.whole_groups) == (2, 1)

    run(scenario)


def test_the_oldest_group_that_is_complete_is_handed_over_first() -> None:
    class Slow(Even):
        async def step(self, action: Any) -> StepResult[int]:
            await asyncio.sleep(action)
            return StepResult(3, 1.0, terminated=True)

    async def scenario() -> None:
        policy = VersionedPolicy(lambda observation, turn: 10 - turn.index)
        async with stream_groups(
            lambda: Slow(), policy, group_size=2, groups=4, max_staleness=5
        ) as groups:
            first = await anext(groups)
            await asyncio.sleep(20.0)
            assert [first.index, *[group.index async for group in groups]] == [3, 0, 1, 2]

    run(scenario)


# -- the number of episodes that may be under way ------------------------------------------------


class Versions:
    """Versions of a policy, and the admission that watches them."""

    def __init__(self, size: int, max_staleness: int) -> None:
        self.version = 0
        self.size = size
        self.admission = Admission(lambda: self.version, size, max_staleness)
        self.waiting: asyncio.Task[None] | None = None

    async def begun(self) -> int:
        """Begin as many episodes as may begin now; return their number."""
        count = 0
        while True:
            self.waiting = self.waiting or asyncio.create_task(self.admission.admit())
            for _ in range(3):
                await asyncio.sleep(0)
            if not self.waiting.done():
                return count
            self.waiting = None
            count += 1

    async def played(self, groups: int) -> None:
        """Play groups one after the other, each read at once."""
        for _ in range(groups):
            self.admission.asked()
            for _ in range(self.size):
                await self.admission.admit()
            self.admission.read(self.size)

    async def end(self) -> None:
        self.admission.close()
        if self.waiting is not None:
            await self.waiting


@pytest.mark.parametrize(
    ("size", "max_staleness", "under_way", "more"),
    # The reader takes 8 per version, or 9 by groups of 3.
    [
        (1, 0, 8, 1),
        (1, 1, 16, 1),
        (1, 2, 24, 1),
        (3, 0, 9, 0),
        (3, 1, 18, 0),
        (4, 0, 8, 0),
        (4, 1, 16, 0),
        (8, 0, 8, 0),
        (8, 1, 16, 0),
    ],
)
def test_as_many_are_under_way_as_can_be_read_before_they_are_too_old(
    size: int, max_staleness: int, under_way: int, more: int
) -> None:
    async def scenario() -> None:
        watched = Versions(size, max_staleness)
        await watched.played(-(-8 // size))
        watched.version += 1
        assert await watched.begun() == under_way
        assert await watched.begun() == 0
        watched.admission.dropped()  # it is not read: others may begin as far as there is room
        assert await watched.begun() == more
        await watched.end()

    run(scenario)


def test_the_number_read_per_version_is_the_mean_of_versions_that_were_missed() -> None:
    async def scenario() -> None:
        watched = Versions(1, 0)
        await watched.played(9)
        watched.version += 2
        assert await watched.begun() == 5
        await watched.end()

    run(scenario)


@pytest.mark.parametrize(("read", "under_way"), [(5, 5), (6, 6), (7, 7)])
def test_all_that_are_read_for_one_version_count(read: int, under_way: int) -> None:
    async def scenario() -> None:
        watched = Versions(1, 0)
        await watched.played(read)
        watched.version += 1
        assert await watched.begun() == under_way
        await watched.end()

    run(scenario)


@pytest.mark.parametrize(("read", "versions", "under_way"), [(9, 2, 5), (9, 3, 3), (10, 3, 4)])
def test_the_mean_of_versions_is_rounded_up(read: int, versions: int, under_way: int) -> None:
    async def scenario() -> None:
        watched = Versions(1, 0)
        await watched.played(read)
        watched.version += versions
        assert await watched.begun() == under_way
        await watched.end()

    run(scenario)


def test_before_the_first_version_half_as_many_again_are_played() -> None:
    async def scenario() -> None:
        watched = Versions(1, 0)
        begun = []
        for _ in range(12):
            watched.admission.asked()
            begun.append(await watched.begun())
            watched.admission.read(1)
        assert begun == [1, 1, 1, 1, 2, 1, 2, 1, 2, 1, 2, 1]
        await watched.end()

    run(scenario)


def test_the_last_version_counts_for_three_tenths() -> None:
    async def scenario() -> None:
        watched = Versions(1, 0)
        await watched.played(10)
        watched.version += 1
        watched.admission.read(0)
        await watched.played(20)
        watched.version += 1
        assert await watched.begun() == 13
        watched.admission.read(13)
        watched.version += 1
        watched.admission.read(0)  # it had read 13 for this one, as before
        watched.version += 1
        assert await watched.begun() == 10  # and none for the next
        watched.version -= 3  # a learner that goes back begins a version as well
        assert await watched.begun() == 0
        watched.admission.read(10)
        assert await watched.begun() == 0
        watched.version += 1
        watched.admission.read(0)
        assert await watched.begun() == 10
        await watched.end()

    run(scenario)


@pytest.mark.parametrize("size", [2, 3])
def test_an_episode_that_does_not_begin_gives_its_turn_back(size: int) -> None:
    async def scenario() -> None:
        watched = Versions(size, 0)
        await watched.played(2)
        watched.version += 1
        assert await watched.begun() == 2 * size
        for again in range(1, 2 * size + 1):
            for _ in range(again):
                watched.admission.give_back()
            assert await watched.begun() == again  # groups are whole again
        await watched.end()
        for _ in range(50):  # there are no more episodes: none waits
            await watched.admission.admit()

    run(scenario)


def test_a_task_with_a_session_takes_over_an_episode_of_one_that_waits_for_its_session() -> None:
    async def scenario() -> None:
        admission = Admission(lambda: 0, 2, 0)
        await admission.admit(ready=False)
        await admission.admit(ready=False)
        waiting = asyncio.create_task(admission.admit(ready=False))
        await settle(10)
        assert not waiting.done()
        await admission.admit()  # its session is open
        late = asyncio.create_task(admission.admit())
        await late
        assert not admission.claim()  # both are played by others
        admission.give_back()
        await waiting
        assert admission.claim()
        assert not admission.claim()
        admission.close()
        assert admission.claim()  # there are no more: it sees that itself

    run(scenario)


def test_a_task_with_a_session_is_woken_for_an_episode_that_was_admitted_without_one() -> None:
    async def scenario() -> None:
        version = 0
        admission = Admission(lambda: version, 1, 0)
        await admission.admit()
        admission.read(1)
        waiting = asyncio.create_task(admission.admit())
        await settle(10)
        version = 1
        await admission.admit(ready=False)
        await settle(10)
        assert waiting.done()
        assert not admission.claim()

    run(scenario)


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_a_server_with_less_room_than_a_group_stops_nothing(max_staleness: int) -> None:
    """Tasks that wait for room on the server keep no episode from those that have a session."""

    class Scarce(Even):
        there = 0

        async def open(self) -> None:
            if Scarce.there == 3:
                raise ServerBusy("full", retry_after=0.5)
            Scarce.there += 1

        async def close(self) -> None:
            Scarce.there -= 1

    async def scenario() -> None:
        Scarce.there = 0
        policy = VersionedPolicy(lambda observation: 1)
        async with stream_groups(
            lambda: Scarce(), policy, group_size=8, groups=6, max_staleness=max_staleness
        ) as groups:
            async for group in groups:
                assert [episode.usable for episode in group.episodes] == [True] * 8
                policy.publish()

    run(scenario)


def test_a_reader_that_waits_gets_an_episode_whatever_its_age() -> None:
    async def scenario() -> None:
        watched = Versions(1, 0)
        await watched.played(1)
        watched.version += 1
        assert await watched.begun() == 1
        watched.admission.read(1)
        assert await watched.begun() == 0  # nobody waits for it
        watched.admission.asked()
        assert await watched.begun() == 1
        watched.admission.read(1)
        assert await watched.begun() == 0  # it has its episode, and waits no longer
        await watched.end()

    run(scenario)


class Trouble(Even):
    """A client that fails, is lost, takes its time or waits for a place, by a draw."""

    open_count = 0
    is_open = False

    def __init__(self, draw: random.Random, policy: VersionedPolicy) -> None:
        self.draw = draw
        self.policy = policy

    async def open(self) -> None:
        if Trouble.open_count >= 5:
            raise ServerBusy("full", retry_after=1.0)
        if self.draw.random() < 0.1:
            raise ConnectionLost("lost")
        Trouble.open_count += 1
        self.is_open = True

    async def close(self) -> None:
        Trouble.open_count -= self.is_open
        self.is_open = False

    async def reset(self, **options: Any) -> StepResult[int]:
        chance = self.draw.random()
        if chance < 0.1:
            self.policy.publish()
        if chance < 0.2:
            raise ConnectionLost("lost")
        return await super().reset(**options)

    async def step(self, action: Any) -> StepResult[int]:
        chance = self.draw.random()
        if chance < 0.05:
            raise EnvironmentDied("broken")
        if chance < 0.3:
            await asyncio.sleep(self.draw.random())
        return await super().step(action)


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 12},
        {"concurrency": 3, "max_ahead": 1},
        {"concurrency": 8, "retry": "seeded"},
        {"concurrency": 8, "deadline": 3.0, "retry": "unstarted"},
        {"concurrency": 8, "min_episodes": 12},
        {"timeout": 1.0, "concurrency": 5, "max_ahead": 2},
    ],
)
def test_every_group_comes_whatever_happens(options: dict[str, Any], max_staleness: int) -> None:
    seeds = itertools.count(1)

    async def scenario() -> None:
        draw = random.Random(next(seeds))
        Trouble.open_count = 0
        policy = VersionedPolicy(lambda observation: 1)
        async with stream_groups(
            lambda: Trouble(draw, policy),
            policy,
            group_size=4,
            groups=8,
            max_staleness=max_staleness,
            **options,
        ) as groups:
            seen = []
            while True:
                try:
                    async with asyncio.timeout(draw.choice([0.05, 5.0, None])):
                        seen.append((await anext(groups)).index)
                except TimeoutError:
                    pass
                except StopAsyncIteration:
                    break
                if draw.random() < 0.5:
                    await asyncio.sleep(draw.random())
                    policy.publish()
                if draw.random() < 0.02:
                    policy.version -= 2
            figures = groups.statistics()
        assert sorted(seen) == list(range(8))
        assert (figures.groups, figures.unfinished) == (8, 0)
        assert figures.used + figures.stale == 32
        assert Trouble.open_count == 0

    explore(8, scenario)


@pytest.mark.parametrize("max_staleness", [0, 1])
def test_a_reader_is_cancelled_anywhere(max_staleness: int) -> None:
    async def scenario(interruption: Interruption) -> None:
        draw = random.Random(1)
        Trouble.open_count = 0
        policy = VersionedPolicy(lambda observation: 1)

        async def read() -> None:
            async with stream_groups(
                lambda: Trouble(draw, policy),
                policy,
                group_size=2,
                groups=2,
                concurrency=2,
                max_staleness=max_staleness,
            ) as groups:
                async for _ in groups:
                    policy.publish()

        await interruption(read())
        assert Trouble.open_count == 0

    assert cancel_at_every_await(scenario, seeds=(1,), twice=False) > 5


class AnyReader(RuleBasedStateMachine):
    """A stream whose episodes, reader and learner do whatever they may, in any order."""

    @initialize(size=st.integers(1, 5), max_staleness=st.integers(0, 3), slots=st.integers(1, 12))
    def begin(self, size: int, max_staleness: int, slots: int) -> None:
        self.size, self.slots = size, slots
        self.version, self.clock = 0, ManualClock()
        self.admission = Admission(
            lambda: self.version, size, max_staleness, lambda: self.clock.now
        )
        self.opening = 0  # tasks that were admitted, and wait for a session
        self.running: list[int] = []
        self.again: list[int] = []
        self.ended: set[int] = set()
        self.next = 0
        self.waits = False

    def index(self) -> int:
        if self.again:
            return self.again.pop(0)
        self.next += 1
        return self.next - 1

    def may(self, ready: bool) -> bool:
        """Ask as a task does that has a slot."""
        if len(self.running) + self.opening >= self.slots:
            return False
        return self.admission._admits(ready)

    @rule()
    def play(self) -> None:
        if self.may(True):
            self.running.append(self.index())

    @rule()
    def open(self) -> None:
        self.opening += self.may(False)

    @precondition(lambda self: self.opening)
    @rule()
    def opened(self) -> None:
        self.opening -= 1
        if self.admission.claim():
            self.running.append(self.index())

    @precondition(lambda self: self.running)
    @rule(data=st.data(), again=st.booleans())
    def end(self, data: st.DataObject, again: bool) -> None:
        index = data.draw(st.sampled_from(self.running))
        self.running.remove(index)
        if again:
            self.again.append(index)
            self.admission.give_back()
        else:
            self.ended.add(index)

    @rule(versions=st.integers(-2, 5), seconds=st.floats(0.0, 10.0))
    def publish(self, versions: int, seconds: float) -> None:
        self.clock.advance(seconds)
        self.version += versions

    @rule(seconds=st.floats(0.0, 30.0), stale=st.booleans())
    def measure(self, seconds: float, stale: bool) -> None:
        self.admission.pace.played(seconds, stale)

    @rule()
    def ask(self) -> None:
        self.admission.asked()
        self.waits = True

    def whole(self) -> list[list[int]]:
        groups = range(-(-self.next // self.size))
        members = [range(group * self.size, (group + 1) * self.size) for group in groups]
        return [list(each) for each in members if self.ended.issuperset(each)]

    @precondition(lambda self: self.waits and self.whole())
    @rule()
    def read(self) -> None:
        self.ended.difference_update(self.whole()[0])
        self.admission.read(self.size)
        self.waits = False

    @invariant()
    def a_reader_that_waits_gets_a_group(self) -> None:
        if not self.waits or self.running or self.whole():
            return
        # A task that has a session takes over what was admitted for one that waits for its own.
        assert self.admission._granted or self.admission._may_begin(), "nothing goes on"

    @invariant()
    def only_one_group_is_in_part(self) -> None:
        """No more and no fewer are owed than groups that began lack or play again."""
        begun = -(-self.next // self.size) * self.size
        lacking = begun - self.next + len(self.again)
        taken = self.admission._owed + self.admission._granted
        assert taken % self.size == lacking % self.size
        assert taken >= lacking
        assert self.admission._granted <= self.opening


test_whatever_happens_a_stream_goes_on = AnyReader.TestCase


# -- the measured pace ---------------------------------------------------------------------------


class Measured:
    """A pace whose learner publishes by the clock, once in 10 s."""

    def __init__(self, max_staleness: int) -> None:
        self.version = 0
        self.clock = ManualClock()
        self.pace = Pace(lambda: self.version, max_staleness, lambda: self.clock.now)
        for _ in range(3):
            self.publish(10.0)

    def publish(self, after: float, versions: int = 1, *, waits: bool = True) -> None:
        self.clock.advance(after)
        self.version += versions
        assert self.pace.notice(8, waits)
        assert not self.pace.notice(8, waits)

    def latest(self) -> int:
        """Whole seconds after a version until which a group may begin."""
        for second in range(15):
            if not self.pace.ends_in_time():
                return second - 1
            self.clock.advance(1.0)
        return 15


@pytest.mark.parametrize(
    ("max_staleness", "spans", "latest"),
    [
        (0, [6.0] * 8, 4),  # those that begin later end after the next version
        (1, [6.0] * 8, 15),  # whenever it begins, it ends in time
        (1, [16.0] * 8, 4),
        (0, [2.0, 9.0], 4),  # half of them, until the wait costs less than the other half
        (0, [2.0] * 9 + [9.0], 8),  # one in ten is worth less than the wait
        (0, [12.0] * 8, 0),  # none ends in time: some are tried
        (0, [], 15),
    ],
)
def test_a_group_begins_where_more_come_whole_by_that(
    max_staleness: int, spans: list[float], latest: int
) -> None:
    measured = Measured(max_staleness)
    for span in spans:
        measured.pace.played(span, stale=False)
    assert measured.latest() == latest


def test_groups_that_were_too_old_are_none_that_end_in_time() -> None:
    measured = Measured(0)
    for _ in range(8):
        measured.pace.played(6.0, stale=True)
    assert measured.latest() == 0
    measured.pace.played(6.0, stale=False)
    measured.publish(5.0)
    assert measured.latest() == 2  # a version takes 8.5 s now


def test_a_learner_that_waits_for_its_episodes_has_no_clock() -> None:
    measured = Measured(0)
    measured.pace.played(9.0, stale=False)
    assert measured.pace.look_again() == 10.0
    measured.publish(10.0, waits=False)
    assert measured.pace.look_again() is None
    assert measured.latest() == 15


def test_a_version_that_is_overdue_is_not_waited_for() -> None:
    measured = Measured(0)
    measured.pace.played(9.0, stale=False)
    measured.clock.advance(9.0)
    assert not measured.pace.ends_in_time()
    assert measured.pace.look_again() == 1.0
    measured.clock.advance(5.5)
    assert not measured.pace.ends_in_time()
    assert measured.pace.look_again() == 10.0 / 16
    measured.clock.advance(1.0)
    assert measured.pace.ends_in_time()


def test_the_learners_pace_is_learnt_from_versions() -> None:
    measured = Measured(1)
    assert (measured.pace.rate, measured.pace.interval) == (8.0, 10.0)
    measured.publish(40.0, 2)  # 20 s each
    assert measured.pace.interval == pytest.approx(13.0)
    assert measured.pace.rate == pytest.approx(6.8)
    measured.publish(1000.0, -3)  # back to an earlier one
    assert measured.pace.interval == pytest.approx(13.0)
    assert measured.pace.since == 0.0


def test_a_remedy_has_the_numbers() -> None:
    measured = Measured(1)
    assert measured.pace.remedy().startswith("play fewer at once")
    for span in [5.0] * 8 + [34.0] * 2:
        measured.pace.played(span, stale=False)
    assert measured.pace.remedy() == (
        "one in ten takes 34 s or longer, a version 10 s: allow max_staleness=4, or publish less"
        " often"
    )
    for _ in range(64):
        measured.pace.played(5.0, stale=True)
    assert measured.pace.remedy().startswith("play fewer at once")


def test_versions_by_the_clock_waste_half_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of 8 takes about 4 s, and is too old after 5.2 s if it began with a version."""

    def loop_time() -> float:
        loop = asyncio._get_running_loop()
        return 0.0 if loop is None else loop.time()

    # Episodes are timed by the loop's clock, in which they take their time.
    clock = types.SimpleNamespace(perf_counter=loop_time, time=loop_time)
    monkeypatch.setattr("openenv_async.rollouts.run.time", clock)

    async def scenario() -> tuple[float, int]:
        loop, draw = asyncio.get_running_loop(), random.Random(1)
        policy, begun = VersionedPolicy(lambda observation: 1), loop.time()

        async def publish() -> None:
            while True:
                await asyncio.sleep(2.6)
                policy.publish()

        publishing = asyncio.create_task(publish())
        async with stream_groups(
            lambda: Varied(draw, 0.3), policy, group_size=8, max_staleness=1
        ) as groups:
            while loop.time() < begun + 150.0:
                await anext(groups)
            figures = groups.statistics()
        publishing.cancel()
        return figures.waste, figures.whole_groups

    waste, whole = run(scenario)
    monkeypatch.setattr(Pace, "ends_in_time", lambda self: True)
    waste_without, whole_without = run(scenario)
    assert waste < 0.5 * waste_without
    assert whole > whole_without


def test_a_version_of_which_nobody_tells_is_noticed() -> None:
    """All episodes wait for the next version, and nothing else happens until it is there."""

    async def scenario() -> None:
        loop, version = asyncio.get_running_loop(), 0
        admission = Admission(lambda: version, 1, 1, loop.time)
        for _ in range(3):
            admission.asked()
            await admission.admit()
            await asyncio.sleep(10.0)
            version += 1
            admission.read(1)
            admission.pace.played(19.0, stale=False)
        admission.asked()
        await admission.admit()
        await asyncio.sleep(5.0)
        waiting = asyncio.create_task(admission.admit())
        await asyncio.sleep(6.0)  # a version was due after 10 s; 19 s of two are needed
        assert not waiting.done()
        version += 1
        await asyncio.sleep(0.7)
        assert waiting.done()
        await asyncio.sleep(3.0)
        cancelled = asyncio.create_task(admission.admit())
        await asyncio.sleep(3.0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        assert cancelled.cancelled()

    run(scenario)  # and no timer is left


def test_an_episode_of_before_waits_to_be_read_like_one_that_was_admitted() -> None:
    """A group of which a run's folder has three members: as many are under way as without it."""

    async def scenario() -> None:
        watched = Versions(4, 0)
        await watched.played(2)
        watched.version += 1
        watched.admission.read(0)
        for _ in range(3):
            watched.admission.joined()
        assert await watched.begun() == 4
        watched.admission.read(4)  # three of before, and one of now
        assert await watched.begun() == 0
        watched.admission.read(3)
        watched.version += 1
        watched.admission.read(0)
        assert await watched.begun() == 8
        await watched.end()

    run(scenario)


# -- versions of single episodes -----------------------------------------------------------------


def test_the_policy_of_an_episode_follows_what_is_published() -> None:
    made: list[str] = []

    class Keeping:
        def __init__(self, name: str) -> None:
            self.name = name

        def for_episode(self, index: int) -> Any:
            made.append(f"{self.name}{index}")
            return lambda observation, turn: self.name

        def __call__(self, observation: Any, turn: Turn) -> Any:
            raise AssertionError("it has a policy for each episode")

    turn = Turn(3, 0, None, StepResult(0))
    policy = VersionedPolicy(Keeping("a"), version=5)
    act = policy.for_episode(3)
    assert [act(0, turn), act(0, turn)] == ["a", "a"]
    assert policy.publish() == 6
    assert act(0, turn) == "a"
    assert policy.publish(Keeping("b")) == 7
    assert [act(0, turn), act(0, turn)] == ["b", "b"]
    assert made == ["a3", "b3"]
    assert policy(0, turn) == "b"
    assert made == ["a3", "b3", "b3"]


def test_an_episode_has_the_versions_of_the_steps_that_were_answered() -> None:
    policy = VersionedPolicy(lambda observation: 1)
    watch = PolicyWatch(policy, 2, 1)
    turn = Turn(5, 0, None, StepResult(0))
    act = watch.for_episode(5)
    for _ in range(3):
        act(0, turn)
        policy.publish()
    assert (watch.version, watch(0, turn)) == (3, 1)
    episode = watch.episode(Outcome(5, OutcomeStatus.COMPLETED, steps=2))
    assert (episode.group, episode.member, episode.versions) == (2, 1, (0, 1))
    assert episode.stale  # it began three versions ago
    assert watch.episode(Outcome(5, OutcomeStatus.COMPLETED)).versions == ()  # told once
    assert [watch.too_old(version) for version in (0, 1, 2, 3)] == [True, True, False, False]


def test_a_policy_without_a_version_is_never_too_old() -> None:
    watch = PolicyWatch(lambda observation: 1, 1, None)
    act = watch.for_episode(0)
    assert act(0, Turn(0, 0, None, StepResult(0))) == 1
    assert (watch.version, watch.too_old(-100)) == (0, False)
    assert watch.episode(Outcome(0, OutcomeStatus.COMPLETED, steps=1)).versions == ()


def test_an_outcome_says_that_it_was_stopped_for_its_age() -> None:
    watch = PolicyWatch(VersionedPolicy(lambda observation: 1), 1, 0)
    error = OperationCancelled("old", stale=True)
    assert watch.episode(Outcome(0, OutcomeStatus.CANCELLED, error=error)).stale
    other = OperationCancelled("stopped")
    assert not watch.episode(Outcome(0, OutcomeStatus.CANCELLED, error=other)).stale


def test_a_watched_client_is_stopped_before_the_step_that_would_be_too_old() -> None:
    class Client(Even):
        leaving = True
        episode = "an episode"  # type: ignore[assignment]  # any object
        opened = closed = 0

        async def open(self) -> None:
            self.opened += 1

        async def close(self) -> None:
            self.closed += 1

    class Counted(Even):
        count = 0

    async def scenario() -> None:
        policy = VersionedPolicy(lambda observation: 1)
        client = Client()
        watched = WatchedClient(client, PolicyWatch(policy, 1, 1))
        assert (watched.episode, watched.leaving) == ("an episode", True)
        await watched.open()
        await watched.reset()
        policy.publish()
        assert (await watched.step(0)).reward == 1.0
        policy.publish()
        with pytest.raises(OperationCancelled, match="version 2, this episode began at 0"):
            await watched.step(0)
        await watched.reset()
        await watched.step(0)
        await watched.close()
        assert (client.opened, client.closed, client.count) == (1, 1, 1)
        begun = WatchedClient(Counted(), PolicyWatch(policy, 1, 1))
        assert (await begun.step(0)).reward == 1.0  # it began before it was watched
        bare = WatchedClient(Even(), PolicyWatch(policy, 1, 1))
        await bare.open()
        await bare.close()
        assert (bare.episode, bare.leaving) == (None, False)

    run(scenario)


# -- over tasks, in a run's folder ---------------------------------------------------------------


@pytest.mark.parametrize("max_staleness", [0, 1])
async def test_a_run_that_stopped_is_finished_with_as_many_groups_at_once(
    max_staleness: int, tmp_path: Path
) -> None:
    """Members of before are handed over with their groups, and nobody waits for ever."""
    rows = [{"id": f"task-{number}"} for number in range(6)]
    policy = VersionedPolicy(lambda observation: 1)

    class Told(Even):
        async def reset(self, *, id: str = "", **options: Any) -> StepResult[int]:
            return await super().reset()

    async def read(most: int) -> list[str]:
        """Read so many groups; those of a member that stops are left in part."""
        seen = []
        async with stream_groups(
            lambda: Told(),
            policy,
            group_size=4,
            tasks=rows,
            concurrency=3,
            max_staleness=max_staleness,
            run=tmp_path / "run",
        ) as groups:
            async for group in groups:
                assert [episode.stale for episode in group.episodes] == [False] * 4
                (task,) = {each.outcome.task.id for each in group.episodes if each.outcome.task}
                seen.append(task)
                policy.publish()
                if len(seen) == most:
                    break
        return seen

    async with asyncio.timeout(60):
        before = await read(2)
        after = await read(100)
    assert len(before) == 2
    # A group that was finished in the folder and not handed over is not played again.
    assert {*before, *after} <= {row["id"] for row in rows}
    assert after
    assert len(after) == len(set(after))
    async with asyncio.timeout(60):
        assert await read(100) == []
