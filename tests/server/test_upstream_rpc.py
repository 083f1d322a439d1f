"""Upstream's JSON-RPC: over HTTP, on sockets of its own, and inside upstream's messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from openenv_async import EngineOptions, Environment, StepResult, Timeouts, Tool, create_app, serve
from openenv_async.errors import SessionClosed
from tests.helpers import until


@dataclass
class Said:
    text: str
    loud: bool = False


@dataclass
class Heard:
    text: str
    steps: int


_TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}


class Parrot(Environment[Said, Heard, dict[str, Any]]):
    """A parrot, with two tools to tell it something."""

    tools: ClassVar[Sequence[Tool] | None] = (
        Tool("say", "Say something.", _TEXT, result_field="text"),
        Tool("shout", "Shout something.", _TEXT, constants={"loud": True}),
    )
    entered: asyncio.Event
    go_on: asyncio.Event

    def __init__(self) -> None:
        self.steps = 0

    async def reset(self) -> Heard:
        self.steps = 0
        return Heard("ready", 0)

    async def step(self, action: Said) -> Any:
        if action.text == "boom":
            raise ValueError("boom in step")
        if action.text == "wait":
            self.entered.set()
            await self.go_on.wait()
        self.steps += 1
        text = action.text.upper() if action.loud else action.text
        return StepResult(Heard(text, self.steps), 0.5)

    async def state(self) -> dict[str, Any]:
        return {"steps": self.steps}


class Toolbox(Environment[Any, dict[str, Any], dict[str, Any]]):
    """An environment that lists its tools by a step, as OpenEnv's MCP environments do."""

    isolation = "inline"

    def reset(self) -> dict[str, Any]:
        return {}

    def step(self, action: ToolCall) -> dict[str, Any]:
        if action.type == "list_tools":
            return {"tools": [{"name": "add", "description": "Add.", "input_schema": {}}]}
        if action.tool_name != "add":
            text = f"Unknown tool: {action.tool_name!r}"
            error = {"error_type": "tool_not_found", "message": text}
            return {"tool_name": action.tool_name, "result": None, "error": error}
        total = sum((action.arguments or {}).values())
        return {"tool_name": "add", "result": {"data": total}, "error": None}

    def state(self) -> dict[str, Any]:
        return {}


@dataclass
class ToolCall:
    type: str = "call_tool"
    tool_name: str = ""
    arguments: dict[str, Any] | None = None


class Broken(Parrot):
    def __init__(self) -> None:
        raise RuntimeError("no voice")


class Rpc:
    """A client of ``POST /mcp``."""

    def __init__(self, client: httpx.AsyncClient, engine: Any) -> None:
        self.client = client
        self.engine = engine

    async def ask(self, method: str, /, **params: Any) -> Any:
        body = {"jsonrpc": "2.0", "id": 5, "method": method, "params": params}
        return await self.post(json.dumps(body))

    async def post(self, body: str) -> Any:
        response = await self.client.post("/mcp", content=body)
        assert response.status_code == 200
        assert "set-cookie" not in response.headers
        assert "x-openenv-session" not in response.headers
        return response.json()

    async def create(self) -> str:
        handle: str = (await self.ask("openenv/session/create"))["result"]["session_id"]
        return handle

    async def say(self, text: str, **params: Any) -> Any:
        return await self.ask("tools/call", name="say", arguments={"text": text}, **params)


@asynccontextmanager
async def served(env: Any = Parrot, **settings: Any) -> AsyncIterator[tuple[Rpc, str]]:
    Parrot.entered, Parrot.go_on = asyncio.Event(), asyncio.Event()
    app = create_app(env, **settings)
    async with serve(app) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield Rpc(client, app.state.openenv.engine), url.replace("http", "ws")


async def on(socket: ClientConnection, message: Any) -> Any:
    await socket.send(message if isinstance(message, str | bytes) else json.dumps(message))
    return json.loads(await socket.recv())


def code(reply: Any) -> int:
    found: int = reply["error"]["code"]
    return found


async def until_closed(engine: Any) -> None:
    await until(lambda: not engine.sessions)


async def test_what_upstreams_validator_asks() -> None:
    async with served() as (rpc, _):
        reply = await rpc.post("{}")
    assert reply["jsonrpc"] == "2.0"
    assert (code(reply), reply["id"]) == (-32600, None)


