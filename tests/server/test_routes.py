"""Answers on every path: wrong ones, the front page, foreign hosts and cookies, test clients."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import aiohttp
import httpx
import msgspec
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from openenv_async import Environment, HTTPEnvClient, StepResult, create_app, serve
from openenv_async.server import HTTPEnvServer
from tests.helpers import Counter


def asking(app: Any, **settings: Any) -> httpx.AsyncClient:
    base = settings.pop("base_url", "http://127.0.0.1")
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=base, **settings)


# -- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/site01/reset", "/nothing", "/reset/now"])
async def test_a_path_where_nothing_is(method: str, path: str) -> None:
    async with asking(create_app(Counter)) as http:
        reply = await http.request(method, path)
        assert reply.status_code == 404
        error = reply.json()["error"]
        assert error["code"] == "target_not_found"
        assert f"no such path: {path}" in error["message"]
        assert "/reset" in error["message"]
        assert ("/site01" in error["message"].partition(": leave out")[2]) == ("site" in path)


async def test_a_method_that_a_path_does_not_take() -> None:
    async with asking(create_app(Counter)) as http:
        for method, path, right in (("GET", "/reset", "POST"), ("POST", "/state", "GET")):
            reply = await http.request(method, path)
            assert reply.status_code == 405
            assert reply.headers["Allow"] == right
            assert f"{path} takes {right}" in reply.json()["error"]["message"]
        moved = await http.post("/reset/", json={})
        assert moved.status_code == 307
        assert (await http.post("/reset/", json={}, follow_redirects=True)).status_code == 200


async def test_a_websocket_request_without_its_headers_says_which_are_missing() -> None:
    async with asking(create_app(Counter)) as http:
        reply = await http.get("/ws", headers={"Connection": "close"})
        assert reply.status_code == 426
        assert reply.headers["Upgrade"] == "websocket"
        message = reply.json()["error"]["message"]
        assert "Upgrade" in message
        assert "proxy" in message


@pytest.mark.parametrize("subprotocol", ["openenv.v1.msgpack", None])
async def test_a_websocket_at_a_wrong_path(subprotocol: str | None) -> None:
    offered = None if subprotocol is None else [Subprotocol(subprotocol)]
    async with serve(Counter) as url:
        address = url.replace("http", "ws") + "/site01/ws"
        with pytest.raises(InvalidStatus) as caught:
            async with connect(address, subprotocols=offered):
                pass
        assert caught.value.response.status_code == 404
        body = json.loads(caught.value.response.body or b"")
        assert "no such path: /site01/ws" in body["error"]["message"]


async def test_the_front_page() -> None:
    async with asking(create_app(Counter)) as http:
        about = (await http.get("/")).json()
        assert about["environment"] == "Counter"
        assert about["routes"]["/reset"].startswith("POST")
        assert about["routes"]["/ws"].startswith("GET")
        page = await http.get("/", headers={"Accept": "text/html,*/*"})
        assert page.headers["content-type"].startswith("text/html")
        assert "<h1>Counter" in page.text
        assert './health"' in page.text
        assert (await http.post("/")).status_code == 405


async def test_with_a_token_every_path_wants_it() -> None:
    async with asking(create_app(Counter, token="sesame")) as http:
        for path in ("/", "/nothing", "/ws", "/health", "/reset"):
            assert (await http.get(path)).status_code == 401
        ok = {"Authorization": "Bearer sesame"}
        assert (await http.get("/", headers=ok)).status_code == 200
        assert (await http.get("/nothing", headers=ok)).status_code == 404


async def test_a_mounted_server_leaves_other_paths_alone() -> None:
    app = FastAPI()
    app.include_router(HTTPEnvServer(Counter).router, prefix="/counter")

    @app.get("/")
    async def mine() -> str:
        return "mine"

    async with asking(app) as http:
        assert (await http.get("/")).json() == "mine"
        assert (await http.get("/counter/health")).status_code == 200
        assert (await http.get("/elsewhere")).json() == {"detail": "Not Found"}


# -- hosts ----------------------------------------------------------------------------------------

PATHS = ("/", "/health", "/schema", "/metadata", "/stats", "/metrics", "/openapi.json", "/nothing")
LOCAL = ("127.0.0.1:8000", "localhost:8000", "[::1]:8000", "10.0.0.7", "env-1:8000", "LOCALHOST")
FOREIGN = ("evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.com")


@pytest.mark.parametrize("path", PATHS)
async def test_without_a_token_a_name_of_elsewhere_is_refused(path: str) -> None:
    """A page whose name was made to point here could read every answer."""
    async with asking(create_app(Counter)) as http:
        for host in FOREIGN:
            reply = await http.get(path, headers={"Host": host})
            assert reply.status_code == 403, host
            message = reply.json()["error"]["message"]
            assert "allow-host" in message
            assert "token" in message
        for host in (*LOCAL, "host.docker.internal", "printer.local", "x.localhost"):
            reply = await http.get(path, headers={"Host": host})
            assert reply.status_code in (200, 404), host


async def test_every_route_that_changes_anything_checks_the_host() -> None:
    app = create_app(Counter)
    async with asking(app, headers={"Host": "evil.example"}) as http:
        for path in ("/open", "/reset", "/step", "/close"):
            assert (await http.post(path, json={})).status_code == 403
    assert not app.state.openenv.engine.sessions


async def test_hosts_that_are_allowed() -> None:
    evil = {"Host": "env.example:8443"}
    for settings in (
        {"allowed_hosts": ["env.example"]},
        {"allowed_hosts": ["*"]},
        {"allowed_origins": ["https://env.example"]},
        {"token": "sesame"},
    ):
        headers = {**evil, "Authorization": "Bearer sesame"}
        async with asking(create_app(Counter, **settings)) as http:
            assert (await http.get("/health", headers=headers)).status_code == 200


async def test_the_name_of_a_space_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_HOST", "me-env.hf.space")
    async with asking(create_app(Counter)) as http:
        assert (await http.get("/health", headers={"Host": "me-env.hf.space"})).status_code == 200
        assert (await http.get("/health", headers={"Host": "evil.hf.space"})).status_code == 403


async def test_a_websocket_of_a_foreign_host_is_refused() -> None:
    async with serve(Counter) as url:
        address = url.replace("http", "ws") + "/ws"
        with pytest.raises(InvalidStatus) as caught:
            async with connect(address.replace("127.0.0.1", "evil.example"), host="127.0.0.1"):
                pass
        assert caught.value.response.status_code == 403


# -- cookies --------------------------------------------------------------------------------------


async def test_two_servers_of_one_host_share_a_jar() -> None:
    async with serve(Counter) as one, serve(Counter) as two:
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as http:
            for url in (one, two):
                async with http.post(f"{url}/reset", json={}) as reply:
                    assert reply.status == 200
            for count in (1, 2):
                for url in (one, two):
                    async with http.post(f"{url}/step", json={"action": {}}) as reply:
                        assert (await reply.json())["observation"]["count"] == count
            async with http.post(f"{one}/close", json={}) as reply:
                assert reply.status == 200
            async with http.post(f"{one}/step", json={"action": {}}) as reply:
                said = await reply.json()
                assert "another server" in said["error"]["message"]
            async with http.post(f"{two}/step", json={"action": {}}) as reply:
                assert (await reply.json())["observation"]["count"] == 3


# -- test clients ---------------------------------------------------------------------------------


class Waiting(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Its session's task must live from one request to the next."""

    async def reset(self) -> dict[str, Any]:
        self.count = 0
        return {}

    async def step(self, action: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0.001)
        self.count += 1
        return {"count": self.count}


