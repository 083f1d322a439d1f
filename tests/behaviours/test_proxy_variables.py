"""Proxy variables never touch loopback, and ``os.environ`` is never edited."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from openenv_async import GenericEnvClient, HTTPEnvClient, SyncEnvClient, serve
from openenv_async.checks.conformance import run
from openenv_async.endpoints.addresses import is_loopback
from openenv_async.rollouts import fetch_schema
from tests.helpers import Counter

VARIABLES = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "WS_PROXY", "WSS_PROXY"]


class Proxy:
    """Counts who comes, and lets nobody through."""

    def __init__(self) -> None:
        self.visits = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.visits += 1
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()


@pytest.fixture
def proxy() -> Proxy:
    return Proxy()


@pytest.fixture
async def address(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> Any:
    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    for name in VARIABLES:
        monkeypatch.setenv(name, url)
        monkeypatch.setenv(name.lower(), url)
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield url
    server.close()
    await server.wait_closed()


async def test_every_client_goes_straight_to_loopback(proxy: Proxy, address: str) -> None:
    before = dict(os.environ)
    async with serve(Counter) as url:
        for where in (url, url.replace("127.0.0.1", "localhost")):
            async with GenericEnvClient(where) as env:
                await env.reset()
                assert (await env.step({})).observation["count"] == 1
            async with HTTPEnvClient[Any, Any, Any](where) as http:
                await http.reset()
                assert (await http.step({})).observation["count"] == 1

        def blocking() -> None:
            with SyncEnvClient[Any, Any, Any](url) as env:
                env.reset()

        await asyncio.to_thread(blocking)
        assert "action" in await fetch_schema(url)
        results = await run(url, names=["a_whole_episode_runs"])
        over = {result.subject: result.status for result in results}
        assert {over[name] for name in ("native msgpack", "native json", "http", "upstream")} == {
            "passed"
        }
        assert "failed" not in over.values()
    assert proxy.visits == 0
    assert dict(os.environ) == before


async def test_others_go_through_the_proxy(proxy: Proxy, address: str) -> None:
    """The fixture is a proxy that would be used: other hosts do."""
    with pytest.raises(Exception, match=r"502|proxy"):
        await GenericEnvClient("http://env.example:8000").open()
    assert proxy.visits > 0


@pytest.mark.parametrize(
    ("url", "loopback"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://127.9.9.9", True),
        ("ws://localhost/ws", True),
        ("wss://LOCALHOST:1/ws", True),
        ("http://env.localhost:80", True),
        ("http://[::1]:8000", True),
        ("http://10.0.0.1", False),
        ("http://localhost.example", False),
        ("http://127.0.0.1.example", False),
        ("http://example", False),
    ],
)
def test_what_loopback_is(url: str, loopback: bool) -> None:
    assert is_loopback(url) == loopback
