"""The transports: what each can express, how it judges errors, and what it can tell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from openenv_async import EngineOptions, serve
from openenv_async.checks.conformance import (
    HTTPTransport,
    InProcessTransport,
    McpTransport,
    NativeTransport,
    OneCallTransport,
    Transport,
    UpstreamRpcTransport,
    UpstreamTransport,
)
from openenv_async.checks.http_clients import UntypedError
from openenv_async.checks.transports import network_transports
from openenv_async.checks.upstream_client import UpstreamError
from openenv_async.engine import Engine
from openenv_async.errors import (
    EpisodeEnded,
    InvalidAction,
    SessionLost,
    SessionNotFound,
    Unauthorized,
)
from openenv_async.server import create_app
from openenv_async.spec import EnvironmentSpec
from openenv_async.testing import ConformanceEnvironment
from openenv_async.types import Limits

URL = "http://127.0.0.1:9"


def test_the_transports_with_a_network() -> None:
    found = network_transports(URL)
    assert [(each.name, type(each)) for each in found] == [
        ("native msgpack", NativeTransport),
        ("native json", NativeTransport),
        ("http", HTTPTransport),
        ("upstream", UpstreamTransport),
        ("upstream json-rpc", UpstreamRpcTransport),
        ("mcp 2025-11-25", McpTransport),
        ("mcp 2026-07-28", McpTransport),
        ("stateless http", OneCallTransport),
    ]


def test_only_native_transports_carry_frames_and_streams() -> None:
    for transport in network_transports(URL):
        is_native = isinstance(transport, NativeTransport)
        assert ("frames" in transport.features) == is_native
        assert ("stream" in transport.features) == is_native
    assert not UpstreamTransport.features & {"options", "exact", "order"}
    assert not McpTransport.features & {"choice", "reward", "state"}
    assert InProcessTransport.features == NativeTransport.features - {"frames", "sessions"}


def test_the_protocol_page_has_what_each_dialect_can_express() -> None:
    kinds = (
        *(NativeTransport, InProcessTransport, HTTPTransport, UpstreamTransport),
        *(UpstreamRpcTransport, McpTransport, McpTransport, OneCallTransport),
    )
    page = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    section = page.partition("\n## 9. Dialects\n")[2].partition("\n## ")[0]
    told: dict[str, tuple[str, ...]] = {}
    for line in section.splitlines():
        if found := re.match(r"\|.*\(`(\w+)`\) \| (.*) \|$", line):
            told[found[1]] = tuple(found[2].split(" | "))
    features = NativeTransport.features
    assert told == {
        each: tuple("yes" if each in kind.features else "no" for kind in kinds) for each in features
    }


def test_errors_are_judged_by_class_or_by_upstreams_code() -> None:
    native, upstream = NativeTransport(URL), UpstreamTransport(URL)
    assert native.matches(EpisodeEnded("over"), EpisodeEnded)
    assert not native.matches(EpisodeEnded("over"), InvalidAction)
    assert upstream.matches(UpstreamError(InvalidAction.upstream_code, "no"), InvalidAction)
    assert not upstream.matches(UpstreamError("OTHER", "no"), InvalidAction)
    assert not upstream.matches(InvalidAction("no"), InvalidAction)
    for untyped in (UpstreamRpcTransport(URL), McpTransport(URL)):
        assert "kinds" not in untyped.features
        assert untyped.matches(UntypedError("no"), InvalidAction)
        assert not untyped.matches(RuntimeError("no"), InvalidAction)


def test_arrays_are_sent_as_lists_where_there_are_none() -> None:
    np = pytest.importorskip("numpy")
    action = {"a": [np.arange(2), (np.float32(1.5),)], "b": "text"}
    assert NativeTransport(URL).sendable(action) is action
    assert UpstreamTransport(URL).sendable(action) == {"a": [[0, 1], [1.5]], "b": "text"}


async def test_what_a_transport_has_not_is_not_implemented() -> None:
    class Bare(Transport):
        name = "bare"
        features = frozenset()

        def session(self, **options: object) -> None:  # type: ignore[override]  # never called
            raise AssertionError

    assert await Bare().capacity() is None
    with pytest.raises(NotImplementedError):
        Bare().raw_connection()
    with pytest.raises(NotImplementedError):
        await Bare().use_unknown_session()


@pytest.mark.parametrize("format", ["msgpack", "json"])
async def test_a_session_of_a_native_transport(format: str) -> None:
    async with serve(ConformanceEnvironment, options=EngineOptions(max_sessions=7)) as url:
        transport = NativeTransport(url, format)  # type: ignore[arg-type]  # one of the two
        assert await transport.capacity() == 7
        async with transport.session(
            options={"label": "mine"}, limits=Limits(max_message_size=100_000)
        ) as opened:
            env: Any = opened
            await env.reset()
            assert (await env.state())["label"] == "mine"
            assert env.limits.max_message_size == 100_000


async def test_a_session_of_an_engine() -> None:
    engine = Engine(EnvironmentSpec(ConformanceEnvironment), EngineOptions(max_sessions=3))
    try:
        transport = InProcessTransport(engine, "json")
        assert transport.name == "in process json"
        assert await transport.capacity() == 3
        async with transport.session(options={"label": "mine"}) as env:
            await env.reset()
            assert (await env.state())["label"] == "mine"
        assert not engine.sessions
    finally:
        await engine.aclose()


@pytest.mark.parametrize(
    "kind", [NativeTransport, HTTPTransport, UpstreamRpcTransport, McpTransport]
)
async def test_an_unknown_session_is_a_typed_error(kind: type[NativeTransport]) -> None:
    async with serve(ConformanceEnvironment) as url:
        with pytest.raises((SessionNotFound, SessionLost)):
            await kind(url).use_unknown_session()


async def test_each_transport_shows_its_token() -> None:
    app = create_app(ConformanceEnvironment, token="secret", stateless_http=True)
    async with serve(app) as url:
        for transport in network_transports(url, "secret"):
            async with transport.session() as env:
                result = await env.reset()
                assert "reset" not in transport.features or result.observation["text"] == "ready"
        for stranger in network_transports(url):
            if stranger.name in ("upstream", "stateless http"):
                continue  # their refusals are not errors of an opening
            with pytest.raises(Unauthorized):
                async with stranger.session() as env:
                    await env.reset()
        for known in (NativeTransport(url, token="secret"), HTTPTransport(url, "secret")):
            with pytest.raises((SessionNotFound, SessionLost)):
                await known.use_unknown_session()
