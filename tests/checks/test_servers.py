"""The servers of a target: at its URLs as they are, else one that is started."""

from __future__ import annotations

import os

import pytest

from openenv_async import GenericEnvClient, serve
from openenv_async.checks.servers import servers
from openenv_async.engine import Engine
from openenv_async.errors import WorkerStartFailed, WrongTarget
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.resolve import resolve
from tests.checks.validation.broken import Good

GOOD = "tests.checks.validation.broken:Good"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://127.0.0.1:1", "http://127.0.0.1:1"),
        ("http://127.0.0.1:1/", "http://127.0.0.1:1"),
        ("ws://127.0.0.1:1/ws", "http://127.0.0.1:1"),
        ("wss://host.example/under", "https://host.example/under"),
    ],
)
async def test_a_url_is_as_http_has_it(url: str, address: str) -> None:
    async with servers(resolve(url, token="secret")) as [server]:
        assert (server.url, server.token, server.pid) == (address, "secret", None)


async def test_several_urls_are_several_servers() -> None:
    given = ["http://127.0.0.1:1", ("ws://127.0.0.1:2", "own"), ("http://127.0.0.1:3", None)]
    async with servers(resolve(given, token="shared")) as found:
        assert [(server.url, server.token) for server in found] == [
            ("http://127.0.0.1:1", "shared"),
            ("http://127.0.0.1:2", "own"),
            ("http://127.0.0.1:3", "shared"),
        ]


async def test_a_name_is_served_by_a_process_meanwhile() -> None:
    target = resolve(GOOD)
    async with servers(target, max_sessions=3) as [server]:
        assert server.pid not in (None, os.getpid())
        async with GenericEnvClient(server.url, token=server.token) as env:
            await env.reset()
            assert env.connection is not None
            assert env.connection.server["max_sessions"] == 3
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid or 0, 0)


async def test_arguments_are_those_of_a_process() -> None:
    arguments = ("--environment-name", "nothing")
    with pytest.raises(WorkerStartFailed, match="No such option"):
        async with servers(resolve(GOOD), arguments=arguments):
            pass
    async with servers(resolve(Good), arguments=arguments, max_sessions=2) as [server]:
        assert server.pid == os.getpid()


async def test_a_client_plays_on_a_server_already() -> None:
    async with serve(Good) as url, servers(resolve(GenericEnvClient(url))) as [server]:
        assert server.url == url


async def test_an_engine_has_no_server() -> None:
    engine = Engine(EnvironmentSpec(Good))
    try:
        with pytest.raises(WrongTarget, match="has no server"):
            async with servers(resolve(engine)):
                pass
    finally:
        await engine.aclose()
