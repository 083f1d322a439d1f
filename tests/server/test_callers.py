"""Named tokens: whose a session is, on every transport."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from openenv_async import create_app, serve
from openenv_async.engine.callers import OWNER, Caller, Quota
from openenv_async.errors import OpenEnvError, SessionNotFound
from openenv_async.server.callers import NOBODY, Callers, digest_of
from tests.helpers import Counter, Peer, make_engine, token
from tests.server.mcp.agent import STATELESS, WITH_SESSIONS, Agent, Maze

RED, BLUE, BOSS = ({"authorization": f"Bearer {name}"} for name in ("red", "blue", "boss"))


def named() -> Callers:
    """Two teams and an administrator, whose tokens are their names."""
    callers = Callers()
    people = [
        Caller("red", environments=["Counter", "Maze"]),
        Caller("blue"),
        Caller("boss", is_admin=True),
    ]
    callers.hold((each, [digest_of(str(each.name))]) for each in people)
    return callers


def code(response: httpx.Response) -> Any:
    return response.json()["error"]["code"]


def test_who_shows_what() -> None:
    assert Callers().open
    assert Callers("sesame").find([b"sesame"]) is OWNER
    assert Callers("sesame").find([b"other", b""]) is None
    both = Callers("sesame", "boss")
    user, admin = both.find([b"sesame"]), both.find([b"x", b"boss"])
    assert user is not None
    assert admin is not None
    assert (user.is_admin, admin.is_admin) == (False, True)
    assert not NOBODY.is_admin
    for arguments in ((None, "boss"), ("same", "same"), ("a b", None), ("a", "b c")):
        with pytest.raises(ValueError, match="token"):
            Callers(*arguments)


async def test_a_session_over_http_is_its_callers() -> None:
    async with (
        serve(create_app(Counter, callers=named())) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        begun = await http.post("/reset", headers=RED, json={})
        name = {"X-OpenEnv-Session": begun.headers["X-OpenEnv-Session"]}
        http.cookies.clear()
        for path, body in (("/step", {"action": {"add": 1}}), ("/close", {}), ("/reset", {})):
            refused = await http.post(path, headers=BLUE | name, json=body)
            assert (refused.status_code, code(refused)) == (404, "session_not_found"), path
        for method, path in (("GET", "/state"), ("POST", "/share"), ("GET", "/share")):
            refused = await http.request(method, path, headers=BLUE | name)
            assert code(refused) == "session_not_found", path
        resumed = await http.post("/open", headers=BLUE | name, json={"resume": True})
        assert code(resumed) == "session_not_found"
        for who in (RED, BOSS):
            reply = await http.get("/state", headers=who | name)
            assert reply.status_code == 200
        assert code(await http.get("/stats", headers={"authorization": "Bearer x"})) == (
            "unauthorized"
        )


async def test_a_session_over_the_native_transport_is_its_callers() -> None:
    engine = make_engine(Counter)
    red, blue = Caller("red"), Caller("blue")
    first = Peer(engine)
    first.connection.caller = red
    await first.open()
    assert engine.sessions[token(1)].caller is red
    for caller, error in ((blue, SessionNotFound.code), (red, None)):
        other = Peer(engine)
        other.connection.caller = caller
        reply = await other.open(resume=True)
        assert getattr(reply, "code", None) == error
    await engine.aclose()


async def test_a_handle_of_upstreams_dialect_is_its_callers() -> None:
    create = {"jsonrpc": "2.0", "id": 1, "method": "openenv/session/create"}
    async with (
        serve(create_app(Maze, callers=named())) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        made = (await http.post("/mcp", headers=RED, json=create)).json()["result"]["session_id"]
        close = create | {"method": "openenv/session/close", "params": {"session_id": made}}
        refused = (await http.post("/mcp", headers=BLUE, json=close)).json()["error"]
        assert "Unknown session_id" in refused["message"]
        address = url.replace("http", "ws") + f"/ws?session_id={made}"
        async with connect(address, additional_headers=BLUE) as socket:
            assert "no session has this id" in json.loads(await socket.recv())["data"]["message"]
        async with connect(address, additional_headers=RED) as socket:
            await socket.send('{"type": "state"}')
            assert json.loads(await socket.recv())["type"] == "state"
        assert "result" in (await http.post("/mcp", headers=RED, json=close)).json()


@pytest.mark.parametrize("revision", [STATELESS, WITH_SESSIONS])
async def test_a_handle_of_mcp_is_its_callers(revision: str) -> None:
    app = create_app(Maze, callers=named())
    async with serve(app) as url, httpx.AsyncClient(base_url=url, headers=RED) as http:
        agent = Agent(http, revision)
        await agent.begin()
        await agent.call("reset")
        (session,) = app.state.openenv.engine.sessions.values()
        assert session.caller.name == "red"
        http.headers.update(BLUE)
        before = session.log.taken
        try:
            told = json.dumps(await agent.call("step", to=1))
        except (AssertionError, KeyError, OpenEnvError) as exc:
            told = str(exc) + agent.texts[-1]
        assert "no session has this handle" in told + agent.texts[-1]
        assert session.log.taken == before
        http.headers.update(RED)
        await agent.call("step", to=1)
        assert session.log.taken == before + 1


async def test_what_administrators_alone_may_do() -> None:
    async with (
        serve(create_app(Counter, token="sesame", admin_token="boss")) as url,
        httpx.AsyncClient(base_url=url) as http,
    ):
        user = {"authorization": "Bearer sesame"}
        refused = await http.post("/drain", headers=user, json={})
        assert (refused.status_code, code(refused)) == (403, "access_refused")
        assert "administrator" in refused.json()["error"]["message"]
        assert (await http.get("/drain", headers=user)).status_code == 200
        assert (await http.post("/drain", headers=BOSS, json={})).status_code == 202


async def test_a_token_that_is_for_other_environments() -> None:
    callers = Callers()
    callers.hold([(Caller("red", environments=["other"]), [digest_of("red")])])
    app = create_app(Counter, callers=callers)
    async with serve(app) as url, httpx.AsyncClient(base_url=url) as http:
        refused = await http.post("/reset", headers=RED, json={})
        assert (refused.status_code, code(refused)) == (403, "access_refused")
        assert "only other" in refused.json()["error"]["message"]
        assert not app.state.openenv.engine.sessions


async def test_every_transport_pays_from_the_same_quota() -> None:
    red = Caller("red", quota=Quota(steps_per_second=0.01, burst=1000))
    callers = Callers()
    callers.hold([(red, [digest_of("red")])])
    app = create_app(Maze, callers=callers)
    async with serve(app) as url, httpx.AsyncClient(base_url=url, headers=RED) as http:
        engine = app.state.openenv.engine
        begun = await http.post("/reset", json={})
        name = {"X-OpenEnv-Session": begun.headers["X-OpenEnv-Session"]}
        http.cookies.clear()
        account = engine.accounts[red]
        assert account.steps == 2  # one opens, one begins
        agent = Agent(http, STATELESS)
        await agent.begin()
        await agent.call("reset")
        await agent.call("step", to=1)
        assert account.steps == 5
        address = url.replace("http", "ws") + "/ws"
        async with connect(address, additional_headers=RED) as socket:
            await socket.send('{"type": "reset", "data": {}}')
            assert json.loads(await socket.recv())["type"] == "observation"
            assert account.steps == 7
            assert account.bytes_in > 0
            assert account.bytes_out > 0
            red.step_bucket.take(10_000, time.monotonic())  # nothing is left for days
            await socket.send('{"type": "reset", "data": {}}')
            assert "steps a second" in json.loads(await socket.recv())["data"]["message"]
        refused = await http.post("/step", headers=name, json={"action": {"to": 1}})
        assert (refused.status_code, code(refused)) == (429, "quota_reached")
        assert int(refused.headers["Retry-After"]) > 60
        await agent.call("step", to=1)
        assert "steps a second" in agent.texts[-1]
        assert account.refused["steps"] == 3
