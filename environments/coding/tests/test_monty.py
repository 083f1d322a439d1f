"""The faster interpreter, which is an extra."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest
from coding_env import CodeAction, CodingEnv
from coding_env.environment import CodingEnvironment

from openenv_async import serve

if os.environ.get("CI"):
    import pydantic_monty  # noqa: F401  # there it must be installed
else:
    pytest.importorskip("pydantic_monty")

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
