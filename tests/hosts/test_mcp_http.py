"""MCP servers at a URL: JSON and event streams, sessions, redirects, what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from openenv_async import EngineOptions, Timeouts, connect
from openenv_async.errors import (
    DeadlineExceeded,
    EnvironmentDied,
    EnvironmentRaised,
    EnvironmentStartFailed,
)
from openenv_async.hosts.mcp_http import HttpChannel, _header_value
from openenv_async.targets.discovery import find_target

MODERN = "2026-07-28"
NAMED = {"type": "string", "x-mcp-header": "Name"}
TOOLS = [
    {"name": "set", "inputSchema": {"type": "object", "properties": {"text": NAMED}}},
    *({"name": name, "inputSchema": {"type": "object"}} for name in ("get", "hang", "big", "lose")),
]


class Remote:
    """A server of both generations, one memo a session.

    Attributes:
        seen: method and headers of each request.
    """

    def __init__(self, mode: str = "json") -> None:
        self.mode = mode
        self.memos: dict[str, str] = {}
        self.seen: list[tuple[str, dict[str, str]]] = []
        self.cancelled = asyncio.Event()

    async def post(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/mcp" and self.mode == "moved":
            return web.Response(status=307, headers={"Location": "/mcp/"})
        if self.mode == "elsewhere":
            return web.Response(status=307, headers={"Location": "http://other.example/mcp"})
        if self.mode == "round":
            return web.Response(status=307, headers={"Location": str(request.path)})
        message = await request.json()
        method = message.get("method", "answer")
        self.seen.append((method, dict(request.headers)))
        if self.mode == "closed":
            return web.Response(status=401, text="who\nare you?")
        if "id" not in message or method == "answer":
            if method == "notifications/cancelled":
                self.cancelled.set()
            return web.Response(status=202)
        session = request.headers.get("Mcp-Session-Id", "")
        if session and session not in self.memos:
            if self.mode == "tells-errors":
                error = {"code": -32600, "message": "Session not found"}
                return web.json_response({"jsonrpc": "2.0", "id": None, "error": error}, status=404)
            return web.Response(status=404, text="no such session")
        headers = {}
        if method == "initialize" and self.mode != "modern":
            session = f"session-{len(self.seen)}"
            self.memos[session] = "nothing"
            headers["Mcp-Session-Id"] = session
        reply = {"jsonrpc": "2.0", "id": message["id"], **await self.reply(message, session)}
        if self.mode != "stream":
            return web.json_response(reply, headers=headers)
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", **headers})
        await answer.prepare(request)
        ping = {"jsonrpc": "2.0", "id": "p", "method": "ping"}
        logged = {"level": "info", "data": "working"}
        notice = {"jsonrpc": "2.0", "method": "notifications/message", "params": logged}
        await answer.write(b": hello\r\nid: 1\r\ndata:\r\n\r\n")
        await answer.write(f"event: message\ndata: {json.dumps(ping)}\n\n".encode())
        pretty = json.dumps(reply, indent=1).replace("\n", "\r\ndata: ")
        await answer.write(f"data: {json.dumps(notice)}\r\n\r\ndata: {pretty}\r\n\r".encode())
        await answer.write(b"\n")
        return answer

    async def reply(self, message: dict[str, Any], session: str) -> dict[str, Any]:
        method, params = message["method"], message["params"]
        about = {"name": "remote", "version": "2"}
        match method:
            case "initialize" if self.mode != "modern":
                told = {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": about}
                return {"result": told}
            case "server/discover" if self.mode == "modern":
                return {"result": {"supportedVersions": [MODERN], "capabilities": {"tools": {}}}}
            case "tools/list":
                return {"result": {"tools": TOOLS}}
            case "tools/call":
                name = params["name"]
                if name == "set":
                    self.memos[session] = params["arguments"]["text"]
                elif name == "hang":
                    await asyncio.sleep(60)
                elif name == "lose":
                    self.memos.clear()
                text = "x" * 300_000 if name == "big" else self.memos.get(session, "lost")
                return {"result": {"content": [{"type": "text", "text": text}]}}
        return {"error": {"code": -32601, "message": f"no {method}"}}

    async def delete(self, request: web.Request) -> web.Response:
        self.seen.append(("delete", dict(request.headers)))
        self.memos.pop(request.headers["Mcp-Session-Id"], None)
        return web.Response()


@contextlib.asynccontextmanager
async def serving(remote: Remote) -> AsyncIterator[str]:
    app = web.Application()
    for path in ("/mcp", "/mcp/"):
        app.router.add_post(path, remote.post)
        app.router.add_delete(path, remote.delete)
    runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}/mcp"
    finally:
        await runner.cleanup()


async def environment(url: str, **params: Any) -> Any:
    """The spec of a URL, whose tools are asked for in another thread: the server is in this one."""
    return await asyncio.to_thread(_checked, url, params)


def _checked(url: str, params: dict[str, Any]) -> Any:
    spec = find_target(f"mcp:{url}", params)
    spec.check()
    return spec


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"tool_name": name, "arguments": arguments}


@pytest.mark.parametrize("mode", ["json", "stream", "moved"])
async def test_an_episode_is_a_session_of_the_server(mode: str) -> None:
    remote = Remote(mode)
    async with serving(remote) as url:
        spec = await environment(url, headers={"X-Team": "blue"})
        assert remote.memos == {}  # that of the tools was ended
        async with connect(spec) as one, connect(spec) as other:
            await one.reset()
            await other.reset()
            await one.step(call("set", text="mine"))
            assert (await one.step(call("get"))).observation.text == "mine"
            assert (await other.step(call("get"))).observation.text == "nothing"
            state = await one.state()
            assert (state.server, state.revision) == ("remote 2", "2025-11-25")
            if mode == "stream":
                assert "info: working" in state.log
                assert ("answer", True) in [(name, True) for name, _ in remote.seen]
            assert len(remote.memos) == 2
            await one.reset()
            assert (await one.step(call("get"))).observation.text == "nothing"
            assert len(remote.memos) == 2
            assert (await one.step(call("submit", answer="a"))).terminated
        assert remote.memos == {}
    assert {headers["X-Team"] for _, headers in remote.seen} == {"blue"}
    calls = [headers for name, headers in remote.seen if name == "tools/call"]
    assert {headers["MCP-Protocol-Version"] for headers in calls} == {"2025-11-25"}
    assert all("Mcp-Name" not in headers for headers in calls)


async def test_requests_of_the_revision_without_sessions_stand_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN_OF_A_SERVER", "hush")
    remote = Remote("modern")
    async with serving(remote) as url:
        spec = await environment(url, token_env="TOKEN_OF_A_SERVER")
        async with connect(spec) as env:
            await env.reset()
            await env.step(call("set", text="größer"))
            assert (await env.state()).revision == MODERN
    headers = next(headers for name, headers in remote.seen if name == "tools/call")
    assert headers["MCP-Protocol-Version"] == MODERN
    assert (headers["Mcp-Method"], headers["Mcp-Name"]) == ("tools/call", "set")
    assert headers["Mcp-Param-Name"] == "=?base64?Z3LDtsOfZXI=?="
    assert headers["Authorization"] == "Bearer hush"
    assert "Mcp-Session-Id" not in headers


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("closed", "answers 401 Unauthorized: who are you"),
        ("elsewhere", r"redirects to http://other\.example/mcp: give that address"),
        ("round", "redirects without an end"),
    ],
)
async def test_servers_that_do_not_let_us_in(mode: str, message: str) -> None:
    async with serving(Remote(mode)) as url:
        with pytest.raises(EnvironmentStartFailed, match=message):
            await environment(url)


async def test_a_server_that_is_not_there() -> None:
    async with serving(Remote()) as url:
        pass
    with pytest.raises(EnvironmentStartFailed, match=r"http://127\.0\.0\.1:\d+/mcp cannot be"):
        await environment(url)


@pytest.mark.parametrize("mode", ["json", "tells-errors"])
async def test_a_session_that_the_server_lost_is_told(mode: str) -> None:
    async with serving(Remote(mode)) as url, connect(await environment(url)) as env:
        await env.reset()
        await env.step(call("lose"))
        with pytest.raises(EnvironmentDied, match="does not know the session any more"):
            await env.step(call("get"))
        await env.reset()
        assert (await env.step(call("get"))).observation.text == "nothing"


@pytest.mark.parametrize("mode", ["json", "stream"])
async def test_a_huge_result_is_bounded(mode: str) -> None:
    async with serving(Remote(mode)) as url:
        spec = await environment(url, max_result_size=100_000)
        async with connect(spec) as env:
            await env.reset()
            result = (await env.step(call("big"))).observation
            assert result.is_error
            assert result.text == "the result is larger than 100000 bytes (max_result_size)"
            assert (await env.step(call("get"))).observation.text == "nothing"


async def test_a_call_past_its_deadline_is_cancelled_and_lets_no_other_follow() -> None:
    remote = Remote()
    options = EngineOptions(timeouts=Timeouts(step=0.3))
    async with serving(remote) as url, connect(await environment(url), options=options) as env:
        await env.reset()
        with pytest.raises(DeadlineExceeded):
            await env.step(call("hang"))
        await asyncio.wait_for(remote.cancelled.wait(), 10)
        with pytest.raises(EnvironmentRaised, match="'hang' was cancelled"):
            await env.step(call("get"))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plain text", "plain text"),
        ("", ""),
        (" edge", "=?base64?IGVkZ2U=?="),
        ("edge ", "=?base64?ZWRnZSA=?="),
        ("two\nlines", "=?base64?dHdvCmxpbmVz?="),
        ("=?base64?x?=", "=?base64?PT9iYXNlNjQ/eD89?="),
    ],
)
def test_texts_in_headers(text: str, value: str) -> None:
    assert _header_value(text) == value


async def test_what_tells_of_a_cancelled_call_ends_with_the_channel() -> None:
    asked = asyncio.Event()

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(never, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        channel = HttpChannel(f"http://127.0.0.1:{port}/mcp", {}, 100)
        await channel.abandon({"jsonrpc": "2.0", "method": "notifications/cancelled"})
        await asyncio.wait_for(asked.wait(), 10)
        await channel.aclose()
        assert not [t for t in asyncio.all_tasks() if t.get_name() == "openenv-mcp-notify"]


async def test_answers_on_their_way_are_bounded() -> None:
    channel = HttpChannel("http://127.0.0.1:9/mcp", {}, 100_000)
    channel.take = lambda asked: {"jsonrpc": "2.0", "id": asked["id"], "result": {}}
    questions = [{"jsonrpc": "2.0", "id": f"q{n}", "method": "ping"} for n in range(1000)]
    assert channel._sorted({"id": 1}, json.dumps(questions).encode()) is None
    assert 0 < len(channel._background) < 100
    await channel.aclose()
    assert not channel._background