class Threaded(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Its steps run in a thread."""

    isolation = "thread"

    def reset(self) -> dict[str, Any]:
        self.count = 0
        return {}

    def step(self, action: dict[str, Any]) -> dict[str, Any]:
        self.count += 1
        return {"count": self.count}


@pytest.mark.parametrize("env", [Counter, Waiting, Threaded])
@pytest.mark.parametrize("mounted", [False, True])
def test_a_test_client_without_a_lifespan(env: Any, mounted: bool) -> None:
    """Each of its requests has an event loop of its own, closed after it."""
    app: Any = create_app(env)
    prefix = ""
    if mounted:
        app, prefix = FastAPI(), "/env"
        app.include_router(HTTPEnvServer(env).router, prefix=prefix)
    client = TestClient(app)
    assert client.get(f"{prefix}/health").status_code == 200
    assert client.post(f"{prefix}/reset").status_code == 200
    for count in (1, 2, 3):
        reply = client.post(f"{prefix}/step", json={"action": {}})
        assert reply.json()["observation"]["count"] == count
    with client.websocket_connect(f"{prefix}/ws") as socket:
        socket.send_json({"type": "reset", "data": {}})
        assert socket.receive_json()["type"] == "observation"
        socket.send_json({"type": "step", "data": {}})
        assert socket.receive_json()["data"]["observation"]["count"] == 1
    assert client.post(f"{prefix}/close").status_code == 200


def test_a_test_client_with_a_lifespan() -> None:
    app = create_app(Waiting)
    with TestClient(app) as client:
        client.post("/reset")
        assert client.post("/step", json={"action": {}}).status_code == 200
    assert not app.state.openenv.engine.sessions


# -- options and rewards --------------------------------------------------------------------------


class Sandbox(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
    """Its reset has options with names that mean something elsewhere."""

    def reset(self, timeout: float = 5.0, session_id: str = "none") -> dict[str, Any]:
        return {"timeout": timeout, "session_id": session_id}

    def step(self, action: dict[str, Any]) -> StepResult[dict[str, Any]]:
        return StepResult({}, reward=float(action["reward"]))


class Gymlike(Sandbox):
    """Its reset has an option that is called options."""

    def reset(self, options: dict[str, Any] | None = None) -> dict[str, Any]:  # type: ignore[override]  # another environment
        return {"options": options}


@pytest.mark.parametrize("nested", [False, True])
async def test_options_with_any_name_reach_the_environment(nested: bool) -> None:
    own = {"timeout": 3.0, "session_id": "mine"}
    async with asking(create_app(Sandbox)) as http:
        body: dict[str, Any] = {"seed": 1, "options": own} if nested else {"seed": 1, **own}
        assert (await http.post("/reset", json=body)).json()["observation"] == own
        twice = await http.post("/reset", json={"timeout": 1.0, "options": {"timeout": 2.0}})
        assert twice.status_code == 422
        assert "twice" in twice.text
        unknown = await http.post("/reset", json={"options": {"level": 2}})
        assert unknown.status_code == 422
        assert "level" in unknown.text


async def test_an_option_that_is_called_options_is_the_environments() -> None:
    async with asking(create_app(Gymlike)) as http:
        reply = await http.post("/reset", json={"options": {"level": 2}})
        assert reply.json()["observation"] == {"options": {"level": 2}}


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "0.0", "1.5"])
async def test_a_reward_arrives_exactly_over_http_and_upstreams_dialect(text: str) -> None:
    reward = float(text)
    spelled = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(text, reward)
    async with serve(Sandbox) as url, httpx.AsyncClient(base_url=url) as http:
        await http.post("/reset", json={})
        for media in ("application/json", "application/openenv+json"):
            reply = await http.post(
                "/step", json={"action": {"reward": text}}, headers={"Accept": media}
            )
            assert json.loads(reply.text, parse_constant=pytest.fail)["reward"] == spelled
        packed = await http.post(
            "/step",
            json={"action": {"reward": text}},
            headers={"Accept": "application/msgpack"},
        )
        assert repr(msgspec.msgpack.decode(packed.content)["reward"]) == repr(reward)
        async with HTTPEnvClient[Any, Any, Any](url) as env:
            await env.reset()
            assert repr((await env.step({"reward": text})).reward) == repr(reward)
        async with connect(url.replace("http", "ws") + "/ws") as socket:
            await socket.send('{"type": "reset", "data": {}}')
            assert json.loads(await socket.recv())["data"]["reward"] is None
            await socket.send(json.dumps({"type": "step", "data": {"reward": text}}))
            assert json.loads(await socket.recv())["data"]["reward"] == spelled
        assert math.isnan(reward) == (spelled == "NaN")


async def test_a_seed_past_64_bits_is_refused_over_http_and_upstreams_dialect() -> None:
    async with serve(Counter) as url:
        async with httpx.AsyncClient(base_url=url) as http:
            for seed in (2**64, 10**300, -1):
                reply = await http.post("/reset", json={"seed": seed})
                assert reply.status_code == 422
                assert "seed" in reply.text
            assert (await http.post("/reset", json={"seed": 2**64 - 1})).status_code == 200
            for value in (10**300, -1, 0, "x"):
                body: dict[str, Any] = {"action": {}, "timeout_s": value}
                assert (await http.post("/step", json=body)).status_code == 422
            for text in ("nan", "inf", "-1", "1e300", "x"):
                headers = {"X-OpenEnv-Timeout": text}
                reply = await http.post("/step", json={"action": {}}, headers=headers)
                assert reply.status_code == 400
            assert (await http.post("/step", json={"action": {}})).status_code == 200
        async with connect(url.replace("http", "ws") + "/ws") as socket:
            await socket.send(json.dumps({"type": "reset", "data": {"seed": 2**64}}))
            assert json.loads(await socket.recv())["type"] == "error"
            await socket.send('{"type": "reset", "data": {"seed": 3}}')
            assert json.loads(await socket.recv())["data"]["observation"]["seed"] == 3
