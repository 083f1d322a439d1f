"""Tasksets of ``verifiers`` 0.4 as environments; the oracle is its own runner."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openenv_async import connect
from openenv_async.building.importing import import_environment
from openenv_async.checks.validation import validate
from openenv_async.engine import EngineOptions
from openenv_async.errors import (
    DeadlineExceeded,
    EnvironmentDied,
    EnvironmentRaised,
    EnvironmentStartFailed,
    InvalidAction,
    InvalidOption,
    OperationUnsupported,
)
from openenv_async.hosts import verifiers
from openenv_async.hosts.verifiers import PYTHON, VerifiersHost, host_of
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.discovery import find_target
from openenv_async.targets.resolve import resolve
from openenv_async.types import Task, Timeouts
from tests.docs.pages import DOCS, read_page
from tests.hosts.verifiers_episodes import OURS, differences
from tests.peers import VERIFIERS, ensure_peer

pytestmark = pytest.mark.xdist_group("verifiers")  # what they share is made once
TASKSETS = Path(__file__).parent / "tasksets"
EPISODES = 8
"""Played twice; the script ``verifiers_episodes`` plays more."""
AGENT = {"max_turns": 4}


@pytest.fixture(scope="module")
def python() -> str:
    return ensure_peer("verifiers", VERIFIERS)


@pytest.fixture(scope="module", autouse=True)
def processes() -> Iterator[None]:
    """End what was started for the tasksets."""
    yield
    verifiers._bridges.close()


@pytest.fixture(autouse=True)
def tasksets(python: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasksets of this folder can be imported."""
    monkeypatch.setenv("PYTHONPATH", str(TASKSETS))
    monkeypatch.setenv(PYTHON, python)


def sums(**params: Any) -> EnvironmentSpec:
    given = {"taskset": "hosted_sums", "public": ["question"], **params}
    return EnvironmentSpec(VerifiersHost, params=given)


def game() -> EnvironmentSpec:
    return EnvironmentSpec(VerifiersHost, params={"taskset": "hosted_game", "agent": AGENT})


# -- the same as the package's own runner ---------------------------------------------------------


@pytest.mark.heavy
async def test_episodes_are_those_of_the_packages_own_runner(python: str) -> None:
    theirs, found = await differences(python, OURS, EPISODES)
    assert found == []
    assert len(theirs) == EPISODES * len(OURS)
    assert {told["stop"] for told in theirs} >= {"agent_completed", "max_turns"}
    assert {told["ok"] for told in theirs} == {True, False}


# -- what a session sees --------------------------------------------------------------------------


async def test_the_tools_come_with_the_first_observation_and_their_results_with_the_next() -> None:
    async with connect(game()) as env:
        result = await env.reset(index=1)
        assert (result.observation.text, result.info) == ("Find it.", {"task_id": "1"})
        (tool,) = result.observation.tools
        assert tool["function"]["name"] == "hints_parity"
        call = {"name": "hints_parity", "arguments": '{"number": 3}', "id": "mine"}
        result = await env.step({"tool_calls": [call]})
        (message,) = result.observation.messages
        assert (message["role"], message["tool_call_id"]) == ("tool", "mine")
        assert (result.observation.text, result.observation.tools) == ("odd", [])
        assert (result.reward, result.done) == (None, False)
        for wrong, said in (("[", "invalid JSON"), ("[]", "JSON object")):
            result = await env.step({"tool_calls": [{**call, "arguments": wrong}]})
            assert said in result.observation.text
        assert (await env.state()).turns == 3


async def test_a_tool_that_is_not_there_is_told_to_the_model() -> None:
    async with connect(game()) as env:
        await env.reset(index=1)
        result = await env.step({"tool_calls": [{"name": "nothing"}]})
        assert "unknown tool" in result.observation.text


