"""``--logs``: the lines that servers and environments write, as they come."""

from __future__ import annotations

import asyncio
import io

import pytest

from openenv_async.cli.following import following, prefixed
from openenv_async.cli.progress import progress_bar
from openenv_async.pool import EnvPool
from openenv_async.providers.process import ProcessProvider
from openenv_async.rollouts import collect_all
from tests.cli.commands import run
from tests.cli.steering_worlds import EVIL

WORLDS = "tests.cli.failing_worlds"


def test_a_line_has_the_worker_session_and_episode_before_it() -> None:
    assert prefixed("process-1", "playing 3") == "process-1 | playing 3"
    line = "12:00 ERROR x: it broke session_id=s1 episode_id=e2 env=Echo"
    assert prefixed("docker-a", line) == "docker-a s1 e2 | 12:00 ERROR x: it broke"


def test_what_environments_print_is_shown_while_they_run() -> None:
    done = run("rollout", f"{WORLDS}:OneInTen", "--episodes", "4", "--seed", "0", "--logs")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert "process-1 | the module is imported" in lines
    for seed in range(4):
        assert f"process-1 | playing {seed}" in lines
    [failed] = [line for line in lines if "ERROR" in line]
    head, _, _ = failed.partition(" | ")
    assert len(head.split()) == 3  # worker, session, episode
    assert "the last lines of" not in done.stderr  # they were shown


def test_what_they_print_does_not_steer_the_terminal() -> None:
    done = run("rollout", "tests.cli.steering_worlds:Steering", "--episodes", "2", "--seed", "0",
               "--logs")  # fmt: skip
    assert "process-1 | printed \\x1b]0;owned" in done.stderr
    assert EVIL[:2] not in done.stderr


def test_a_server_that_runs_already_keeps_its_log() -> None:
    done = run("rollout", "http://127.0.0.1:1", "--logs")
    assert done.returncode == 2
    assert "writes its log where it was started" in done.stderr


async def test_lines_come_while_the_episodes_run(capsys: pytest.CaptureFixture[str]) -> None:
    """An episode that waits has shown its line already."""
    seen = io.StringIO()
    provider = ProcessProvider(f"{WORLDS}:OneInTen")
    async with EnvPool(provider, max_workers=1) as pool, following(pool, progress_bar()):
        await collect_all(pool, lambda seen: {}, episodes=1, seeds=0)
        while "playing 0" not in seen.getvalue():
            seen.write(capsys.readouterr().err)
            await asyncio.sleep(0.01)
    assert "| playing 0" in seen.getvalue()
