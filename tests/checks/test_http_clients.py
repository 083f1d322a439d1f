"""The clients of the dialects that are one request a call: what they send, read and refuse."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from aiohttp import web

from openenv_async import Environment, serve
from openenv_async.checks.http_clients import (
    McpSession,
    OneCallSession,
    RpcSession,
    UntypedError,
)
from openenv_async.checks.registry import Skipped
from openenv_async.errors import EnvironmentRaised, InvalidAction, SessionNotFound, Unauthorized
from openenv_async.server import create_app
from openenv_async.testing import ConformanceEnvironment

REVISIONS = ["2025-11-25", "2026-07-28"]


@pytest.mark.parametrize("revision", REVISIONS)
async def test_an_agents_episode(revision: str) -> None:
    app = create_app(ConformanceEnvironment)
    async with serve(app) as url:
        async with McpSession(url, None, revision) as env:
            result = await env.reset(seed=5)
            assert result.observation["text"] == "ready"
            assert (result.reward, result.done) == (None, False)
            result = await env.step({"command": "echo", "data": [1, None]})
            assert result.observation["data"] == [1, None]
            result = await env.step({"command": "truncate", "value": 1.0})
            assert (result.terminated, result.truncated, result.reward) == (False, True, None)
            with pytest.raises(UntypedError, match="reset"):
                await env.step({"command": "echo"})
            with pytest.raises(UntypedError, match="no argument 'text'"):
                await env.reset(text="mine")
            await env.reset()
            assert len(app.state.openenv.engine.sessions) == 1
        assert not app.state.openenv.engine.sessions
        async with McpSession(url, None, revision) as stranger:
            with pytest.raises(SessionNotFound):
                await stranger.use_unknown()


async def test_a_session_of_json_rpc_is_an_episode() -> None:
    app = create_app(ConformanceEnvironment)
    async with serve(app) as url:
        async with RpcSession(url, None) as env:
            first = await env.step({"command": "echo", "text": "one"})
            again = await env.step({"command": "echo", "text": "two"})
            assert [each.observation["steps"] for each in (first, again)] == [1, 2]
            await env.reset()
            other = await env.step({"command": "echo"})
            assert other.observation["steps"] == 1
            assert other.observation["instance"] != first.observation["instance"]
            with pytest.raises(UntypedError, match="boom"):
                await env.step({"command": "raise", "text": "boom"})
            with pytest.raises(SessionNotFound):
                await env.use_unknown()
            assert len(app.state.openenv.engine.sessions) == 1
        assert not app.state.openenv.engine.sessions


async def test_calls_without_a_session_have_an_environment_each() -> None:
    app = create_app(ConformanceEnvironment, stateless_http=True)
    async with serve(app) as url, OneCallSession(url, None) as env:
        begun = await env.reset(seed=3, text="mine")
        assert begun.observation["text"] == "mine"
        result = await env.step({"command": "terminate", "value": 0.5})
        assert (result.reward, result.done) == (0.5, True)
        assert result.observation["instance"] != begun.observation["instance"]
        assert (await env.state())["steps"] == 0
        with pytest.raises(InvalidAction):
            await env.step({"command": []})
        with pytest.raises(EnvironmentRaised, match="boom"):
            await env.step({"command": "raise", "text": "boom"})


async def test_a_server_without_the_switch_is_skipped_and_left_with_no_session() -> None:
    app = create_app(ConformanceEnvironment)
    async with serve(app) as url:
        with pytest.raises(Skipped, match="serve --stateless-http"):
            async with OneCallSession(url, None):
                pass
        assert not app.state.openenv.engine.sessions


@dataclass
class Put:
    kind: Literal["put"]
    value: int


@dataclass
class Take:
    kind: Literal["take"]


class Box(Environment[Put | Take, int, Any]):
    def reset(self) -> int:
        return 0

    def step(self, action: Put | Take) -> int:
        return 1


class Number(Environment[int, int, Any]):
    def reset(self) -> int:
        return 0

    def step(self, action: int) -> int:
        return action + 1


def opened(url: str) -> list[Any]:
    return [RpcSession(url, None), *(McpSession(url, None, each) for each in REVISIONS)]


async def test_an_action_that_is_one_value_is_an_argument() -> None:
    async with serve(Number) as url:
        for session in opened(url):
            async with session as env:
                await env.reset()
                assert (await env.step(4)).observation == 5


async def test_actions_that_are_several_tools_are_skipped() -> None:
    async with serve(Box) as url:
        for session in opened(url):
            async with session as env:
                await env.reset()
                with pytest.raises(Skipped, match="one tool"):
                    await env.step({"kind": "take"})


async def test_a_token_is_shown_and_its_lack_is_typed() -> None:
    async with serve(ConformanceEnvironment, token="secret") as url:
        async with RpcSession(url, "secret") as env:
            await env.reset()
        with pytest.raises(Unauthorized):
            async with RpcSession(url, None):
                pass


@contextlib.asynccontextmanager
async def answering(answer: Callable[[Any], web.Response]) -> AsyncIterator[str]:
    """A server that answers every request as the test says."""

    async def handle(request: web.Request) -> web.Response:
        return answer(json.loads(await request.text() or "{}"))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_answers_that_are_none() -> None:
    def of_another(asked: Any) -> web.Response:
        return web.json_response({"jsonrpc": "2.0", "id": 99, "result": {"session_id": "x"}})

    def page(asked: Any) -> web.Response:
        return web.Response(text="<html>", status=502)

    def older(asked: Any) -> web.Response:
        result = {"protocolVersion": "2024-11-05"}
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "result": result})

    cases: list[tuple[Callable[[Any], web.Response], int, str]] = [
        (of_another, 0, "answer to request 1"),
        (page, 0, "status 502"),
        (older, 1, "asked for 2025-11-25"),
    ]
    for answer, which, found in cases:
        async with answering(answer) as url:
            with pytest.raises(UntypedError, match=found):
                async with opened(url)[which]:
                    pass


async def test_a_reset_without_a_handle_is_no_reset() -> None:
    def silent(asked: Any) -> web.Response:
        result = {"content": [], "structuredContent": {"observation": 1, "done": False}}
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "result": result})

    async with answering(silent) as url, McpSession(url, None, REVISIONS[1]) as env:
        with pytest.raises(UntypedError, match="no handle of the session"):
            await env.reset()