async def test_the_tools_that_an_environment_declares() -> None:
    async with served() as (rpc, _):
        tools = (await rpc.ask("tools/list"))["result"]["tools"]
        assert [tool["name"] for tool in tools] == ["say", "shout"]
        assert tools[0]["input_schema"] == tools[0]["inputSchema"] == _TEXT
        said = (await rpc.say("hi"))["result"]
        assert said["data"] == "hi"
        assert said["content"][0] == {
            "type": "text",
            "text": "hi",
            "annotations": None,
            "meta": None,
        }
        assert said["structured_content"] == {"result": "hi"}
        assert said["is_error"] is False
        shouted = await rpc.ask("tools/call", name="shout", arguments={"text": "hi"})
        assert shouted["result"]["data"] == {"text": "HI", "steps": 1}
        assert shouted["result"]["structured_content"] == {"text": "HI", "steps": 1}
        assert "reward" not in json.dumps(shouted)
        assert not rpc.engine.sessions  # each call had an environment of its own


async def test_the_tools_that_are_made_of_an_action() -> None:
    class Plain(Parrot):
        tools = None

    async with served(Plain) as (rpc, _):
        (tool,) = (await rpc.ask("tools/list"))["result"]["tools"]
        assert set(tool["input_schema"]["properties"]) == {"text", "loud"}
        reply = await rpc.ask("tools/call", name=tool["name"], arguments={"text": "x"})
        assert reply["result"]["data"]["text"] == "x"


async def test_an_environment_that_lists_its_tools_by_a_step() -> None:
    async with served(Toolbox) as (rpc, _):
        (tool,) = (await rpc.ask("tools/list"))["result"]["tools"]
        assert (tool["name"], tool["inputSchema"]) == ("add", {})
        added = await rpc.ask("tools/call", name="add", arguments={"a": 1, "b": 2})
        assert added["result"] == {"data": 3}
        missing = await rpc.ask("tools/call", name="subtract")
        assert code(missing) == -32603
        assert "subtract" in missing["error"]["message"]


async def test_a_session_keeps_its_environment_until_it_is_closed() -> None:
    async with served() as (rpc, _):
        handle = await rpc.create()
        assert len(rpc.engine.sessions) == 1
        await rpc.say("one", session_id=handle)
        shouted = await rpc.ask(
            "tools/call", name="shout", arguments={"text": "two"}, session_id=handle
        )
        assert shouted["result"]["data"]["steps"] == 2
        closed = await rpc.ask("openenv/session/close", session_id=handle)
        assert closed["result"] == {"session_id": handle, "closed": True}
        assert not rpc.engine.sessions
        again = await rpc.ask("openenv/session/close", session_id=handle)
        assert code(again) == -32602
        late = await rpc.say("late", session_id=handle)
        assert code(late) == -32602
        assert handle.partition(".")[2] not in json.dumps([again, late])


@pytest.mark.parametrize("handle", ["", "nothing", "a" * 32, f"{'a' * 32}.{'b' * 32}", 7, None])
async def test_a_handle_that_opens_nothing(handle: Any) -> None:
    async with served() as (rpc, _):
        await rpc.create()
        assert code(await rpc.say("x", session_id=handle)) == -32602
        assert code(await rpc.ask("openenv/session/close", session_id=handle)) == -32602


async def test_the_id_of_a_session_without_its_secret_opens_nothing() -> None:
    async with served() as (rpc, url):
        name, _, secret = (await rpc.create()).partition(".")
        forged = f"{name}.{secret[::-1]}"
        assert code(await rpc.say("x", session_id=forged)) == -32602
        async with connect(f"{url}/ws?session_id={forged}", proxy=None) as socket:
            assert json.loads(await socket.recv())["data"]["code"] == "SESSION_ERROR"


