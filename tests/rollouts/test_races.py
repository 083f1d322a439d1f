"""Races of rollouts: a reader that is cancelled, one that leaves, workers that die while it reads.

Every episode is handed over once, and nothing is left: no session, no task, no timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from typing import Any

import pytest

from openenv_async import OutcomeStatus
from openenv_async.errors import InvalidTasks
from openenv_async.pool import EnvPool
from openenv_async.rollouts import (
    TaskSet,
    VersionedPolicy,
    collect,
    collect_all,
    stream,
    stream_groups,
)
from openenv_async.rollouts.versions import Admission
from tests import in_memory
from tests.helpers import Counter, gather_all, settle
from tests.in_memory import MemoryClient, MemoryProvider, MemoryServer
from tests.scheduling import Interruption, PermutedLoop, cancel_at_every_await, explore


@pytest.fixture(autouse=True)
def _no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openenv_async.client.launch.dial", in_memory.dial)


@asynccontextmanager
async def a_server() -> AsyncIterator[MemoryServer]:
    server = MemoryServer(Counter)
    try:
        yield server
        await asyncio.sleep(1.0)
        assert (len(server.engine.sessions), server.open_transports) == (0, 0)
    finally:
        await server.aclose()


def ending(steps: int) -> Any:
    """A policy that ends each episode after so many steps."""

    async def policy(observation: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0.01 * observation["count"])
        return {"end": observation["count"] + 1 >= steps, "reward": 1.0}

    return policy


def source(server: MemoryServer) -> Any:
    return lambda: MemoryClient(server.url)


def test_every_episode_is_handed_over_once_in_any_order() -> None:
    async def scenario() -> None:
        async with a_server() as server:
            outcomes = await collect_all(
                source(server), ending(3), episodes=7, concurrency=3, seeds=5
            )
            assert [outcome.index for outcome in outcomes] == list(range(7))
            assert {outcome.status for outcome in outcomes} == {OutcomeStatus.COMPLETED}
            assert [outcome.steps for outcome in outcomes] == [3] * 7
            assert [outcome.episode_return for outcome in outcomes] == [3.0] * 7

    explore(30, scenario)


def test_collecting_is_cancelled_in_every_turn_and_leaves_nothing() -> None:
    async def scenario(interruption: Interruption) -> None:
        async with a_server() as server:
            await interruption(
                collect_all(source(server), ending(2), episodes=3, concurrency=2, seeds=1)
            )

    assert cancel_at_every_await(scenario, seeds=(0, 3), twice=False) > 30


def test_leaving_after_any_episode_closes_every_session() -> None:
    async def scenario(taken: int) -> None:
        async with a_server() as server:
            seen = []
            async with aclosing(
                collect(source(server), ending(2), episodes=9, concurrency=3, seeds=1)
            ) as outcomes:
                async for outcome in outcomes:
                    seen.append(outcome.index)
                    if len(seen) == taken:
                        break
            assert len(set(seen)) == len(seen) == taken

    for taken in (1, 2, 5, 9):
        explore(8, partial(scenario, taken))


def test_a_reader_whose_wait_is_cancelled_loses_no_episode() -> None:
    async def scenario(interruption: Interruption) -> None:
        async with a_server() as server:
            seen: list[int] = []
            episodes = stream(source(server), ending(2), episodes=4, concurrency=2, seed=1)
            async with episodes:

                async def read() -> None:
                    async for episode in episodes:
                        seen.append(episode.outcome.index)  # noqa: PERF401 - one may be cancelled

                await interruption(read())
                await read()
            assert sorted(seen) == list(range(4))

    assert cancel_at_every_await(scenario, seeds=(0, 2), twice=False) > 30


def test_closing_a_stream_in_every_turn_leaves_nothing() -> None:
    async def scenario(interruption: Interruption) -> None:
        async with a_server() as server:
            episodes = stream(source(server), ending(2), concurrency=2, seed=1)
            await anext(episodes)
            reading = asyncio.ensure_future(anext(episodes))
            await settle(1)
            await interruption(episodes.aclose())
            await episodes.aclose()
            await gather_all([reading])

    assert cancel_at_every_await(scenario, seeds=(0, 2, 3)) > 10


def test_workers_that_die_in_any_turn_cost_no_episode() -> None:
    async def scenario(turn: int) -> None:
        provider = MemoryProvider()
        pool = EnvPool(provider, client=MemoryClient, max_workers=2, sessions_per_worker=2)
        async with pool:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, PermutedLoop)
            loop.call_at_turn(loop.turns + turn, lambda: provider.started[0].die())
            outcomes = await collect_all(pool, ending(3), episodes=5, concurrency=3, seeds=1)
            assert [outcome.index for outcome in outcomes] == list(range(5))
            for outcome in outcomes:
                assert outcome.status in (OutcomeStatus.COMPLETED, OutcomeStatus.INFRA_ERROR)
            await asyncio.sleep(1.0)
            assert (pool.statistics().sessions, provider.sessions) == (0, 0)

    for turn in range(1, 100, 7):
        explore((0, turn), partial(scenario, turn))


# -- tasks ----------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each task come in a turn of its own, and nobody asked for the options of reset."""

    async def unknown(sessions: Any) -> None:
        return None

    monkeypatch.setattr("openenv_async.rollouts.schedule._reset_options", unknown)
    monkeypatch.setattr("openenv_async.rollouts.schedule._CHUNK_SECONDS", 0.0)


