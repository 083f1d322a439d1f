"""Playing on a pool: as they end, nothing lost, repeated only where that is safe."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from openenv_async import EngineOptions, OutcomeStatus, StepResult
from openenv_async.errors import InvalidAction, WorkerDied
from openenv_async.pool import EnvPool
from openenv_async.providers.process import ProcessProvider, ProcessWorker
from openenv_async.rollouts import Summary, Turn
from tests.helpers import until
from tests.pool.workers import CountingEnv, Held, LoopProvider
from tests.rollouts.environments import Counting, Hanging, Move, Seen


def one(observation: Any) -> Move:
    return Move(1)


class DiesOnce(Counting):
    """The first episode meets the death of its worker: in its reset, or in its second step."""

    killing: ClassVar[Any] = None
    where: ClassVar[str] = ""
    seeds: ClassVar[list[int | None]] = []

    isolation = None  # type: ignore[assignment]  # async

    async def reset(self, seed: int | None = None) -> Seen:  # type: ignore[override]
        self.seeds.append(seed)
        await self.meet("reset")
        return super().reset(seed)

    async def step(self, action: Move) -> StepResult[Seen]:  # type: ignore[override]
        if self.total == 1:
            await self.meet("step")
        return super().step(action)

    async def meet(self, where: str) -> None:
        cls = type(self)
        if cls.where == where:
            cls.where = ""
            cls.killing(self)
            await asyncio.get_running_loop().create_future()


@contextlib.asynccontextmanager
async def dying(where: str) -> Any:
    """A pool whose first episode meets its worker's death at ``where``."""
    provider = LoopProvider(DiesOnce)
    DiesOnce.where, DiesOnce.seeds = where, []

    def kill(env: DiesOnce) -> None:
        """End the worker of an environment; which one has it is for the pool to choose."""
        for worker in provider.started:
            if any(session.runner.env is env for session in worker.engine.sessions.values()):
                worker.die()

    DiesOnce.killing = kill
    async with EnvPool(provider, client=CountingEnv, min_workers=2, max_workers=2) as pool:
        yield pool


async def test_collect_gives_every_outcome_once() -> None:
    provider = LoopProvider()
    async with EnvPool(provider, client=CountingEnv, sessions_per_worker=3) as pool:
        outcomes = [o async for o in pool.collect(one, 40, concurrency=16, seeds=7)]
        assert sorted(o.index for o in outcomes) == list(range(40))
        assert {o.status for o in outcomes} == {OutcomeStatus.COMPLETED}
        assert {o.episode.seed - o.index for o in outcomes if o.episode} == {7}
        await until(lambda: pool.statistics().sessions == provider.sessions == 0)
        # Who waited for a slot when the last episode began did not get one for nothing.
        assert sum(worker.engine.stats.opened for worker in provider.started) <= 16


async def test_fewer_slots_than_rollouts_is_just_slower() -> None:
    provider = LoopProvider()
    async with EnvPool(provider, client=CountingEnv, max_workers=1, sessions_per_worker=2) as pool:
        outcomes = [o async for o in pool.collect(one, 30, concurrency=30)]
        assert len(outcomes) == 30
        assert provider.started[0].engine.stats.peak_sessions == 2
        assert pool.statistics().sessions_leased == 2


async def test_the_rest_is_cancelled_and_its_slots_are_free() -> None:
    provider = LoopProvider(Hanging, EngineOptions(max_sessions=8))
    async with EnvPool(provider, client=CountingEnv, max_workers=1) as pool:
        seeds = [2, 2, 1, 2, 1, 2, 2, 2]
        outcomes = [o async for o in pool.collect(one, 8, seeds=seeds, min_episodes=6)]
        assert [o.index for o in outcomes if not o.status.usable] == [2, 4]
        await until(lambda: provider.sessions == 0)
        await until(lambda: pool.statistics().sessions == 0)
        outcomes = [o async for o in pool.collect(one, 8, seeds=[2] * 8)]
        assert {o.status for o in outcomes} == {OutcomeStatus.COMPLETED}


async def test_a_group_plays_one_seed_and_takes_the_first() -> None:
    async with EnvPool(LoopProvider(), client=CountingEnv) as pool:
        blocked = asyncio.Event()

        async def policy(observation: Seen, turn: Turn) -> Move:
            if turn.index % 4 == 3:
                await blocked.wait()
            return Move(1)

        outcomes = await pool.group(policy, 16, min_episodes=12)
        assert [o.index for o in outcomes] == list(range(16))
        assert [o.index for o in outcomes if not o.status.usable] == [3, 7, 11, 15]
        assert len({o.episode.seed for o in outcomes if o.episode}) == 1
        await until(lambda: pool.statistics().sessions == 0)
        outcomes = await pool.group(one, 3, seed=5)
        assert [o.episode.seed for o in outcomes if o.episode] == [5, 5, 5]


async def test_an_episode_that_had_not_acted_is_played_again() -> None:
    async with dying("reset") as pool:
        summary = Summary()
        outcomes = [o async for o in pool.collect(one, 4, seeds=0, summary=summary)]
        assert {o.status for o in outcomes} == {OutcomeStatus.COMPLETED}
        assert sorted(o.index for o in outcomes) == [0, 1, 2, 3]
        assert summary.retried >= 1
        assert pool.statistics().workers_died == 1


async def test_an_episode_that_had_acted_is_not() -> None:
    async with dying("step") as pool:
        outcome = await pool.rollout(one, seed=3)
        assert outcome.status is OutcomeStatus.INFRA_ERROR
        assert (outcome.steps, outcome.episode_return) == (1, None)
        assert isinstance(outcome.error, WorkerDied)
        assert DiesOnce.seeds == [3]


