"""The environment, as a client sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from coding_env import ENVIRONMENT, CodeAction, CodeObservation, CodingEnv
from coding_env.app import app
from coding_env.environment import CodingEnvironment
from coding_env.policies import SnippetPolicy
from coding_env.tasks import BUNDLED
from coding_env.tasks.generated import GENERATED
from coding_env.tasks.model import Task

from openenv_async import EnvClient, Timeouts, connect, serve
from openenv_async.errors import (
    DeadlineExceeded,
    EnvironmentDied,
    EpisodeEnded,
    EpisodeNotStarted,
    InvalidAction,
    InvalidOption,
)
from openenv_async.rollouts import RandomPolicy, collect_all, fetch_schema
from openenv_async.targets.discovery import find_target
from openenv_async.testing import assert_examples_run, check_environment, step_in_workers

SORT = "def sort_numbers(numbers):\n    return sorted(numbers)\n"


def code(text: str, **fields: Any) -> CodeAction:
    return CodeAction(text, **fields)


async def test_code_runs_and_what_it_made_stays() -> None:
    async with serve(CodingEnvironment) as url, CodingEnv(url) as env:
        result = await env.reset(seed=1)
        assert result.observation == CodeObservation()
        assert (result.reward, result.done) == (None, False)
        result = await env.step(code("import math\nx = 20\nopen('f', 'w').write('kept')"))
        assert result.observation == CodeObservation(value="4")
        result = await env.step(code("print(x + 1, math.pi > 3, open('f').read())"))
        assert result.observation.stdout == "21 True kept\n"
        assert (result.reward, result.done) == (None, False)
        await env.reset(seed=1)
        result = await env.step(code("x"))
        assert result.observation.error_type == "NameError"
        assert "FileNotFoundError" in (await env.step(code("open('f')"))).observation.stderr
        state = await env.state()
        assert (state.last_exit_code, state.steps, state.mode, state.seed) == (1, 2, "free", 1)


ENDS = [
    ("1/0", 1, "ZeroDivisionError", "line 1, in <module>\n    1/0\n    ~^~"),
    ("x = (", 1, "SyntaxError", "was never closed"),
    ("import sys; sys.exit(3)", 3, "SystemExit", ""),
    ("import sys; sys.exit()", 0, "", ""),
    ("raise SystemExit('gone')", 1, "SystemExit", "gone"),
    ("import os; os._exit(4)", 4, "InterpreterExited", ""),
    ("import ctypes; ctypes.string_at(0)", -11, "InterpreterCrashed", ""),
    ("raise KeyboardInterrupt", 1, "KeyboardInterrupt", "KeyboardInterrupt"),
    ("class E(Exception):\n  def __str__(self): 1/0\nraise E", 1, "E", "<exception str() failed>"),
    ("input()", 1, "EOFError", "EOF when reading a line"),
    ("import sys; print('é', file=sys.stderr)", 0, "", "é"),
    ("import os; os.write(2, b'\\xff raw')", 0, "", "\ufffd raw"),
    ("import sys; sys.stdout = None; print('x')", 0, "", ""),
]


async def test_how_code_ends_is_told() -> None:
    async with connect(CodingEnvironment, client=CodingEnv) as env:
        await env.reset()
        for text, exit_code, error, stderr in ENDS:
            seen = (await env.step(code(text))).observation
            assert (seen.exit_code, seen.error_type) == (exit_code, error), text
            assert stderr in seen.stderr
            assert seen.restarted == error.startswith("Interpreter")
            after = await env.step(code("import sys; sys.stdout = sys.__stdout__; print('on')"))
            assert after.observation.exit_code == 0


async def test_time_is_up_and_the_variables_are_kept() -> None:
    async with connect(CodingEnvironment, client=CodingEnv) as env:
        await env.reset()
        await env.step(code("x = 'kept'"))
        seen = (await env.step(code("print('so far')\nwhile True: pass", timeout=0.3))).observation
        assert (seen.exit_code, seen.error_type, seen.stdout) == (-1, "Timeout", "so far\n")
        assert not seen.restarted
        assert (await env.step(code("print(x)"))).observation.stdout == "kept\n"


@pytest.mark.parametrize("timeout", [0.0, -1.0, 301.0])
async def test_a_timeout_out_of_range_is_refused(timeout: float) -> None:
    async with connect(CodingEnvironment, client=CodingEnv) as env:
        await env.reset()
        with pytest.raises(InvalidAction):
            await env.step(code("1", timeout=timeout))


async def test_a_call_that_is_cut_off_ends_the_episode_not_the_session() -> None:
    async with connect(CodingEnvironment, client=CodingEnv, timeouts=Timeouts(step=0.5)) as env:
        await env.reset()
        with pytest.raises(DeadlineExceeded):
            await env.step(code("while True: pass", timeout=200.0))
        with pytest.raises(EpisodeNotStarted, match="reset"):
            await env.step(code("print(1)"))
        await env.reset()
        assert (await env.step(code("print(1)"))).observation.stdout == "1\n"


async def test_a_lost_interpreter_is_told_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[CodingEnvironment] = []

    class Watched(CodingEnvironment):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    async with connect(Watched, client=CodingEnv) as env:
        await env.reset()
        os.kill(made[0]._runner.pid, 9)  # type: ignore[attr-defined]  # it is a Sandbox
        with pytest.raises(EnvironmentDied, match="outside"):
            await env.step(code("import time; time.sleep(100)"))
        with pytest.raises(EpisodeNotStarted):
            await env.step(code("1"))
        await env.reset()
        assert (await env.step(code("print(1)"))).observation.stdout == "1\n"


# -- tasks --------------------------------------------------------------------------------


async def test_a_submission_is_scored_and_ends_the_episode() -> None:
    async with serve(CodingEnvironment) as url, CodingEnv(url) as env:
        result = await env.reset(seed=5, task="sort-numbers")
        assert "def sort_numbers" in result.observation.prompt
        assert result.observation.tests_total == 12
        result = await env.step(code("print(sorted([2, 1]))"))
        assert (result.reward, result.done, result.observation.results) == (0.0, False, [])
        result = await env.step(code(SORT, submit=True))
        assert (result.reward, result.terminated, result.truncated) == (1.0, True, False)
        assert (result.observation.tests_passed, result.observation.done) == (12, True)
        with pytest.raises(EpisodeEnded):
            await env.step(code("1"))
        state = await env.state()
        assert (state.task, state.split, state.difficulty) == ("sort-numbers", "train", "easy")


SUBMISSIONS: list[tuple[str, float | None, str]] = [
    ("def sort_numbers(n): return n", None, ""),
    ("def sort_numbers(n): return sorted(n) if len(n) < 3 else 1 / 0", None, "ZeroDivisionError"),
    ("def sort_numbers(n): raise SystemExit", 0.0, ""),
    ("def sort_numbers(n):\n  import os\n  os._exit(0)", 0.0, "InterpreterExited"),
    ("def other(n): return n", 0.0, "KeyError"),
    ("x = (", 0.0, "SyntaxError"),
    ("1/0", 0.0, "ZeroDivisionError"),
    ("", 0.0, "KeyError"),
]


async def test_partial_and_broken_solutions() -> None:
    async with connect(CodingEnvironment, client=CodingEnv) as env:
        for text, reward, error in SUBMISSIONS:
            await env.reset(seed=5, task="sort-numbers")
            result = await env.step(code(text, submit=True))
            assert result.terminated
            assert result.reward is not None
            assert result.observation.tests_passed == result.observation.results.count("passed")
            assert result.observation.error_type == error, text
            assert result.reward == reward if reward is not None else 0.0 < result.reward < 1.0


@pytest.mark.parametrize(
    ("credit", "reward"), [("corrected", 1 / 3), ("fraction", 0.6), ("all", 0)]
)
async def test_credit(credit: str, reward: float) -> None:
    """A constant passes two of five tests, and the submission three."""
    tests = [[[0], 1], [[1], 1], [[2], 4], [[3], 9], [[4], 16]]
    row = {"name": "square", "text": "Square it, or 1.", "entry_point": "square", "tests": tests}
    async with connect(CodingEnvironment, client=CodingEnv, params={"credit": credit}) as env:
        for text, wanted in (("n * n - (n > 3)", reward), ("1", 0.4 * (credit == "fraction"))):
            await env.reset(row=row)
            result = await env.step(code(f"def square(n): return {text}", submit=True))
            assert result.reward == pytest.approx(wanted)
    with pytest.raises(InvalidOption, match="credit is 'half'"):
        CodingEnvironment(credit="half")  # type: ignore[arg-type]  # wrong on purpose


async def test_a_test_that_hangs_costs_only_itself() -> None:
    text = "def sort_numbers(n):\n  while len(n) == 1: pass\n  return sorted(n)"
    params = {"test_timeout": 1.0}
    async with serve(CodingEnvironment, params=params) as url, CodingEnv(url) as env:
        await env.reset(seed=5, task="sort-numbers")
        result = await env.step(code(text, submit=True))
        assert result.observation.tests_passed == 11
        await env.reset(seed=5, task="sort-numbers")
        result = await env.step(
            code("def sort_numbers(n):\n  while 1: pass", submit=True, timeout=1.0)
        )
        assert (result.reward, result.observation.error_type) == (0.0, "Timeout")


THIEF = """
import gc, sys, os, builtins, json

