"""Every behaviour over every transport; this package's own server keeps them all."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from openenv_async import EngineOptions, serve
from openenv_async.checks.conformance import (
    CHECKS,
    HTTPTransport,
    InProcessTransport,
    NativeTransport,
    Suite,
    Transport,
    UpstreamTransport,
)
from openenv_async.engine import Engine
from openenv_async.spec import EnvironmentSpec
from openenv_async.testing import ConformanceEnvironment

OPTIONS = EngineOptions(max_sessions=12)
TRANSPORTS = [
    "native msgpack",
    "native json",
    "http",
    "upstream",
    "in process msgpack",
    "in process json",
]
SPEC = EnvironmentSpec(ConformanceEnvironment)


@contextlib.asynccontextmanager
async def opened(name: str) -> AsyncIterator[Transport]:
    if name.startswith("in process"):
        engine = Engine(SPEC, OPTIONS)
        try:
            yield InProcessTransport(engine, "json" if name.endswith("json") else "msgpack")
        finally:
            await engine.aclose()
        return
    async with serve(ConformanceEnvironment, options=OPTIONS) as url:
        match name:
            case "native msgpack":
                yield NativeTransport(url)
            case "native json":
                yield NativeTransport(url, "json")
            case "http":
                yield HTTPTransport(url)
            case _:
                yield UpstreamTransport(url)


FEATURES = {
    "native msgpack": NativeTransport.features,
    "native json": NativeTransport.features,
    "http": HTTPTransport.features,
    "upstream": UpstreamTransport.features,
    "in process msgpack": InProcessTransport.features,
    "in process json": InProcessTransport.features,
}


@pytest.mark.parametrize(
    ("name", "transport"),
    [
        (name, transport)
        for name in CHECKS
        for transport in TRANSPORTS
        if CHECKS[name].needs <= FEATURES[transport]
    ],
)
async def test_conformance(name: str, transport: str) -> None:
    async with opened(transport) as way:
        assert way.name == transport
        result = await Suite(way, own=True, schema=SPEC.schema).run_one(CHECKS[name])
    if result.status == "skipped":
        assert "does not tell how many" in result.reason
        pytest.skip(result.reason)
    assert result.status == "passed", f"{result.reason} ({result.remedy})"


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_what_a_transport_cannot_do_is_skipped_with_the_reason(transport: str) -> None:
    async with opened(transport) as way:
        suite = Suite(way, own=True, schema=SPEC.schema)
        for check in CHECKS.values():
            if not check.needs <= way.features:
                result = await suite.run_one(check)
                assert result.status == "skipped"
                assert "this transport has no" in result.reason


def test_every_check_says_what_it_promises_and_what_to_look_at() -> None:
    assert len(CHECKS) > 50
    for check in CHECKS.values():
        assert check.promise.endswith(".")
        assert check.remedy
