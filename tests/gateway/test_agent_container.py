"""Agents in the containers of their environments' servers, on a real Engine."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from openenv_async import EnvPool
from openenv_async.errors import AgentFailed
from openenv_async.gateway import agent_container as module
from openenv_async.gateway.agent_container import agent_container
from openenv_async.gateway.agent_settings import AgentAddresses
from openenv_async.gateway.agents import CommandAgent
from tests.gateway.test_agents import gateway_of, played, saying
from tests.providers.engines import docker, docker_tests, ours, provider
from tests.providers.fixtures import engine

__all__ = ["engine"]


def engine_tests(test: Any) -> Any:
    """Mark a test that needs a Docker Engine."""
    for mark in docker_tests:
        test = mark(test)
    return test


SMALL = Path(__file__).with_name("small_agent.py").read_text()
TALKER = re.sub(r"{([a-z_]+)}", r"{\1!s}", SMALL.replace("amount}", "str(amount)}"))
TALKER = TALKER.replace('{"amount"', '{"message"').replace('ame": "step"', 'ame": "echo_message"')
LOOKER = """
import os, pathlib
print('variables:', *sorted(os.environ))
print('user:', os.getuid(), os.getgroups(), 'folder:', os.getcwd(), os.listdir('.'))
print('stat:', oct(os.stat(os.environ['HOME']).st_mode)[-3:])
for status in pathlib.Path('/proc').glob('[0-9]*/environ'):
    try:
        held = status.read_bytes()
    except OSError:
        continue
    if b'OPENENV_TOKEN' in held or b'OWN_SECRET' in held:
        print('a secret is in', status)
for path in (os.environ['OPENAI_BASE_URL'], os.environ['OPENENV_MCP_URL']):
    print('at', path)
"""
LEAVER = """
import os, subprocess, sys
subprocess.Popen(['setsid', 'sleep', '4711'], stdout=sys.stdout)
if os.fork() == 0:
    os.setsid()
    os.execvp('sleep', ['sleep', '4711'])
for name in ('/tmp/mine', '/dev/shm/mine', os.environ['HOME'] + '/mine'):
    open(name, 'w').write('x')
print('started', flush=True)
"""
WAITER = f"""{TALKER.replace("__main__", "never")}
{LEAVER}
step(1)
__import__('time').sleep(600)
"""
HOARDER = f"""{TALKER.replace("__main__", "never")}
import time
try:
    while os.fork():
        pass
    time.sleep(600)
except OSError:
    step(1)
    time.sleep(600)
