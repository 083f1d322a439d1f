"""``openenv-async rollout --agent``: programs that play by themselves, gateways and budgets."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from openenv_async.cli import main
from openenv_async.cli.agents import read_agent
from openenv_async.gateway import Budget, CommandAgent, Gateway
from openenv_async.rollouts import read_trajectories
from tests.cli.commands import COUNTING, one_line, run_beside
from tests.engine_stub import EngineStub, decode
from tests.gateway.test_agent_container import TALKER, engine_tests, program
from tests.gateway.test_agents import SMALL, gateway_of, saying
from tests.providers.engines import ECHO
from tests.providers.fixtures import engine

__all__ = ["engine"]

AGENT = f"{' '.join(SMALL)} {{prompt}}"


def counts(messages: Sequence[Mapping[str, Any]], body: Mapping[str, Any]) -> str:
    """Say 1 until three answers were given."""
    return "1" if sum(each["role"] == "assistant" for each in messages) < 3 else "end"


async def test_an_agent_plays_with_the_tokens_of_an_engine(tmp_path: Path) -> None:
    out = tmp_path / "episodes.jsonl"
    async with EngineStub(counts) as engine:
        result = await run_beside(
            "rollout", COUNTING, "--agent", AGENT, "--engine", engine.url, "--episodes", "3",
            "--concurrency", "2", "--seed", "1", "--out", str(out), "--json",
            "--journal", str(tmp_path / "journal"), "--agent-output", str(tmp_path / "said"),
        )  # fmt: skip
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["outcomes"], report["return_mean"]) == ({"completed": 3}, 3.0)
    assert report["model"]["calls_per_episode"] == 4
    assert report["model"]["tokens"] > 0
    for trajectory in read_trajectories(out):
        said = [
            [decode(call.completion_ids or ()) for call in t.model_calls]
            for t in trajectory.transitions
        ]
        assert [text.removesuffix("<|im_end|>") for texts in said for text in texts] == [
            "1", "1", "1", "end",
        ]  # fmt: skip
        assert trajectory.extra["agent"]["calls"] == 4
    assert len(list((tmp_path / "said").iterdir())) == 3
    assert (tmp_path / "journal").is_dir()


async def test_an_agent_plays_through_a_gateway_that_runs(tmp_path: Path) -> None:
    async with gateway_of(saying("1"), admin_token="admin") as gateway:
        token = tmp_path / "token.txt"
        token.write_text("admin\n")
        result = await run_beside(
            "rollout", COUNTING, "--agent", AGENT, "--gateway", gateway.url,
            "--gateway-token-file", str(token), "--episodes", "1", "--budget", "calls=2",
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        table = " ".join(result.stdout.replace("│", " ").split())
        assert "return 2.000" in table
        assert "truncated 1" in table
        assert "model calls 2, 2.0 an episode" in table
        assert "model tokens 24, 24 an episode" in table
        assert gateway.sessions() == []
        refused = await run_beside(
            "rollout", COUNTING, "--agent", AGENT, "--gateway", gateway.url, "--episodes", "1"
        )
    assert refused.returncode == 1
    assert "token" in one_line(refused.stderr)


@engine_tests
async def test_an_agent_plays_in_the_container_of_its_environment(tmp_path: Path) -> None:
    out = tmp_path / "episodes.jsonl"
    async with EngineStub(counts) as stub:
        result = await run_beside(
            "rollout", "echo", "--provider", "docker", "--image", ECHO, "--episodes", "1",
            "--agent", shlex.join(program(TALKER, "{prompt}")), "--agent-place", "container",
            "--engine", stub.url, "--out", str(out), "--json",
        )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["outcomes"] == {"truncated": 1}  # echo never ends
    [trajectory] = read_trajectories(out)
    assert [t.action["message"] for t in trajectory.transitions] == ["1", "1", "1"]
    assert trajectory.extra["agent"]["exit_code"] == 0
    assert trajectory.extra["agent"]["calls"] == 4


async def test_an_agent_needs_a_container_to_play_in_one() -> None:
    async with EngineStub(counts) as stub:
        result = await run_beside(
            "rollout", COUNTING, "--agent", AGENT, "--agent-place", "container", "--engine",
            stub.url, "--episodes", "1",
        )  # fmt: skip
    assert result.returncode == 1
    assert "container" in one_line(result.stderr)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--engine", "http://127.0.0.1:1"], "belongs to an --agent"),
        (["--submit", "1"], "belongs to an --agent"),
        (["--agent", "a", "--policy", "m:p"], "in place of a policy"),
        (["--agent", "a", "--engine", "http://h", "--gateway", "http://h"], "its own engines"),
        (["--agent", "a", "--level", "text"], "belongs to an --engine"),
        (["--agent", "a", "--gateway-token-file", __file__], "belongs to a --gateway"),
        (["--agent", "a", "--budget", "calls=1"], "a gateway keeps it"),
        (["--agent", "a", "--engine", "http://h", "--budget", "cals=1"], "NAME=NUMBER"),
        (["--agent", "a", "--engine", "http://h", "--budget", "calls=x"], "not a number"),
        (["--agent", "a", "--engine", "http://h", "--budget", "calls=-1"], "not be negative"),
        (["--agent", "a", "--engine", "http://h", "--budget", "cost=1"], "needs prices"),
        (["--agent", "a", "--engine", "nonsense"], "nonsense"),
        (["--agent", "a", "--gateway", "nonsense"], "not a valid server address"),
        (["--agent", "a {task}"], "stands for nothing"),
        (["--agent", "a 'b"], "quotation"),
        (["--agent", "a", "--submit", "{"], "not JSON"),
        (["--agent", "a", "--on-mistake", "end"], "plays by itself"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: list[str], told: str) -> None:
    result = CliRunner().invoke(main, ["rollout", COUNTING, *options])
    assert result.exit_code == 2
    assert told in one_line(result.output)


def options_of(prompt: str) -> dict[str, Any]:
    return {
        "policy": "random",
        "agent": "a --flag {prompt}",
        "engines": ("http://127.0.0.1:1/v1",),
        "engine_model": None,
        "engine_key_file": None,
        "level": "text",
        "journal": None,
        "gateway": None,
        "gateway_token_file": None,
        "budget": "calls=2,tokens=9,seconds=3",
        "agent_place": "sandbox",
        "agent_prompt": prompt,
        "agent_env": ("A=b=c", "PATH"),
        "agent_output": None,
        "submit": '{"done": true}',
    }


def test_a_prompt_may_be_longer_than_a_path() -> None:
    text = "Look at everything twice. " * 400
    setup = read_agent(options_of(text))
    assert setup is not None
    assert setup.agent(Gateway("http://127.0.0.1:1/v1")).prompt == text


def test_options_become_an_agent(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.md"
    prompt.write_text("Play: {observation}")
    options = options_of(str(prompt))
    setup = read_agent(options)
    assert setup is not None
    assert options == {"policy": "random"}
    gateway = Gateway("http://127.0.0.1:1/v1")
    agent = setup.agent(gateway)
    assert agent.command == ["a", "--flag", "{prompt}"]
    assert agent.prompt == "Play: {observation}"
    assert (agent.environ, agent.inherit) == ({"A": "b=c"}, ["PATH"])
    assert (agent.budget, agent.submit) == (Budget(calls=2, tokens=9, seconds=3), {"done": True})
    assert (agent.gateway, agent.place) == (gateway, "sandbox")


@pytest.mark.parametrize(
    ("agent", "told"),
    [
        ("no-such-agent {prompt}", "it is not on PATH"),
        ("./no-such-agent {prompt}", "there is no such file"),
    ],
)
def test_a_program_that_is_not_there_is_told_before_any_episode(agent: str, told: str) -> None:
    result = CliRunner().invoke(
        main, ["rollout", COUNTING, "--agent", agent, "--engine", "http://127.0.0.1:1/v1"]
    )
    assert result.exit_code == 1
    assert told in one_line(result.output)
    assert "episodes" not in result.output


def test_the_path_of_a_program_is_read_from_where_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "agent").write_text("#!/bin/sh\n")
    (tmp_path / "agent").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    agent = CommandAgent("./agent {prompt}")
    assert agent.command == [str(tmp_path / "agent"), "{prompt}"]
    agent.check_program()
