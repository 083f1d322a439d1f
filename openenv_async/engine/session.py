"""A session: one environment, the order of its requests, its replies, its life and its end.

Rules:

- One request runs at a time. A second one is refused as busy, unless the running one is being
  stopped: then it waits for that to end.
- Every request that is taken is answered exactly once, also by a session that ends.
- An executor decides where a request runs; it comes back through ``complete``. Steps of an
  executor that is ``direct`` are called here.
- Every reply is kept until acknowledged; a request that is sent again gets the same one. So it is
  while no transport is attached, for a client that comes back.
- ``codecs`` is the format of the running request and of its reply: the sink's when it started. A
  reply that a sink with another format must deliver is converted for it.
- A session that is closing answers every request with the reason; one that is dead is busy with a
  close that never ends.
- A visitor's request has no number: it runs when nothing else does, and its reply goes to the
  visitor alone. The numbers and the replies of the session's client stay as they are.
- Deadlines are decided in ``deadlines``, on times; what was decided is carried out here.
"""

from __future__ import annotations

import logging
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, Final, assert_never

from openenv_async.engine.callers import OWNER, Caller
from openenv_async.engine.deadlines import NEWS_INTERVAL, Action, Times, decide, due_at, shorter
from openenv_async.engine.interfaces import Executor, ReplySink
from openenv_async.engine.quotas import Account, Turn
from openenv_async.engine.requests import (
    Codecs,
    RunnerReply,
    RunnerRequest,
    Unfinished,
    error_frame,
    failed,
    operation,
    transcode,
)
from openenv_async.engine.resends import LARGE, another_request, is_same_request, remembered
from openenv_async.engine.runner import EnvironmentRunner, TracedRunner
from openenv_async.errors import (
    CallerError,
    DeadlineExceeded,
    EnvironmentFailure,
    InvalidObservation,
    OpenEnvError,
    OperationCancelled,
    ProtocolError,
    ServerBusy,
    SessionBusy,
    SessionClosed,
    SessionLost,
    error_class,
)
from openenv_async.models import Format
from openenv_async.protocol.codec import decode_map, encode_map
from openenv_async.protocol.frames import (
    Begun,
    Close,
    Closed,
    Failed,
    Frame,
    Observation,
    Open,
    Partial,
    Reply,
    Request,
    Reset,
    State,
    Step,
)
from openenv_async.protocol.replies import Order, ReplyLog
from openenv_async.telemetry.logs import log_failure
from openenv_async.telemetry.spans import is_on
from openenv_async.telemetry.tracing import NO_TRACE, trace_from

if TYPE_CHECKING:
    from openenv_async.engine.engine import Engine

__all__ = ["PartialStream", "Session"]

log = logging.getLogger("openenv_async.environment")
engine_log = logging.getLogger("openenv_async.engine")

_ENDLESS: Final = Close(0, 0)
"""The sentinel that a dead session is busy with for ever."""


class PartialStream:
    """The partial observations of one streaming step, and the credit for more.

    A partial observation is kept until the client grants credit for it, for a client that comes
    back over another connection.

    Args:
        credit: partial observations that may be sent now.
        max_credit: of it at most.

    Attributes:
        kept: those that the client may not have, oldest first.
    """

    __slots__ = ("_credit", "_max_credit", "_shown", "kept")

    def __init__(self, credit: int, max_credit: int) -> None:
        self._credit = min(credit, max_credit)
        self._max_credit = max_credit
        self._shown = 0
        self.kept: deque[Partial] = deque()

    @property
    def granted(self) -> int:
        """Units of credit that the client has given back so far."""
        return self._shown - len(self.kept)

    @property
    def has_credit(self) -> bool:
        """True while one more may be sent."""
        return self._credit > 0

    def show(self, channel: int, seq: int, payload: bytes, whole: bool) -> Partial:
        """The next partial observation, as a frame."""
        partial = Partial(channel, seq, self._shown, payload, whole)
        self.kept.append(partial)
        self._shown += 1
        self._credit -= 1
        return partial

    def grant(self, units: int) -> None:
        """The client took so many and lets as many more be sent."""
        for _ in range(min(units, len(self.kept))):
            self.kept.popleft()
        self._credit = min(self._credit + units, self._max_credit)


