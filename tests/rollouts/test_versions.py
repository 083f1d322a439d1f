"""Episodes of a stream begin when they can still be used; what is thrown away is told."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async import StepResult
from openenv_async.rollouts import Turn, VersionedPolicy, stream, stream_groups
from openenv_async.rollouts.versions import Admission


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
    # How many are read per version is a guess only before the first is published.
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


async def test_an_episode_begins_whoever_is_slow() -> None:
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
    assert [text.split()[0] for text in told] == ["1", "2", "4", "8"]
    assert all("are thrown away" in text for text in told)
