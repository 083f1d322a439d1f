"""A pool of containers."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from typing import Any

import pytest
from click.testing import CliRunner

from openenv_async import EnvPool, OutcomeStatus
from openenv_async.cli import main
from openenv_async.errors import WorkerDied
from openenv_async.rollouts import Turn
from tests.helpers import until
from tests.providers.engines import ECHO, docker, docker_tests, ours, provider

pytestmark = docker_tests
STRAGGLER = 17


async def policy(observation: Any, turn: Turn) -> dict[str, str]:
    """Four decisions of 50 ms; those of one episode take 100 times as long."""
    await asyncio.sleep(0.05 * (100 if turn.index == STRAGGLER else 1))
    return {"message": "hello"}


async def play_for_ever(env: Any) -> None:
    while True:
        await env.step({"message": "hello"})


async def test_64_rollouts_on_4_containers_one_100_times_slower() -> None:
    """A warm environment is there at once."""
    async with EnvPool(provider(), min_workers=4, max_workers=4, sessions_per_worker=16) as pool:
        assert len(ours()) == 4
        begun = time.perf_counter()
        outcomes = [
            o
            async for o in pool.collect(
                policy, 64, min_episodes=63, deadline=15, max_steps=4, concurrency=64
            )
        ]
        assert time.perf_counter() - begun < 10  # the slow one takes 20 s, the others 0.2 s
        assert sorted(o.index for o in outcomes) == list(range(64))
        missing = [(o.index, o.status) for o in outcomes if not o.status.usable]
        assert missing == [(STRAGGLER, OutcomeStatus.CANCELLED)]
        envs = await asyncio.gather(*(pool.session(acquire_timeout=5).open() for _ in range(64)))
        await asyncio.gather(*(env.close() for env in envs))
        taken = []
        for _ in range(20):
            begun = time.perf_counter()
            env = await pool.session()
            taken.append(time.perf_counter() - begun)
            await env.close()
        assert statistics.median(taken) < 0.05


async def test_a_killed_container_is_replaced_and_says_how_it_ended() -> None:
    async with EnvPool(provider(), max_workers=1) as pool, pool.session() as env:
        await env.reset()
        first = pool.worker_of(env)
        assert first is not None
        assert first.container_id is not None
        docker("kill", first.container_id)
        with pytest.raises(WorkerDied) as caught:
            await play_for_ever(env)
        assert caught.value.exit_code == 137
        assert caught.value.container_id == first.container_id
        await env.reset()
        assert pool.worker_of(env) is not first
        await until(lambda: len(ours()) == 1)
        assert pool.statistics().workers_died == 1


def test_the_command_line_plays_in_containers() -> None:
    """Shows 6."""
    arguments = ["rollout", "echo", "--provider", "docker", "--image", ECHO, "--servers", "2"]
    arguments += ["--episodes", "50", "--max-steps", "5", "--json"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["outcomes"] == {"truncated": 50}
    assert report["workers"]["workers_started"] == 2
