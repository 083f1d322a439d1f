"""A session: one hosted environment, the order of its requests, its life and its end.

Rules:

- One request runs at a time. A second one is refused as busy, unless the running one is being
  stopped: then it waits for that to end.
- Every request that is taken is answered exactly once, also by a session that ends.
- Where a request runs is the executor's business; it comes back through ``complete``.
- A session that is closing answers whatever comes with the reason; one that is dead is busy with
  a close that never ends.

How replies reach the client, and are kept for it, is in ``correspondence``; what happens
when a deadline has come is in ``expiry``.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Final

from openenv_async.engine.correspondence import Correspondence
from openenv_async.engine.expiry import (
    WAITING_NEWS,
    expired,
    idle_at,
    look,
    out_of_time,
    timeout_of,
)
from openenv_async.engine.interfaces import Executor, ReplySink
from openenv_async.engine.requests import RunnerReply, RunnerRequest, Unfinished, operation
from openenv_async.engine.runner import EnvironmentRunner
from openenv_async.engine.streaming import PartialStream
from openenv_async.engine.traced import TracedRunner
from openenv_async.errors import (
    CallerError,
    EnvironmentFailure,
    OpenEnvError,
    OperationCancelled,
    ProtocolError,
    ServerBusy,
    SessionBusy,
    SessionClosed,
    SessionLost,
    error_class,
)
from openenv_async.protocol.codec import decode_map, encode_map
from openenv_async.protocol.frames import (
    Begun,
    Close,
    Closed,
    Failed,
    Observation,
    Open,
    Request,
    Step,
)
from openenv_async.protocol.replies import Order
from openenv_async.telemetry.logs import log_failure
from openenv_async.telemetry.tracing import trace_from

if TYPE_CHECKING:
    from openenv_async.engine.engine import Engine

__all__ = ["Session"]

log = logging.getLogger("openenv_async.environment")

_TOMBSTONE: Final = Close(0, 0)
"""What a dead session is busy with for ever."""


class Session(Correspondence):
    """One session of the engine. Made by ``Engine.open``; all methods run on the loop."""

    __slots__ = (
        "__weakref__",
        "active_at",
        "current",
        "dead",
        "deferred",
        "due",
        "episode_due",
        "episode_id",
        "executor",
        "interrupted",
        "parked_until",
        "postponed",
        "runner",
        "scheduled",
        "slot",
        "ticket",
    )

    def __init__(self, engine: Engine, open: Open, executor: Executor, sink: ReplySink) -> None:
        super().__init__(engine, open, sink)
        self.executor = executor
        trace = getattr(sink, "trace", None)  # most doors have none
        if open.traceparent is not None:
            trace = trace_from(open.traceparent, open.tracestate) or trace
        if trace is None:
            self.runner = EnvironmentRunner(engine.spec, *engine.telling)
        else:
            self.runner = TracedRunner(engine.spec, *engine.telling, trace)
        self.current: RunnerRequest | None = None
        self.deferred: RunnerRequest | None = None
        self.interrupted: str | None = None
        self.dead: OpenEnvError | None = None
        self.active_at = engine.clock()
        self.due = inf
        self.episode_due = inf
        self.episode_id: str | None = None
        self.scheduled = inf
        self.parked_until = inf
        self.postponed: RunnerRequest | None = None
        self.slot: object | None = None
        self.ticket: int | None = None

    # -- requests ---------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Take one request from the door."""
        log = self.log
        if request.seq == log.taken + 1:
            log.taken = request.seq
        elif not self._is_new(request):
            return
        if request.ack > log.acked:
            log.acknowledge(request.ack)
        if self.current is not None:
            self._queue(request)
            return
        self._start(request)

    def _start(self, request: RunnerRequest) -> None:
        self.current = request
        if self.sink is not None:
            self.codecs = self.sink.codecs
        if self.engine.times_episodes and out_of_time(self, request):
            return
        executor = self.executor
        if executor.timed:
            timeout = timeout_of(self, request)
            due = inf if timeout is None else self.engine.clock() + timeout
            self.due = min(due, self.episode_due)
            if self.due < self.scheduled:
                self.engine.deadlines.watch(self, self.due)
        executor.start(self, request)

    def open(self, request: Open) -> None:
        """Build the environment, in what waiting for capacity left of the request's time."""
        waited_until, self.ticket = self.due, None
        self._start(request)
        if self.current is request:
            self.due = min(self.due, waited_until)
        if self.dead is None:
            self.engine.deadlines.watch(self, min(self.due, idle_at(self)))

    def wait(self, request: Open, ticket: int) -> None:
        """Wait for capacity; ``open`` is called when it is this session's turn."""
        self.ticket = ticket
        self.current = request
        timeout = timeout_of(self, request)
        now = self.engine.clock()
        self.due = inf if timeout is None else now + timeout
        self.send(self.engine.place_of(self))
        self.engine.deadlines.watch(self, min(self.due, now + WAITING_NEWS))

    def _is_new(self, request: Request) -> bool:
        """Whether an out-of-order request is to be run; if not it is dealt with here."""
        try:
            if self.log.order(request.seq) is Order.NEW:
                return True
            self.check_resent(request, self._unanswered(request.seq))
        except ProtocolError as exc:
            self.send(self.failure(request, exc))
            return False
        self.engine.stats.duplicates += 1
        running, stream = self.current, self.stream
        if isinstance(running, Step) and isinstance(request, Step) and running.seq == request.seq:
            # It carries all the credit ever given for it: some may have been lost on the way.
            granted = 0 if stream is None else stream.granted
            self.add_credit(request.seq, request.credit - running.credit - granted)
        self.repeat(request.seq)
        return False

    def _unanswered(self, seq: int) -> Request | None:
        """The request of this number that runs, or waits for one that is being stopped."""
        for request in (self.current, self.deferred):
            if request is not None and not isinstance(request, Open) and request.seq == seq:
                return request
        return None

    def check_number(self, request: Request) -> None:
        """Look whether a request may have its number, before anybody waits for the answer.

        Raises:
            ProtocolError: it belongs to another request, which was taken.
        """
        if request.seq <= self.log.taken:
            self.check_resent(request, self._unanswered(request.seq))

    def _queue(self, request: Request) -> None:
        """A request while one is running."""
        assert self.current is not None
        if self.ticket is not None and isinstance(request, Close):
            self.finish(None, SessionClosed("closed while it waited for capacity"))
            self.answer(request, Closed(self.channel, request.seq))
            return
        gone = self.dead or self.engine.closing_reason(self)
        if gone is not None:
            self.refuse(request, gone)
            return
        if isinstance(request, Close) and not isinstance(self.current, Close):
            gone = SessionClosed("the session was closed by its client")
            self._close_next(request, timeout_of(self, request), gone)
            return
        if self.interrupted is not None and self.deferred is None:
            self.deferred = request
            return
        error = SessionBusy(
            f"{operation(request)}() while {operation(self.current)}() is running on this session:"
            " await one call before the next, or open another session"
        )
        self.refuse(request, error)

    def complete(self, request: RunnerRequest, reply: RunnerReply | Unfinished) -> None:
        """Take back a reply from the executor."""
        if self.dead is not None:
            if type(reply) is Unfinished:
                reply.drop()
            return
        self.current = None
        engine = self.engine
        self.active_at = engine.clock()
        if self.interrupted is not None:
            reply = self._stopped(request, reply)
            self.interrupted = None
        if type(reply) is Observation:
            engine.stats.steps += 1
        elif type(reply) is Unfinished:
            self._await(request, reply)
            return
        else:
            if type(reply) is Failed:
                self._fails(reply)
            kind = type(request)
            if kind is Step:
                engine.stats.steps += 1
            elif kind is Open or kind is Close:
                self._complete_life(request, reply)  # type: ignore[arg-type]  # it is finished
                return
            elif type(reply) is Begun:
                self.episode_id = reply.episode_id
        self.answer(request, reply)  # type: ignore[arg-type]  # Open and Close went above
        if self.deferred is not None:
            self._start_deferred()

    def _await(self, request: RunnerRequest, unfinished: Unfinished) -> None:
        """Go on in a task: a call taken for a sync one returned an awaitable."""
        self.current = request
        tasks = self.engine.tasks_for(self)
        if self.due == inf:  # a call straight from the loop had no deadline
            timeout = timeout_of(self, request)
            due = inf if timeout is None else self.engine.clock() + timeout
            self.due = min(due, self.episode_due)
            self.engine.deadlines.watch(self, self.due)
        tasks.start(self, unfinished)

    def _fails(self, reply: Failed) -> None:
        """Count an error and log what the environment did: the one place for all executors."""
        engine = self.engine
        trouble, self.runner.trouble = self.runner.trouble, None
        if engine.in_worker:  # it is told to the server, which does both
            return
        engine.count_error(reply.code)
        cls = error_class(reply.code)
        if issubclass(cls, CallerError) and trouble is None:
            return
        try:
            detail = decode_map(reply.payload, self.codecs.format)
        except OpenEnvError:  # an author's error carries what no client can read
            detail, reply.payload = {}, None
        if "traceback" in detail:
            trouble = trouble or str(detail["traceback"])
            if not engine.options.debug:  # it came from a worker, for the log
                del detail["traceback"]
                reply.payload = encode_map(detail, self.codecs.format)
        if issubclass(cls, EnvironmentFailure) or (trouble and not issubclass(cls, CallerError)):
            log_failure(
                log,
                reply.message,
                trouble,
                session_id=self.id,
                episode_id=detail.get("episode_id") or self.episode_id,
                env=engine.spec.name,
            )

    def _stopped(self, request: RunnerRequest, reply: RunnerReply | Unfinished) -> RunnerReply:
        """The reply of a request that was interrupted: why it was, whatever it says itself."""
        if isinstance(reply, Unfinished):
            reply.drop()
            return self.interruption(request)
        code = reply.code if isinstance(reply, Failed) else None
        if self.interrupted == "deadline":
            return reply if code == ServerBusy.code else expired(self, request)
        gone = self.engine.closing_reason(self)
        if gone is not None and code == OperationCancelled.code:
            return self.failure(request, gone)
        return reply

    def _complete_life(self, request: RunnerRequest, reply: RunnerReply) -> None:
        """The environment was built, or is closed."""
        if isinstance(request, Open):
            if isinstance(reply, Failed):
                self._end(SessionClosed("the environment could not be built"))
            self.send(reply)
            if self.deferred is not None and self.dead is None:
                self._start_deferred()
            return
        reason = self._end(SessionClosed("the session is closed: open a new one"))
        if request.seq:
            self.answer(request, reply)  # type: ignore[arg-type]  # Closed or Failed
        elif self.sink is not None:
            self.sink.ended(self, reason)

    def _start_deferred(self) -> None:
        request, self.deferred = self.deferred, None
        assert request is not None
        self._start(request)

    def renew(self, ack: int) -> None:
        """A sign of life."""
        self.active_at = self.engine.clock()
        self.log.acknowledge(ack)

    # -- streaming --------------------------------------------------------------------------

    def begin_stream(self, credit: int) -> None:
        """A streaming step starts with this much credit."""
        self.stream = PartialStream(credit, self.engine.options.limits.max_credit)

    def emit(self, payload: bytes, whole: bool) -> bool:
        """Send a partial observation; ``False`` when the credit is used up after it."""
        request, stream = self.current, self.stream
        if stream is None:
            return False
        if isinstance(request, Step):
            self.send(stream.show(self.channel, request.seq, payload, whole))
        return stream.has_credit

    def add_credit(self, seq: int, units: int) -> None:
        """More partial observations may be sent for the streaming step ``seq``."""
        request, stream = self.current, self.stream
        if not isinstance(request, Step) or request.seq != seq or units < 1:
            return
        if stream is not None:
            stream.grant(units)
        self.executor.credited(self, units)

    # -- stopping ---------------------------------------------------------------------------

    def cancel(self, seq: int) -> None:
        """Stop request ``seq`` if it is running or waiting; unknown numbers are ignored."""
        if seq < 1:
            return  # no client's request: the engine's own close has number 0
        deferred = self.deferred
        if deferred is not None and not isinstance(deferred, Open) and deferred.seq == seq:
            self.deferred = None
            self.refuse(deferred, OperationCancelled("cancelled before it started"))
            return
        current = self.current
        if current is None or isinstance(current, Open | Close) or current.seq != seq:
            return
        if self.interrupted is None:
            self.interrupted = "cancel"
            self.executor.interrupt(self)

    def shut(self, error: OpenEnvError) -> None:
        """Close the environment without being asked to; ``error`` answers what comes later."""
        if self.dead is not None:
            return
        if self.ticket is not None:
            self.give_up(error)
            return
        timeout = self.engine.options.timeouts.close
        request = Close(self.channel, 0, 0, 0 if timeout is None else timeout)
        self.engine.closing(self, error)
        if self.current is None:
            self._start(request)
            return
        if not isinstance(self.current, Close):
            self._close_next(request, timeout, error)

    def _close_next(self, request: Close, timeout: float | None, error: OpenEnvError) -> None:
        """Stop what is running and close after it; ``error`` answers what was waiting."""
        waiting, self.deferred = self.deferred, request
        if waiting is not None and not isinstance(waiting, Open) and waiting.seq:
            self.refuse(waiting, error)
        if self.interrupted is None:
            self.interrupted = "cancel"
            self.executor.interrupt(self)
        if timeout is not None and self.executor.timed:
            self.due = min(self.due, self.engine.clock() + timeout)
            self.engine.deadlines.watch(self, self.due)

    def interruption(self, request: RunnerRequest) -> RunnerReply:
        """The reply of a request that stopped because it was asked to."""
        if self.interrupted == "deadline":
            return expired(self, request)
        return self.failure(request, OperationCancelled(f"{operation(request)}() was cancelled"))

    def raised(self, request: RunnerRequest, exc: BaseException) -> RunnerReply:
        """The reply for what the runner lets through."""
        return self.runner.raised(request, exc, self.codecs)

    def check(self, now: float) -> float | None:
        """Deadlines: called by the engine's heap."""
        return look(self, now)

    def give_up(self, error: OpenEnvError) -> None:
        """Wait for capacity no more."""
        assert self.current is not None
        self.send(self.failure(self.current, error))
        self._end(error)

    def die(self, error: OpenEnvError) -> None:
        """The environment is gone: called by the executor."""
        if self.dead is not None:
            return
        request = self.current
        reply = None
        if request is not None:
            error.add_context(phase=operation(request))
            reply = self.failure(request, error)
        self.finish(reply, error)

    def finish(self, reply: RunnerReply | None, error: OpenEnvError) -> None:
        """Answer the running request with ``reply`` and end with ``error``."""
        request = self.current
        if request is not None and reply is not None:
            if isinstance(reply, Failed):
                self._fails(reply)
            if isinstance(request, Step):
                self.engine.stats.steps += 1
            if isinstance(request, Open):
                self.send(reply)
            elif request.seq:
                self.answer(request, reply)  # type: ignore[arg-type]  # no Opened for a request
        reason = self._end(error)
        if self.sink is not None and not isinstance(request, Open):
            self.sink.ended(self, reason)

    def _end(self, error: OpenEnvError) -> OpenEnvError:
        """The environment is gone or given up; whatever comes now meets the reason."""
        self.current = _TOMBSTONE
        deferred, self.deferred = self.deferred, None
        self.dead = reason = self.located(self.engine.closed(self, error))
        if deferred is not None and not isinstance(deferred, Open) and deferred.seq:
            self.refuse(deferred, reason)
        return reason

    # -- the door ---------------------------------------------------------------------------

    def attach(self, sink: ReplySink, channel: int) -> None:
        """Send replies through this sink from now on; a sink before it is told so."""
        old = self.sink
        if old is not None and (old is not sink or self.channel != channel):
            old.ended(self, SessionLost("another connection took the session over"))
        self.sink = sink
        self.channel = channel
        self.parked_until = inf

    def park(self, ttl: float) -> None:
        """Live without a door for a while; what runs goes on, replies are kept."""
        self.parked_until = self.engine.clock() + ttl
        self.engine.deadlines.watch(self, self.parked_until)

    def detach(self, sink: ReplySink) -> bool:
        """The sink is gone; ``False`` if another one has taken over already."""
        if self.sink is not sink:
            return False
        self.sink = None
        return True

    @property
    def closing(self) -> bool:
        """Whether the session is closed or a close has been taken."""
        return isinstance(self.current, Close) or isinstance(self.deferred, Close)