ROWS = [{"id": f"t{number}"} for number in range(4)]


class Rows:
    """Rows without a known number."""

    def __iter__(self) -> Any:
        return iter(ROWS)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("rows", [ROWS, Rows()], ids=["listed", "iterable"])
def test_groups_of_a_slow_source_are_whole_in_any_order(rows: Any) -> None:
    async def scenario() -> None:
        async with a_server() as server:
            tasks = TaskSet(rows)
            groups = stream_groups(
                source(server), ending(2), tasks=tasks, group_size=3, concurrency=2, seed=1
            )
            async with groups:
                found = [group async for group in groups]
            for group in found:
                assert {e.outcome.task.id for e in group.episodes if e.outcome.task} == {
                    f"t{group.index}"
                }
                assert group.returns == [2.0] * 3
            assert sorted(group.index for group in found) == [0, 1, 2, 3]
            assert tasks.position()["open"] == []

    explore(25, scenario)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("rows", [ROWS, Rows()], ids=["listed", "iterable"])
def test_tasks_of_a_run_that_is_cancelled_anywhere_are_played_by_the_next(rows: Any) -> None:
    async def scenario(interruption: Interruption) -> None:
        async with a_server() as server:
            tasks = TaskSet(rows)
            whole: list[str] = []

            async def play() -> None:
                groups = stream_groups(
                    source(server), ending(1), tasks=tasks, group_size=2, concurrency=2, seed=1
                )
                async with groups:
                    async for group in groups:
                        task = group.episodes[0].outcome.task
                        assert task is not None
                        whole.append(task.id)

            await interruption(play())
            assert tasks.finished == len(whole)
            if len(whole) < len(ROWS):
                await play()
            assert sorted(whole) == ["t0", "t1", "t2", "t3"]
            assert tasks.finished == len(ROWS)

    assert cancel_at_every_await(scenario, seeds=(0, 2), twice=False) > 30


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("most", [0, 1])
def test_a_slow_source_and_a_limit_of_staleness_never_wait_for_each_other(most: int) -> None:
    async def scenario() -> None:
        async with a_server() as server:
            policy = VersionedPolicy(ending(2))
            groups = stream_groups(
                source(server), policy, tasks=Rows(), group_size=2, concurrency=3, seed=1,
                max_staleness=most,
            )  # fmt: skip
            found = []
            async with groups:
                async for group in groups:
                    found.append(group.index)
                    policy.publish()
            assert sorted(found) == [0, 1, 2, 3]

    explore(25, scenario)


@pytest.mark.usefixtures("slow")
def test_a_source_that_raises_loses_no_episode_in_any_order() -> None:
    class Broken:
        def __iter__(self) -> Any:
            yield from ROWS[:2]
            raise OSError("gone")

    async def scenario() -> None:
        async with a_server() as server:
            found: list[int] = []

            async def play() -> None:
                outcomes = collect(
                    source(server), ending(2), tasks=Broken(), group_size=2, concurrency=3, seeds=1
                )
                async with aclosing(outcomes):
                    async for outcome in outcomes:
                        found.append(outcome.index)  # noqa: PERF401 - an error follows

            with pytest.raises(InvalidTasks, match="row 2 of Broken cannot be read"):
                await play()
            assert sorted(found) == [0, 1, 2, 3]

    explore(25, scenario)


# -- admission ------------------------------------------------------------------------------


def test_episodes_begin_only_while_they_can_be_read_in_time() -> None:
    """The first version tells how many episodes are read for one."""
    version = 0
    admission = Admission(lambda: version, 1, 0)
    begun = 0

    async def scenario() -> None:
        nonlocal version, begun, admission
        version, begun = 0, 0
        admission = Admission(lambda: version, 1, 0)

        async def play() -> None:
            nonlocal begun
            await admission.admit()
            begun += 1

        playing = [asyncio.ensure_future(play()) for _ in range(6)]
        await settle(20)
        assert begun == 1  # how many are read for a version is not known yet
        admission.read(1)
        await settle(20)
        assert begun == 1
        admission.asked()  # the reader wants more of this version
        await settle(20)
        assert begun == 2
        admission.dropped()
        await settle(20)
        assert begun == 3
        admission.read(1)
        version = 1  # two were read for one version
        admission.asked()
        await settle(20)
        assert begun == 5
        admission.give_back()
        await settle(20)
        assert begun == 6
        admission.close()
        await asyncio.gather(*playing)
        await admission.admit()

    explore(10, scenario)


def test_a_waiting_episode_is_cancelled_and_the_next_is_admitted() -> None:
    async def scenario(interruption: Interruption) -> None:
        admission = Admission(lambda: 0, 1, 0)
        await admission.admit()
        waiting = asyncio.ensure_future(interruption(admission.admit()))
        await settle(20)
        other = asyncio.ensure_future(admission.admit())
        await settle(20)
        admission.dropped()
        if not waiting.done():
            await settle(20)
        done, _ = await asyncio.wait([waiting, other], return_when=asyncio.FIRST_COMPLETED)
        assert done
        admission.close()
        await asyncio.gather(waiting, other)

    assert cancel_at_every_await(scenario, twice=False) >= 3