async def test_tasks_are_listed_by_their_own_ids_without_their_answers() -> None:
    spec = sums()
    assert spec.tasks is not None
    assert (spec.tasks.splits, spec.tasks.count("train")) == (("train",), 20)
    data = {"index": 3, "question": "What is 3 + 10?"}
    assert spec.tasks.get("train", 3) == Task("sum-3", data, {}, "train")
    async with connect(spec) as env:
        result = await env.reset(task_id="sum-3")
        assert result.observation.text == "Answer with a number.\n\nWhat is 3 + 10?"
        first, second = await env.reset(seed=5), await env.reset(seed=5)
        assert first.info == second.info
        with pytest.raises(InvalidOption, match="none with the index 99"):
            await env.reset(index=99)


async def test_a_reward_function_that_raises_gives_no_reward() -> None:
    async with connect(sums()) as env:
        await env.reset(index=3)
        with pytest.raises(EnvironmentRaised, match="the reward function is out of order") as told:
            await env.step({"content": "raise"})
        assert told.value.detail["type"] == "TaskError"
        with pytest.raises(EnvironmentDied, match="reset the session"):
            await env.step({"content": "13"})
        await env.reset(index=3)
        assert (await env.step({"content": "13"})).reward == 1.75


async def test_a_message_that_says_nothing_is_a_mistake() -> None:
    async with connect(sums()) as env:
        await env.reset(index=3)
        with pytest.raises(InvalidAction, match="content, tool_calls or both"):
            await env.step({})
        assert (await env.step({"content": ""})).terminated


async def test_a_cancelled_step_ends_the_episode_and_no_other() -> None:
    options = EngineOptions(timeouts=Timeouts(step=1e-9))
    async with connect(sums(), options=options) as slow, connect(sums()) as env:
        await env.reset(index=3)
        await slow.reset(index=4)
        with pytest.raises(DeadlineExceeded):
            await slow.step({"content": "1"})
        assert (await env.step({"content": "13"})).reward == 1.75


async def test_a_process_that_dies_is_told_and_made_anew() -> None:
    async with connect(sums()) as env, connect(sums()) as other:
        await env.reset(index=3)
        await other.reset(index=3)
        with pytest.raises(EnvironmentDied, match="hosted_sums ended") as told:
            await env.step({"content": "die"})
        assert told.value.exit_code == 3
        assert "a taskset may print" in (told.value.log_tail or "")
        with pytest.raises(EnvironmentDied):
            await other.step({"content": "13"})
        await other.reset(index=3)
        assert (await other.step({"content": "13"})).reward == 1.75


def test_a_target_names_the_module_and_the_taskset() -> None:
    spec = find_target("verifiers:hosted_sums")
    assert (spec.name, spec.cls) == ("hosted_sums", VerifiersHost)
    spec.check()
    assert host_of("a.b_c:Numbers").params == {"taskset": "a.b_c:Numbers"}
    assert host_of("a.b:Numbers").name == "Numbers"
    with pytest.raises(InvalidOption, match="'taskset' is what the target itself says"):
        find_target("verifiers:hosted_sums", {"taskset": "other"})


# -- what cannot be hosted ------------------------------------------------------------------------


async def test_tasks_that_cannot_be_played_are_refused_with_the_reason() -> None:
    async with connect(EnvironmentSpec(VerifiersHost, params={"taskset": "hosted_again"})) as env:
        with pytest.raises(EnvironmentRaised, match="no prompt and no user"):
            await env.reset(index=0)
        with pytest.raises(EnvironmentRaised, match="image"):
            await env.reset(index=1)
        await env.reset(index=2)
        with pytest.raises(OperationUnsupported, match="several times in one episode"):
            await env.step({"content": "0"})


def test_a_taskset_that_is_not_there_is_told() -> None:
    with pytest.raises(EnvironmentStartFailed, match="No module named 'nothing_of_this_name'"):
        EnvironmentSpec(VerifiersHost, params={"taskset": "nothing_of_this_name"})


@pytest.mark.parametrize(
    "params",
    [
        {"limit": 0},
        {"limit": True},
        {"config": 3},
        {"agent": []},
        {"start_timeout": 0},
        {"taskset": "a b"},
        {"taskset": "a:b:c"},
        {"taskset": 3},
    ],
)
def test_an_argument_that_is_not_valid_is_named(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(params))):
        VerifiersHost(**{"taskset": "hosted_sums", **params})


