"""The load on a server: how much, and the sessions that bring it."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from openenv_async.benchmarking.load import Load, action_schema, sessions
from openenv_async.errors import ServerBusy, ServerError
from openenv_async.schemas.refs import resolved
from openenv_async.testing import BenchEnvironment
from tests.behaviours.environments import served


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"sessions": 0}, "sessions must be at least 1, got 0"),
        ({"connections": -1}, "connections must be at least 1, got -1"),
        ({"seconds": 0.0}, "seconds must be positive"),
        ({"seconds": float("nan")}, "seconds must be positive"),
        ({"warmup": -0.1}, "warmup not negative"),
    ],
)
def test_a_load_that_makes_no_sense(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Load(**wrong)


def test_the_least_load() -> None:
    load = Load(sessions=1, connections=1, seconds=1e-9, warmup=0.0)
    assert (load.sessions, load.seed) == (1, 0)


async def test_sessions_share_connections_and_are_closed() -> None:
    async with served(BenchEnvironment) as (url, engine):
        load = Load(sessions=5, connections=2)
        async with sessions(url, load, "a", token=None, timeouts=None) as clients:
            assert len(clients) == len(engine.sessions) == 5
            assert engine.stats.connections == 2
            async with sessions(url, load, "b", token=None, timeouts=None):
                assert engine.stats.connections == 4, "another name shares nothing"
        assert not engine.sessions


async def test_where_one_cannot_be_opened_none_is() -> None:
    async with served(BenchEnvironment, max_sessions=2, max_waiting=0) as (url, engine):
        with pytest.raises(ServerBusy):
            async with sessions(url, Load(sessions=3), "a", token=None, timeouts=None):
                raise AssertionError("never entered")
        assert not engine.sessions


@pytest.mark.parametrize("answer", [{}, [], {"observation": {}}])
async def test_a_server_without_an_action_schema(answer: Any) -> None:
    async def schema(request: web.Request) -> web.Response:
        return web.json_response(answer)

    app = web.Application()
    app.router.add_get("/schema", schema)
    async with TestServer(app) as server:
        with pytest.raises(ServerError, match="gives no action schema"):
            await action_schema(str(server.make_url("/")), None)


async def test_the_action_schema_is_that_of_the_server() -> None:
    async with served(BenchEnvironment) as (url, engine):
        own = engine.spec.schema["action"]
        sent = await action_schema(url, None)
        assert sent == resolved(own, own)