async def test_errors_have_upstreams_codes() -> None:
    async with served() as (rpc, _):
        assert code(await rpc.post("not json")) == -32700
        assert code(await rpc.post('{"jsonrpc":"2.0","method":"tools/call","params":[]}')) == -32602
        assert code(await rpc.ask("unknown/method")) == -32601
        assert code(await rpc.ask("tools/call", arguments={})) == -32602
        assert code(await rpc.ask("tools/call", name="say", arguments=[1])) == -32602
        assert code(await rpc.ask("tools/call", name="sing")) == -32603
        wrong = await rpc.ask("tools/call", name="say", arguments={"text": 3})
        assert code(wrong) == -32603
        raised = await rpc.say("boom")
        assert raised["error"] == {"code": -32603, "message": "boom in step", "data": None}
        assert raised["id"] == 5
        assert code(await rpc.ask("openenv/session/close")) == -32602
        assert not rpc.engine.sessions


async def test_capacity_and_construction() -> None:
    async with served(options=EngineOptions(max_sessions=1)) as (rpc, url):
        await rpc.create()
        for full in (await rpc.ask("openenv/session/create"), await rpc.say("x")):
            assert code(full) == -32000
            assert full["error"]["data"] == {"active_sessions": 1, "max_sessions": 1}
        async with connect(f"{url}/mcp", proxy=None) as socket:
            assert code(json.loads(await socket.recv())) == -32000
            with pytest.raises(ConnectionClosed):
                await socket.recv()
    async with served(Broken) as (rpc, _):
        failed = await rpc.ask("openenv/session/create")
        assert code(failed) == -32000
        assert failed["error"]["data"] == {"factory_name": "Broken"}


async def test_a_session_ends_when_nobody_uses_it() -> None:
    options = EngineOptions(timeouts=Timeouts(idle=0.05))
    async with served(options=options) as (rpc, _):
        handle = await rpc.create()
        await until_closed(rpc.engine)
        assert code(await rpc.say("x", session_id=handle)) == -32602


async def test_a_socket_takes_part_in_a_session_and_leaves_it_alive() -> None:
    async with served() as (rpc, url):
        handle = await rpc.create()
        async with connect(f"{url}/ws?session_id={handle}", proxy=None) as socket:
            await rpc.say("one", session_id=handle)
            step = await on(socket, {"type": "step", "data": {"text": "two"}})
            assert step["data"]["observation"]["steps"] == 2
            await on(socket, {"type": "reset"})
            await rpc.say("three", session_id=handle)
            assert (await on(socket, {"type": "state"}))["data"]["steps"] == 1
            async with connect(f"{url}/ws?session_id={handle}", proxy=None) as second:
                refused = json.loads(await second.recv())["data"]
                assert refused["code"] == "SESSION_ERROR"
                assert "already has an attached WebSocket" in refused["message"]
            own = await on(socket, {"type": "mcp", "data": rpc_body("openenv/session/create")})
            assert own["data"]["result"] == {"session_id": handle}
        shouted = await rpc.say("four", session_id=handle)
        assert shouted["result"]["data"] == "four"
        async with connect(f"{url}/ws?session_id={handle}", proxy=None) as socket:
            assert (await on(socket, {"type": "state"}))["data"]["steps"] == 2
            closing = await rpc.ask("openenv/session/close", session_id=handle)
            assert closing["result"] == {"session_id": handle, "closed": False, "closing": True}
            assert (await on(socket, {"type": "state"}))["type"] == "state"
        await until_closed(rpc.engine)


async def test_calls_of_one_session_run_one_at_a_time() -> None:
    async with served() as (rpc, url):
        handle = await rpc.create()
        async with connect(f"{url}/ws?session_id={handle}", proxy=None) as socket:
            waiting = asyncio.create_task(rpc.say("wait", session_id=handle))
            await Parrot.entered.wait()
            await socket.send(json.dumps({"type": "step", "data": {"text": "second"}}))
            third = asyncio.create_task(rpc.say("third", session_id=handle))
            await asyncio.sleep(0)
            Parrot.go_on.set()
            step = json.loads(await socket.recv())
            assert step["data"]["observation"]["text"] == "second"
            assert (await waiting)["result"]["data"] == "wait"
            assert (await third)["result"]["data"] == "third"


async def test_closing_a_session_stops_what_runs_on_it() -> None:
    async with served() as (rpc, _):
        handle = await rpc.create()
        waiting = asyncio.create_task(rpc.say("wait", session_id=handle))
        await Parrot.entered.wait()
        closed = await rpc.ask("openenv/session/close", session_id=handle)
        assert closed["result"]["closed"] is True
        assert code(await waiting) == -32603
        assert not rpc.engine.sessions


