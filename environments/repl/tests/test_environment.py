"""The environment, as a client sees it."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from repl_env import ENVIRONMENT, REPLAction, REPLEnv
from repl_env.app import app
from repl_env.environment import REPLEnvironment
from repl_env.policies import GrepPolicy

from openenv_async import EnvClient, Timeouts, connect, serve
from openenv_async.errors import (
    DeadlineExceeded,
    EpisodeNotStarted,
    InvalidAction,
    InvalidOption,
    ResponderFailed,
)
from openenv_async.responders import Reply, ScriptedResponder
from openenv_async.rollouts import RandomPolicy, collect_all, fetch_schema
from openenv_async.targets.discovery import find_target
from openenv_async.testing import assert_examples_run, check_environment, step_in_workers

ASKED: dict[str, Any] = {"context": "a b c", "task_prompt": "How many?", "expected_answer": "3"}


async def test_the_context_is_a_variable_and_state_is_kept() -> None:
    async with serve(REPLEnvironment) as url, REPLEnv(url) as env:
        result = await env.reset(context="the quick fox " * 100, task_prompt="Count the words")
        seen = result.observation
        assert (seen.context_length, len(seen.context_preview or "")) == (1400, 500)
        assert seen.available_variables == ["context", "answer"]
        assert (seen.task_prompt, seen.iteration, seen.max_iterations) == ("Count the words", 0, 30)
        result = await env.execute("words = context.split()")
        assert result.observation.available_variables == ["context", "answer", "words"]
        assert result.observation.result.locals_snapshot["words"].startswith("['the', 'quick'")
        assert result.reward is None
        result = await env.execute("print(len(words))")
        assert result.observation.result.stdout == "300\n"
        result = await env.execute("1/0")
        assert (result.observation.result.success, result.observation.iteration) == (False, 3)
        assert result.observation.result.exception == "ZeroDivisionError"
        assert "worker.py" not in result.observation.result.stderr
        state = await env.state()
        assert (state.context, state.iteration) == ("the quick fox " * 100, 3)
        assert state.namespace_keys == ["context", "answer", "words"]


@pytest.mark.parametrize(
    ("actions", "answer"),
    [
        ([REPLAction("FINAL(len(context.split()))")], "3"),
        ([REPLAction("x = 3"), REPLAction("FINAL_VAR('x')")], "3"),
        ([REPLAction("x = 3"), REPLAction("print('FINAL_VAR(x)')")], "3"),
        ([REPLAction("print(f'FINAL({1 + 2})')")], "3"),
        ([REPLAction("answer['content'] = 3"), REPLAction("answer['ready'] = True")], "3"),
        ([REPLAction("answer = {'content': '3', 'ready': True}")], "3"),
        ([REPLAction("x = 1", is_final=True, final_answer="3")], "3"),
        ([REPLAction(is_final=True, final_answer=" 3 ")], " 3 "),
        ([REPLAction("answer['content'] = 3", is_final=True)], "3"),
        ([REPLAction("FINAL(3)\nFINAL(4)")], "3"),
        ([REPLAction("FINAL(3)", is_final=True, final_answer="4")], "3"),
    ],
)
async def test_every_way_to_end(actions: list[REPLAction], answer: str) -> None:
    async with connect(REPLEnvironment, client=REPLEnv) as env:
        await env.reset(**ASKED)
        for action in actions[:-1]:
            result = await env.step(action)
            assert (result.done, result.reward) == (False, 0.0)
        result = await env.step(actions[-1])
        assert (result.terminated, result.truncated, result.reward) == (True, False, 1.0)
        assert result.observation.final_answer == answer
        assert (await env.state()).final_answer == answer


async def test_wrong_answers_errors_and_running_out() -> None:
    async with connect(REPLEnvironment, client=REPLEnv) as env:
        await env.reset(**ASKED)
        assert isinstance(env, REPLEnv)
        assert (await env.submit_final_answer("4")).reward == 0.0
        await env.reset(**ASKED, max_iterations=2)
        result = await env.execute("1/0")
        assert (result.reward, result.done) == (-0.05, False)
        result = await env.execute("print('no FINAL(3) here')")
        assert (result.reward, result.terminated, result.truncated) == (-0.1, False, True)
        await env.reset(**ASKED)
        result = await env.execute("FINAL(3); 1/0")
        assert (result.reward, result.terminated) == (0.95, True)
        await env.reset(context=[1, {"a": 2}], task_prompt="?")
        assert (await env.execute("FINAL(context[1]['a'])")).reward is None
        await env.reset(**ASKED)
        for refused in (None, "x"):
            with pytest.raises(InvalidAction):
                await env.step(REPLAction("1", timeout=refused))  # type: ignore[arg-type]  # wrong on purpose
        with pytest.raises(InvalidOption):
            await env.reset(task="none")


async def test_a_new_interpreter_has_the_context_again() -> None:
    async with connect(REPLEnvironment, client=REPLEnv) as env:
        await env.reset(**ASKED)
        result = await env.step(REPLAction("x = 1\nimport os\nos._exit(3)"))
        assert result.observation.result.restarted
        assert result.observation.result.exception == "InterpreterExited"
        assert result.observation.available_variables == ["context", "answer"]
        result = await env.step(REPLAction("FINAL(len(context.split()))"))
        assert result.observation.final_answer == "3"


# -- questions to a model -----------------------------------------------------------------


class Shouting:
    """Answers in capitals, and counts how many it answers at once."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.seeds: list[Any] = []

    async def respond(self, messages: Any, **settings: Any) -> Reply:
        self.now += 1
        self.most = max(self.most, self.now)
        self.seeds.append(settings["seed"])
        for _ in range(5):
            await asyncio.sleep(0)
        self.now -= 1
        if "fail" in messages[0]["content"]:
            raise ValueError("no answer to this")
        return Reply(messages[0]["content"].upper())

    async def aclose(self) -> None:
        """It belongs to the test."""


