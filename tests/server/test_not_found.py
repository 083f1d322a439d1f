"""Replies on paths without a route: wrong paths and methods, the front page."""

from __future__ import annotations

import json

import pytest
from fastapi import FastAPI
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Subprotocol

from openenv_async import create_app, serve
from openenv_async.server import HTTPEnvServer
from tests.helpers import Counter
from tests.server.clients import asking


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
        for path in ("/", "/nothing", "/ws", "/stats", "/reset"):
            assert (await http.get(path)).status_code == 401
        assert (await http.get("/health")).status_code == 200  # a probe has none
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
