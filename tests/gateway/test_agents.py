"""Agents that play episodes by themselves: functions, and programs of this machine."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from openenv_async import EnvPool, connect_in_process
from openenv_async.client.agent_lease import AgentLease
from openenv_async.errors import (
    AgentFailed,
    InvalidOption,
    ResponderFailed,
    ResponderUnavailable,
    SessionNotFound,
)
from openenv_async.gateway.agents import CommandAgent, FunctionAgent
from openenv_async.gateway.calls import Answer, Call, Piece
from openenv_async.gateway.gateway import Gateway
from openenv_async.gateway.sessions import Budget
from openenv_async.guard import own_guard
from openenv_async.rollouts import collect_all
from tests.gateway.scripted import Script, ScriptedEngine
from tests.rollouts.environments import Counting, Move

SMALL = [sys.executable, str(Path(__file__).with_name("small_agent.py"))]


def saying(*texts: str) -> Script:
    """Return a script of a model: its answers by the number of messages that it is sent."""

    async def script(call: Call, attempt: int) -> AsyncIterator[Piece | Answer]:
        number = sum(message["role"] == "assistant" for message in call.messages)
        text = texts[min(number, len(texts) - 1)]
        yield Piece(text=text)
        yield Answer(text=text, prompt_tokens=10, completion_tokens=2)

    return script


def gateway_of(script: Script, **options: Any) -> Gateway:
    return Gateway(ScriptedEngine(script), **options)


async def played(agent: Any, env: Any = Counting, **options: Any) -> Any:
    [outcome] = await collect_all(env, agent=agent, episodes=1, **options)
    return outcome


def left_over() -> list[Path]:
    return [path for path in own_guard().folder.iterdir() if path.name.startswith("agent-")]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # nobody reaps an orphan in some containers


async def test_a_program_plays_an_episode_and_its_calls_are_in_the_record() -> None:
    async with gateway_of(saying("1", "2", "end")) as gateway:
        agent = CommandAgent([*SMALL, "{prompt}"], gateway=gateway)
        outcome = await played(agent, seeds=7, group_size=1)
    assert (outcome.status, outcome.episode_return, outcome.steps) == ("completed", 3.0, 2)
    first, last = outcome.trajectory.transitions
    assert [call.reply["content"] for call in first.model_calls] == ["1"]
    assert [call.reply["content"] for call in last.model_calls] == ["2", "end"]
    prompt = first.model_calls[0].messages[0]["content"]
    assert "tools of the MCP server `openenv`" in prompt
    assert '"seed":7' in prompt.replace(" ", "")
    told = outcome.trajectory.extra["agent"]
    assert (told["exit_code"], told["calls"], told["tokens"]) == (0, 3, 36)
    assert "the model says 2" in told["output"]
    assert left_over() == []
    [row] = agent.rows(outcome)
    assert (row.reward, row.group, row.member, len(row.calls)) == (3.0, 0, 0, 3)
    with pytest.raises(SessionNotFound, match="episode 0"):
        agent.rows(outcome)


async def test_a_program_is_given_a_clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "1")
    monkeypatch.setenv("WANTED", "1")
    async with gateway_of(saying("end")) as gateway:
        agent = CommandAgent(SMALL, gateway=gateway, environ={"EXTRA": "x"}, inherit=["WANTED"])
        outcome = await played(agent)
    said = outcome.trajectory.extra["agent"]["output"]
    [line] = [each for each in said.splitlines() if each.startswith("variables: ")]
    assert set(line.split()[1:]) - {"LC_CTYPE"} == {
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_BASE_URL",
        "EXTRA",
        "HOME",
        "LANG",
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        "OPENENV_GUARD_MARK",
        "OPENENV_MCP_TOKEN",
        "OPENENV_MCP_URL",
        "OPENENV_PROMPT",
        "OPENENV_PROMPT_FILE",
        "PATH",
        "TMPDIR",
        "WANTED",
    }


async def test_a_program_that_ends_badly_fails_its_episode(tmp_path: Path) -> None:
    code = "import sys; print('so long'); sys.exit(5)"
    agent = CommandAgent([sys.executable, "-c", code], output=tmp_path / "logs")
    with pytest.raises(AgentFailed, match="ended with exit code 5: so long") as caught:
        await played(agent)
    assert caught.value.exit_code == 5
    [log] = (tmp_path / "logs").iterdir()
    assert log.read_text() == "so long\n"
    assert (log.stat().st_mode & 0o777, log.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    with pytest.raises(AgentFailed, match="'no-such-agent' cannot be started"):
        await played(CommandAgent("no-such-agent {prompt}"))
    assert left_over() == []


async def test_a_spent_budget_truncates_the_episode() -> None:
    async with gateway_of(saying("1")) as gateway:
        agent = CommandAgent([*SMALL, "{prompt}"], gateway=gateway, budget=Budget(calls=2))
        outcome = await played(agent)
    assert (outcome.status, outcome.episode_return) == ("truncated", 2.0)
    told = outcome.trajectory.extra["agent"]
    assert (told["ended"], told["calls"]) == ("spent", 2)


async def test_a_budget_of_seconds_ends_an_agent_that_says_nothing() -> None:
    async with gateway_of(saying("1")) as gateway:
        code = "import time; time.sleep(600)"
        budget = Budget(seconds=0.5)
        agent = CommandAgent([sys.executable, "-c", code], gateway=gateway, budget=budget)
        outcome = await played(agent)
    assert (outcome.status, outcome.steps) == ("truncated", 0)
    assert outcome.trajectory.extra["agent"]["ended"] == "spent"


async def test_a_failed_engine_is_an_infrastructure_failure() -> None:
    async def fails(call: Call, attempt: int) -> AsyncIterator[Piece | Answer]:
        if len(call.messages) > 1:
            raise ResponderUnavailable("the engine is gone", retryable=False)
        async for part in saying("1")(call, attempt):
            yield part

    async with gateway_of(fails) as gateway:
        outcome = await played(CommandAgent([*SMALL, "{prompt}"], gateway=gateway))
    assert (outcome.status, outcome.episode_return) == ("infra_error", None)
    assert isinstance(outcome.error, ResponderFailed)
    assert "the engine is gone" in outcome.error.message


async def test_an_episode_that_an_engine_failed_is_played_again() -> None:
    asked = 0

    async def fails_once(call: Call, attempt: int) -> AsyncIterator[Piece | Answer]:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise ResponderUnavailable("the engine is gone", retryable=False)
        async for part in saying("1", "2", "end")(call, attempt):
            yield part

    async with gateway_of(fails_once) as gateway:
        agent = CommandAgent([*SMALL, "{prompt}"], gateway=gateway)
        outcome = await played(agent, retry="always")
        [row] = agent.rows(outcome)
    assert (outcome.status, outcome.episode_return, outcome.attempts) == ("completed", 3.0, 2)
    assert (row.reward, row.calls) == (3.0, [0, 1, 2])


async def test_a_request_that_the_engine_refuses_is_the_agents_own_error() -> None:
    async def refuses(call: Call, attempt: int) -> AsyncIterator[Piece | Answer]:
        if len(call.messages) > 1:
            raise ResponderFailed("the prompt is too long", retryable=False, status=400)
        async for part in saying("1")(call, attempt):
            yield part

    code = "import runpy, sys; sys.argv.pop(0)\ntry: runpy.run_path(sys.argv[0], {}, '__main__')\n"
    code += "except SystemExit: print('made do')"
    async with gateway_of(refuses) as gateway:
        agent = CommandAgent([sys.executable, "-c", code, *SMALL[1:], "{prompt}"], gateway=gateway)
        outcome = await played(agent)
    assert (outcome.status, outcome.episode_return) == ("truncated", 1.0)
    [transition] = outcome.trajectory.transitions
    assert "too long" in transition.model_calls[-1].error


async def test_an_agent_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, subprocess, sys, time\n"
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"path = pathlib.Path({str(tmp_path / 'pids')!r})\n"
        "path.with_suffix('.new').write_text(f'{os.getpid()} {child.pid}')\n"
        "path.with_suffix('.new').rename(path)\n"
        "time.sleep(600)\n"
    )
    agent = CommandAgent([sys.executable, "-c", code])
    playing = asyncio.create_task(played(agent))
    async with asyncio.timeout(30):
        while not (tmp_path / "pids").exists():  # noqa: ASYNC110 - another process makes it
            await asyncio.sleep(0.02)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    playing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await playing
    assert [pid for pid in pids if is_running(pid)] == []
    assert left_over() == []


async def test_a_function_plays_with_both_sides_of_its_lease() -> None:
    async def agent(observation: Any, lease: AgentLease[Any, Any]) -> None:
        assert lease.model is not None
        url = f"{lease.model.openai_base_url}/chat/completions"
        headers = {"authorization": f"Bearer {lease.model.key}"}
        while not lease.is_over:
            body = {"model": "any", "messages": [{"role": "user", "content": f"{observation}"}]}
            async with aiohttp.request("POST", url, json=body, headers=headers) as response:
                said = (await response.json())["choices"][0]["message"]["content"]
            observation = (await lease.step(Move(int(said)))).observation

    async with gateway_of(saying("1")) as gateway, EnvPool.of(Counting) as pool:
        player = FunctionAgent(agent, gateway=gateway)
        outcomes = [o async for o in pool.collect(agent=player, episodes=4, concurrency=2)]
    assert [outcome.episode_return for outcome in outcomes] == [3.0] * 4
    trajectory = outcomes[0].trajectory
    assert trajectory is not None
    assert [len(each.model_calls) for each in trajectory.transitions] == [1, 1, 1]


async def test_a_program_cannot_play_a_session_that_has_no_address() -> None:
    async with connect_in_process(Counting) as env:
        with pytest.raises(AgentFailed, match="can reach nothing"):
            await played(CommandAgent("true"), lambda: env)


async def test_a_folder_is_where_it_was_named_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "repo").mkdir()
    agent = CommandAgent(["/bin/ls", "-d", "{workdir}"], workdir="repo")
    outcome = await played(agent)
    assert outcome.trajectory.extra["agent"]["output"] == f"{tmp_path}/repo\n"
    assert CommandAgent("a", workdir="repo", place="container").workdir == Path("repo")


def test_an_agent_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"\{task\}, which stands for nothing"):
        CommandAgent("agent {task}")
    with pytest.raises(InvalidOption, match="names a program"):
        CommandAgent("")
    with pytest.raises(ValueError, match="kept by a gateway"):
        CommandAgent("agent", budget=Budget(calls=1))
    with pytest.raises(ValueError, match="grace"):
        CommandAgent("agent", grace=-1)
    with pytest.raises(TypeError, match="callable"):
        FunctionAgent("agent")  # type: ignore[arg-type]  # that is the point
    described = CommandAgent(["agent", "{prompt}"]).describe()
    assert described["command"] == ["agent", "{prompt}"]
