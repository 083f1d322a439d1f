"""Plain HTTP questions to a server: the address asked, and the error where no JSON came."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from openenv_async.client.server_info import fetch_schema, get_json
from openenv_async.errors import ConnectFailed, OpenEnvError, ServerError, Unauthorized

DENIED = {"error": {"code": "unauthorized", "message": "no"}}


@contextlib.asynccontextmanager
async def answering(status: int = 200, body: Any = None, delay: bool = False) -> AsyncIterator[Any]:
    """A server that gives one answer to every request and notes what was asked."""
    import asyncio

    asked: list[tuple[str, str | None]] = []
    never = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        asked.append((request.path, request.headers.get("Authorization")))
        if delay:
            await never.wait()
        if isinstance(body, web.Response):  # one is sent once
            return web.Response(text=body.text, content_type=body.content_type)
        return web.json_response(body, status=status)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    try:
        yield f"127.0.0.1:{port}", asked
    finally:
        never.set()
        await runner.cleanup()


async def test_the_schema_is_asked_for_at_the_servers_own_address() -> None:
    async with answering(body={"action": {}}) as (where, asked):
        for url in (
            "http://{}",
            "http://{}/",
            "ws://{}/ws",
            "http://{}/ws/?a=1",
            "http://{}/mount",
        ):
            assert await fetch_schema(url.format(where)) == {"action": {}}
        assert [path for path, _ in asked] == ["/schema"] * 4 + ["/mount/schema"]
        assert {header for _, header in asked} == {None}


async def test_a_token_goes_along() -> None:
    async with answering(body=3) as (where, asked):
        assert await get_json(f"http://{where}/", "/health", token="t") == 3
        await fetch_schema(f"http://{where}", token="u")
        assert asked == [("/health", "Bearer t"), ("/schema", "Bearer u")]


async def test_what_the_server_says_is_the_error() -> None:
    async with answering(401, DENIED) as (where, _):
        with pytest.raises(Unauthorized, match="none was given"):
            await fetch_schema(f"http://{where}")
        with pytest.raises(Unauthorized, match="check the token"):
            await get_json(f"http://{where}", "/x", token="t")
    async with answering(404, {}) as (where, _):
        with pytest.raises(OpenEnvError, match="HTTP 404"):
            await fetch_schema(f"http://{where}")


async def test_no_answer_is_told_in_time() -> None:
    async with answering(delay=True) as (where, _):
        with pytest.raises(ConnectFailed, match=r"/schema: no answer within 0.2 s") as caught:
            await fetch_schema(f"http://{where}", timeout=0.2)
        assert caught.value.phase == "connect"
        with pytest.raises(ServerError, match="/x does not answer"):
            await get_json(f"http://{where}", "/x", timeout=0.2)


async def test_a_body_that_is_no_json_is_no_answer() -> None:
    async with answering(body=web.Response(text="<html>")) as (where, _):
        with pytest.raises(ConnectFailed, match="cannot read http://"):
            await fetch_schema(f"http://{where}")
        with pytest.raises(ServerError, match=r"/x does not answer: .*char 0") as told:
            await get_json(f"http://{where}", "/x")
        assert isinstance(told.value.__cause__, ValueError)
    with pytest.raises(ConnectFailed, match="nothing listens at") as caught:
        await fetch_schema(f"http://{where}")
    assert caught.value.__cause__ is not None


async def test_json_under_another_name_is_taken() -> None:
    plain = web.Response(text='{"a": 1}', content_type="text/plain")
    async with answering(body=plain) as (where, _):
        assert await get_json(f"http://{where}", "/x") == {"a": 1}


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("wss://a/ws", "https://a/schema"),
        ("ws://a/mount/ws/?x=1", "http://a/mount/schema"),
        ("https://a/", "https://a/schema"),
    ],
)
async def test_the_address_of_the_schema(
    monkeypatch: pytest.MonkeyPatch, url: str, address: str
) -> None:
    async def asked(*given: Any) -> Any:
        return given

    monkeypatch.setattr("openenv_async.client.server_info._ask", asked)
    assert await fetch_schema(url, token="t", timeout=3.0) == (url, address, "t", 3.0)
