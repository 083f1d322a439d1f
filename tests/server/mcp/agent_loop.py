"""Plays by MCP with the agent loop of pydantic-ai; its model is scripted.

``agent_loop.py URL STEPS [TOKEN]``: ``STEPS`` is a JSON list of the arguments of each ``step``, in
whose ``code`` ``PROMPT`` stands for the task as the server told it. Prints all results.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

STEPS: list[dict[str, Any]] = json.loads(sys.argv[2])


def told(part: ToolReturnPart) -> dict[str, Any]:
    found: dict[str, Any] = (
        part.content if isinstance(part.content, dict) else json.loads(part.content)
    )
    return found


def model(messages: list[Any], info: AgentInfo) -> ModelResponse:
    """Do what a model would: begin, or see where the episode is; take the steps; tell of them."""
    results = [told(p) for m in messages for p in m.parts if isinstance(p, ToolReturnPart)]
    tools = {tool.name for tool in info.function_tools}
    if not results:
        [begin] = tools & {"reset", "observe"}
        return ModelResponse([ToolCallPart(begin, {})])
    if len(results) > len(STEPS):
        return ModelResponse([TextPart(json.dumps(results))])
    first = results[0]
    task = first["observation"].get("task_prompt") or first["observation"].get("prompt")
    arguments = dict(STEPS[len(results) - 1])
    arguments["code"] = arguments["code"].replace("PROMPT", repr(task))
    if "session" in first:
        arguments["session"] = first["session"]
    return ModelResponse([ToolCallPart("step", arguments)])


async def main() -> None:
    headers = {"Authorization": f"Bearer {sys.argv[3]}"} if len(sys.argv) > 3 else None
    agent = Agent(FunctionModel(model), toolsets=[MCPToolset(sys.argv[1], headers=headers)])
    async with agent:
        result = await agent.run("Solve the task of the server.")
    sys.stdout.write(f"{result.output}\n")


if __name__ == "__main__":
    asyncio.run(main())
