"""HTTP keeps the episode, and a client may change its transport in the middle of one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import msgspec
import pytest
from starlette.applications import Starlette

from openenv_async import HTTPEnvClient, serve
from openenv_async.checks.conformance import NativeTransport
from openenv_async.checks.raw_connection import RawConnection
from openenv_async.errors import SessionLost
from openenv_async.protocol.frames import Begun, Failed, Observation, Open, Opened, Reset, Step
from openenv_async.server import HTTPEnvServer
from openenv_async.testing import ConformanceEnvironment

SESSION, SECRET = "a" * 32, "b" * 32
STEPS = 8


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[tuple[str, HTTPEnvServer]]:
    server = HTTPEnvServer(ConformanceEnvironment)
    app = Starlette(routes=server.router.routes, lifespan=server.router.lifespan_context)
    async with serve(app) as url:
        yield url, server


async def test_an_episode_over_http() -> None:
    async with served() as (url, _), HTTPEnvClient[Any, Any, Any](url) as env:
        first = await env.reset(seed=5)
        for step in range(1, 6):
            result = await env.step({"command": "draw"})
            assert result.observation["steps"] == step
            assert result.observation["instance"] == first.observation["instance"]
        state = await env.state()
        assert (state["steps"], state["seed"]) == (5, 5)


class Player:
    """One episode, each request over the transport that ``choose`` says."""

    def __init__(self, url: str, wire: RawConnection, http: aiohttp.ClientSession) -> None:
        self.url = url
        self.wire = wire
        self.http = http
        self.seq = 0
        self.attached = ""

    async def play(self, choose: Callable[[int], str]) -> list[Any]:
        trace = []
        for turn in range(STEPS + 1):
            self.seq += 1
            how = choose(turn)
            ask = self.over_http if how == "http" else self.over_socket
            trace.append(await ask(turn))
        return trace

    async def over_socket(self, turn: int) -> Any:
        if self.attached != "ws":
            self.wire.send(Open(1, SESSION, SECRET, self.attached != ""))
            opened = await self.wire.receive()
            if isinstance(opened, Failed):  # what the socket was told when HTTP took over
                assert (opened.channel, opened.seq, opened.code) == (1, 0, "session_lost")
                opened = await self.wire.receive()
            assert isinstance(opened, Opened)
            assert opened.resumed == (self.attached != "")
            self.attached = "ws"
        if turn == 0:
            self.wire.send(Reset(1, self.seq, 0, None, 11))
        else:
            self.wire.send(Step(1, self.seq, 0, self.wire.payload({"command": "draw"})))
        reply = await self.wire.receive_ok()
        assert isinstance(reply, Begun | Observation)
        return self.shown(self.wire.value(reply.payload))

    async def over_http(self, turn: int) -> Any:
        headers = {
            "X-OpenEnv-Session": f"{SESSION}.{SECRET}",
            "Content-Type": "application/msgpack",
            "Accept": "application/msgpack",
        }
        if self.attached == "":
            async with self.http.post(f"{self.url}/open", headers=headers) as response:
                assert response.status == 200, await response.text()
        self.attached = "http"
        headers["X-OpenEnv-Seq"] = str(self.seq)
        path, body = (
            ("/step", {"action": {"command": "draw"}}) if turn else ("/reset", {"seed": 11})
        )
        data = msgspec.msgpack.encode(body)
        async with self.http.post(self.url + path, data=data, headers=headers) as response:
            assert response.status == 200, await response.text()
            return self.shown(msgspec.msgpack.decode(await response.read())["observation"])

    def shown(self, observation: Any) -> Any:
        return [observation["steps"], observation["numbers"]]


async def played(choose: Callable[[int], str]) -> list[Any]:
    async with served() as (url, server), NativeTransport(url).raw_connection() as wire:
        async with aiohttp.ClientSession() as http:
            trace = await Player(url, wire, http).play(choose)
        assert list(server.engine.sessions) == [SESSION]
        return trace


async def test_one_trace_over_ws_http_and_both_in_turn() -> None:
    over_ws = await played(lambda turn: "ws")
    assert [steps for steps, _ in over_ws] == list(range(STEPS + 1))
    assert await played(lambda turn: "http") == over_ws
    assert await played(lambda turn: "http" if turn % 2 else "ws") == over_ws
    assert await played(lambda turn: "ws" if turn % 2 else "http") == over_ws


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/reset", {}),
        ("POST", "/step", {"action": {"command": "draw"}}),
        ("GET", "/state", None),
    ],
)
async def test_an_unknown_session_is_a_typed_404_and_allocates_nothing(
    method: str, path: str, body: Any
) -> None:
    async with served() as (url, server):
        headers = {"X-OpenEnv-Session": f"{SESSION}.{SECRET}", "X-OpenEnv-Seq": "1"}
        async with (
            aiohttp.ClientSession() as http,
            http.request(method, url + path, json=body, headers=headers) as response,
        ):
            assert response.status == 404
            assert (await response.json())["error"]["code"] == "session_not_found"
        assert not server.engine.sessions
        assert server.engine.stats.opened == 0


async def test_a_session_that_is_gone_is_typed_for_the_client_too() -> None:
    async with served() as (url, server), HTTPEnvClient[Any, Any, Any](url) as env:
        await env.reset()
        for session in list(server.engine.sessions.values()):
            session.shut(SessionLost("away"))
        while server.engine.sessions:  # noqa: ASYNC110 - the last of its turns sets no event
            await asyncio.sleep(0)
        with pytest.raises(SessionLost):
            await env.step({"command": "draw"})
        await env.reset()