async def test_unless_it_has_a_seed_and_that_was_asked_for() -> None:
    async with dying("step") as pool:
        outcome = await pool.rollout(one, seed=3, retry="seeded")
        assert (outcome.status, outcome.steps) == (OutcomeStatus.COMPLETED, 3)
        assert DiesOnce.seeds == [3, 3]
    async with dying("step") as pool:
        outcome = await pool.rollout(one, retry="seeded")
        assert outcome.status is OutcomeStatus.INFRA_ERROR
    async with dying("reset") as pool:
        outcome = await pool.rollout(one, retry="never")
        assert outcome.status is OutcomeStatus.INFRA_ERROR


async def test_what_always_fails_is_not_repeated_for_ever() -> None:
    provider = LoopProvider(DiesOnce)
    DiesOnce.seeds = []

    def kill() -> None:
        DiesOnce.where = "reset"
        provider.started[-1].die()

    DiesOnce.where, DiesOnce.killing = "reset", lambda env: kill()
    async with EnvPool(provider, client=CountingEnv, max_workers=1) as pool:
        outcome = await pool.rollout(one)
        assert outcome.status is OutcomeStatus.INFRA_ERROR
        assert len(DiesOnce.seeds) == 3
    DiesOnce.where = ""


async def test_a_wrong_action_ends_the_collection() -> None:
    async with EnvPool(LoopProvider()) as pool:
        with pytest.raises(InvalidAction):
            await pool.rollout(lambda observation: {"amount": "many"})
        await until(lambda: pool.statistics().sessions == 0)
        with pytest.raises(ValueError, match="belongs to the URLs"):
            pool.collect(one, 1, token="x")  # type: ignore[call-arg]  # a URL's
        with pytest.raises(ValueError, match="retry must be one of"):
            pool.collect(one, 1, retry="sometimes")  # type: ignore[arg-type]  # no such word


async def test_leaving_a_collection_gives_everything_back() -> None:
    Held.gate = asyncio.Event()
    provider = LoopProvider(Held)
    async with EnvPool(provider, client=CountingEnv) as pool:
        stream = pool.collect(one, 8)
        task = asyncio.ensure_future(anext(stream))
        await until(lambda: Held.stepping == 8)
        task.cancel()
        await asyncio.wait([task])
        await stream.aclose()
        await until(lambda: provider.sessions == Held.stepping == 0)
        await until(lambda: pool.statistics().sessions == 0)


async def test_a_process_killed_in_the_middle_costs_only_its_own_sessions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    provider = ProcessProvider("tests.behaviours.environments:Sleeper")
    async with EnvPool(provider, min_workers=2, max_workers=2, sessions_per_worker=8) as pool:
        victim = pool.workers[0]
        assert isinstance(victim, ProcessWorker)
        summary = Summary()
        outcomes = []
        stream = pool.collect(
            lambda observation: {"seconds": 0.02}, 80, concurrency=16, max_steps=5, summary=summary
        )  # fmt: skip
        async for outcome in stream:
            outcomes.append(outcome)
            if len(outcomes) == 20:
                os.kill(victim.pid, signal.SIGKILL)
        assert sorted(o.index for o in outcomes) == list(range(80))
        failed = [o for o in outcomes if not o.status.usable]
        assert 0 < len(failed) + summary.retried <= 8
        for outcome in failed:
            assert isinstance(outcome.error, WorkerDied)
            assert (outcome.error.exit_code, outcome.episode_return) == (-9, None)
        await until(lambda: pool.statistics().ready == 2, 30.0)
        assert pool.statistics().workers_died == 1


# -- map ----------------------------------------------------------------------------------------


async def double(env: CountingEnv, item: int) -> int:
    await env.reset()
    if item == 3:
        raise LookupError("three")
    return 2 * int((await env.step(Move(item))).observation.total)


async def test_map_gives_a_result_for_every_item() -> None:
    provider = LoopProvider()
    async with EnvPool(provider, client=CountingEnv, sessions_per_worker=4) as pool:
        results = [r async for r in pool.map(double, range(1, 21), concurrency=8)]
        by_index = sorted(results, key=lambda result: result.index)
        assert [r.item for r in by_index] == list(range(1, 21))
        assert [r.value for r in by_index if r.error is None] == [
            2 * item for item in range(1, 21) if item != 3
        ]
        assert isinstance(by_index[2].error, LookupError)
        with pytest.raises(LookupError, match="three"):
            by_index[2].unwrap()
        assert by_index[3].unwrap() == 8
        await until(lambda: pool.statistics().sessions == provider.sessions == 0)


async def test_map_takes_items_as_they_are_needed_and_can_be_left() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield 1

    async with EnvPool(LoopProvider(), client=CountingEnv) as pool:
        async with contextlib.aclosing(pool.map(double, items(), concurrency=4)) as results:
            async for _ in results:
                break
            await asyncio.sleep(0.05)
            assert taken < 30
        await until(lambda: pool.statistics().sessions == 0)

        def failing() -> Iterator[int]:
            yield 1
            raise OSError("no more data")

        with pytest.raises(OSError, match="no more data"):
            [r async for r in pool.map(double, failing())]


async def test_streams_for_a_trainer() -> None:
    provider = ProcessProvider("tests.rollouts.environments:Counting")
    async with EnvPool(provider, client=CountingEnv, sessions_per_worker=8) as pool:
        async with pool.stream(one, episodes=6, concurrency=3) as episodes:
            assert [episode.outcome.episode_return async for episode in episodes] == [3.0] * 6
        async with pool.stream_groups(one, group_size=4, groups=2) as groups:
            sizes = [len(group.episodes) async for group in groups]
        assert sizes == [4, 4]
        await until(lambda: pool.statistics().sessions == 0)