def test_an_interpreter_without_verifiers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidOption, match="has no verifiers"):
        EnvironmentSpec(VerifiersHost, params={"taskset": "a", "python": sys.executable})
    with pytest.raises(InvalidOption, match="cannot be started"):
        EnvironmentSpec(VerifiersHost, params={"taskset": "a", "python": "/nothing"})
    monkeypatch.delenv(PYTHON)
    with pytest.raises(InvalidOption, match="pip install verifiers==0"):
        VerifiersHost("a")
    slow = {"taskset": "hosted_sums", "python": sys.executable, "start_timeout": 0.001}
    with pytest.raises(EnvironmentStartFailed, match=r"not loaded in 0\.001 s"):
        EnvironmentSpec(VerifiersHost, params=slow)


def test_no_client_may_choose_what_runs() -> None:
    assert VerifiersHost.session_options == frozenset()


# -- the process ----------------------------------------------------------------------------------


def test_the_process_ends_with_this_one() -> None:
    program = (
        "import os, signal\n"
        "from openenv_async.hosts.verifiers import VerifiersTasks, _settings, _bridge_of\n"
        "settings = _settings('hosted_sums')\n"
        "print(_bridge_of(settings)._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60
    )
    try:
        ending = os.pidfd_open(int(done.stdout))
    except ProcessLookupError:
        return
    try:
        assert select.select([ending], [], [], 10)[0], f"the process {done.stdout} still runs"
    finally:
        os.close(ending)


@contextlib.contextmanager
def stopped(bridge: verifiers._Bridge) -> Iterator[None]:
    """The process takes nothing from its pipe for a while."""
    bridge._process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        bridge._process.send_signal(signal.SIGCONT)


async def test_a_request_that_fills_the_pipe_holds_nobody_up() -> None:
    bridge = verifiers._bridge_of(VerifiersHost("hosted_sums")._settings)
    with stopped(bridge):
        async with asyncio.timeout(10):
            answer = await asyncio.to_thread(bridge.ask, "end", episode="x" * 2**20)
    assert await asyncio.to_thread(answer.result, 10) is None


async def test_the_end_of_an_episode_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    env = VerifiersHost("hosted_sums")
    await env.reset(index=3)
    assert env._bridge is not None
    monkeypatch.setattr(verifiers, "_END_TIMEOUT", 0.01)
    with stopped(env._bridge):
        async with asyncio.timeout(10):
            await env.close()
    await env.reset(index=3)
    await env.close()


def test_a_list_of_tasks_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = VerifiersHost.tasks_for(taskset="hosted_sums")
    assert tasks.count("train") == 20
    monkeypatch.setattr(verifiers, "_LIST_TIMEOUT", 0.01)
    with (
        stopped(verifiers._bridge_of(tasks._settings)),
        pytest.raises(EnvironmentDied, match=r"did not list tasks in 0\.01 s"),
    ):
        tasks.get("train", 0)


@pytest.mark.parametrize("line", ["3", "{"])
def test_a_process_that_speaks_another_language_is_ended(line: str, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho '{line}'\necho a word >&2\nexec sleep 60\n")
    python.chmod(0o755)
    with pytest.raises(EnvironmentDied, match="hosted_sums ended"):
        verifiers._Bridge(VerifiersHost("hosted_sums", python=str(python))._settings)


@pytest.mark.heavy
async def test_the_folder_that_import_writes_validates(tmp_path: Path) -> None:
    import_environment("verifiers", "hosted_sums", tmp_path / "imported_env")
    results = await validate(resolve(tmp_path / "imported_env"), sessions=2)
    assert [(r.name, r.reason) for r in results if r.status == "failed"] == []
    assert sum(result.status == "passed" for result in results) > 20


async def test_the_page_of_the_documentation_plays(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = read_page(DOCS / "hosts.md").blocks
    (text,) = [b.text for b in blocks if b.language == "python" and "verifiers:" in b.text]
    made = eval(compile(text, "hosts.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), {})
    await made
    assert capsys.readouterr().out.split("\n")[-3:] == [
        "What is 3 + 10?",
        "1.75 {'brief': -0.25, 'right': 2.0}",
        "",
    ]
