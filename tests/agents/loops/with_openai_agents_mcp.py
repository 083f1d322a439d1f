"""An agent of ``openai-agents`` with an MCP server's tools: ``with_openai_agents_mcp.py TASK``.

It runs in its peer.
"""

from __future__ import annotations

import asyncio
import os
import sys

from agents import Agent, Runner, set_default_openai_api, set_tracing_disabled
from agents.mcp import MCPServerStreamableHttp


async def play(task: str) -> str:
    token = os.environ["OPENENV_MCP_TOKEN"]
    params = {
        "url": os.environ["OPENENV_MCP_URL"],
        "headers": {"Authorization": f"Bearer {token}"},
    }
    async with MCPServerStreamableHttp(params=params, client_session_timeout_seconds=60) as tools:
        agent = Agent(name="player", instructions="Act.", model="gpt", mcp_servers=[tools])
        return str((await Runner.run(agent, task)).final_output)


if __name__ == "__main__":
    set_tracing_disabled(True)  # or it is sent to the vendor
    set_default_openai_api("responses")
    print(asyncio.run(play(sys.argv[1])))  # noqa: T201