async def test_a_session_that_ends_closes_its_socket() -> None:
    async with served() as (rpc, url):
        handle = await rpc.create()
        async with connect(f"{url}/ws?session_id={handle}", proxy=None) as socket:
            await on(socket, {"type": "state"})
            for session in [*rpc.engine.sessions.values()]:
                session.shut(SessionClosed("for the test"))
            assert json.loads(await socket.recv())["type"] == "error"
            with pytest.raises(ConnectionClosed):
                await socket.recv()


def rpc_body(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


async def test_a_socket_of_its_own() -> None:
    async with served() as (rpc, url):
        async with connect(f"{url}/mcp", proxy=None) as socket:
            assert code(await on(socket, "{")) == -32700
            assert code(await on(socket, b"x")) == -32600
            said = await on(
                socket, rpc_body("tools/call", name="say", arguments={"text": "on a socket"})
            )
            assert said["result"]["data"] == "on a socket"
            created = await on(socket, rpc_body("openenv/session/create"))
            handle = created["result"]["session_id"]
            closing = await on(socket, rpc_body("openenv/session/close", session_id=handle))
            assert code(closing) == -32600
            assert len(rpc.engine.sessions) == 1
            assert (await rpc.say("over HTTP", session_id=handle))["result"]["data"] == "over HTTP"
            assert code(await on(socket, rpc_body("tools/call"))) == -32602
        await until_closed(rpc.engine)


async def test_upstreams_tool_actions_as_steps() -> None:
    async with served() as (_, url), connect(f"{url}/ws", proxy=None) as socket:

        async def step(**action: Any) -> Any:
            return (await on(socket, {"type": "step", "data": action}))["data"]

        listed = await step(type="list_tools")
        assert [tool["name"] for tool in listed["observation"]["tools"]] == ["say", "shout"]
        assert (listed["reward"], listed["done"]) == (None, False)
        called = await step(type="call_tool", tool_name="say", arguments={"text": "x"})
        assert called["observation"]["tool_name"] == "say"
        assert called["observation"]["result"]["data"] == "x"
        assert called["observation"]["error"] is None
        assert called["reward"] == 0.5
        for action, kind in (
            ({"tool_name": "sing", "arguments": {}}, "tool_not_found"),
            ({"tool_name": "say", "arguments": {"text": 1}}, "invalid_args"),
            ({"tool_name": "say", "arguments": [1]}, "invalid_args"),
        ):
            told = await step(type="call_tool", **action)
            assert told["observation"]["error"]["error_type"] == kind
            assert told["observation"]["result"] is None
        raised = await on(
            socket,
            {
                "type": "step",
                "data": {"type": "call_tool", "tool_name": "say", "arguments": {"text": "boom"}},
            },
        )
        assert raised["data"] == {"message": "boom in step", "code": "EXECUTION_ERROR"}
        large = '{"type": "call_tool", "tool_name": "say", "arguments": {"text": 1e999}}'
        await socket.send(f'{{"type": "step", "data": {large}}}')
        unread = json.loads(await socket.recv())
        assert unread["data"]["code"] == "VALIDATION_ERROR"
        assert (await step(text="a _tool of its own"))["observation"][
            "text"
        ] == "a _tool of its own"


async def test_the_token_and_the_origin_are_checked() -> None:
    async with served(token="let-me-in") as (rpc, url):
        refused = await rpc.client.post("/mcp", content="{}")
        assert refused.status_code == 401
        for path in ("/mcp", "/ws?session_id=x"):
            with pytest.raises(Exception, match="401"):
                await connect(url + path, proxy=None)
        headers = {"Authorization": "Bearer let-me-in"}
        good = await rpc.client.post("/mcp", content="{}", headers=headers)
        assert good.status_code == 200
        foreign = {**headers, "Origin": "https://elsewhere.example"}
        assert (await rpc.client.post("/mcp", content="{}", headers=foreign)).status_code == 403
    async with served() as (rpc, url):
        named = {"Host": "rebound.example"}
        assert (await rpc.client.post("/mcp", content="{}", headers=named)).status_code == 403