"""


@pytest.fixture
async def pool(engine: None) -> AsyncIterator[EnvPool]:
    async with EnvPool(provider(secrets={"OWN_SECRET": "hidden"}), max_workers=1) as made:
        yield made


def left_over() -> list[str]:
    """Return the processes and files of agents in our containers."""
    left: list[str] = []
    for name in ours():
        processes = docker("top", name, "-eo", "pid,uid,args").splitlines()[1:]
        left += [line for line in processes if 20_000 <= int(line.split()[1]) < 60_000]
        files = docker("exec", name, "sh", "-c", "ls /tmp /dev/shm").split()
        left += [file for file in files if file.startswith(("mine", "openenv-agent"))]
    return left


async def collected(pool: EnvPool, agent: CommandAgent, **options: Any) -> Any:
    [outcome] = [each async for each in pool.collect(agent=agent, episodes=1, **options)]
    return outcome


def program(code: str, *arguments: str) -> list[str]:
    return ["python3", "-c", code, *arguments]


@engine_tests
async def test_an_agent_plays_from_inside_the_container(pool: EnvPool) -> None:
    async with gateway_of(saying("1", "2", "end")) as gateway:
        agent = CommandAgent(
            program(TALKER, "{prompt}"), gateway=gateway, place="container", prompt="It's {me}"
        )
        outcome = await collected(pool, agent)
        first, last = outcome.trajectory.transitions
        [row] = agent.rows(outcome)
    assert outcome.error is None
    assert (outcome.status, outcome.steps) == ("truncated", 2)  # echo never ends
    assert [call.reply["content"] for call in first.model_calls] == ["1"]
    assert [call.reply["content"] for call in last.model_calls] == ["2", "end"]
    assert first.model_calls[0].messages[0]["content"] == "It's {me}"
    assert last.observation["result"] == "1"
    told = outcome.trajectory.extra["agent"]
    assert (told["exit_code"], told["calls"]) == (0, 3)
    assert "the model says 2" in told["output"]
    assert len(row.calls) == 3
    assert left_over() == []


@engine_tests
async def test_it_sees_its_episode_and_nothing_of_the_container(
    pool: EnvPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "1")
    async with gateway_of(saying("end")) as gateway:
        agent = CommandAgent(
            program(LOOKER), gateway=gateway, place="container", environ={"EXTRA": "x"}
        )
        outcomes: list[Any] = [each async for each in pool.collect(agent=agent, episodes=2)]
        own = gateway.url
    said = [each.trajectory.extra["agent"]["output"] for each in outcomes]
    for text in said:
        [line] = [each for each in text.splitlines() if each.startswith("variables: ")]
        assert set(line.split()[1:]) - {"LC_CTYPE", "OLDPWD", "PWD", "SHLVL", "_"} == {
            "ANTHROPIC_API_KEY",
            "ANTHROPIC_BASE_URL",
            "EXTRA",
            "HOME",
            "HOSTNAME",
            "LANG",
            "OPENAI_API_KEY",
            "OPENAI_BASE_URL",
            "OPENENV_MCP_TOKEN",
            "OPENENV_MCP_URL",
            "OPENENV_PROMPT",
            "OPENENV_PROMPT_FILE",
            "PATH",
            "TMPDIR",
        }
        assert "a secret is in" not in text
        assert re.search(r"folder: /tmp/openenv-agent-\w+/work \[\]\n", text)
        assert "stat: 700\n" in text
        model, tools = re.findall(r"^at (.*)$", text, re.MULTILINE)
        assert model.endswith("/v1")
        assert not model.startswith((own, "http://127.", "http://0.0.0.0"))
        assert tools.startswith("http://127.0.0.1:8000/")
    users = {re.findall(r"^user: (\d+) ", text, re.MULTILINE)[0] for text in said}
    assert len(users) == 2


@engine_tests
async def test_what_it_started_and_wrote_goes_with_it(pool: EnvPool, tmp_path: Path) -> None:
    async with gateway_of(saying("end")) as gateway:
        agent = CommandAgent(program(LEAVER), gateway=gateway, place="container")
        outcome = await collected(pool, agent, timeout=60.0)
        assert outcome.trajectory.extra["agent"]["output"] == "started\n"
        assert left_over() == []
    waiter = CommandAgent(program(WAITER), place="container", grace=0.0, output=tmp_path)
    outcome = await collected(pool, waiter, max_steps=1)
    assert outcome.trajectory.extra["agent"]["ended"] == "stopped"
    assert [file.read_text() for file in tmp_path.glob("*.log")] == ["started\n"]  # noqa: ASYNC240
    assert left_over() == []


@engine_tests
async def test_one_that_leaves_no_room_for_another_process_is_ended(pool: EnvPool) -> None:
    agent = CommandAgent(program(HOARDER), place="container", grace=0.0)
    outcome = await collected(pool, agent, max_steps=1)
    assert outcome.steps == 1
    assert left_over() == []


@engine_tests
async def test_one_that_cannot_be_ended_goes_with_its_container(
    pool: EnvPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_END", "true")
    [before] = ours()
    waiter = CommandAgent(program(WAITER), place="container", grace=0.0)
    outcome = await collected(pool, waiter, max_steps=1)
    assert outcome.steps == 1
    assert before not in ours()
    monkeypatch.undo()
    outcome = await collected(pool, CommandAgent(program("print('hi')"), place="container"))
    assert outcome.trajectory.extra["agent"]["output"] == "hi\n"
    assert left_over() == []


@engine_tests
async def test_how_it_ends_and_its_output(pool: EnvPool, tmp_path: Path) -> None:
    code = "import sys; sys.stdout.write(sys.stdin.read()); print('x' * 400_000); sys.exit(7)"
    prompt = "many words; " * 10_000
    agent = CommandAgent(program(code), place="container", prompt=prompt, output=tmp_path)
    with pytest.raises(AgentFailed, match="exit code 7: xxx") as caught:
        await collected(pool, agent)
    assert len(caught.value.log_tail or "") <= 2_000
    [told] = [file.read_text() for file in tmp_path.glob("*.log")]  # noqa: ASYNC240
    assert told == prompt + "x" * 400_000 + "\n"
    missing = CommandAgent("no-such-program", place="container")
    missing.check_program()  # not looked for on this machine
    with pytest.raises(AgentFailed, match=r"exit code 127: .*no-such-program"):
        await collected(pool, missing)
    with pytest.raises(AgentFailed, match=r"name \{prompt_file\} in place"):
        await collected(
            pool, CommandAgent("true {prompt}", place="container", prompt="a" * 130_000)
        )
    assert left_over() == []


async def test_a_worker_that_is_no_container_is_named() -> None:
    async with gateway_of(saying("end")) as gateway:
        agent = CommandAgent("true", gateway=gateway, place="container")
        with pytest.raises(AgentFailed, match=r"an agent's place `container` .* `docker`"):
            await played(agent)


@engine_tests
async def test_a_gateway_that_the_container_cannot_reach_is_named(pool: EnvPool) -> None:
    addresses = AgentAddresses(
        openai_base_url="http://127.0.0.1:81/v1", anthropic_base_url="http://127.0.0.1:81", key="k"
    )
    async with pool.lease() as lease:
        with pytest.raises(
            AgentFailed, match=r"127\.0\.0\.1:81/v1 cannot be reached from a container"
        ):
            async with agent_container(lease, SimpleNamespace(), addresses):
                pass
    assert left_over() == []
