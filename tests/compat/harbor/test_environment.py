"""Episodes on Harbor tasks, in containers of a real Engine."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from openenv_async import EnvClient, connect
from openenv_async.compat.harbor.environment import HarborEnvironment
from openenv_async.compat.harbor.models import HarborAction, HarborObservation, HarborState
from openenv_async.errors import (
    EnvironmentDied,
    EnvironmentStartFailed,
    EpisodeEnded,
    InvalidAction,
    InvalidOption,
    InvalidTasks,
    NoReward,
    TargetNotFound,
)
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.resolve import resolve
from tests.compat.harbor.making import make_task
from tests.providers.engines import BASE, ROOT, docker, docker_tests, none_left, ours

pytestmark = docker_tests

IMAGES = {"python:3.11": BASE, "python:3.11-slim": BASE}
SUBMIT = HarborAction(submit=True)
Client = EnvClient[HarborAction, HarborObservation, HarborState]


@asynccontextmanager
async def playing(folder: Path, **params: Any) -> AsyncIterator[Client]:
    """A session of the folder's environment in this process."""
    spec = EnvironmentSpec(
        HarborEnvironment, params={"folder": str(folder), "images": IMAGES, **params}
    )
    async with connect(spec) as env:
        yield env
    await none_left()


async def test_an_episode_is_worked_on_and_graded(tmp_path: Path) -> None:
    async with playing(make_task(tmp_path / "a")) as env:
        result = await env.reset()
        assert result.observation == HarborObservation("Write yes to /app/answer.\n", folder="/app")
        result = await env.step(HarborAction("ls /tests /solution; mkdir x; cd x; exit 3"))
        seen = result.observation
        assert (seen.exit_code, seen.folder, seen.instruction) == (3, "/app/x", "")
        assert seen.output.count("No such file") == 2
        assert (result.reward, result.done) == (None, False)
        result = await env.step(HarborAction("pwd; echo yes > ../answer"))
        assert result.observation.output == "/app/x\n"
        result = await env.step(SUBMIT)
        assert (result.reward, result.terminated, result.truncated) == (1.0, True, False)
        assert result.info["rewards"] == {"reward": 1.0}
        state = await env.state()
        assert (state.task, state.steps, state.ended) == ("a", 3, True)
        with pytest.raises(EpisodeEnded):
            await env.step(SUBMIT)
        await env.reset()  # another container, without what was done
        assert (await env.step(HarborAction("ls /app"))).observation.output == ""
        assert (await env.step(HarborAction("echo yes > answer", submit=True))).reward == 1.0


async def test_a_task_without_a_reward_fails_and_is_not_worth_zero(tmp_path: Path) -> None:
    make_task(tmp_path / "a")
    make_task(tmp_path / "nan", tests_test_sh="#!/bin/sh\necho nan > /logs/verifier/reward.txt\n")
    make_task(
        tmp_path / "slow",
        task_toml="[verifier]\ntimeout_sec = 0.5\n",
        tests_test_sh="#!/bin/sh\necho begun\nsleep 60\n",
    )
    async with playing(tmp_path) as env:
        for task, said in (
            ("a", "wrote neither"),
            ("nan", "is nan"),
            ("slow", r"verifier\.timeout_sec = 0\.5"),
        ):
            await env.reset(task_id=task)
            with pytest.raises(NoReward, match=said) as caught:
                await env.step(SUBMIT)
            with pytest.raises(EpisodeEnded):
                await env.step(SUBMIT)
        assert caught.value.log_tail == "begun\n"


async def test_rewards_that_an_agent_wrote_itself_are_removed(tmp_path: Path) -> None:
    async with playing(make_task(tmp_path / "a")) as env:
        await env.reset()
        await env.step(HarborAction("echo '{\"reward\": 1}' > /logs/verifier/reward.json"))
        with pytest.raises(NoReward):
            await env.step(SUBMIT)
        await env.reset()
        await env.step(HarborAction("ln -s /etc/hostname /logs/verifier/reward.txt"))
        with pytest.raises(NoReward):
            await env.step(SUBMIT)


