"""The faster interpreter, which is an extra."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from coding_env import CodeAction, CodingEnv
from coding_env.environment import CodingEnvironment

from openenv_async import serve

if not os.environ.get("CI"):  # there it must be installed
    pytest.importorskip("pydantic_monty")
import pydantic_monty

PARAMS = {"interpreter": "monty", "memory_mib": 64, "max_output_size": 1000}


async def test_it_runs_code_and_keeps_state() -> None:
    async with serve(CodingEnvironment, params=PARAMS) as url, CodingEnv(url) as env:
        await env.reset()
        await env.step(CodeAction("x = 20\ndef f(a): return a + x"))
        assert (await env.step(CodeAction("print(f(1))"))).observation.stdout == "21\n"
        seen = (await env.step(CodeAction("print('before')\n1/0"))).observation
        assert (seen.stdout, seen.exit_code, seen.error_type) == (
            "before\n",
            1,
            "ZeroDivisionError",
        )
        seen = (await env.step(CodeAction("x = ("))).observation
        assert seen.error_type == "SyntaxError"
        seen = (await env.step(CodeAction("print('y' * 5000)"))).observation
        assert seen.stdout.endswith("[truncated: 4001 more bytes]\n")
        await env.reset()
        assert (await env.step(CodeAction("x"))).observation.error_type == "NameError"


@pytest.mark.parametrize(
    ("code", "errors"),
    [
        ("while True: pass", ("Timeout",)),
        ("x = []\nwhile True: x.append('a' * 1000)", ("MemoryError",)),
        ("open('/etc/passwd').read()", ("PermissionError", "NotImplementedError", "RuntimeError")),
        ("import socket", ("ModuleNotFoundError", "ImportError")),
        ("import os\nos.system('true')", ("AttributeError", "PermissionError")),
    ],
)
async def test_it_is_limited(code: str, errors: tuple[str, ...]) -> None:
    async with serve(CodingEnvironment, params=PARAMS) as url, CodingEnv(url) as env:
        await env.reset()
        seen = (await env.step(CodeAction(code, timeout=1.0))).observation
        assert seen.error_type in errors, seen
        await env.reset()
        assert (await env.step(CodeAction("print(1)"))).observation.stdout == "1\n"


async def test_submissions_are_scored() -> None:
    code = "def sort_numbers(n):\n    return sorted(n)\n"
    async with serve(CodingEnvironment, params=PARAMS) as url, CodingEnv(url) as env:
        await env.reset(seed=5, task="sort-numbers")
        result = await env.step(CodeAction(code, submit=True))
        assert (result.reward, result.terminated) == (1.0, True)
        await env.reset(seed=5, task="sort-numbers")
        wrong = "def sort_numbers(n):\n    return n\n"
        result = await env.step(CodeAction(wrong, submit=True))
        assert result.reward is not None
        assert 0.0 < result.reward < 1.0


RANDOM = "import random as r\nprint(r.random(), r.Random().random(), r.sample(range(99), 3))"


async def test_equal_seeds_draw_equal_numbers_and_others_do_not() -> None:
    async def draw(seed: int | None) -> str:
        async with CodingEnv(url) as env:
            await env.reset(seed=seed)
            return (await env.step(CodeAction(RANDOM))).observation.stdout

    async with serve(CodingEnvironment, params=PARAMS) as url:
        seeds = [0, 1, 7, 7, 0, 2**53, 2**53]
        drawn = await asyncio.gather(*map(draw, seeds))
        assert len({*drawn}) == len({*seeds})
        assert all(drawn[seeds.index(s)] == d for s, d in zip(seeds, drawn, strict=True))
        assert await draw(None) not in drawn


async def test_a_seed_draws_what_cpython_draws() -> None:
    code = "import random\nprint([random.randrange(10**6) for _ in range(5)])"
    drawn = []
    for interpreter in ("monty", "cpython"):
        params = PARAMS | {"interpreter": interpreter}
        async with serve(CodingEnvironment, params=params) as url, CodingEnv(url) as env:
            await env.reset(seed=11)
            drawn.append((await env.step(CodeAction(code))).observation.stdout)
    assert drawn[0] == drawn[1] != ""


async def test_the_interpreter_after_one_that_ran_out_of_time_has_the_seed_too() -> None:
    async with serve(CodingEnvironment, params=PARAMS) as url, CodingEnv(url) as env:
        await env.reset(seed=5)
        first = (await env.step(CodeAction(RANDOM))).observation.stdout
        lost = (await env.step(CodeAction("while True: pass", timeout=0.3))).observation
        assert (lost.error_type, lost.restarted) == ("Timeout", True)
        assert (await env.step(CodeAction(RANDOM))).observation.stdout == first


async def test_a_sleep_longer_than_the_timeout_is_cut_off() -> None:
    async with serve(CodingEnvironment, params=PARAMS) as url, CodingEnv(url) as env:
        await env.reset()
        code = "import time\ntime.sleep(60)\nprint('woke')"
        seen = (await env.step(CodeAction(code, timeout=0.3))).observation
        assert (seen.error_type, seen.stdout) == ("Timeout", "")


def test_the_readme_lists_the_modules_that_there_are() -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    listed = re.search(r"of the standard library (.*?) \(Monty ([\d.]+)\)", readme)
    assert listed is not None
    assert listed[2] == importlib.metadata.version("pydantic-monty")
    importable = set()
    with pydantic_monty.Monty() as pool:
        for name in sys.stdlib_module_names:
            with pool.checkout() as session, contextlib.suppress(pydantic_monty.MontyError):
                session.feed_run(f"import {name}")
                importable.add(name)
    assert set(re.findall(r"`(\w+)`", listed[1])) == {n for n in importable if n[0] != "_"}


async def test_sessions_share_nothing() -> None:
    async def play(number: int) -> str:
        async with CodingEnv(url) as env:
            await env.reset()
            await env.step(CodeAction(f"x = {number}"))
            return (await env.step(CodeAction("print(x)"))).observation.stdout

    async with serve(CodingEnvironment, params=PARAMS) as url:
        assert await asyncio.gather(*map(play, range(8))) == [f"{i}\n" for i in range(8)]


def test_without_the_extra_it_is_asked_for() -> None:
    code = (
        "import sys; sys.modules['pydantic_monty'] = None\n"
        "from coding_env.environment import CodingEnvironment\n"
        "try:\n    CodingEnvironment(interpreter='monty')\n"
        "except Exception as exc:\n    print(type(exc).__name__, exc)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "InvalidOption" in done.stdout
    assert "openenv-async-coding[monty]" in done.stdout
