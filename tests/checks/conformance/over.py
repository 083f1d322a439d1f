"""The transports of this package's own server, and servers behind a transport that lies."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from types import ModuleType
from typing import Any

import pytest

from openenv_async import EngineOptions, Limits, StepResult, serve
from openenv_async.checks.conformance import (
    CHECKS,
    HTTPTransport,
    InProcessTransport,
    McpTransport,
    NativeTransport,
    OneCallTransport,
    Suite,
    Transport,
    UpstreamRpcTransport,
    UpstreamTransport,
)
from openenv_async.checks.raw_connection import RawConnection
from openenv_async.checks.registry import Result
from openenv_async.checks.transports import network_transports
from openenv_async.engine import Engine
from openenv_async.errors import EnvironmentRaised
from openenv_async.server import create_app
from openenv_async.spec import EnvironmentSpec
from openenv_async.testing import ConformanceEnvironment

__all__ = ["FEATURES", "SPEC", "caught", "caught_in_frames", "opened", "passes", "promises"]

OPTIONS = EngineOptions(max_sessions=12)
SPEC = EnvironmentSpec(ConformanceEnvironment)
FEATURES = {
    "native msgpack": NativeTransport.features,
    "native json": NativeTransport.features,
    "native local": NativeTransport.features - {"frames"},
    "http": HTTPTransport.features,
    "upstream": UpstreamTransport.features,
    "upstream json-rpc": UpstreamRpcTransport.features,
    "mcp 2025-11-25": McpTransport.features,
    "mcp 2026-07-28": McpTransport.features,
    "stateless http": OneCallTransport.features,
    "in process msgpack": InProcessTransport.features,
    "in process json": InProcessTransport.features,
}


@contextlib.asynccontextmanager
async def opened(name: str) -> AsyncIterator[Transport]:
    """Serve the conformance environment and give the transport of this name."""
    if name.startswith("in process"):
        engine = Engine(SPEC, OPTIONS)
        try:
            yield InProcessTransport(engine, "json" if name.endswith("json") else "msgpack")
        finally:
            await engine.aclose()
        return
    is_stateless = name == "stateless http"
    app = create_app(ConformanceEnvironment, options=OPTIONS, stateless_http=is_stateless)
    stats = app.state.openenv.engine.stats
    async with serve(app) as url:
        if name == "native local":
            yield NativeTransport(url, local=True)
            assert stats.local_connections_opened or not stats.opened
            return
        [found] = [each for each in network_transports(url) if each.name == name]
        yield found


def promises(module: ModuleType) -> pytest.MarkDecorator:
    """Parametrize a test with each check of a module over each transport that can make it."""
    cases = [
        (name, transport)
        for name, check in CHECKS.items()
        for transport, features in FEATURES.items()
        if check.call.__module__ == module.__name__ and check.needs <= features
    ]
    return pytest.mark.parametrize(("name", "transport"), cases)


async def passes(name: str, transport: str) -> None:
    """Make a check of the conformance environment; it must pass."""
    async with opened(transport) as way:
        assert way.name == transport
        result = await Suite(way, own=True, schema=SPEC.schema).run_one(CHECKS[name])
    if result.status == "skipped":
        assert "does not tell how many" in result.reason
        pytest.skip(result.reason)
    assert result.status == "passed", f"{result.reason} ({result.remedy})"


# -- a broken runtime: the conformance environment behind a transport that lies ------------------


class Lying(Transport):
    """A transport that changes what passes through."""

    name = "lying"
    features = InProcessTransport.features

    def __init__(self, engine: Engine, lie: str) -> None:
        self._transport = InProcessTransport(engine)
        self._lie = lie

    @contextlib.asynccontextmanager
    async def session(
        self, *, options: dict[str, Any] | None = None, limits: Limits | None = None
    ) -> AsyncIterator[Any]:
        if self._lie == "ignores the limits":
            limits = None
        async with self._transport.session(options=options, limits=limits) as opened:
            env: Any = opened
            reset, step, stream_step = env.reset, env.step, env.stream_step
            last: list[StepResult[Any]] = []

            async def lying_step(action: Any, **more: Any) -> StepResult[Any]:
                if self._lie == "ignores deadlines":
                    more.pop("timeout", None)
                    if isinstance(action, dict) and action.get("command") == "sleep":
                        action = {**action, "value": 0.0}
                if self._lie == "drops unknown fields" and isinstance(action, dict):
                    action = {key: part for key, part in action.items() if key != "comand"}
                if self._lie == "hides that a step ran" and action == {"command": "draw"}:
                    return await reset(seed=0)  # type: ignore[no-any-return]  # a client of any
                try:
                    result: StepResult[Any] = await step(action, **more)
                except EnvironmentRaised:
                    if self._lie == "swallows errors":
                        return last[-1]
                    raise
                if self._lie == "invents rewards" and result.reward is None:
                    result.reward = 0.0
                if self._lie == "rounds rewards" and result.reward is not None:
                    result.reward = min(1.0, max(-1.0, result.reward))
                if self._lie == "never ends":
                    result.terminated = result.truncated = False
                if self._lie == "calls every end the same":
                    result.terminated, result.truncated = result.done, False
                if self._lie == "gives lists for arrays":
                    data = result.observation["data"]
                    if hasattr(data, "tolist"):
                        result.observation["data"] = data.tolist()
                if self._lie == "cuts text":
                    result.observation["text"] = result.observation["text"][:500_000]
                if self._lie == "shifts replies" and last:
                    last.append(result)
                    return last[-2]
                last.append(result)
                return result

            async def lying_reset(**more: Any) -> StepResult[Any]:
                if self._lie == "drops seeds":
                    more.pop("seed", None)
                if self._lie == "drops episode ids":
                    more.pop("episode_id", None)
                if self._lie == "drops options":
                    more = {k: v for k, v in more.items() if k in ("seed", "episode_id", "timeout")}
                result: StepResult[Any] = await reset(**more)
                return result

            async def lying_stream(action: Any, **more: Any) -> AsyncIterator[StepResult[Any]]:
                items = [item async for item in stream_step(action, **more)]
                for item in items[:-1] if self._lie == "drops the last of a stream" else items:
                    yield item
                    if self._lie == "repeats what it streams":
                        yield item

            async def waiting_step(action: Any, **more: Any) -> StepResult[Any]:
                async with turn:
                    return await lying_step(action, **more)

            turn = asyncio.Lock()
            env.step, env.reset, env.stream_step = lying_step, lying_reset, lying_stream
            if self._lie == "queues calls":
                env.step = waiting_step
            yield env


async def caught(lie: str, name: str) -> Result:
    """Make a check over a transport with a lie; it must fail."""
    engine = Engine(SPEC)
    try:
        suite = Suite(Lying(engine, lie), own=True, schema=SPEC.schema)
        result = await suite.run_one(CHECKS[name])
    finally:
        await engine.aclose()
    assert result.status == "failed", result
    assert result.remedy == CHECKS[name].remedy
    return result


Lie = Callable[[RawConnection, Any], Any]


class LyingFrames(NativeTransport):
    """A transport whose raw connections give other frames than those that came."""

    def __init__(self, url: str, lie: Lie) -> None:
        super().__init__(url)
        self._lie = lie

    @contextlib.asynccontextmanager
    async def raw_connection(self) -> AsyncIterator[RawConnection]:
        """Open a raw connection that lies from its greeting on."""
        async with super().raw_connection() as connection:
            receive = connection.receive

            async def lying() -> Any:
                return self._lie(connection, await receive())

            self._lie(connection, None)
            connection.receive = lying  # type: ignore[method-assign]  # which is the lie
            yield connection


async def caught_in_frames(lie: Lie, name: str) -> Result:
    """Make a check over raw connections with a lie; it must fail."""
    async with serve(ConformanceEnvironment, options=OPTIONS) as url:
        suite = Suite(LyingFrames(url, lie), own=True, schema=SPEC.schema)
        result = await suite.run_one(CHECKS[name])
    assert result.status == "failed", result
    return result
