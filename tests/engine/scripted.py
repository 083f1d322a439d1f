"""An executor that does what the test says, and a sink that keeps what it is sent."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from openenv_async import EngineOptions, Environment
from openenv_async.deadlines import Deadlines
from openenv_async.engine import Engine, Session
from openenv_async.engine.interfaces import Call
from openenv_async.engine.requests import Codecs, RunnerReply, RunnerRequest
from openenv_async.errors import OpenEnvError
from openenv_async.protocol.codec import encode_map
from openenv_async.protocol.frames import (
    Begun,
    Close,
    Closed,
    Failed,
    Frame,
    Observation,
    Open,
    Opened,
    Reset,
    State,
    StateIs,
    Step,
)
from openenv_async.spec import EnvironmentSpec
from openenv_async.testing import ManualClock
from tests.helpers import pack, token


class Nothing(Environment[Any, Any, Any]):
    """Never called: the executor answers."""

    isolation = "inline"

    def reset(self) -> Any:
        raise AssertionError

    def step(self, action: Any) -> Any:
        raise AssertionError


class ScriptedExecutor:
    """Keeps requests until ``finish``; interrupts as ``can_interrupt`` says."""

    timed = True
    direct = False

    def __init__(self) -> None:
        self.running: dict[Call, RunnerRequest] = {}
        self.started: list[RunnerRequest] = []
        self.interrupted: list[Call] = []
        self.abandoned: list[Call] = []
        self.credits: list[int] = []
        self.can_interrupt = True
        self.closed = False

    def start(self, call: Call, request: RunnerRequest) -> None:
        assert call not in self.running, "two requests at once"
        self.running[call] = request
        self.started.append(request)

    def interrupt(self, call: Call) -> bool:
        self.interrupted.append(call)
        return self.can_interrupt

    def credited(self, call: Call, units: int) -> None:
        self.credits.append(units)

    def abandon(self, call: Call) -> None:
        self.abandoned.append(call)
        self.running.pop(call, None)

    async def aclose(self) -> None:
        self.closed = True

    def finish(self, session: Session, reply: RunnerReply | None = None) -> None:
        """The running request ends; by default well, or as interrupted."""
        request = self.running.pop(session)
        if reply is None and session.interrupted is not None and not isinstance(request, Open):
            reply = session.interruption(request)
        session.complete(request, reply or good(request))


def good(request: RunnerRequest) -> RunnerReply:
    match request:
        case Open():
            return Opened(request.channel)
        case Reset():
            return Begun(request.channel, request.seq, pack("begun"), "episode", 1)
        case Step():
            return Observation(request.channel, request.seq, pack(request.seq))
        case State():
            return StateIs(request.channel, request.seq, pack({}))
        case Close():
            return Closed(request.channel, request.seq)


class KeepingSink:
    """A sink that keeps every frame it was to send, and says the end as the native one does."""

    def __init__(self, codecs: Codecs) -> None:
        self.codecs = codecs
        self.frames: list[Any] = []
        self.reasons: list[OpenEnvError] = []

    def send(self, frame: Frame, size: int = 0) -> None:
        self.frames.append(frame)

    def ended(self, channel: int, reason: OpenEnvError) -> None:
        self.reasons.append(reason)
        detail = encode_map(reason.to_wire(), self.codecs.format)
        self.frames.append(Failed(channel, 0, reason.code, reason.message, False, detail))

    def take(self) -> list[Any]:
        frames, self.frames = self.frames, []
        return frames


class Stage:
    """An engine on a manual clock with a scripted executor; only ``aclose`` needs a loop."""

    def __init__(self, **options: Any) -> None:
        self.clock = ManualClock()
        self.engine = Engine(EnvironmentSpec(Nothing), EngineOptions(**options))
        self.executor = ScriptedExecutor()
        self.engine._executor = self.executor
        self.engine._start = lambda: self.executor  # type: ignore[method-assign]  # it would want a loop
        with contextlib.suppress(RuntimeError):
            self.engine._loop = asyncio.get_running_loop()
        self.engine.clock = self.clock
        self.engine._deadlines = Deadlines(self.clock, self.clock.call_at)
        self.sink = self.new_sink()

    def new_sink(self, format: Any = "msgpack") -> KeepingSink:
        return KeepingSink(self.engine.codecs(format))

    def ask(self, number: int = 1, sink: KeepingSink | None = None, **fields: Any) -> Any:
        """Ask for session ``number``; it is being built then."""
        request = Open(number, token(number), token(number + 1000), **fields)
        return self.engine.open(request, sink or self.sink)

    def open(self, number: int = 1, **fields: Any) -> Session:
        """Session ``number``, built."""
        session = self.ask(number, **fields)
        assert isinstance(session, Session)
        self.executor.finish(session)
        [opened] = self.sink.take()
        assert opened == Opened(number)
        return session
