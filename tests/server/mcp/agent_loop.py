"""Plays ``repl`` or ``coding`` by MCP with the agent loop of pydantic-ai; its model is scripted."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.messages import ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel


def model(messages: list[Any], info: AgentInfo) -> ModelResponse:
    """Do what a model would: reset, run a line, tell the result."""
    returns = [p for m in messages for p in m.parts if isinstance(p, ToolReturnPart)]
    tools = {tool.name for tool in info.function_tools}
    assert {"reset", "step"} <= tools
    if not returns:
        return ModelResponse([ToolCallPart("reset", {})])
    told = returns[-1].content
    told = told if isinstance(told, dict) else json.loads(told)
    if len(returns) == 1:
        handle = {"session": told["session"]} if "session" in told else {}
        return ModelResponse([ToolCallPart("step", {**handle, "code": "print(6 * 7)"})])
    return ModelResponse([TextPart(json.dumps(told["observation"]))])


async def main() -> None:
    server = MCPToolset(sys.argv[1])
    agent = Agent(FunctionModel(model), toolsets=[server])
    async with agent:
        result = await agent.run("What is six times seven?")
    sys.stdout.write(f"{result.output}\n")


if __name__ == "__main__":
    asyncio.run(main())
