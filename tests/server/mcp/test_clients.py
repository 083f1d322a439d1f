"""Clients of others play: the MCP SDK's and FastMCP's, in both generations."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from openenv_async import EngineOptions, GenericEnvClient, Timeouts, create_app, serve
from openenv_async.targets.discovery import find_target
from tests.helpers import until
from tests.peers import MCP_CLIENTS, ensure_peer
from tests.server.mcp.agent import Maze

PLAYER: Final = Path(__file__).with_name("player.py")
LOOP: Final = PLAYER.with_name("agent_loop.py")
WAITING: Final = 90.0
GENERATIONS: Final = ("auto", "legacy")


@pytest.fixture(scope="module")
def client_python() -> str:
    return ensure_peer("mcp-clients", MCP_CLIENTS)


@asynccontextmanager
async def player(python: str, url: str, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A client in a process of its own, ended with the block."""
    process = await asyncio.create_subprocess_exec(
        python, str(PLAYER), f"{url}/mcp", *options, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def played(python: str, url: str, *options: str) -> dict[str, Any]:
    """Return the account that a client gives of its episodes."""
    async with player(python, url, *options) as process, asyncio.timeout(WAITING):
        assert process.stdout is not None
        told: dict[str, Any] = json.loads(await process.stdout.readline())
        assert await process.wait() == 0
    return told


@pytest.mark.parametrize("client", ["mcp", "fastmcp"])
@pytest.mark.parametrize("mode", GENERATIONS)
async def test_a_client_plays(client_python: str, client: str, mode: str) -> None:
    app = create_app(Maze)
    async with serve(app) as url:
        options = ("--client", client, "--mode", mode, "--episodes", "2", "--seed", "3")
        told = await played(client_python, url, *options)
        assert told["episodes"] == 2
        assert told["steps"] > told["mistakes"]
        assert told["handles"] == (2 if mode == "auto" else 0)
        engine = app.state.openenv.engine
        await until(lambda: engine.active == 0)
        assert len(app.state.openenv.mcp.sessions) == 0


ALL: Final = (
    *("atari", "browsergym", "chat", "coding", "echo", "finrl", "gymnasium", "openspiel", "repl"),
    "sqlite_questions",
)


@pytest.mark.heavy
@pytest.mark.parametrize("name", ALL)
async def test_each_environment_is_played(client_python: str, name: str) -> None:
    """Play an episode of each with both clients, each in both generations."""
    app = create_app(find_target(name))
    async with serve(app) as url:
        for client in ("mcp", "fastmcp"):
            for mode in GENERATIONS:
                options = ("--client", client, "--mode", mode, "--steps", "200")
                told = await played(client_python, url, *options)
                assert told["episodes"] == 1
                assert told["steps"] > told["mistakes"], told
        await until(lambda: app.state.openenv.engine.active == 0)


@pytest.mark.heavy
@pytest.mark.parametrize("mode", GENERATIONS)
async def test_256_sessions_at_once(client_python: str, mode: str) -> None:
    """Have one client hold 256 sessions, kill it, and have another play as many to their end."""
    options = EngineOptions(timeouts=Timeouts(resume=1.0))
    app = create_app(Maze, options=options, agent_idle_timeout=60.0)
    async with serve(app) as url:
        held = ("--mode", mode, "--sessions", "256", "--steps", "3", "--keep", "--hold", "600")
        async with player(client_python, url, *held) as process, asyncio.timeout(2 * WAITING):
            assert process.stdout is not None
            for _ in range(256):
                assert await process.stdout.readline() == b"holding\n"
            assert app.state.openenv.engine.active == 256
        told = await played(client_python, url, "--mode", mode, "--sessions", "256", "--steps", "3")
        assert (told["episodes"], told["mistakes"]) == (256, 0)
        server = app.state.openenv
        await until(lambda: server.engine.active == 0 and len(server.mcp.sessions) == 0, 120.0)


@pytest.mark.heavy
async def test_the_inspector_lists_and_calls() -> None:
    """The inspector of npm, by ``OPENENV_PEER_INSPECTOR`` (its program ``mcp-inspector``)."""
    program = os.environ.get("OPENENV_PEER_INSPECTOR")
    if program is None:
        pytest.skip(
            "OPENENV_PEER_INSPECTOR names no inspector: npm install @modelcontextprotocol/inspector"
        )

    async def inspected(*options: str) -> dict[str, Any]:
        process = await asyncio.create_subprocess_exec(
            program,
            "--cli",
            f"{url}/mcp",
            "--transport",
            "http",
            *options,
            stdout=asyncio.subprocess.PIPE,
        )
        told, _ = await process.communicate()
        assert process.returncode == 0
        found: dict[str, Any] = json.loads(told)
        return found

    async with serve(find_target("echo")) as url, asyncio.timeout(WAITING):
        listed = await inspected("--method", "tools/list")
        assert {"reset"} < {tool["name"] for tool in listed["tools"]}
        begun = await inspected("--method", "tools/call", "--tool-name", "reset")
        assert begun["structuredContent"]["done"] is False
        assert not begun.get("isError")


@pytest.mark.parametrize("mode", GENERATIONS)
async def test_a_client_that_is_killed_leaves_nothing(client_python: str, mode: str) -> None:
    options = EngineOptions(timeouts=Timeouts(resume=0.1))
    app = create_app(Maze, options=options, agent_idle_timeout=1.0)
    async with serve(app) as url:
        server = app.state.openenv
        held = ("--mode", mode, "--sessions", "4", "--steps", "0", "--keep", "--hold", "60")
        async with player(client_python, url, *held) as process, asyncio.timeout(WAITING):
            assert process.stdout is not None
            for _ in range(4):
                assert await process.stdout.readline() == b"holding\n"
            process.send_signal(signal.SIGKILL)
            await process.wait()
        await until(lambda: server.engine.active == 0 and len(server.mcp.sessions) == 0)


async def test_many_sessions_at_once(client_python: str) -> None:
    app = create_app(Maze)
    async with serve(app) as url:
        told = await asyncio.gather(
            *(
                played(client_python, url, "--mode", mode, "--sessions", "32", "--steps", "2")
                for mode in GENERATIONS
            )
        )
        assert sum(each["episodes"] for each in told) == 64
        await until(lambda: app.state.openenv.engine.active == 0)


@pytest.fixture(scope="module")
def loop_python() -> str:
    return ensure_peer("pydantic-ai", ("pydantic-ai-slim[mcp]==2.68.0", "mcp==2.3.0"))


async def looped(python: str, url: str, *steps: dict[str, Any], token: str = "") -> list[Any]:
    """Return the results that the agent loop of pydantic-ai was given at an MCP address."""
    process = await asyncio.create_subprocess_exec(
        *(python, str(LOOP), url, json.dumps(steps), *([token] if token else [])),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(WAITING):
            told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0
    results: list[Any] = json.loads(told)
    return results


@pytest.mark.heavy
@pytest.mark.parametrize("name", ["repl", "coding"])
async def test_an_agent_loop_plays(loop_python: str, name: str) -> None:
    """The loop of pydantic-ai; its model is scripted, and told of the tools by the server alone."""
    async with serve(find_target(name)) as url:
        told = await looped(loop_python, f"{url}/mcp", {"code": "print(6 * 7)"})
    observed = told[-1]["observation"]
    assert observed.get("result", observed)["stdout"] == "42\n"


SOLUTIONS: Final[dict[str, tuple[str, dict[str, Any], dict[str, Any]]]] = {
    "repl": (
        "count",
        {
            "code": "import re\n"
            "what, where = re.search(r'orders of (\\w+) did (\\w+) place', PROMPT).groups()\n"
            "lines = context.splitlines()\n"
            "found = [e for e in lines if f': {where} ord' in e and e.endswith(f' of {what}')]\n"
            "print(len(found))"
        },
        {"code": "FINAL(len(found))"},
    ),
    "coding": (
        "sort-numbers",
        {"code": "assert 'def sort_numbers(' in PROMPT\nprint(sorted([3, 1, 2]))"},
        {"code": "def sort_numbers(numbers):\n    return sorted(numbers)\n", "submit": True},
    ),
}
"""A task of each, and the steps that solve it."""


@pytest.mark.heavy
@pytest.mark.parametrize("name", [*SOLUTIONS])
async def test_an_agent_loop_earns_a_reward_that_it_is_not_told(
    loop_python: str, name: str
) -> None:
    """The loop of pydantic-ai solves the task of an episode that a trainer began and lent."""
    task, look, answer = SOLUTIONS[name]
    async with (
        serve(find_target(name), token="sesame") as url,
        GenericEnvClient(url, token="sesame") as env,
    ):
        await env.reset(seed=5, task=task)
        async with await env.share() as shared:
            told = await looped(loop_python, shared.url, look, answer, token=shared.token)
            results = await shared.results()
    assert [each["done"] for each in told] == [False, False, True]
    assert not any("reward" in {*each, *each["observation"]} for each in told)
    assert [(each.reward, each.terminated) for each in results] == [(0.0, False), (1.0, True)]
