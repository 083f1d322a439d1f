"""Workers for tests of the pool: real servers of this loop, which fail and die on command."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import Any, ClassVar

from openenv_async import EngineOptions, EnvClient, Environment, StepResult
from openenv_async.engine import Engine
from openenv_async.errors import WorkerStartFailed
from openenv_async.providers.base import Provider, Worker, WorkerExit
from openenv_async.server import create_app
from openenv_async.server.run import serve
from tests.rollouts.environments import Counting, Move, Seen


class CountingEnv(EnvClient[Move, Seen, dict[str, Any]]):
    """Typed."""


class Held(Environment[Move, Seen, dict[str, Any]]):
    """Its steps wait for ``gate``; ``stepping`` says how many do."""

    gate: ClassVar[asyncio.Event]
    stepping: ClassVar[int] = 0

    async def reset(self, seed: int | None = None) -> Seen:
        return Seen(0, seed)

    async def step(self, action: Move) -> StepResult[Seen]:
        type(self).stepping += 1
        try:
            await self.gate.wait()
        finally:
            type(self).stepping -= 1
        return StepResult(Seen(1), 1.0, terminated=True)


class LoopWorker(Worker):
    """A server of this loop."""

    def __init__(self, name: str, url: str, engine: Engine, stack: contextlib.AsyncExitStack):
        super().__init__(name, url, token="secret")
        self.engine = engine
        self.closed = 0
        self._stack = stack

    def die(self, code: int = 137) -> None:
        """End by itself, as far as the pool can see."""
        self.exited.set_result(WorkerExit(f"exited with code {code}", exit_code=code))

    async def aclose(self) -> None:
        self.closed += 1
        await self._stack.aclose()


class LoopProvider(Provider):
    """Starts them.

    Args:
        env: what they serve.
        options: of their engines.

    Attributes:
        started: all workers so far.
        failures: starts that are to fail.
        gate: starts wait for it.
    """

    name = "loop"

    def __init__(self, env: Any = Counting, options: EngineOptions | None = None) -> None:
        self.env = env
        self.options = options or EngineOptions()
        self.started: list[LoopWorker] = []
        self.failures = 0
        self.asked = 0
        self.closed = False
        self.gate = asyncio.Event()
        self.gate.set()
        self._numbers = itertools.count(1)

    async def start(self, *, timeout: float | None = None) -> LoopWorker:
        self.asked += 1
        await self.gate.wait()
        if self.failures:
            self.failures -= 1
            raise WorkerStartFailed("no such image", phase="open")
        app = create_app(self.env, options=self.options, token="secret")
        stack = contextlib.AsyncExitStack()
        url = await stack.enter_async_context(serve(app, options=self.options))
        worker = LoopWorker(
            f"loop-{next(self._numbers)}", url, app.state.openenv.engine, stack
        )  # fmt: skip
        self.started.append(worker)
        return worker

    @property
    def sessions(self) -> int:
        """Sessions that all of them hold now."""
        return sum(len(worker.engine.sessions) for worker in self.started)

    async def aclose(self) -> None:
        self.closed = True
        assert all(worker.closed for worker in self.started)