async def test_several_rewards_and_their_variables(tmp_path: Path) -> None:
    test = '#!/bin/sh\necho "{\\"right\\": 1, \\"style\\": $STYLE}" > /logs/verifier/reward.json\n'
    text = '[verifier]\nenv = {STYLE = "${STYLE}"}\n'
    folder = make_task(tmp_path / "a", tests_test_sh=test, task_toml=text)
    async with playing(folder, reward_key="style", variables={"STYLE": "0.5"}) as env:
        await env.reset()
        result = await env.step(SUBMIT)
        assert result.reward == 0.5
        assert result.info["rewards"] == {"right": 1.0, "style": 0.5}
    async with playing(folder, variables={"STYLE": "0.5"}) as env:
        await env.reset()
        with pytest.raises(NoReward, match="right, style"):
            await env.step(SUBMIT)


async def test_the_limits_end_an_episode_with_its_tests(tmp_path: Path) -> None:
    make_task(tmp_path / "a", task_toml="[agent]\ntimeout_sec = 2\n")
    async with playing(tmp_path, max_steps=2, command_timeout=30) as env:
        await env.reset()
        assert not (await env.step(HarborAction("echo yes > answer"))).done
        result = await env.step(HarborAction("true"))
        assert (result.reward, result.terminated, result.truncated) == (1.0, False, True)
        await env.reset()
        result = await env.step(HarborAction("echo yes > answer; sleep 60"))
        assert result.observation.timed_out
        assert (result.reward, result.truncated) == (1.0, True)


async def test_a_command_has_a_time_and_its_output_a_size(tmp_path: Path) -> None:
    async with playing(make_task(tmp_path / "a"), max_output=2048) as env:
        await env.reset()
        result = await env.step(HarborAction("cd /tmp; sleep 60", timeout=0.5))
        assert (result.observation.timed_out, result.observation.exit_code) == (True, None)
        assert result.observation.folder == "/app"
        result = await env.step(HarborAction("seq 100000"))
        assert len(result.observation.output) < 2200
        assert result.observation.output.startswith("1\n2\n")
        assert result.observation.output.endswith("\n100000\n")
        for wrong in (HarborAction(), HarborAction("a\0b"), HarborAction("x", timeout=0)):
            with pytest.raises(InvalidAction):
                await env.step(wrong)
        assert not (await env.step(HarborAction("true"))).done


async def test_a_task_says_how_its_container_is(tmp_path: Path) -> None:
    text = """
[agent]
user = "openenv"
[environment]
cpus = 0.5
memory_mb = 64
workdir = "/work/here"
network_mode = "no-network"
env = {COLOUR = "${COLOUR:-blue}"}
[environment.healthcheck]
command = "test -e /tmp/ready || { touch /tmp/ready; false; }"
interval_sec = 0.01
[[verifier.collect]]
command = "echo yes > /app/answer"
"""
    async with playing(make_task(tmp_path / "a", task_toml=text), memory="1g", cpus=1.0) as env:
        result = await env.reset()
        assert result.observation.folder == "/work/here"
        (name,) = ours()
        facts = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.NetworkMode}}"
        shown = await asyncio.to_thread(docker, "inspect", "--format", facts, name)
        assert shown == f"{64 * 2**20} 500000000 none"
        result = await env.step(HarborAction("echo $COLOUR; id -u; pwd; ls /tmp"))
        assert result.observation.output == "blue\n10001\n/work/here\nready\n"
        assert (await env.step(SUBMIT)).reward == 1.0


async def test_a_container_that_does_not_start_says_why(tmp_path: Path) -> None:
    unhealthy = """
[environment.healthcheck]
command = "echo not yet; false"
interval_sec = 0.01
retries = 2
"""
    make_task(tmp_path / "health", task_toml=unhealthy)
    make_task(tmp_path / "build", environment_Dockerfile="FROM python:3.11\nRUN exit 9\n")
    async with playing(tmp_path) as env:
        for task, said in (("health", "failed 2 times.*not yet"), ("build", "RUN exit 9")):
            with pytest.raises(EnvironmentStartFailed, match=said):
                await env.reset(task_id=task)
    host = HarborEnvironment(str(tmp_path / "health"), images=IMAGES)
    try:
        with pytest.raises(EnvironmentStartFailed):
            await host.reset()
        with pytest.raises(EpisodeEnded):  # not in a container that is not ready
            await host.step(HarborAction("true"))
    finally:
        await host.close()


