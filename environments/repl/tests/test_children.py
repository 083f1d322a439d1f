"""Recursion: children with REPLs of their own, their budgets, their trace."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from repl_env import REPLAction, REPLEnv
from repl_env.environment import REPLEnvironment

from openenv_async import serve
from openenv_async.errors import InvalidOption, OpenEnvError, ResponderFailed
from openenv_async.responders import Reply, Usage

PLAN = re.compile(r"plan: (.*?)(?:\n\n|$)", re.DOTALL)


def fenced(said: str) -> str:
    return said.replace("<<", "\n```python\n").replace(">>", "\n```\n")


def nested(plan: str) -> str:
    """An expression for a plan within a plan."""
    return f"bytes.fromhex('{plan.encode().hex()}').decode()"


class Planned:
    """A model whose children do, turn by turn, what their question says: turns end with ``|``.

    To a question without a plan it says the question in capitals.
    """

    def __init__(self) -> None:
        self.conversations: list[list[Mapping[str, Any]]] = []
        self.seeds: dict[str, Any] = {}
        self.most_tokens: list[Any] = []
        self.now = self.most = 0
        self.gate: asyncio.Event | None = None
        self.waiting = asyncio.Semaphore(0)

    async def respond(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> Reply:
        self.conversations.append(list(messages))
        self.most_tokens.append(settings["max_tokens"])
        first = next(m for m in messages if m["role"] == "user")["content"]
        self.seeds[f"{first}/{len(messages)}"] = settings["seed"]
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.01)
            if "wait" in first and self.gate is not None:
                self.waiting.release()
                await self.gate.wait()
        finally:
            self.now -= 1
        if "gone" in first:
            raise ResponderFailed("the endpoint is gone")
        if messages[0]["role"] != "system":
            return Reply(first.upper(), usage=Usage(10, 5))
        turns = PLAN.findall(first)[0].split("|")
        said = turns[sum(m["role"] == "assistant" for m in messages) % len(turns)]
        return Reply(fenced(said), usage=Usage(10, 5))

    async def aclose(self) -> None:
        """It belongs to the test."""


@contextlib.asynccontextmanager
async def asking(model: Any = None, **params: Any) -> AsyncIterator[REPLEnv]:
    params = {"responder": model or Planned(), **params}
    async with serve(REPLEnvironment, params=params) as url, REPLEnv(url) as env:
        await env.reset(seed=1, context="outer", task_prompt="?", expected_answer="3")
        yield env


async def printed(env: REPLEnv, code: str) -> str:
    found = (await env.execute(code)).observation.result
    return found.stdout + found.stderr


async def test_a_child_has_a_repl_and_a_context_of_its_own() -> None:
    model = Planned()
    async with asking(model) as env:
        await env.execute("x = 1")
        plan = "plan: <<x = len(context); print(x)>>|<<print(x, 'answer' in globals())\n1/0>>"
        plan += "|FINAL(two\nlines)"
        code = f"print([rlm_query({plan!r}, context='abcd' * 10), x, context])"
        assert await printed(env, code) == "['two\\nlines', 1, 'outer']\n"
        conversation = model.conversations[-1]
        assert [m["role"] for m in conversation[:4]] == ["system", "user", "assistant", "user"]
        assert "is a str, 40 characters long. It begins:\nabcd" in conversation[1]["content"]
        assert conversation[3]["content"] == "40"
        assert conversation[5]["content"].startswith("40 True\nTraceback")
        assert "ZeroDivisionError" in conversation[5]["content"]
        state = await env.state()
        assert (state.llm_calls, state.children, state.llm_tokens) == (3, 1, 45)


@pytest.mark.parametrize(
    ("plan", "answer"),
    [
        ("<<FINAL(context[1]['a'])>>", "2"),
        ("<<y = 5>> FINAL_VAR(y)", "5"),
        ("<<answer['content'] = 'done'; answer['ready'] = True>>", "done"),
        ("<<print('FINAL(7)')>>", "7"),
        ("<<z = 1>> then <<FINAL(z + 1)>>", "2"),
        ("what?|<<import os; os._exit(1)>>|<<FINAL('x' in globals())>>", "False"),
        ("<<print(llm_query('small', 'other'))>>|<<FINAL(llm_query('small'))>>", "SMALL"),
    ],
)
async def test_every_way_of_a_child_to_end(plan: str, answer: str) -> None:
    model = Planned()
    async with asking(model, models={"other": Planned()}) as env:
        code = f"print(rlm_query({'plan: ' + plan!r}, None, [1, {{'a': 2}}]))"
        assert await printed(env, code) == f"{answer}\n"


async def test_without_a_context_the_question_is_the_context() -> None:
    model = Planned()
    async with asking(model) as env:
        question = "plan: <<FINAL(len(context))>>\n\n" + "x" * 9_000
        assert await printed(env, f"print(rlm_query({question!r}))") == f"{len(question)}\n"
        first = model.conversations[0][1]["content"]
        assert "the whole is in context" in first
        assert len(first) < 5_000


async def test_depth_is_bounded_and_the_deepest_ask_a_model() -> None:
    inner = "plan: <<FINAL(rlm_query('deep', context='c'))>>"
    middle = f"plan: <<FINAL(rlm_query({nested(inner)}))>>"
    for depth, calls, children in ((1, 1, 0), (2, 2, 1), (3, 3, 2)):
        model = Planned()
        async with asking(model, rlm_max_depth=depth) as env:
            said = await printed(env, f"print(rlm_query({middle!r}))")
            state = await env.state()
            assert (state.llm_calls, state.children) == (calls, children)
            assert max(call.depth for call in state.llm_trace) == depth - 1
            if depth == 3:
                assert said == "DEEP\n\nC\n"
    async with asking() as env:
        await env.reset(context="", task_prompt="?", rlm_max_depth=1)
        assert await printed(env, "print(rlm_query('plan: no'))") == "PLAN: NO\n"
        refused: list[dict[str, Any]] = [
            {"rlm_max_depth": 0},
            {"rlm_max_depth": 9},
            {"rlm_max_iterations": 0},
        ]
        for wrong in refused:
            with pytest.raises(OpenEnvError):
                await env.reset(**wrong)


async def test_children_of_a_batch_run_at_once_and_fail_alone() -> None:
    model = Planned()
    model.gate = asyncio.Event()
    async with asking(model, rlm_max_iterations=2) as env:
        plans = ["wait plan: <<FINAL(context)>>", "wait plan: hm", "wait plan: <<FINAL('b')>>"]
        code = f"print(*rlm_query_batched({plans!r}, None, ['a', 'x', 'y']), sep='|')"
        step = asyncio.create_task(printed(env, code))
        for _ in plans:
            await model.waiting.acquire()  # all three at once
        model.gate.set()
        assert await step == "a|Error: the child gave no answer in 2 turns|b\n"
        said = await printed(env, "rlm_query('plan: hm')")
        assert said.endswith("RuntimeError: the child gave no answer in 2 turns\n")
        for wrong, why in (
            ("rlm_query_batched('x')", "prompts are a list"),
            ("rlm_query_batched(['x'], None, [])", "contexts is a list"),
            ("rlm_query(1)", "a prompt is a str"),
            ("rlm_query('x', 5)", "model is a str"),
            ("llm_query('x', 'big')", "there is no model 'big': this server has none by name"),
        ):
            assert why in await printed(env, wrong)
        assert (await env.state()).children == 4


async def test_budgets_are_the_episodes() -> None:
    model = Planned()
    async with asking(model, max_llm_calls=3) as env:
        said = await printed(env, "rlm_query('plan: hm')")
        assert "the episode's 3 questions are used up" in said
        assert "questions are used up" in await printed(env, "llm_query('x')")
        assert len(model.conversations) == 3
        await env.reset(context="", task_prompt="?")
        assert await printed(env, "print(llm_query('x'))") == "X\n"
    model = Planned()
    async with asking(model, max_total_tokens=40, max_llm_tokens=20) as env:
        said = await printed(env, "rlm_query('plan: hm')")
        assert "the episode's 40 tokens are used up" in said
        assert model.most_tokens == [20, 20, 10]
        assert (await env.state()).llm_tokens == 45
        assert "tokens are used up" in await printed(env, "llm_query('x')")
    async with asking(rlm_max_children=2) as env:
        assert "2 children are used up" in await printed(env, "rlm_query_batched(['plan: x'] * 3)")
        await env.execute("rlm_query('plan: FINAL(1)')")
        await env.execute("rlm_query('plan: FINAL(1)')")
        assert "2 children are used up" in await printed(env, "rlm_query('plan: FINAL(1)')")


async def test_tokens_that_nobody_counts_are_guessed_from_the_text() -> None:
    class Silent(Planned):
        async def respond(self, messages: Any, **settings: Any) -> Reply:
            return Reply("x" * 40)

    async with asking(Silent(), max_total_tokens=30) as env:
        await env.execute("llm_query_batched(['y' * 40, 'y'])")
        state = await env.state()
        assert state.llm_tokens == 10 + 10 + 1 + 10
        assert state.llm_trace[0].prompt_tokens is None
        assert "30 tokens are used up" in await printed(env, "llm_query('x')")


async def test_the_trace_is_a_tree_in_the_info_and_the_state() -> None:
    async with asking(trace_length=5) as env:
        plan = "plan: <<FINAL(llm_query('inner question'))>>"
        result = await env.execute(
            f"llm_query('one')\nrlm_query_batched([{plan!r}, 'plan: <<1/0>>'])"
        )
        told = [
            (call["path"], call["kind"], call["depth"], call["iterations"])
            for call in result.info["llm_calls"]
        ]
        turns = [(f"2.{n}", "turn", 1, 0) for n in range(10)]
        assert told == [
            ("0", "llm", 0, 0),
            ("1", "rlm", 0, 1),
            ("1.0", "turn", 1, 0),
            ("1.1", "llm", 1, 0),
            ("2", "rlm", 0, 0),
            *turns,
        ]
        calls = result.info["llm_calls"]
        assert (calls[1]["reply"], calls[3]["prompt"]) == ("INNER…", "inner…")
        assert calls[4]["error"] == "Runti…"
        assert (calls[3]["prompt_tokens"], calls[3]["completion_tokens"]) == (10, 5)
        assert "seconds" not in calls[0]
        await env.execute("llm_query('two')")
        state = await env.state()
        assert len(state.llm_trace) == len(told) + 1
        assert state.llm_trace[1].seconds >= state.llm_trace[2].seconds > 0.0
        assert "llm_calls" not in (await env.execute("1")).info


async def test_a_question_has_its_own_model_and_a_child_keeps_its() -> None:
    large, small = Planned(), Planned()
    async with asking(large, models={"small": small}) as env:
        await env.execute("rlm_query('plan: <<FINAL(llm_query(context))>>', 'small')")
        assert (len(large.conversations), len(small.conversations)) == (0, 2)
        await env.execute("llm_query_batched(['a', 'b'], model='small'); llm_query('c')")
        assert (len(large.conversations), len(small.conversations)) == (1, 4)
        await env.reset(context="", task_prompt="?", llm_model="small")
        await env.execute("llm_query('d')")
        assert len(small.conversations) == 5
        said = await printed(env, "llm_query('e', model='huge')")
        assert "there is no model 'huge': this server has 'small'" in said
        with pytest.raises(InvalidOption, match="no model 'huge'"):
            await env.reset(llm_model="huge")


async def test_seeds_follow_the_path_whatever_runs_beside() -> None:
    plans = [f"plan: <<llm_query('{n}'); FINAL(llm_query('{n}!'))>>" for n in range(4)]
    seeds = []
    for concurrency in (1, 8):
        model = Planned()
        async with asking(model, max_concurrency=concurrency) as env:
            await env.execute(f"rlm_query_batched({plans!r})")
            assert model.most <= concurrency
            seeds.append(model.seeds)
    assert seeds[0] == seeds[1]
    assert len({*seeds[0].values()}) == 12


async def test_a_model_that_is_gone_in_a_child_is_no_fault_of_the_code() -> None:
    async with asking() as env:
        plan = "plan: <<\ntry: llm_query('gone')\nexcept RuntimeError: FINAL(3)>>"
        for code in (
            f"try: rlm_query_batched([{plan!r}] * 3)\nexcept RuntimeError: FINAL(3)",
            "try: rlm_query('gone plan: x')\nexcept RuntimeError: FINAL(3)",
        ):
            with pytest.raises(ResponderFailed, match="the endpoint is gone"):
                await env.execute(code)
            state = await env.state()
            assert (state.iteration, state.final_answer) == (0, None)
        assert (await env.execute("FINAL(3)")).reward == 1.0


def workers() -> int:
    """Interpreters under this process, whose zygote forked them."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return sum(parents.get(parent) == os.getpid() for parent in parents.values())


async def test_children_end_with_the_step_that_opened_them() -> None:
    model = Planned()
    model.gate = asyncio.Event()
    before = workers()
    async with asking(model, rlm_max_depth=3) as env:
        inner = f"plan: <<FINAL(rlm_query({nested('wait plan: x')}))>>"
        code = f"rlm_query_batched([{inner!r}] * 3)"
        step = asyncio.create_task(env.step(REPLAction(code, timeout=2.0)))
        for _ in range(3):
            await model.waiting.acquire()
        assert workers() == before + 7  # the episode's, three children, three of theirs
        result = await step
        assert result.observation.result.exception == "Timeout"
        assert workers() == before + 1
        assert (await env.execute("FINAL(3)")).reward == 1.0
    assert workers() == before


async def test_a_child_has_its_own_deadline() -> None:
    model = Planned()
    model.gate = asyncio.Event()
    async with asking(model, rlm_timeout=0.3) as env:
        said = await printed(env, "print(rlm_query_batched(['wait plan: x']))")
        assert said == "['Error: the child gave no answer in 0.3 s']\n"
