"""Upstream's client of tools: a call is a step, awaited or not."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from openenv_async import Environment, Tool, serve
from openenv_async.compat.upstream.mcp_client import GenericMCPObservation, MCPToolClient
from openenv_async.compat.upstream.mcp_types import CallToolAction, ListToolsAction
from openenv_async.compat.upstream.types import State


class Tools(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Have one tool, ``add``, whose calls are worth half a point."""

    tools: ClassVar[list[Tool]] = [Tool("add", "Add up", result_field="value")]

    async def reset(self) -> dict[str, Any]:
        return {"text": "ready", "metadata": {"level": 1}}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        return {"value": sum(action["arguments"].values()), "reward": 0.5}


async def test_awaited() -> None:
    async with serve(Tools) as url, MCPToolClient(url) as env:
        first = await env.reset()
        assert isinstance(first.observation, GenericMCPObservation)
        assert first.observation.model_extra == {"text": "ready"}
        assert first.observation.metadata == {"level": 1}
        [tool] = await env.list_tools()
        assert (tool.name, tool.description) == ("add", "Add up")
        assert await env.list_tools() == [tool]
        assert await env.list_tools(use_cache=False) == [tool]
        assert await env.has_tool("add")
        assert not await env.has_tool("subtract")
        assert await env.get_tool("subtract") is None
        assert await env.call_tool("add", a=2, b=3) == 5
        assert env.last_result is not None
        assert env.last_result.reward == 0.5
        with pytest.raises(RuntimeError, match=r"'no' failed: .*no.* \(type: tool_not_found"):
            await env.call_tool("no")
        step = await env.step(CallToolAction(tool_name="add", arguments={"a": 1}))
        assert step.observation.result["data"] == 1
        assert isinstance(await env.state(), State)


@pytest.mark.parametrize(
    ("observation", "given"),
    [
        ({"tool_name": "add", "result": {"data": 5, "content": []}}, 5),
        ({"tool_name": "add", "result": "five"}, "five"),
        ({"text": "of no tool"}, GenericMCPObservation(text="of no tool")),  # type: ignore[call-arg]  # it takes any
    ],
)
async def test_what_servers_make_of_a_call(observation: dict[str, Any], given: Any) -> None:
    class Answering(MCPToolClient):
        async def step(self, action: Any, **kwargs: Any) -> Any:
            return self._parse_result({"observation": observation})

    assert await Answering("http://127.0.0.1:1").call_tool("add") == given


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
