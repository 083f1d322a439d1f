"""A call without a session, and a loop that the test moves by hand."""

from __future__ import annotations

import asyncio
from typing import Any

from openenv_async.engine.interfaces import Call
from openenv_async.engine.requests import Codecs, RunnerReply, RunnerRequest, Unfinished, failed
from openenv_async.engine.runner import EnvironmentRunner
from openenv_async.errors import OpenEnvError, OperationCancelled
from openenv_async.protocol.frames import Close, Open, Reset, Step
from openenv_async.spec import EnvironmentSpec
from tests.helpers import pack, token


class LooseCall:
    """Implements ``Call`` for the tests of one executor."""

    def __init__(self, env: Any, executor: Any) -> None:
        spec = EnvironmentSpec(env)
        self.id = token(1)
        self.runner: Any = EnvironmentRunner(spec)
        self.codecs = Codecs(spec, "msgpack")
        self.current: RunnerRequest | None = None
        self.interrupted: str | None = None
        self.dead: OpenEnvError | None = None
        self.executor: Any = executor
        self.slot: object | None = None
        self.replies: list[Any] = []
        self.watched: list[RunnerRequest] = []
        self.seq = 0

    def start(self, request: RunnerRequest) -> None:
        self.current = request
        call: Call = self
        self.executor.start(call, request)

    def open(self) -> None:
        self.start(Open(1, token(1), token(2)))

    def reset(self, **options: Any) -> None:
        self.seq += 1
        self.start(Reset(1, self.seq, 0, pack(options)))

    def step(self, action: Any, credit: int = 0) -> None:
        self.seq += 1
        self.start(Step(1, self.seq, 0, pack(action), credit=credit))

    def close(self) -> None:
        self.seq += 1
        self.start(Close(1, self.seq))

    def take(self) -> Any:
        """The one reply that came."""
        [reply] = self.replies
        self.replies.clear()
        return reply

    # -- as a call ----------------------------------------------------------------------------

    def complete(self, request: RunnerRequest, reply: RunnerReply | Unfinished) -> None:
        assert self.current is request
        self.current = None
        self.replies.append(reply)

    def interruption(self, request: RunnerRequest) -> RunnerReply:
        return failed(request, OperationCancelled("stopped"), self.codecs.format)

    def watch(self, request: RunnerRequest) -> None:
        self.watched.append(request)

    def begin_stream(self, credit: int) -> None:
        raise AssertionError("nothing streams here")

    def emit(self, payload: bytes, whole: bool) -> bool:
        raise AssertionError("nothing streams here")

    def die(self, error: OpenEnvError) -> None:
        self.dead = error


class Handle:
    """What a loop gives for a callback."""

    def __init__(self, delay: float, callback: Any, args: tuple[Any, ...]) -> None:
        self.delay = delay
        self.cancelled = False
        self._call = callback
        self._args = args

    def cancel(self) -> None:
        self.cancelled = True

    def run(self) -> None:
        self._call(*self._args)


class HandLoop:
    """Keeps callbacks until ``turn`` and timers until ``later``."""

    def __init__(self) -> None:
        self.now = 100.0
        self.soon: list[Handle] = []
        self.timers: list[Handle] = []

    def call_soon(self, callback: Any, *args: Any) -> Handle:
        self.soon.append(Handle(0.0, callback, args))
        return self.soon[-1]

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Any, *args: Any) -> Handle:
        self.timers.append(Handle(delay, callback, args))
        return self.timers[-1]

    def time(self) -> float:
        return self.now

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().create_future()

    def turn(self) -> int:
        """Run what was to run soon; how many there were."""
        handles, self.soon = self.soon, []
        for handle in handles:
            handle.run()
        return len(handles)

    def later(self) -> list[float]:
        """Run the timers; their delays."""
        handles, self.timers = self.timers, []
        for handle in handles:
            handle.run()
        return [handle.delay for handle in handles]