async def test_code_asks_the_model() -> None:
    shouting = Shouting()
    params = {"responder": shouting, "max_llm_calls": 8}
    async with serve(REPLEnvironment, params=params) as url, REPLEnv(url) as env:
        await env.reset(**ASKED, seed=1)
        result = await env.execute("print(llm_query('hello'))")
        assert result.observation.result.stdout == "HELLO\n"
        result = await env.execute("print(llm_query_batched(['a', 'b', 'c']), llm_query('d'))")
        assert result.observation.result.stdout == "['A', 'B', 'C'] D\n"
        assert shouting.most == 3
        assert (await env.state()).llm_calls == 5
        for wrong in ("llm_query(3)", "llm_query_batched('x')", "llm_query_batched([None])"):
            assert "TypeError" in (await env.execute(wrong)).observation.result.stderr
        result = await env.execute("llm_query('fail')")
        assert "no answer to this" in result.observation.result.stderr
        result = await env.execute("llm_query_batched(['a'] * 3)")
        assert "8 questions are used up" in result.observation.result.stderr
        seeds = shouting.seeds[:5]
        await env.reset(**ASKED, seed=1)
        await env.execute("llm_query_batched(['a'] * 5)")
        assert shouting.seeds[-5:] == seeds
        assert len(set(seeds)) == 5


async def test_a_scripted_model_by_its_text_and_none_at_all() -> None:
    script = 'scripted:{"rules": {"colour": "green"}, "default": "what?"}'
    async with serve(REPLEnvironment, params={"responder": script}) as url, REPLEnv(url) as env:
        await env.reset(**ASKED)
        result = await env.execute("FINAL(llm_query('which colour?'))")
        assert result.observation.final_answer == "green"
    async with connect(REPLEnvironment, client=REPLEnv) as env:
        await env.reset(**ASKED)
        result = await env.step(REPLAction("llm_query('?')"))
        assert "serve with a responder" in result.observation.result.stderr
    with pytest.raises(InvalidOption):
        REPLEnvironment(responder="nobody")


@pytest.mark.parametrize(
    "code", ["llm_query('?')", "try: llm_query('?')\nexcept RuntimeError: FINAL(3)"]
)
async def test_a_model_that_is_gone_is_no_fault_of_the_code(code: str) -> None:
    down = True

    async def answer(messages: Any) -> str:
        if down:
            raise ResponderFailed("the endpoint is gone")
        return "3"

    params = {"responder": ScriptedResponder(function=answer)}
    async with serve(REPLEnvironment, params=params) as url, REPLEnv(url) as env:
        await env.reset(**ASKED)
        with pytest.raises(ResponderFailed, match="the endpoint is gone"):
            await env.execute(code)
        state = await env.state()
        assert (state.iteration, state.final_answer) == (0, None)
        down = False
        result = await env.execute("FINAL(llm_query('?'))")
        assert result.reward == 1.0


