"""MCP servers of others, hosted: isolation of episodes, revisions, and nothing left."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mcp_servers import PLAYS, measure
from openenv_async import connect
from openenv_async.errors import EnvironmentStartFailed
from openenv_async.guard import own_guard
from openenv_async.targets.discovery import find_target
from tests.peers import MCP_CLIENTS, ensure_peer

SQLITE = ("mcp-server-sqlite==2025.4.25", "mcp==1.30.0")
GIT = ("mcp-server-git==2026.10.19",)
# Of the SDK that the tests of our own MCP server use as a client; it speaks both generations.
SERVER = '''
import sys
from mcp.server import MCPServer

server = MCPServer("peer", instructions="Count.")
count = 0


@server.tool()
def add(number: int) -> int:
    """Add a number."""
    global count
    count += number
    return count


server.run(*sys.argv[1:])
'''


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"tool_name": name, "arguments": arguments}


@pytest.mark.parametrize("end", [None, signal.SIGKILL])
async def test_episodes_of_a_database_are_apart_and_nothing_is_left(
    end: signal.Signals | None,
) -> None:
    python = await asyncio.to_thread(ensure_peer, "mcp-server-sqlite", SQLITE)
    path = os.pathsep.join([str(Path(python).parent), os.environ["PATH"]])
    result = await measure(PLAYS["sqlite"], path=path, episodes=3, sessions=2, end=end)
    assert (result.episodes, result.mixed, result.lost) == (3, 0, 0)
    assert (result.processes, result.folders) == (0, 0)


async def test_a_start_that_fails_is_told_in_the_servers_own_words(tmp_path: Path) -> None:
    python = ensure_peer("mcp-server-git", GIT)
    program = Path(python).with_name("mcp-server-git")
    target = f"mcp:{shlex.join([str(program), '--repository', '{folder}'])}"
    with pytest.raises(EnvironmentStartFailed, match="is not a valid Git repository"):
        find_target(target).check()


async def test_the_sdks_own_server_keeps_count_for_one_episode(tmp_path: Path) -> None:
    python = ensure_peer("mcp-clients", MCP_CLIENTS)
    script = tmp_path / "peer.py"
    script.write_text(SERVER)
    spec = find_target(f"mcp:{shlex.join([python, str(script)])}")
    tools = {tool.name: tool for tool in spec.tools("act")}
    assert tools["add"].parameters["required"] == ["number"]
    async with connect(spec) as env:
        for _ in range(2):
            assert (await env.reset()).observation.text == "Count."
            for expected in ("2", "4"):
                assert (await env.step(call("add", number=2))).observation.text == expected
    assert [*own_guard().folder.glob("episode-*")] == []
