"""The blocking pool: the same calls without a loop, from any thread."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator
from typing import Any, cast

import pytest

from openenv_async import EnvPool, SyncEnvPool
from openenv_async.client.loop_thread import background_loop
from openenv_async.client.sync import SyncEnvClient
from openenv_async.errors import SessionClosed
from openenv_async.pool import Mapped
from openenv_async.providers.base import Provider
from openenv_async.providers.docker import DockerProvider
from openenv_async.providers.process import ProcessProvider
from openenv_async.providers.space import SpaceProvider
from openenv_async.providers.static import StaticProvider
from tests.helpers import until
from tests.pool.workers import CountingEnv, LoopProvider
from tests.rollouts.environments import Counting, Move, Seen


def one(observation: Any) -> Move:
    return Move(1)


def test_the_blocking_pool() -> None:
    provider = ProcessProvider("tests.rollouts.environments:Counting")
    with SyncEnvPool(provider, client=CountingEnv, sessions_per_worker=8) as pool:
        with pool.session() as env:
            assert env.reset(seed=2).observation == Seen(0, 2)
            assert env.step(Move(3)).terminated
        assert pool.rollout(one, seed=1).episode_return == 3.0
        assert len(list(pool.collect(one, 10))) == 10
        assert len(pool.group(one, 4, min_episodes=4)) == 4
        for _ in pool.collect(one, 1000):
            break

        def play(env: Any, item: int) -> int:
            env.reset()
            if item == 1:
                raise LookupError("one")
            return int(env.step(Move(item)).observation.total)

        results: list[Mapped[int, int]] = list(pool.map(play, range(3), concurrency=2))
        assert sorted(r.value for r in results if r.value is not None) == [0, 2]
        assert [r.item for r in results if r.error is not None] == [1]
        background_loop().run(until(lambda: pool.statistics().sessions == 0))
    with SyncEnvPool.from_spec(Counting, {"goal": 1}, min_workers=1) as other:
        assert other.rollout(lambda observation: {"amount": 1}).steps == 1


def test_opening_and_closing_are_idempotent() -> None:
    provider = LoopProvider()
    pool = SyncEnvPool([provider], client=CountingEnv, min_workers=2)
    assert pool.statistics().ready == 0
    assert pool.open() is pool
    assert pool.open() is pool
    assert pool.statistics().ready == 2
    pool.close()
    pool.close()
    assert provider.closed
    with pytest.raises(SessionClosed), pool.session():
        pass


def test_a_pool_that_was_made_before_is_taken_as_it_is() -> None:
    made = EnvPool(LoopProvider(), client=CountingEnv)
    with SyncEnvPool(made) as pool:
        assert pool.pool is made
        with pool.session() as env:
            assert isinstance(env, SyncEnvClient)
            assert env.reset(seed=1).observation == Seen(0, 1)
            assert made.statistics().sessions == 1
        assert made.statistics().sessions == 0


def test_a_session_gives_its_slot_back_when_its_block_raises() -> None:
    with SyncEnvPool(LoopProvider(), client=CountingEnv, max_workers=1) as pool:
        with contextlib.suppress(LookupError), pool.session() as env:
            env.reset()
            raise LookupError
        assert pool.statistics().sessions == 0
        with pool.session(client=CountingEnv, acquire_timeout=5.0) as other:
            other.reset()


def test_outcomes_have_the_seeds_and_numbers_that_were_asked_for() -> None:
    with SyncEnvPool(LoopProvider(), client=CountingEnv) as pool:
        assert pool.rollout(one, seed=7, max_steps=2).steps == 2
        outcomes = list(pool.collect(one, 5, seeds=3, max_steps=1))
        assert sorted(o.episode.seed for o in outcomes if o.episode) == [3, 4, 5, 6, 7]
        group = pool.group(one, seed=9, max_steps=1)
        assert [o.episode.seed for o in group if o.episode] == [9] * 16


def test_map_runs_as_many_calls_at_once_as_were_asked_for() -> None:
    running, most, lock = 0, 0, threading.Lock()

    def play(env: SyncEnvClient[Move, Seen, dict[str, Any]], item: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        env.reset(seed=item)
        time.sleep(0.02)
        with lock:
            running -= 1
        return item

    with SyncEnvPool(LoopProvider(), client=CountingEnv) as pool:
        results = list(pool.map(play, range(9), concurrency=3))
        assert sorted((r.index, r.item, r.value) for r in results) == [(n, n, n) for n in range(9)]
        assert most == 3
        leaving = cast(Generator[Any, None, None], pool.map(play, range(1000), concurrency=2))
        with contextlib.closing(leaving) as left:
            next(left)
        assert pool.statistics().sessions == 0


@pytest.mark.parametrize(
    ("made", "provider"),
    [
        (SyncEnvPool.from_url("http://127.0.0.1:1", client=CountingEnv), StaticProvider),
        (SyncEnvPool.from_urls(["http://127.0.0.1:1"], client=CountingEnv), StaticProvider),
        (SyncEnvPool.from_dns("http://localhost:1", client=CountingEnv), StaticProvider),
        (SyncEnvPool.from_space("owner/name", client=CountingEnv), SpaceProvider),
        (SyncEnvPool.from_docker_image("image", client=CountingEnv), DockerProvider),
        (SyncEnvPool.from_spec("module:Class", client=CountingEnv), ProcessProvider),
        (SyncEnvPool.from_env("echo", client=CountingEnv), ProcessProvider),
    ],
)
def test_every_constructor_makes_its_kind_of_pool(
    made: SyncEnvPool[CountingEnv], provider: type[Provider]
) -> None:
    assert [type(each) for each in made.pool.providers] == [provider]
    assert made.pool.client is CountingEnv


def test_the_client_of_an_installed_environment_is_its_own() -> None:
    assert SyncEnvPool.from_env("echo").pool.client.__name__ == "EchoEnv"
