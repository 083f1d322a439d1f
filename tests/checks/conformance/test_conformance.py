"""Every behaviour over every door; this package's own server keeps them all."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest

from openenv_async import EngineOptions, serve
from openenv_async.checks.conformance import (
    CHECKS,
    Door,
    HTTPDoor,
    MemoryDoor,
    NativeDoor,
    Suite,
    UpstreamDoor,
)
from openenv_async.engine import Engine
from openenv_async.spec import EnvironmentSpec
from openenv_async.testing import ConformanceEnvironment

OPTIONS = EngineOptions(max_sessions=12)
DOORS = [
    "native msgpack",
    "native json",
    "http",
    "upstream",
    "in process msgpack",
    "in process json",
]
SPEC = EnvironmentSpec(ConformanceEnvironment)


@contextlib.asynccontextmanager
async def opened(name: str) -> AsyncIterator[Door]:
    if name.startswith("in process"):
        engine = Engine(SPEC, OPTIONS)
        try:
            yield MemoryDoor(engine, "json" if name.endswith("json") else "msgpack")
        finally:
            await engine.aclose()
        return
    async with serve(ConformanceEnvironment, options=OPTIONS) as url:
        match name:
            case "native msgpack":
                yield NativeDoor(url)
            case "native json":
                yield NativeDoor(url, "json")
            case "http":
                yield HTTPDoor(url)
            case _:
                yield UpstreamDoor(url)


FEATURES = {
    "native msgpack": NativeDoor.features,
    "native json": NativeDoor.features,
    "http": HTTPDoor.features,
    "upstream": UpstreamDoor.features,
    "in process msgpack": MemoryDoor.features,
    "in process json": MemoryDoor.features,
}


@pytest.mark.parametrize(
    ("name", "door"),
    [(name, door) for name in CHECKS for door in DOORS if CHECKS[name].needs <= FEATURES[door]],
)
async def test_conformance(name: str, door: str) -> None:
    async with opened(door) as way:
        assert way.name == door
        result = await Suite(way, own=True, schema=SPEC.schema).run_one(CHECKS[name])
    if result.status == "skipped":
        assert "does not tell how many" in result.reason
        pytest.skip(result.reason)
    assert result.status == "passed", f"{result.reason} ({result.remedy})"


@pytest.mark.parametrize("door", DOORS)
async def test_what_a_door_cannot_do_is_skipped_with_the_reason(door: str) -> None:
    async with opened(door) as way:
        suite = Suite(way, own=True, schema=SPEC.schema)
        for check in CHECKS.values():
            if not check.needs <= way.features:
                result = await suite.run_one(check)
                assert result.status == "skipped"
                assert "this door has no" in result.reason


def test_every_check_says_what_it_promises_and_what_to_look_at() -> None:
    assert len(CHECKS) > 50
    for check in CHECKS.values():
        assert check.promise.endswith(".")
        assert check.remedy