class Session:
    """One session of the engine. Made by ``Engine.open``; all methods run on the loop.

    It is the ``Call`` of its executor.

    Attributes:
        channel: the session's number at its transport.
        log: the numbers taken, and the replies that may be asked for again.
        sink: where replies go; ``None`` while the client is away.
        stream: the partial observations of the last step that streamed.
        deferred: a request that starts once the running one has stopped.
        due: when the running request must have ended.
        last_error: code and message of the last request that failed or was refused.
        ticket: its number in the queue, while it waits for capacity.
        caller: whose it is.
        visitor: the destination of the reply to the running request, if it is a visitor's.
    """

    __slots__ = (
        "active_at",
        "caller",
        "channel",
        "codecs",
        "current",
        "dead",
        "deferred",
        "due",
        "engine",
        "episode_due",
        "executor",
        "id",
        "interrupted",
        "last_error",
        "log",
        "opened_at",
        "parked_until",
        "postponed",
        "runner",
        "scheduled",
        "secret",
        "sink",
        "slot",
        "stream",
        "ticket",
        "visitor",
    )

    def __init__(self, engine: Engine, open: Open, executor: Executor, sink: ReplySink) -> None:
        self.engine = engine
        self.id = open.session
        self.secret = open.secret
        self.channel = open.channel
        self.sink: ReplySink | None = sink
        self.caller: Caller = getattr(sink, "caller", OWNER)
        self.codecs: Codecs = sink.codecs
        self.log: ReplyLog[Reply] = ReplyLog(
            engine.options.limits.max_retained_size, engine.retained
        )
        self.stream: PartialStream | None = None
        self.executor = executor
        trace = getattr(sink, "trace", None)  # most sinks have none
        if open.traceparent is not None:
            trace = trace_from(open.traceparent, open.tracestate) or trace
        if trace is None and not is_on():
            self.runner = EnvironmentRunner(engine.spec, engine.telling)
        else:
            self.runner = TracedRunner(engine.spec, engine.telling, trace or NO_TRACE)
        self.current: RunnerRequest | None = None
        self.deferred: RunnerRequest | None = None
        self.interrupted: str | None = None
        self.dead: OpenEnvError | None = None
        self.last_error: tuple[str, str] | None = None
        self.opened_at = self.active_at = engine.clock()
        self.due = inf
        self.episode_due = inf
        self.scheduled = inf
        self.parked_until = inf
        self.postponed: RunnerRequest | None = None
        self.slot: object | None = None
        self.ticket: int | None = None
        self.visitor: ReplySink | None = None

    @property
    def episode_id(self) -> str | None:
        """The episode of the last reset; the runner has it, also of one that ran elsewhere."""
        return self.runner.episode_id

    # -- requests ---------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Take one request from a transport."""
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
        self._start(request, self.sink)

    def charge(self, request: Request) -> None:
        """Have its caller pay for a request that comes next, and wait for its turn."""
        account = self.engine.account_of(self.caller)
        if account is not None and isinstance(request, Step | Reset):
            self.delay(account, account.charge(self.engine.rows))

    def delay(self, account: Account, seconds: float) -> None:
        """Let the next request, of a caller who paid, wait for its turn."""
        if seconds and self.current is None and type(self.executor) is not Turn:
            engine = self.engine
            self.executor = Turn(self.executor, account, engine.clock() + seconds, engine.rows)

    def _start(self, request: RunnerRequest, sink: ReplySink | None) -> None:
        """Run a request, in the codecs of where its reply goes."""
        self.current = request
        if sink is not None:
            self.codecs = sink.codecs
        engine, executor = self.engine, self.executor
        if engine.times_episodes and self._is_out_of_time(request):
            return
        if executor.direct and type(request) is Step:
            try:
                reply = self.runner.handle(request, self.codecs)
            except BaseException as exc:
                reply = self.runner.raised(request, exc, self.codecs)
            self.complete(request, reply)
            return
        if executor.timed:
            kind = type(request)
            episode_due = inf if kind is State else self.episode_due  # asked of what is over too
            self.due = due_at(
                engine.clock(), engine.own_timeouts[kind], request.timeout, episode_due
            )
            if self.due < self.scheduled:
                engine.deadlines.watch(self, self.due)
        executor.start(self, request)

    def visit(self, request: Step | State, visitor: ReplySink) -> None:
        """Run the request of somebody whom the session's client lets in; it has the number 0.

        Args:
            request: to run.
            visitor: the destination of its reply, with codecs of its own.
        """
        error = self.dead or self.engine.closing_reason(self)
        if error is None and self.current is not None:
            error = SessionBusy(
                f"{operation(request)}() while {operation(self.current)}() is running on this"
                " session: try again after it"
            )
        if error is not None:
            visitor.send(failed(request, self.located(error), visitor.codecs.format))
            return
        self.visitor = visitor
        self._start(request, visitor)

    def end_visit(self, visitor: ReplySink) -> None:
        """Stop the request of a visitor, if it is the one that runs."""
        if self.visitor is visitor and self.current is not None and self.interrupted is None:
            self.interrupted = "cancel"
            self.executor.interrupt(self)

    def _answer_visitor(self, reply: Reply) -> None:
        visitor, self.visitor = self.visitor, None
        if visitor is not None:
            visitor.send(reply)

    def watch(self, request: RunnerRequest) -> None:
        """Set the deadline of a request that turned out to take long."""
        engine, kind = self.engine, type(request)
        episode_due = inf if kind is State else self.episode_due
        self.due = due_at(engine.clock(), engine.own_timeouts[kind], request.timeout, episode_due)
        engine.deadlines.watch(self, self.due)

    def _is_out_of_time(self, request: RunnerRequest) -> bool:
        """Start the clock of an episode, or refuse a step after its end."""
        engine = self.engine
        now = engine.clock()
        if isinstance(request, Reset):
            self.episode_due = now + (engine.options.timeouts.episode or inf)
        elif isinstance(request, Step):
            if now >= self.episode_due:
                engine.stats.timeouts += 1
                self.complete(request, self._expired(request))
                return True
        elif isinstance(request, Close):
            self.episode_due = inf
        return False

    def open(self, request: Open) -> None:
        """Build the environment, in what waiting for capacity left of the request's time."""
        waited_until, self.ticket = self.due, None
        self._start(request, self.sink)
        if self.current is request:
            self.due = min(self.due, waited_until)
        if self.dead is None:
            self.engine.deadlines.watch(self, min(self.due, self._idle_at()))

    def wait(self, request: Open, ticket: int) -> None:
        """Wait for capacity; ``open`` is called when it is this session's turn."""
        self.ticket = ticket
        self.current = request
        now = self.engine.clock()
        self.due = due_at(now, self.engine.own_timeouts[Open], request.timeout, inf)
        self.send(self.engine.position_of(self))
        self.engine.deadlines.watch(self, min(self.due, now + NEWS_INTERVAL))

    def _is_new(self, request: Request) -> bool:
        """Return whether an out-of-order request is to run; one that is not is answered here."""
        try:
            if self.log.order(request.seq) is Order.NEW:
                return True
            self._check_resent(request)
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
        """Check that a request may have its number, before its caller waits for the answer.

        Raises:
            ProtocolError: it belongs to another request, which was taken.
        """
        if request.seq <= self.log.taken:
            self._check_resent(request)

    def _queue(self, request: Request) -> None:
        """Refuse a request while another one runs, or let it wait for that to be stopped."""
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
            timeout = shorter(self.engine.own_timeouts[Close], request.timeout)
            self._close_next(request, timeout, gone)
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
            step: Any = request  # only that is observed
            sink, codecs = self.sink, self.codecs
            if sink is not None and sink.codecs is codecs and len(step.payload) <= LARGE:
                # As answer does it, in the common case.
                size = len(reply.payload)
                self.log.keep(step.seq, reply, size, codecs.format, step)
                reply.channel = self.channel
                sink.send(reply, size)
                if self.deferred is not None:
                    self._start_deferred()
                return
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
            if type(reply) is Begun:  # of a step, too, that ended an episode and began the next
                self.runner.episode_id = reply.episode_id
        self.answer(request, reply)  # type: ignore[arg-type]  # Open and Close went above
        if self.deferred is not None:
            self._start_deferred()

    def _await(self, request: RunnerRequest, unfinished: Unfinished) -> None:
        """Go on in a task: a call taken for a sync one returned an awaitable."""
        self.current = request
        tasks = self.engine.tasks_for(self)
        if self.due == inf:  # a call straight from the loop had no deadline
            self.watch(request)
        tasks.start(self, unfinished)

    def _fails(self, reply: Failed) -> None:
        """Count an error and log what the environment did: the one place for all executors."""
        engine = self.engine
        trouble, self.runner.trouble = self.runner.trouble, None
        if engine.in_worker:  # it is told to the server, which does both
            return
        engine.count_error(reply.code)
        self.last_error = (reply.code, reply.message)
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
        """Return the reply of an interrupted request: the reason, whatever it says itself."""
        if isinstance(reply, Unfinished):
            reply.drop()
            return self.interruption(request)
        code = reply.code if isinstance(reply, Failed) else None
        if self.interrupted == "deadline":
            return reply if code == ServerBusy.code else self._expired(request)
        gone = self.engine.closing_reason(self)
        if gone is not None and code == OperationCancelled.code:
            return self.failure(request, gone)
        return reply

    def _complete_life(self, request: RunnerRequest, reply: RunnerReply) -> None:
        """Go on after the environment was built, or is closed."""
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
            self.sink.ended(self.channel, reason)

    def _start_deferred(self) -> None:
        request, self.deferred = self.deferred, None
        assert request is not None
        self._start(request, self.sink)

    def renew(self, ack: int) -> None:
        """Take a sign of life."""
        self.active_at = self.engine.clock()
        self.log.acknowledge(ack)

    # -- replies ----------------------------------------------------------------------------

    def answer(self, request: Request, reply: Reply) -> None:
        """Keep the reply of a request and send it."""
        if not request.seq:
            self.engine.following.visited(self, request, reply)
            self._answer_visitor(reply)
            return
        payload = None if type(reply) is Closed else reply.payload  # type: ignore[union-attr]  # only Closed has none
        size = 0 if payload is None else len(payload)
        codecs = self.codecs
        asked: Any = request
        if type(request) is not Step or len(request.payload) > LARGE:
            asked = remembered(request)
        self.log.keep(request.seq, reply, size, codecs.format, asked)
        sink = self.sink
        if sink is not None:
            if sink.codecs is not codecs:
                reply = self._converted(reply, codecs.format, sink.codecs.format)
            reply.channel = self.channel
            sink.send(reply, size)

    def refuse(self, request: Request, error: OpenEnvError) -> None:
        """Answer a request with an error."""
        self.engine.count_error(error.code)
        self.last_error = (error.code, error.message)
        self.answer(request, self.failure(request, error))

    def send(self, frame: Frame, format: Format | None = None) -> None:
        """Send a frame that is not kept, or is already; ``format`` is that of its payload."""
        sink = self.sink
        if sink is not None:
            frame = self._converted(frame, format or self.codecs.format, sink.codecs.format)
            frame.channel = self.channel  # type: ignore[attr-defined]  # every session frame has one
            payload = getattr(frame, "payload", None)
            sink.send(frame, 0 if payload is None else len(payload))

    def repeat(self, seq: int) -> None:
        """Send again all that the client may lack of the answer to request ``seq``."""
        kept = self.log.get(seq)
        format = self.codecs.format if kept is None else kept.format
        self._repeat_partials(seq, format)
        if kept is not None:
            self.send(kept.reply, format)

    def repeat_running(self) -> None:
        """Send again the partial observations of the step that runs, before its reply comes."""
        if isinstance(self.current, Step):
            self._repeat_partials(self.current.seq, self.codecs.format)

    def _repeat_partials(self, seq: int, format: Format) -> None:
        stream = self.stream
        for partial in () if stream is None else tuple(stream.kept):
            if partial.seq == seq:
                self.send(partial, format)

    def _check_resent(self, request: Request) -> None:
        """Tell a request that was taken before, and comes again, from another one.

        Raises:
            ProtocolError: its number belongs to another request.
        """
        sink = self.sink
        kept = self.log.get(request.seq)
        first: Any = self._unanswered(request.seq) if kept is None else kept.request
        if first is None or sink is None:
            return
        format = self.codecs.format if kept is None else kept.format
        spec = self.engine.spec
        if not is_same_request(spec, first, format, request, sink.codecs.format):
            raise another_request(request.seq)

    def failure(self, request: RunnerRequest, error: OpenEnvError) -> Failed:
        """Return the reply that carries ``error``, which names session and environment."""
        return failed(request, self.located(error), self.codecs.format)

    def located(self, error: OpenEnvError) -> OpenEnvError:
        """Return the error with the session and the environment it is about."""
        return error.add_context(session_id=self.id, env=self.engine.spec.name)

    def _converted(self, frame: Any, source: Format, target: Format) -> Any:
        """Return a reply for a sink that speaks another format than the one it was made in."""
        if source == target:
            return frame
        try:
            return transcode(self.engine.spec, frame, source, target)
        except OpenEnvError as exc:
            error = InvalidObservation(f"the reply cannot be sent in this format: {exc.message}")
            return error_frame(frame.channel, frame.seq, self.located(error), target)

    # -- streaming --------------------------------------------------------------------------

    def begin_stream(self, credit: int) -> None:
        """Allow a streaming step this many partial observations."""
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
        """Allow more partial observations of the streaming step ``seq``."""
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
        elif self.interrupted is None:
            current = self.current
            if current is None or isinstance(current, Open | Close) or current.seq != seq:
                return
            self.interrupted = "cancel"
            self.executor.interrupt(self)

    def shut(self, error: OpenEnvError) -> None:
        """Close the environment without being asked to; ``error`` answers what comes later."""
        if self.dead is not None:
            return
        if self.ticket is not None:
            self._leave_queue(error)
            return
        request = Close(self.channel, 0)
        self.engine.closing(self, error)
        if self.current is None:
            self._start(request, self.sink)
        elif not isinstance(self.current, Close):
            self._close_next(request, self.engine.own_timeouts[Close], error)

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
        """Return the reply of a request that stopped because it was asked to."""
        if self.interrupted == "deadline":
            return self._expired(request)
        return self.failure(request, OperationCancelled(f"{operation(request)}() was cancelled"))

    # -- deadlines --------------------------------------------------------------------------

    def check(self, now: float) -> float | None:
        """Act on what is due; called by the engine's heap.

        Returns:
            The time of the next look, or ``None`` for never.
        """
        if self.dead is not None:
            return None
        times = Times(
            due=self.due,
            parked_until=self.parked_until,
            idle_at=self._idle_at(),
            is_waiting=self.ticket is not None,
            is_running=self.current is not None,
            is_interrupted=self.interrupted == "deadline",
            is_postponed=self.postponed is self.current,
        )
        action, again = decide(times, now)
        match action:
            case Action.WAIT:
                pass
            case Action.POSTPONE:
                self.postponed, self.due = self.current, again
            case Action.TELL_POSITION:
                self.send(self.engine.position_of(self))
            case Action.REFUSE_WAITING:
                self._leave_queue(self.engine.busy())
            case Action.FORGET_WAITING:
                self._leave_queue(SessionLost("its client did not come back in time"))
            case Action.CLOSE_PARKED:
                self._close_parked()
            case Action.CLOSE_IDLE:
                self._close_idle()
            case Action.INTERRUPT:
                return self._interrupt(now)
            case Action.ABANDON:
                self._abandon()
            case _:
                assert_never(action)
        return None if again == inf else again

    def _idle_at(self) -> float:
        """Return when the session counts as idle if nothing comes."""
        idle = self.engine.options.timeouts.idle
        return inf if idle is None else self.active_at + idle

    def _close_parked(self) -> None:
        self.parked_until = inf
        self.engine.stats.abandoned += 1
        ttl = self.engine.options.timeouts.resume
        engine_log.info("its client did not come back: closing", extra={"session_id": self.id})
        self.shut(SessionLost(f"its client did not come back in time (Timeouts.resume, {ttl} s)"))

    def _close_idle(self) -> None:
        idle = self.engine.options.timeouts.idle
        self.engine.stats.expired += 1
        engine_log.info("idle for %g s: closing", idle, extra={"session_id": self.id})
        self.shut(
            SessionClosed(
                f"the session was idle for {idle:g} s and was closed: raise Timeouts.idle"
                " or open a new one",
                field="idle",
                value=idle,
            )
        )

    def _interrupt(self, now: float) -> float | None:
        """Interrupt the running request at its deadline; abandon one that cannot be."""
        self.engine.stats.timeouts += 1
        self.interrupted = "deadline"
        self.postponed = None  # the grace is another deadline
        if not self.executor.interrupt(self):
            self._abandon()
            return None
        self.due = now + self.engine.options.interrupt_grace
        return self.due

    def _abandon(self) -> None:
        """End the session without the request that does not stop."""
        request = self.current
        assert request is not None
        self.executor.abandon(self)
        engine_log.warning(
            "%s() did not stop at its deadline: its environment is abandoned",
            operation(request),
            extra={"session_id": self.id},
        )
        self.finish(
            self._expired(request),
            SessionClosed(
                f"{operation(request)}() did not stop at its deadline and its environment was"
                " abandoned: open a new session"
            ),
        )

    def _expired(self, request: RunnerRequest) -> Failed:
        """Return the reply of a request that took too long, or was stopped by its session's end."""
        engine = self.engine
        what, name = operation(request), engine.spec.name
        gone = engine.closing_reason(self)
        if gone is not None and not isinstance(request, Close):
            return self.failure(request, gone)
        if isinstance(request, Step | Reset) and engine.clock() >= self.episode_due:
            field, seconds = "episode", engine.options.timeouts.episode or 0.0
            message = (
                f"the episode of {name} took longer than its deadline of {seconds:g} s: raise"
                " Timeouts.episode; reset() begins another"
            )
        else:
            own = engine.own_timeouts[type(request)]
            field, seconds = what, shorter(own, request.timeout) or 0.0
            whose = "client" if seconds == request.timeout else "server"
            message = (
                f"{what}() of {name} took longer than its deadline of {seconds:g} s: raise"
                f" Timeouts.{what} of the {whose} or make it faster"
            )
        error = DeadlineExceeded(message, field=field, value=seconds, phase=what, env=name)
        return self.failure(request, error)

    # -- the end ----------------------------------------------------------------------------

    def _leave_queue(self, error: OpenEnvError) -> None:
        """Wait for capacity no more."""
        assert self.current is not None
        self.send(self.failure(self.current, error))
        self._end(error)

    def die(self, error: OpenEnvError) -> None:
        """End the session: its environment is gone. Called by the executor."""
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
            elif request.seq or self.visitor is not None:
                self.answer(request, reply)  # type: ignore[arg-type]  # no Opened for a request
        reason = self._end(error)
        if self.sink is not None and not isinstance(request, Open):
            self.sink.ended(self.channel, reason)

    def _end(self, error: OpenEnvError) -> OpenEnvError:
        """Give the environment back; every request that comes now meets the reason."""
        self.current = _ENDLESS
        self.slot = None  # what ran the session may hold it
        visitor, self.visitor = self.visitor, None
        if visitor is not None:
            visitor.ended(0, self.located(error))
        deferred, self.deferred = self.deferred, None
        self.dead = reason = self.located(self.engine.closed(self, error))
        if isinstance(self.runner, TracedRunner):
            self.runner.ended(None if isinstance(reason, SessionClosed) else reason)
        if deferred is not None and not isinstance(deferred, Open) and deferred.seq:
            self.refuse(deferred, reason)
        return reason

    # -- the sink ---------------------------------------------------------------------------

    def attach(self, sink: ReplySink, channel: int) -> None:
        """Send replies to this sink from now on; the one before it is told so."""
        old = self.sink
        if old is not None and (old is not sink or self.channel != channel):
            old.ended(self.channel, SessionLost("another connection took the session over"))
        self.sink = sink
        self.channel = channel
        self.parked_until = inf

    def park(self, ttl: float) -> None:
        """Live without a client for a while; what runs goes on, replies are kept."""
        self.parked_until = self.engine.clock() + ttl
        self.engine.deadlines.watch(self, self.parked_until)

    def detach(self, sink: ReplySink) -> bool:
        """Let go of a sink; ``False`` if another one has taken over already."""
        if self.sink is not sink:
            return False
        self.sink = None
        return True

    @property
    def closing(self) -> bool:
        """True once the session is closed or a close has been taken."""
        return isinstance(self.current, Close) or isinstance(self.deferred, Close)
