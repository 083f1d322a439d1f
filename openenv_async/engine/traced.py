"""A runner whose environment sees the trace context of the request that it serves."""

from __future__ import annotations

from openenv_async.engine.requests import Codecs, RunnerReply, RunnerRequest, Unfinished
from openenv_async.engine.runner import Emit, EnvironmentRunner
from openenv_async.protocol.frames import Step
from openenv_async.spec import EnvironmentSpec
from openenv_async.telemetry.tracing import TraceContext, current

__all__ = ["TracedRunner"]


class TracedRunner(EnvironmentRunner):
    """Used only for sessions whose client sent a trace context, so that others pay nothing."""

    __slots__ = ("trace",)

    def __init__(
        self,
        spec: EnvironmentSpec,
        debug: bool,
        max_error_size: int,
        in_worker: bool,
        trace: TraceContext,
    ) -> None:
        super().__init__(spec, debug, max_error_size, in_worker)
        self.trace = trace

    def handle(self, request: RunnerRequest, codecs: Codecs) -> RunnerReply | Unfinished:
        """As ``EnvironmentRunner.handle``."""
        before = current.set(self.trace)
        try:
            return super().handle(request, codecs)
        finally:
            current.reset(before)

    async def step_async(self, request: Step, codecs: Codecs) -> RunnerReply | Unfinished:
        """As ``EnvironmentRunner.step_async``."""
        before = current.set(self.trace)
        try:
            return await super().step_async(request, codecs)
        finally:
            current.reset(before)

    async def handle_async(
        self, request: RunnerRequest, codecs: Codecs, emit: Emit
    ) -> RunnerReply | Unfinished:
        """As ``EnvironmentRunner.handle_async``."""
        before = current.set(self.trace)
        try:
            return await super().handle_async(request, codecs, emit)
        finally:
            current.reset(before)

    async def finish(self, unfinished: Unfinished, codecs: Codecs) -> RunnerReply | Unfinished:
        """Finish as ``EnvironmentRunner.finish`` does, inside the trace."""
        before = current.set(self.trace)
        try:
            return await super().finish(unfinished, codecs)
        finally:
            current.reset(before)
