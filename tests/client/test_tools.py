"""Tools on clients: listed by the server, called as steps."""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from openenv_async import Environment, GenericEnvClient, SyncEnvClient, Tool, connect, serve
from openenv_async.client.connection import ClientConnection
from openenv_async.client.tools import given_by_upstream, listed_tools
from openenv_async.errors import InvalidOption, OperationUnsupported, ProtocolError, UnreadableReply
from openenv_async.types import StepResult


@dataclass
class Move:
    """Move by some steps."""

    by: int


@dataclass
class Place:
    at: int
    reward: float = 0.0
    done: bool = False


class Walk(Environment[Move, Place, dict[str, Any]]):
    """Walk until 3."""

    at = 0

    async def reset(self) -> Place:
        self.at = 0
        return Place(0)

    async def step(self, action: Move) -> Place:
        self.at += action.by
        return Place(self.at, float(action.by), self.at >= 3)


class Desk(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Answers calls by name; one argument has the name of an argument of the client's."""

    tools: ClassVar[list[Tool]] = [
        Tool("wait", "Wait", {"type": "object", "properties": {"timeout": {"type": "number"}}}),
        Tool("count", "Count", result_field="value"),
    ]

    async def reset(self) -> dict[str, Any]:
        return {}

    async def step(self, action: dict[str, Any]) -> StepResult[dict[str, Any]]:
        return StepResult({"value": action}, 0.5, info={"seen": True})


async def test_the_tools_that_an_action_makes_are_called_as_steps() -> None:
    async with serve(Walk) as url, GenericEnvClient(url) as env:
        [tool] = await env.list_tools()
        assert (tool.name, tool.description) == ("act", "Move by some steps.")
        assert tool.parameters["required"] == ["by"]
        await env.reset()
        first = await env.call_tool("act", by=2)
        assert (first.observation["at"], first.reward, first.done) == (2, 2.0, False)
        assert (await env.call_tool("act", {"by": 1})).terminated
        assert env.episode is not None
        assert env.episode.step_count == 2


async def test_declared_tools_are_called_by_name() -> None:
    async with connect(Desk) as env:
        assert [tool.name for tool in await env.list_tools()] == ["wait", "count"]
        await env.reset()
        result = await env.call_tool("wait", {"timeout": 3}, timeout=5.0)
        assert result.observation == {"value": {"name": "wait", "arguments": {"timeout": 3}}}
        assert (result.reward, result.info) == (0.5, {"seen": True})
        counted = await env.call_tool("count")
        assert counted.observation == {"name": "count", "arguments": {}}
        with pytest.raises(InvalidOption, match="no tool 'jump': there are wait, count"):
            await env.call_tool("jump")


async def test_a_call_lists_the_tools_first() -> None:
    async with serve(Walk) as url, GenericEnvClient(url) as env:
        await env.reset()
        assert (await env.call_tool("act", by=1)).observation["at"] == 1
        assert pickle.loads(pickle.dumps(env))._tools is None


async def test_blocking_calls() -> None:
    def play(url: str) -> Any:
        with SyncEnvClient(url) as env:
            env.reset()
            return [tool.name for tool in env.list_tools()], env.call_tool("act", by=1).reward

    async with serve(Walk) as url:
        assert await asyncio.to_thread(play, url) == (["act"], 1.0)


async def test_tools_of_upstreams_dialect_are_asked_for_by_a_step() -> None:
    async with serve(Desk) as url, GenericEnvClient(url, subprotocol="upstream") as env:
        await env.reset()
        assert [tool.name for tool in await env.list_tools()] == ["wait", "count"]
        result = await env.call_tool("count")
        assert result.observation == {"name": "count", "arguments": {}}
        assert result.reward == 0.5


def test_what_an_upstream_server_makes_of_a_call() -> None:
    failed = {"tool_name": "sum", "result": None, "error": {"error_type": "timeout"}}
    assert given_by_upstream(failed) == failed
    assert given_by_upstream({"tool_name": "sum", "result": {"data": 3}}) == 3
    assert given_by_upstream({"tool_name": "sum", "result": "three"}) == "three"
    assert given_by_upstream({"text": "hi"}) == {"text": "hi"}
    [tool] = listed_tools({"tools": [{"name": "sum", "inputSchema": {"type": "object"}}]}, "a")
    assert tool.action({"a": 1}) == {
        "type": "call_tool",
        "tool_name": "sum",
        "arguments": {"a": 1},
    }


async def test_a_server_that_lists_none_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve(Walk) as url, GenericEnvClient(url) as env:
        await env.open()
        connection = env.connection
        assert isinstance(connection, ClientConnection)
        connection.server["capabilities"] = ["cancel"]
        with pytest.raises(OperationUnsupported, match="lists no tools: update it"):
            await env.list_tools()


def test_what_is_no_listing_is_refused() -> None:
    with pytest.raises(ProtocolError, match="http://a listed no tools"):
        listed_tools([], "http://a")
    with pytest.raises(ProtocolError, match="a tool that cannot be read"):
        listed_tools({"tools": [{"parameters": {}}]}, "http://a")
    with pytest.raises(ProtocolError, match="a tool that cannot be read"):
        listed_tools({"tools": [3]}, "http://a")


def test_arguments_of_one_value() -> None:
    tool = Tool("act", argument="action")
    with pytest.raises(UnreadableReply, match="takes one argument"):
        tool.action({"by": 1})
