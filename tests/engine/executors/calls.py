"""A call without a session: an environment's runner, and what came back from its executor."""

from __future__ import annotations

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
