"""Clients of others play: the MCP SDK's and FastMCP's, in both generations."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from openenv_async import EngineOptions, Timeouts, create_app, serve
from openenv_async.targets.discovery import find_target
from tests.helpers import until
from tests.peers import MCP_CLIENTS, ensure_peer
from tests.server.mcp.agent import Maze

PLAYER: Final = Path(__file__).with_name("player.py")
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


QUICK: Final = ("echo", "repl", "sqlite_questions")
OTHERS: Final = ("atari", "browsergym", "chat", "coding", "finrl", "gymnasium", "openspiel")


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.heavy) for name in OTHERS)]
)
async def test_each_environment_is_played(client_python: str, name: str) -> None:
    async with serve(find_target(name)) as url:
        plays = [
            played(client_python, url, "--client", client, "--mode", mode)
            for client, mode in (("mcp", "auto"), ("fastmcp", "legacy"))
        ]
        for told in await asyncio.gather(*plays):
            assert told["episodes"] == 1
            assert told["steps"] > 0
            assert told["steps"] > told["mistakes"]


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


@pytest.mark.heavy
async def test_an_agent_loop_plays() -> None:
    """The loop of pydantic-ai; its model is scripted, and told of the tools by the server alone."""
    python = ensure_peer("pydantic-ai", ("pydantic-ai-slim[mcp]==2.68.0", "mcp==2.3.0"))
    loop = str(PLAYER.with_name("agent_loop.py"))
    async with serve(find_target("repl")) as url, asyncio.timeout(WAITING):
        process = await asyncio.create_subprocess_exec(
            python, loop, f"{url}/mcp", stdout=asyncio.subprocess.PIPE
        )
        told, _ = await process.communicate()
    assert process.returncode == 0
    assert json.loads(told)["result"]["stdout"] == "42\n"
