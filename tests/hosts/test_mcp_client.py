"""The protocol, with a server that is a table: handshakes, pages, what replies may not be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from openenv_async.hosts.mcp_client import ChannelClosed, McpCallFailed, McpClient
from openenv_async.hosts.tools import HostedTool

Answer = Mapping[str, Any] | Callable[[dict[str, Any]], Mapping[str, Any]]
REFUSAL = {"error": {"code": -32601, "message": "unknown"}}
HELLO = {"result": {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {}}}
NO_TOOLS: dict[str, Any] = {"result": {"tools": []}}


class Table:
    """A channel whose replies stand in a table, by method."""

    def __init__(self, **answers: Answer) -> None:
        self.take: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda message: None
        self.answers = {"initialize": HELLO, "list": NO_TOOLS, **answers}
        self.asked: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.log_tail = ""
        self.exit_code: int | None = None

    def note(self, line: str) -> None:
        self.notes.append(line)

    async def request(self, message: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
        self.asked.append(message)
        answer = self.answers.get(message["method"].rpartition("/")[2], REFUSAL)
        return {"id": message["id"], **(answer(message) if callable(answer) else answer)}

    async def notify(self, message: dict[str, Any]) -> None:
        self.asked.append(message)

    async def abandon(self, message: dict[str, Any]) -> None:
        self.asked.append(message)

    async def settled(self, timeout: float) -> bool:
        return True

    async def aclose(self) -> None:
        self.exit_code = 0


async def begun(**answers: Answer) -> tuple[Table, McpClient]:
    table = Table(**answers)
    client = McpClient(table, "tests")
    await client.begin()
    return table, client


async def test_the_handshake_of_sessions() -> None:
    table, client = await begun()
    methods = [message["method"] for message in table.asked]
    assert methods == ["initialize", "notifications/initialized", "tools/list"]
    assert table.asked[0]["params"]["protocolVersion"] == "2025-11-25"
    assert (client.revision, client.server, client.instructions) == ("2025-11-25", "", "")
    await client.aclose()
    assert table.exit_code == 0


async def test_the_revision_without_sessions_is_asked_second() -> None:
    told = {"result": {"supportedVersions": ["2026-07-28"]}}
    table, client = await begun(initialize=REFUSAL, discover=told)
    assert client.revision == "2026-07-28"
    meta = table.asked[-1]["params"]["_meta"]
    assert meta["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"


@pytest.mark.parametrize("told", [REFUSAL, {"result": {"supportedVersions": ["2030-01-01"]}}])
async def test_a_server_of_neither_is_refused_by_its_own_words(told: Answer) -> None:
    with pytest.raises(McpCallFailed, match=r"unknown \(-32601\)"):
        await begun(initialize=REFUSAL, discover=told)


async def test_tools_are_listed_page_by_page() -> None:
    def page(message: dict[str, Any]) -> dict[str, Any]:
        number = int(message["params"].get("cursor", 0))
        tools = [{"name": f"t{number}", "description": 3, "inputSchema": None}, {"name": ""}, 5]
        return {"result": {"tools": tools, "nextCursor": str(number + 1) if number < 2 else None}}

    _, client = await begun(list=page)
    assert [*client.tools] == ["t0", "t1", "t2"]
    assert client.tools["t0"] == HostedTool("t0")


@pytest.mark.parametrize("tools", [5, {"name": "t"}, "t", None])
async def test_a_list_of_tools_that_is_none_has_none(tools: Any) -> None:
    _, client = await begun(list={"result": {"tools": tools}})
    assert client.tools == {}
    with pytest.raises(McpCallFailed, match="unknown"):
        await begun(initialize=REFUSAL, discover={"result": {"supportedVersions": tools}})


async def test_pages_without_an_end_are_bounded() -> None:
    endless = {"result": {"tools": [], "nextCursor": "more"}}
    table, _ = await begun(list=endless)
    assert len(table.asked) < 200


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ({"result": 3}, ChannelClosed, "its reply to tools/call has no result"),
        ({}, ChannelClosed, "has no result"),
        ({"error": "no"}, McpCallFailed, "None"),
        ({"result": {"resultType": "input_required"}}, McpCallFailed, "with a question"),
    ],
)
async def test_replies_that_are_none(answer: Answer, error: type[Exception], message: str) -> None:
    _, client = await begun(call=answer)
    with pytest.raises(error, match=message):
        await client.call("t", {})


async def test_what_the_server_sends_of_its_own() -> None:
    table, client = await begun()
    assert table.take({"method": "ping", "id": 4}) == {"jsonrpc": "2.0", "id": 4, "result": {}}
    refused = table.take({"method": "roots/list", "id": "a"})
    assert refused is not None
    assert refused["error"]["code"] == -32601
    assert table.take({"method": "notifications/message", "params": {"data": [1]}}) is None
    assert table.notes == ["info: [1]"]
    assert table.take({"method": "notifications/unknown"}) is None
    assert not await client.refresh()
    table.take({"method": "notifications/tools/list_changed"})
    table.answers["list"] = {"result": {"tools": [{"name": "new"}]}}
    assert await client.refresh()
    assert not await client.refresh()
