"""Upstream's client of tools: a call is a step, awaited or not."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar
from unittest.mock import patch

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


class Counting(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Have one tool, ``count``, which adds to what the episode has counted."""

    tools: ClassVar[list[Tool]] = [
        Tool("count", "Count", {"type": "object"}, arguments_in="arguments", result_field="counted")
    ]
    closed: ClassVar[list[int]] = []
    counted = 0

    async def reset(self) -> dict[str, Any]:
        self.counted = 10
        return {"counted": self.counted}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self.counted += action["arguments"].get("by", 1)
        if self.counted < 0:
            raise ValueError("it counts up")
        return {"counted": self.counted, "reward": 1.0}

    async def close(self) -> None:
        self.closed.append(self.counted)


async def test_json_rpc_in_the_session_of_the_socket() -> None:
    Counting.closed.clear()
    async with serve(Counting) as url:
        env = MCPToolClient(url)
        env.use_production_mode = True
        with patch.object(env, "step", side_effect=AssertionError("no step")):
            assert [tool.name for tool in await env.list_tools()] == ["count"]
            assert await env.call_tool("count") == 1
            await env.reset()
            assert await env.call_tool("count", by=5) == 15
            with pytest.raises(RuntimeError, match=r"^Tool 'no' failed: Unknown tool"):
                await env.call_tool("no")
        step = await env.step(CallToolAction(tool_name="count", arguments={}))
        assert (step.observation.result["data"], step.reward) == (16, 1.0)
        assert env.last_result is None
        await env.close()
        assert Counting.closed == [16]
        again = await env.call_tool("count")
        assert again == 1  # in a new session
        await env.close()
        assert Counting.closed == [16, 1]


async def test_json_rpc_with_blocking_calls() -> None:
    def play(url: str) -> Any:
        env = MCPToolClient(url)
        env.use_production_mode = True
        with env:
            env.reset()
            return env.call_tool("count", by=2), env.has_tool("count")

    async with serve(Counting) as url:
        assert await asyncio.to_thread(play, url) == (12, True)


async def test_json_rpc_where_nothing_speaks_it(caplog: pytest.LogCaptureFixture) -> None:
    env = MCPToolClient("http://127.0.0.1:1")
    env.use_production_mode = True
    assert await env.list_tools() == []
    assert "no tools of http://127.0.0.1:1: cannot connect" in caplog.text
    with pytest.raises(ConnectionError, match="cannot connect"):
        await env.call_tool("count")
    await env.close()


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