async def test_a_question_that_is_refused_is_told_to_the_code() -> None:
    async def refuse(messages: Any) -> str:
        raise ResponderFailed("the prompt is too long", retryable=False, status=400)

    params = {"responder": ScriptedResponder(function=refuse)}
    async with serve(REPLEnvironment, params=params) as url, REPLEnv(url) as env:
        await env.reset(**ASKED)
        result = await env.execute("llm_query('?')")
        assert "the prompt is too long" in result.observation.result.stderr
        assert result.observation.iteration == 1


async def test_time_runs_while_the_model_thinks() -> None:
    asked = asyncio.Event()

    async def never(messages: Any) -> str:
        asked.set()
        await asyncio.Event().wait()
        return ""

    params = {"responder": ScriptedResponder(function=never)}
    async with serve(REPLEnvironment, params=params) as url, REPLEnv(url) as env:
        await env.reset(**ASKED)
        result = await env.step(REPLAction("x = 1; llm_query('?')", timeout=0.5))
        assert asked.is_set()
        assert result.observation.result.exception == "Timeout"
        result = await env.step(REPLAction("FINAL(3)"))
        assert result.reward == 1.0


async def test_a_call_that_is_cut_off_ends_the_episode_not_the_session() -> None:
    async with connect(REPLEnvironment, client=REPLEnv, timeouts=Timeouts(step=0.5)) as env:
        await env.reset(**ASKED)
        with pytest.raises(DeadlineExceeded):
            await env.step(REPLAction("while True: pass"))
        with pytest.raises(EpisodeNotStarted):
            await env.step(REPLAction("FINAL(3)"))
        await env.reset(**ASKED)
        assert (await env.step(REPLAction("FINAL(3)"))).reward == 1.0


# -- many sessions ------------------------------------------------------------------------


async def test_a_seed_is_an_episode() -> None:
    """Sixteen sessions, interleaved."""

    async def play(seed: int) -> list[Any]:
        async with REPLEnv(url) as env:
            trace: list[Any] = [await env.reset(seed=seed)]
            for code in ("import random; x = random.random(), {'b', 'a'}", "1/0", "FINAL(x)"):
                trace.append(await env.execute(code))
                await asyncio.sleep(0)
            return trace

    async with serve(REPLEnvironment) as url:
        traces = await asyncio.gather(*(play(7) for _ in range(16)), play(8))
    assert all(trace == traces[0] for trace in traces[:16])
    assert traces[16] != traces[0]


async def test_eight_sessions_at_once() -> None:
    async with serve(REPLEnvironment) as url, contextlib.AsyncExitStack() as stack:
        envs = [await stack.enter_async_context(REPLEnv(url)) for _ in range(8)]
        await asyncio.gather(
            *(env.reset(context="x" * i, expected_answer=str(i)) for i, env in enumerate(envs))
        )
        results = await asyncio.gather(*(env.execute("FINAL(len(context))") for env in envs))
    assert [result.reward for result in results] == [1.0] * 8


async def test_random_play_fits_the_schema_and_the_example_beats_it() -> None:
    async with serve(REPLEnvironment) as url:
        random_policy = RandomPolicy((await fetch_schema(url))["action"], 0)

        def client() -> REPLEnv:
            return REPLEnv(url)

        means = []
        for policy in (random_policy, GrepPolicy()):
            found = await collect_all(client, policy, episodes=16, concurrency=4, seeds=0)
            assert all(outcome.status.usable for outcome in found), found
            means.append(sum(outcome.episode_return or 0.0 for outcome in found) / len(found))
    assert means[0] <= 0.0
    assert means[1] >= 0.5


async def test_the_application_serves_and_it_is_found_by_name() -> None:
    async with serve(app) as url, EnvClient[Any, Any, Any](url) as env:
        await env.reset(context="x", task_prompt="?")
        done = await env.step({"code": "FINAL(1)"})
        assert done.observation["final_answer"] == "1"
    assert find_target("repl").cls is REPLEnvironment
    assert ENVIRONMENT.client_class() is REPLEnv
    assert ENVIRONMENT.action_class() is REPLAction


async def test_the_examples_of_the_readme_run() -> None:
    async with serve(REPLEnvironment) as url:
        await assert_examples_run(Path(__file__).parents[1] / "README.md", url)


async def test_the_generic_checks_find_nothing() -> None:
    results = await check_environment(REPLEnvironment, actions=[{"code": "print(1)"}])
    assert [result for result in results if result.status == "failed"] == []


async def test_it_runs_in_worker_processes() -> None:
    seen = await step_in_workers(REPLEnvironment, REPLEnv, REPLAction("print(1)"))
    assert [observation.result.stdout for observation in seen] == ["1\n"] * 4