async def test_a_container_that_dies_ends_the_episode(tmp_path: Path) -> None:
    async with playing(make_task(tmp_path / "a")) as env:
        await env.reset()
        (name,) = ours()
        await asyncio.to_thread(docker, "kill", name)
        with pytest.raises(EnvironmentDied, match="the container failed"):
            await env.step(HarborAction("true"))
        with pytest.raises(EpisodeEnded):
            await env.step(HarborAction("true"))
        await env.reset()
        assert (await env.step(HarborAction("echo fine"))).observation.output == "fine\n"


async def test_tasks_are_listed_without_tests_and_chosen(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make_task(tmp_path / name)
    async with playing(tmp_path) as env:
        tasks = await env.tasks()
        assert await tasks.splits() == ["all"]
        rows = await tasks.range("all")
        assert [row.id for row in rows] == ["a", "b", "c"]
        assert rows[0].data == {"instruction": "Write yes to /app/answer.\n"}
        chosen = []
        for seed in (1, 1, 7):
            await env.reset(seed=seed)
            chosen.append((await env.state()).task)
        assert chosen == ["a", "a", "b"]
        with pytest.raises(InvalidOption, match="'z'"):
            await env.reset(task_id="z")


def test_targets_and_arguments_are_checked_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(TargetNotFound, match="no folder"):
        resolve(f"harbor:{tmp_path}/none").spec()
    make_task(tmp_path / "a")
    make_task(tmp_path / "b", task_toml="[environment]\ngpus = 1\n")
    target = resolve(f"harbor:{tmp_path}")
    with pytest.raises(InvalidTasks, match=r"b: environment\.gpus"):
        target.spec()
    spec = target.with_arguments({"skip_unsupported": True}).spec()
    assert spec.tasks is not None
    assert spec.tasks.count("all") == 1
    other = tmp_path / "other"
    make_task(other / "c", task_toml='[environment]\nenv = {A = "${NOT_GIVEN}"}\n')
    with pytest.raises(InvalidTasks, match="c: the task needs the variable NOT_GIVEN"):
        resolve(f"harbor:{other}").spec()
    with pytest.raises(InvalidTasks, match="c: the task needs the variable NOT_GIVEN"):
        HarborEnvironment(str(other))
    with pytest.raises(InvalidOption, match="folder"):
        target.with_arguments({"folder": "/"}).spec()
    for wrong in (
        {"max_steps": 0},
        {"command_timeout": 0},
        {"max_output": 10},
        {"cpus": 0},
        {"memory": "x"},
    ):
        with pytest.raises(InvalidOption):
            HarborEnvironment(str(tmp_path / "a"), **wrong)


async def test_a_killed_server_leaves_no_container(tmp_path: Path) -> None:
    make_task(tmp_path / "a")
    command = [sys.executable, "-m", "openenv_async.cli", "serve", f"harbor:{tmp_path}", "--json"]
    process = await asyncio.create_subprocess_exec(
        *(*command, "--port", "0", "--param", f"images={json.dumps(IMAGES)}"),
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    url = json.loads(await process.stdout.readline())["url"]
    label = "openenv_async.harbor.task=a"

    def left() -> list[str]:
        return docker("ps", "-a", "--filter", f"label={label}", "--format", "{{.Names}}").split()

    env = EnvClient[Any, Any, Any](url)
    try:
        await env.reset()
        await env.step({"command": "sleep 300 & echo begun"})
        assert len(await asyncio.to_thread(left)) == 1
    finally:
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await env.close()
    loop = asyncio.get_running_loop()
    until = loop.time() + 20.0
    while await asyncio.to_thread(left):
        assert loop.time() < until
        await asyncio.sleep(0.1)


async def test_the_examples_reward_solutions_and_nothing_else() -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [
            *(sys.executable, "examples/harbor/play.py", "examples/harbor", "--episodes", "6"),
            *("--images", json.dumps(IMAGES)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert sorted(line for line in lines if line.endswith("rewards [1.0]")) == [
        f"{task} solved: 1 episodes, rewards [1.0]"
        for task in ("best-customer", "fix-script", "log-report")
    ]
    assert sum(line.endswith("left alone: 1 episodes, rewards [0.0]") for line in lines) == 3
