"""A token for agents alone: it plays at ``/mcp``, and opens nothing that tells a reward."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from starlette.routing import Route
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from openenv_async import EnvClient, serve
from openenv_async.errors import AgentRefused
from openenv_async.server.auth import PROBES
from tests.helpers import until
from tests.server.mcp.agent import SECRET, STATELESS, WITH_SESSIONS, Agent, Maze, Move, Seen, served

TOKENS: Mapping[str, Any] = {"token": "sesame", "agent_token": "player"}
PLAYER = {"authorization": "Bearer player"}
GENERATIONS = pytest.mark.parametrize("revision", [STATELESS, WITH_SESSIONS])


class Client(EnvClient[Move, Seen, dict[str, Any]]):
    pass


@GENERATIONS
async def test_an_agent_plays_with_it(revision: str) -> None:
    async with served(**TOKENS) as (http, server):
        http.headers.update(PLAYER)
        agent = Agent(http, revision)
        await agent.begin()
        await agent.call("reset")
        assert (await agent.call("step", to=9))["structuredContent"]["done"]
        assert "987654" not in "".join(agent.texts)
        if agent.session_id is None:
            await agent.call("close")
        else:
            name = {"mcp-session-id": agent.session_id}
            assert (await http.delete("/mcp", headers=name)).status_code == 200
        await until(lambda: server.engine.active == 0)


async def test_every_other_route_is_refused() -> None:
    async with served(**TOKENS) as (http, server):
        begun = await http.post("/reset", json={})
        name = {"X-OpenEnv-Session": begun.headers["X-OpenEnv-Session"]}  # even if it leaked
        paths = {
            (method, route.path)
            for route in server.routes
            if isinstance(route, Route) and route.path not in {"/mcp", "/mcp/{session}", *PROBES}
            for method in route.methods or ()
        }
        assert {("POST", "/step"), ("POST", "/share"), ("GET", "/share")} <= paths
        for method, path in sorted({*paths, ("GET", "/"), ("GET", "/nothing")}):
            where = path.replace("{", "").replace("}", "")
            refused = await http.request(method, where, headers={**name, **PLAYER})
            assert refused.status_code == 403, (method, path)
            if method != "HEAD":
                error = refused.json()["error"]
                assert error["code"] == "agent_refused"
                assert "at /mcp alone" in error["message"]
                assert "server's own token" in error["message"]


@pytest.mark.parametrize(
    "method", ["openenv/session/create", "openenv/session/close", "tools/list", "tools/call"]
)
async def test_the_other_dialect_of_the_same_address_is_refused(method: str) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {}}
    async with served(**TOKENS) as (http, server):
        for sent in (json.dumps(body), json.dumps(body)[:-1]):  # broken JSON as well
            refused = await http.post("/mcp", content=sent, headers=PLAYER)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "agent_refused")
        assert (await http.post("/mcp", json=body)).status_code == 200  # the trainer's
        assert server.engine.active <= 1


@pytest.mark.parametrize("path", ["/ws", "/mcp", "/elsewhere"])
@pytest.mark.parametrize("dialect", ["openenv.v1.msgpack", "openenv.v1.json", None])
async def test_no_websocket_is_opened_with_it(path: str, dialect: Any) -> None:
    offered = [] if dialect is None else [dialect]
    async with serve(Maze, **TOKENS) as url:
        where = url.replace("http", "ws") + path
        for headers, more in ((PLAYER, []), ({}, ["openenv.bearer.player"])):
            chosen: Any = [*offered, *more] or None
            with pytest.raises(InvalidStatus) as caught:
                async with connect(where, additional_headers=headers, subprotocols=chosen):
                    pass
            assert caught.value.response.status_code == 403


async def test_a_client_is_told_that_it_has_the_wrong_one() -> None:
    async with serve(Maze, **TOKENS) as url:
        for dialect in (None, "upstream"):
            with pytest.raises(AgentRefused, match="agents' token"):
                async with Client(url, token="player", subprotocol=dialect) as env:
                    await env.reset()


@GENERATIONS
async def test_a_session_that_is_lent_is_played_with_it_and_not_taken_back(revision: str) -> None:
    async with served(**TOKENS) as (http, _), Client(str(http.base_url), token="sesame") as env:
        await env.reset()
        async with await env.share() as shared:
            http.headers.update(PLAYER)
            agent = Agent(http, revision, shared.url)
            await agent.begin()
            handle = {"mcp-session-id": shared.url.rpartition("/")[2]}
            assert (await http.delete("/mcp", headers=handle)).status_code == 403
            await agent.call("step", to=9)
            [result] = await shared.results()
            assert result.reward == SECRET
            assert "987654" not in "".join(agent.texts)
            http.headers["authorization"] = "Bearer nobody's"
            assert (await agent.send("tools/list")).status_code == 401
