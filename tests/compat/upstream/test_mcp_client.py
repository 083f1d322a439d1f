"""Upstream's client of tools: a call is a step, awaited or not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from openenv_async import Environment, serve
from openenv_async.compat.upstream.mcp_client import GenericMCPObservation, MCPToolClient
from openenv_async.compat.upstream.mcp_types import CallToolAction, ListToolsAction
from openenv_async.compat.upstream.types import State

TOOL = {"name": "add", "description": None, "inputSchema": {"type": "object"}}


class Tools(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Answer as environments of tools do; ``add`` is the only one."""

    steps = 0

    async def reset(self) -> dict[str, Any]:
        return {"text": "ready", "metadata": {"level": 1}}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self.steps += 1
        if action["type"] == "list_tools":
            return {"tools": [{**TOOL, "description": f"Asked for {self.steps} times"}]}
        name, arguments = action["tool_name"], action["arguments"]
        if name == "wrapped":
            return {"tool_name": name, "result": {"data": 5, "content": []}}
        if name == "plain":
            return {"text": "no observation of tools"}
        if name != "add":
            error = {"error_type": "tool_not_found", "message": f"Unknown tool: {name}"}
            return {"tool_name": name, "result": None, "error": error}
        return {"tool_name": name, "result": sum(arguments.values()), "reward": 0.5}


async def test_awaited() -> None:
    async with serve(Tools) as url, MCPToolClient(url) as env:
        first = await env.reset()
        assert isinstance(first.observation, GenericMCPObservation)
        assert first.observation.model_extra == {"text": "ready"}
        assert first.observation.metadata == {"level": 1}
        [tool] = await env.list_tools()
        assert (tool.name, tool.description) == ("add", "Asked for 1 times")
        assert await env.list_tools() == [tool]
        [asked_anew] = await env.list_tools(use_cache=False)
        assert asked_anew.description == "Asked for 2 times"
        assert await env.has_tool("add")
        assert not await env.has_tool("subtract")
        assert await env.get_tool("subtract") is None
        assert await env.call_tool("add", a=2, b=3) == 5
        assert env.last_result is not None
        assert env.last_result.reward == 0.5
        assert await env.call_tool("wrapped") == 5
        assert (await env.call_tool("plain")).text == "no observation of tools"
        with pytest.raises(RuntimeError, match=r"'no' failed: Unknown tool: no \(type: tool_not"):
            await env.call_tool("no")
        step = await env.step(CallToolAction(tool_name="add", arguments={"a": 1}))
        assert step.observation.result == 1
        assert isinstance(await env.state(), State)


async def test_blocking() -> None:
    def play(url: str) -> Any:
        with MCPToolClient(url) as env:
            env.reset()
            return [t.name for t in env.list_tools()], env.call_tool("add", a=1), env.has_tool("x")

    def play_view(url: str) -> Any:
        with MCPToolClient(url).sync() as env:
            env.reset()
            return env.call_tool("add", a=1), env.get_tool("add").name

    async with serve(Tools) as url:
        assert await asyncio.to_thread(play, url) == (["add"], 1, False)
        assert await asyncio.to_thread(play_view, url) == (1, "add")


def test_the_mode_is_production() -> None:
    assert MCPToolClient("http://127.0.0.1:1", mode="Production")._mode == "production"
    with pytest.raises(ValueError, match="only supports 'production' mode, got 'simulation'"):
        MCPToolClient("http://127.0.0.1:1", mode="simulation")


def test_actions_of_other_kinds() -> None:
    env = MCPToolClient("http://127.0.0.1:1")
    assert env._step_payload(ListToolsAction()) == {"type": "list_tools"}
    assert env._step_payload({"a": 1}) == {"a": 1}
    assert env._step_payload(State(step_count=1))["step_count"] == 1
    with pytest.raises(NotImplementedError, match="int is not an action of tools"):
        env._step_payload(3)
