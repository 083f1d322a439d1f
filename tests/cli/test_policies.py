"""Language models as policies of the command line."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import click
import pytest

from openenv_async.cli.policies import ModelPolicy, read_policy
from openenv_async.responders import OpenAIResponder, ScriptedResponder
from openenv_async.rollouts import LanguagePolicy, read_trajectories
from tests.cli.commands import COUNTING, ROOT, one_line, run
from tests.model_server import ModelServerProcess, called

UNSET: dict[str, Any] = {
    "system": None,
    "prompt": None,
    "parser": None,
    "max_tokens": None,
    "temperature": None,
    "model_turns": None,
    "model_concurrency": None,
}


def read(policy: str, **options: Any) -> Any:
    given = {"policy": policy, **UNSET, **options, "other": 1}
    made = read_policy(given)
    assert given == {"other": 1}
    return made


def fenced(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.strip("`"))
    return found


def told(observation: Any) -> str:
    return f"you see {observation}"


def add_two(messages: Any) -> str:
    return '{"amount": 2}'


class Own:
    async def respond(self, messages: Any, **options: Any) -> Any: ...

    async def aclose(self) -> None: ...


own = Own()


async def test_rollouts_of_a_model_are_played_and_recorded(tmp_path: Path) -> None:
    out = tmp_path / "runs.jsonl"
    answer = json.dumps(called("act", amount=3))
    async with ModelServerProcess(
        *("--answer", answer, "--shape", "vllm", "--fault", "cut=0.1", "--fault", "nonsense=0.1")
    ) as server:
        result = await asyncio.to_thread(
            run,
            "rollout", COUNTING, "--param", "goal=1000000", "--episodes", "10",
            "--policy", f"openai:tiny@{server.url}",
            "--max-steps", "5", "--seed", "3", "--out", str(out), "--json",
            "--system", "Count.", "--max-tokens", "50", "--temperature", "0.5",
            "--model-concurrency", "4",
        )  # fmt: skip
        calls = {call.id: call for call in await server.calls()}
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["episodes"] == 10
    given = [call for call in calls.values() if call.given in ("answer", "nonsense")]
    recorded = 0
    for trajectory in read_trajectories(out):
        for step in trajectory.transitions:
            [call] = step.model_calls
            served = calls[call.extra["id"]]
            assert call.completion_ids == served.completion_ids
            assert call.logprobs == pytest.approx(served.logprobs)
            assert (step.mistake is None) == (served.given == "answer")
            recorded += 1
    assert recorded == len(given) > 40
    first = next(iter(calls.values()))
    assert first.messages[0] == {"role": "system", "content": "Count."}
    assert (first.body["max_tokens"], first.body["temperature"]) == (50, 0.5)
    assert first.seed is not None
    assert first.body["tools"][0]["function"]["name"] == "act"


def test_what_the_options_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    system = tmp_path / "system.txt"
    system.write_text("Play well.")
    made = read(
        "openai:m@http://127.0.0.1:1/v1#timeout=3&max_concurrency=7",
        system=str(system),
        prompt=f"{__name__}:told",
        parser=f"{__name__}:fenced",
        max_tokens=5,
        temperature=0.0,
        model_turns=4,
        model_concurrency=9,
    )
    assert isinstance(made, ModelPolicy)
    assert isinstance(made.responder, OpenAIResponder)
    assert (made.responder._timeout, made.responder._max_concurrency) == (3.0, 7)
    assert len(made.responder._asked_tokens) == 3  # auto
    assert made.options["system"] == "Play well."
    assert made.options["prompt"](1) == "you see 1"
    assert (made.options["max_tokens"], made.options["temperature"]) == (5, 0.0)
    assert made.options["max_turns"] == 4
    policy = made.made({"type": "object"}, 3)
    assert isinstance(policy, LanguagePolicy)
    made = read("openai:m@http://127.0.0.1:1/v1", model_concurrency=9, system="Just play.")
    assert made.responder._max_concurrency == 9
    assert made.responder._timeout == 300
    assert made.options == {"system": "Just play."}


def test_responders_of_other_kinds_play_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT)
    assert isinstance(read('scripted:["x"]').responder, ScriptedResponder)
    assert isinstance(read("tests.cli.test_policies:own").responder, object)
    assert hasattr(read("tests.cli.test_policies:Own").responder, "respond")
    assert callable(read("tests.cli.test_policies:told"))
    assert read("random") is None


@pytest.mark.parametrize(
    ("policy", "options", "why"),
    [
        ("random", {"system": "x"}, "give --policy openai:MODEL@URL"),
        ("tests.cli.test_policies:told", {"max_tokens": 3}, "it is of language models"),
        ("openai:m@ftp://x", {}, "is not a base URL"),
        ("openai:m@http://me:hunter2hunter2@x/v1", {}, "environment variable OPENAI_API_KEY"),
        ("openai:m@http://x/v1?api_key=hunter2hunter2", {}, "environment variable"),
        ("openai:m@http://x/v1#api_key=hunter2hunter2", {}, "there is no setting 'api_key'"),
        ("openai:m", {"system": "no/such.txt"}, "there is no file no/such.txt"),
        ("openai:m", {"parser": "json:nothing_like_it"}, "nothing_like_it"),
        ("openai:m", {"parser": "json"}, "write MODULE:FUNCTION"),
        ("openai:m", {"prompt": "json:__name__"}, "is not a function"),
        ("openai:m", {"parser": "asyncio:sleep"}, "is async: give a plain function"),
        ("no_such_module_here:x", {}, "no module"),
        ("json:__name__", {}, "not callable"),
    ],
)
def test_policies_that_are_none(policy: str, options: dict[str, Any], why: str) -> None:
    with pytest.raises(click.BadParameter) as told:
        read(policy, **options)
    assert why in told.value.message
    assert "hunter2" not in told.value.message


def test_the_command_says_what_is_wrong_with_them() -> None:
    result = run("rollout", COUNTING, "--policy", "openai:m@http://x:hunter2hunter2@y/v1")
    assert result.returncode == 2
    assert "hunter2" not in result.stderr + result.stdout
    assert "the key in the environment variable OPENAI_API_KEY" in one_line(result.stderr)


def test_a_model_server_that_is_down_is_told_before_anything_is_played(tmp_path: Path) -> None:
    out = tmp_path / "runs.jsonl"
    result = run(
        *("rollout", COUNTING, "--policy", "openai:m@http://127.0.0.1:9/v1", "--out", str(out)),
    )
    assert result.returncode == 1
    assert "cannot be reached" in one_line(result.stderr)
    assert "start the model's server, or correct its URL" in one_line(result.stderr)
    assert not out.exists()


async def test_mistakes_and_slow_decisions_end_an_episode_as_it_is_told(tmp_path: Path) -> None:
    out = tmp_path / "runs.jsonl"
    ends: dict[str, Any] = {}
    async with ModelServerProcess("--answer", "I wonder.", "--delay", "0.3") as server:
        for name, options in {
            "one": ("--max-mistakes", "1"),
            "raised": ("--on-mistake", "raise"),
            "slow": ("--policy-timeout", "0.05"),
        }.items():
            await asyncio.to_thread(
                run, "rollout", COUNTING, "--policy", f"openai:scripted-1@{server.url}",
                "--episodes", "2", "--out", str(out), *options,
            )  # fmt: skip
            ends[name] = [(str(t.status), t.mistakes, t.error_code) for t in read_trajectories(out)]
    assert ends == {
        "one": [("invalid_action", 1, "unreadable_reply")] * 2,
        "raised": [("policy_error", 1, "unreadable_reply")] * 2,
        "slow": [("policy_error", 0, "deadline_exceeded")] * 2,
    }