def look():
    found = []
    for o in gc.get_objects():
        if type(o) is dict and ("expected" in o or "cases" in o): found.append(o)
    for frame in sys._current_frames().values():
        while frame:
            found += [v for k, v in frame.f_locals.items() if "expect" in k or "case" in k]
            frame = frame.f_back
    return found

def sort_numbers(n):
    seen = look()
    for m in list(sys.modules.values()):
        for k in list(getattr(m, "__dict__", {})):
            if k in ("canonical", "_text"):
                setattr(m, k, lambda *a: "[]")      # every answer is the empty list
            if k in ("BUNDLED", "TASKS"):
                seen.append(k)
    if seen: return "stolen"
    class Equal(list):
        def __eq__(self, other): return True
        def __repr__(self): return "[]"
    return Equal([float("nan")])
"""


async def test_hidden_tests_can_neither_be_read_nor_patched_away() -> None:
    """The harness says what it is told to; that is right for the one empty list at most."""
    async with connect(CodingEnvironment, client=CodingEnv) as env:
        await env.reset(seed=5, task="sort-numbers")
        result = await env.step(code(THIEF, submit=True))
        assert result.observation.tests_passed is not None
        assert result.observation.tests_passed <= 1


ONE_OF_EACH = [t for t in BUNDLED if t not in GENERATED or t.name.endswith("-1")]


@pytest.mark.parametrize(
    "tasks", [ONE_OF_EACH, pytest.param(BUNDLED, marks=pytest.mark.heavy)], ids=["some", "all"]
)
async def test_every_reference_passes_when_it_is_submitted(tasks: list[Task]) -> None:
    async with connect(CodingEnvironment, client=CodingEnv) as env:
        for task in tasks:
            await env.reset(seed=11, task=task.name)
            result = await env.step(code(task.solution(), submit=True))
            assert result.reward == 1.0, (task.name, result)
            assert set(result.observation.results) == {"passed"}


async def test_costs_and_the_step_limit() -> None:
    options = {"mode": "tasks", "max_steps": 2, "step_cost": 0.25, "error_cost": 0.5}
    async with serve(CodingEnvironment) as url, CodingEnv(url, options=options) as env:
        await env.reset(seed=1)
        assert (await env.step(code("1"))).reward == -0.25
        result = await env.step(code("1/0"))
        assert (result.reward, result.terminated, result.truncated) == (-0.75, False, True)
        await env.reset(task="sort-numbers")
        assert (await env.step(code(SORT, submit=True))).reward == 0.75


async def test_a_seed_is_an_episode() -> None:
    """Sixteen sessions, interleaved: same seed, same everything."""
    actions = [
        code("import random; print(random.random(), {'b', 'a', 'c'}, hash('x'))"),
        code("def sort_numbers(n): return n", submit=False),
        code("def first_repeat(n): return n[0] if n else None", submit=True),
    ]

    async def play(seed: int) -> list[Any]:
        async with CodingEnv(url) as env:
            trace: list[Any] = [await env.reset(seed=seed, mode="tasks", split="test")]
            for action in actions:
                trace.append(await env.step(action))
                await asyncio.sleep(0)
            return trace

    async with serve(CodingEnvironment) as url:
        same = await asyncio.gather(*(play(7) for _ in range(16)), play(8))
    assert all(trace == same[0] for trace in same[:16])
    assert same[16] != same[0]


async def test_splits_and_options() -> None:
    async with connect(CodingEnvironment, client=CodingEnv) as env:
        for seed in range(6):
            await env.reset(seed=seed, mode="tasks", split="test", difficulty="hard")
            state = await env.state()
            assert (state.split, state.difficulty, state.seed) == ("test", "hard", seed)
        with pytest.raises(InvalidOption, match="there is no task"):
            await env.reset(task="none")
    for params in ({"mode": "x"}, {"interpreter": "x"}, {"tasks_path": "/none"}):
        with pytest.raises(InvalidOption):
            CodingEnvironment(**params)  # type: ignore[arg-type]  # wrong on purpose


# -- packages -----------------------------------------------------------------------------


async def test_packages_that_are_named_can_be_imported() -> None:
    params = {"packages": ["numpy"], "memory_mib": 512}
    async with serve(CodingEnvironment, params=params) as url, CodingEnv(url) as env:
        await env.reset()
        seen = await env.step(code("import numpy as np; print(np.arange(4) @ np.ones(4))"))
        assert seen.observation.stdout == "6.0\n", seen.observation.stderr
        seen = await env.step(code("import numpy.linalg as l; print(l.inv(np.eye(2))[1, 1])"))
        assert seen.observation.stdout == "1.0\n", seen.observation.stderr
        seen = await env.step(
            code("import os; os.listdir(os.path.dirname(np.__path__[0]) + '/..')")
        )
        assert seen.observation.error_type == "PermissionError"
        for hidden in ("msgspec", "coding_env"):
            assert (await env.step(code(f"import {hidden}"))).observation.exit_code == 1
    for refused, interpreter in (
        ("no_such_package", "cpython"),
        ("os.path", "cpython"),
        ("coding_env", "cpython"),
        ("numpy", "monty"),
    ):
        with pytest.raises(InvalidOption, match="packages"):
            CodingEnvironment(packages=[refused], interpreter=interpreter)


# -- many sessions ------------------------------------------------------------------------


async def test_sixty_four_sessions_at_once() -> None:
    async with serve(CodingEnvironment) as url, contextlib.AsyncExitStack() as stack:
        envs = [await stack.enter_async_context(CodingEnv(url)) for _ in range(64)]
        await asyncio.gather(*(env.reset(seed=i) for i, env in enumerate(envs)))
        await asyncio.gather(*(env.step(code(f"x = {i}")) for i, env in enumerate(envs)))
        results = await asyncio.gather(*(env.step(code("print(x)")) for env in envs))
    assert [r.observation.stdout for r in results] == [f"{i}\n" for i in range(64)]


async def test_random_play_fits_the_schema_and_the_example_beats_it() -> None:
    params = {"mode": "tasks", "split": None}
    async with serve(CodingEnvironment, params=params) as url:
        random_policy = RandomPolicy((await fetch_schema(url))["action"], 0)

        def client() -> CodingEnv:
            return CodingEnv(url)

        outcomes = {
            policy: await collect_all(client, play, episodes=12, concurrency=4, seeds=0)
            for policy, play in (("random", random_policy), ("example", SnippetPolicy()))
        }
    means = {}
    for policy, found in outcomes.items():
        assert all(outcome.status.usable for outcome in found), found
        means[policy] = sum(outcome.episode_return or 0.0 for outcome in found) / len(found)
    assert means["random"] == 0.0
    assert means["example"] > 0.05


async def test_the_application_serves_and_it_is_found_by_name() -> None:
    async with serve(app) as url, EnvClient[Any, Any, Any](url) as env:
        await env.reset()
        assert (await env.step({"code": "print(1)"})).observation["stdout"] == "1\n"
    assert find_target("coding").cls is CodingEnvironment
    assert ENVIRONMENT.client_class() is CodingEnv
    assert ENVIRONMENT.action_class() is CodeAction


async def test_the_examples_of_the_readme_run() -> None:
    async with serve(CodingEnvironment) as url:
        await assert_examples_run(Path(__file__).parents[1] / "README.md", url)


async def test_the_generic_checks_find_nothing() -> None:
    results = await check_environment(CodingEnvironment, actions=[{"code": "print(1)"}])
    assert [result for result in results if result.status == "failed"] == []


async def test_it_runs_in_worker_processes() -> None:
    seen = await step_in_workers(CodingEnvironment, CodingEnv, CodeAction("print(1)"))
    assert [observation.stdout for observation in seen] == ["1\n"] * 4


@pytest.mark.parametrize("interpreter", ["cpython", "monty"])
async def test_a_submission_is_compared_as_python_compares(
    interpreter: str, tmp_path: Path
) -> None:
    """Each result equals what is expected without being written alike; then each one does not."""
    tests = [
        {"args": "2", "result": "2"},
        {"args": "{1: 'a'}", "result": "{1: 'a'}"},
        {"args": "{3, 4}", "result": "{3, 4}"},
        {"args": "(1, [2])", "result": "(1, [2])"},
        {"args": "None", "result": "None"},
        {"args": "True", "result": "True"},
    ]
    row = {"name": "same", "entry_point": "same", "text": "Return it.", "tests": tests}
    (tmp_path / "tasks.jsonl").write_text(json.dumps(row))
    params = {"tasks_path": str(tmp_path / "tasks.jsonl"), "interpreter": interpreter}
    alike = """
def same(a):
    if isinstance(a, bool) or isinstance(a, int): return a * 1.0
    if isinstance(a, set): return frozenset(a)
    if isinstance(a, dict): return {float(key): value for key, value in a.items()}
    return a
"""
    unlike = """
def same(a):
    if isinstance(a, bool): return str(a)
    if isinstance(a, int): return a + 0.1
    if isinstance(a, set): return list(a)
    if isinstance(a, dict): return {str(key): value for key, value in a.items()}
    if isinstance(a, tuple): return list(a)
    return False
"""
    async with serve(CodingEnvironment, params=params) as url, CodingEnv(url) as env:
        for code, reward in ((alike, 1.0), (unlike, 0.0)):
            await env.reset(seed=0, task="same")
            result = await env.step(CodeAction(code, submit=True))
            assert (result.reward, result.observation.tests_passed) == (reward, 6 * reward)


async def test_random_numbers_of_packages_begin_at_the_seed_too() -> None:
    """Every worker is forked from one process that has imported numpy: its state is not theirs."""
    params = {"packages": ["numpy"], "memory_mib": 512}
    draw = CodeAction("import numpy as np, random; print(np.random.rand(2), random.random())")
    async with serve(CodingEnvironment, params=params) as url:

        async def drawn(seed: int) -> str:
            async with CodingEnv(url) as env:
                await env.reset(seed=seed)
                return (await env.step(draw)).observation.stdout

        first, second, other = await asyncio.gather(*map(drawn, (3, 3, 2**40)))
    assert first == second != other
    assert first.splitlines()[0].split("]")[0] != other.splitlines()[0].split("]")[0]


# -- values, files, input -----------------------------------------------------------------


async def test_the_last_expression_and_await_at_the_top() -> None:
    async with connect(CodingEnvironment, client=CodingEnv) as env:
        await env.reset()

        async def value(text: str) -> str:
            seen = (await env.step(code(text))).observation
            assert (seen.exit_code, seen.stderr) == (0, ""), seen
            return seen.value

        assert await value("x = [1]\nx + [2]") == "[1, 2]"
        assert await value("x") == "[1]"
        assert await value("x = 2") == await value("None") == await value("print(1)") == ""
        assert await value("'text only'") == "'text only'"
        assert await value("'y' * 20_000") == f"'{'y' * 9_999}…"
        assert await value("import asyncio\nawait asyncio.sleep(0, 'slept')") == "'slept'"
        text = (
            "async def add(n):\n  found.append(n)\nfound = []\nlater = asyncio.create_task(add(3))"
        )
        assert (await env.step(code(text))).observation.error_type == "RuntimeError"
        waiting = "async def wait(): return asyncio.create_task(add(4))\ntask = await wait()"
        assert await value(waiting) == ""
        assert await value("await task\nfound") == "[4]"
        assert await value("asyncio.run(asyncio.sleep(0, 'its own loop'))") == "'its own loop'"
        seen = (await env.step(code("async def f(): 1/0\nawait f()"))).observation
        assert seen.error_type == "ZeroDivisionError"
        assert "asyncio" not in seen.stderr
        seen = (await env.step(code("await asyncio.sleep(100)", timeout=0.3))).observation
        assert (seen.error_type, seen.restarted) == ("Timeout", False)
        assert await value("await asyncio.sleep(0, x)") == "2"
        seen = (await env.step(code("class R:\n  def __repr__(self): 1/0\nR()"))).observation
        assert (seen.error_type, seen.value) == ("ZeroDivisionError", "")
        assert (
            await value(
                "from dataclasses import dataclass\n@dataclass\nclass D: a: int\n"
                "D.__annotations__['a']"
            )
            == "<class 'int'>"
        )


async def test_files_go_in_and_come_out() -> None:
    async with connect(CodingEnvironment, client=CodingEnv) as env:
        await env.reset()
        files = {"data/in.txt": "é", "raw.bin": "data:;base64,/wA=", "lib.py": "def f(): return 1"}
        text = "from lib import f\nopen('out.txt', 'w').write(open('data/in.txt').read() * 2)\n"
        text += "open('raw2', 'wb').write(open('raw.bin', 'rb').read() * 2)\nf()"
        read = ["out.txt", "raw2", "data/none"]
        seen = (await env.step(code(text, files=files, read=read))).observation
        assert seen.value == "1"
        assert seen.files == {"out.txt": "éé", "raw2": "data:;base64,/wD/AA=="}
        assert "data/none: No such file" in seen.stderr
        seen = (await env.step(code("import lib\nlib.f()"))).observation
        assert seen.value == "1"
        await env.step(code("open('big', 'w').write('x' * (1 << 20))"))
        seen = (await env.step(code("", read=["big", "out.txt"]))).observation
        assert seen.files == {}
        assert "big is left out" in seen.stderr
        await env.step(code("import os; os.symlink('/etc', 'etc')"))
        seen = (await env.step(code("", read=["etc/passwd"]))).observation
        assert seen.files == {}
        seen = (await env.step(code("", files={"etc/x": "y"}))).observation
        assert seen.error_type == "PermissionError"
        for path in ("/etc/passwd", "../x", "a/../../x", "", "a//b", "a\0b", "./a"):
            for action in (code("1", files={path: ""}), code("1", read=[path])):
                with pytest.raises(InvalidAction):
                    await env.step(action)
        with pytest.raises(InvalidAction, match="more than 100 files"):
            await env.step(code("1", read=["x"] * 101))


async def test_standard_input() -> None:
    async with connect(CodingEnvironment, client=CodingEnv) as env:
        await env.reset()
        for text in (
            "import sys\nsys.stdin.read()",
            "open(0, closefd=False).read()",
            "import os\nos.read(0, 99).decode()",
            "[*sys.stdin].pop(0)",
            "input()",
        ):
            seen = (await env.step(code(text, stdin="héllo"))).observation
            assert seen.value == "'héllo'", (text, seen)
        assert (await env.step(code("input()"))).observation.error_type == "EOFError"
        seen = (await env.step(code("import os\nos.listdir()"))).observation
        assert seen.value == "[]"
