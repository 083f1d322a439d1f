"""A session: one hosted environment, its request order, its deadlines and its door.

Rules:

- One request runs at a time. A second one is refused as busy, unless the running one is being
  stopped: then it waits for that to end.
- Every request that is taken is answered exactly once; the reply is kept until acknowledged.
- Where a request runs is the driver's business; it comes back through ``complete``.
- ``wire`` is the format of the running request and of its reply: the door's when it started.
  A reply that a door with another format must deliver is converted for it.
- A request past its deadline is interrupted. What does not stop within a grace is abandoned:
  the session dies, its capacity is given back, the rest of the server is not concerned.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Any, Final

from openenv_async.engine.host import (
    Host,
    HostReply,
    HostRequest,
    Wire,
    failed,
    operation,
)
from openenv_async.engine.seams import Driver, Port
from openenv_async.engine.streaming import PartialStream
from openenv_async.engine.traced import TracedHost
from openenv_async.engine.transcode import transcode
from openenv_async.errors import (
    DeadlineExceeded,
    EnvironmentRaised,
    InvalidObservation,
    OpenEnvError,
    OperationCancelled,
    ProtocolError,
    ServerBusy,
    SessionBusy,
    SessionClosed,
    SessionLost,
)
from openenv_async.models import Format
from openenv_async.protocol.codec import encode_map
from openenv_async.protocol.frames import (
    Close,
    Closed,
    Failed,
    Frame,
    Observation,
    Open,
    Reply,
    Request,
    Reset,
    Step,
)
from openenv_async.protocol.replies import Order, ReplyLog
from openenv_async.tracing import trace_from

if TYPE_CHECKING:
    from openenv_async.engine.engine import Engine

__all__ = ["Session"]

log = logging.getLogger("openenv_async.engine")

_REPLY_OVERHEAD: Final = 64
_HELD_UP: Final = 0.2
"""Seconds by which a look at a deadline may be late."""
_WAITING_NEWS: Final = 1.0
"""Seconds after which a waiting client hears its position again."""
_TOMBSTONE: Final = Close(0, 0)
"""What a dead session is busy with for ever."""


class Session:
    """One session of the engine. Made by ``Engine.open``; all methods run on the loop."""

    __slots__ = (
        "__weakref__",
        "active_at",
        "channel",
        "current",
        "dead",
        "deferred",
        "driver",
        "due",
        "engine",
        "episode_due",
        "host",
        "id",
        "interrupted",
        "log",
        "parked_until",
        "port",
        "scheduled",
        "secret",
        "slot",
        "stream",
        "ticket",
        "wire",
    )

    def __init__(self, engine: Engine, open: Open, driver: Driver, port: Port) -> None:
        self.engine = engine
        self.id = open.session
        self.secret = open.secret
        self.channel = open.channel
        self.driver = driver
        self.port: Port | None = port
        trace = getattr(port, "trace", None)  # most doors have none
        if open.traceparent is not None:
            trace = trace_from(open.traceparent, open.tracestate) or trace
        if trace is None:
            self.host = Host(engine.spec, engine.options.debug)
        else:
            self.host = TracedHost(engine.spec, engine.options.debug, trace)
        self.wire: Wire = port.wire
        # Each reply beside the format of its payload.
        self.log: ReplyLog[tuple[Reply, Format]] = ReplyLog(engine.options.limits.max_retained_size)
        self.current: HostRequest | None = None
        self.deferred: HostRequest | None = None
        self.interrupted: str | None = None
        self.dead: OpenEnvError | None = None
        self.active_at = engine.clock()
        self.due = inf
        self.episode_due = inf
        self.scheduled = inf
        self.stream: PartialStream | None = None  # of the last step that streamed
        self.parked_until = inf
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

    def _start(self, request: HostRequest) -> None:
        self.current = request
        if self.port is not None:
            self.wire = self.port.wire
        if self.engine.options.timeouts.episode is not None and self._out_of_time(request):
            return
        driver = self.driver
        if driver.timed:
            timeout = self._timeout(request)
            due = inf if timeout is None else self.engine.clock() + timeout
            self.due = min(due, self.episode_due)
            if self.due < self.scheduled:
                self.engine.deadlines.watch(self, self.due)
        driver.start(self, request)

    def _out_of_time(self, request: HostRequest) -> bool:
        """Start the clock of an episode; refuse a step after it ran out."""
        now = self.engine.clock()
        if isinstance(request, Reset):
            self.episode_due = now + (self.engine.options.timeouts.episode or inf)
        elif isinstance(request, Step):
            if now >= self.episode_due:
                self.engine.stats.timeouts += 1
                self.complete(request, self._expired(request))
                return True
        elif isinstance(request, Close):
            self.episode_due = inf
        return False

    def open(self, request: Open) -> None:
        """Build the environment."""
        self.ticket = None
        self._start(request)
        self.engine.deadlines.watch(self, self._idle_at())

    def wait(self, request: Open, ticket: int) -> None:
        """Wait for capacity; ``open`` is called when it is this session's turn."""
        self.ticket = ticket
        self.current = request
        timeout = self._timeout(request)
        now = self.engine.clock()
        self.due = inf if timeout is None else now + timeout
        self._send(self.engine.place_of(self))
        self.engine.deadlines.watch(self, min(self.due, now + _WAITING_NEWS))

    def _is_new(self, request: Request) -> bool:
        """Whether an out-of-order request is to be run; if not it is dealt with here."""
        try:
            order = self.log.order(request.seq)
        except ProtocolError as exc:
            self._send(failed(request, self._located(exc), self._format))
            return False
        if order is Order.NEW:
            return True
        self.engine.stats.duplicates += 1
        reply: Reply | None = None
        format = self._format
        running, stream = self.current, self.stream
        if isinstance(running, Step) and isinstance(request, Step) and running.seq == request.seq:
            # It carries all the credit ever given for it: some may have been lost on the way.
            granted = 0 if stream is None else stream.granted
            self.add_credit(request.seq, request.credit - running.credit - granted)
        if order is Order.ANSWERED:
            reply, format = self.log.replies[request.seq][0]
        for partial in () if stream is None else tuple(stream.kept):
            if partial.seq == request.seq:
                self._send(partial, format)
        if reply is not None:
            self._send(reply, format)
        return False

    def _queue(self, request: Request) -> None:
        """A request while one is running."""
        assert self.current is not None
        if self.ticket is not None and isinstance(request, Close):
            self._finish(None, SessionClosed("closed while it waited for capacity"))
            self._answer(request, Closed(self.channel, request.seq))
            return
        gone = self.dead or self.engine.closing_reason(self)
        if gone is not None:
            self._answer(request, failed(request, self._located(gone), self._format))
            return
        if isinstance(request, Close) and not isinstance(self.current, Close):
            gone = SessionClosed("the session was closed by its client")
            self._close_next(request, self._timeout(request), gone)
            return
        if self.interrupted is not None and self.deferred is None:
            self.deferred = request
            return
        error = SessionBusy(
            f"{operation(request)}() while {operation(self.current)}() is running on this session:"
            " await one call before the next, or open another session"
        )
        self._answer(request, failed(request, self._located(error), self._format))

    def complete(self, request: HostRequest, reply: HostReply) -> None:
        """Take back a reply from the driver."""
        if self.dead is not None:
            return
        self.current = None
        engine = self.engine
        self.active_at = engine.clock()
        if self.interrupted is not None:
            reply = self._stopped(request, reply)
            self.interrupted = None
        kind = type(request)
        if kind is Step:
            engine.stats.steps += type(reply) is Observation
        elif kind is Open or kind is Close:
            self._complete_life(request, reply)
            return
        self._answer(request, reply)  # type: ignore[arg-type]  # Open and Close went above
        if self.deferred is not None:
            self._start_deferred()

    def _stopped(self, request: HostRequest, reply: HostReply) -> HostReply:
        """The reply of a request that was interrupted: why it was, whatever it says itself."""
        code = reply.code if isinstance(reply, Failed) else None
        if self.interrupted == "deadline":
            return reply if code == ServerBusy.code else self._expired(request)
        gone = self.engine.closing_reason(self)
        if gone is not None and code == OperationCancelled.code:
            return failed(request, self._located(gone), self._format)
        return reply

    def _complete_life(self, request: HostRequest, reply: HostReply) -> None:
        """The environment was built, or is closed."""
        if isinstance(request, Open):
            if isinstance(reply, Failed):
                self._end(SessionClosed("the environment could not be built"))
            self._send(reply)
            if self.deferred is not None and self.dead is None:
                self._start_deferred()
            return
        reason = self._end(SessionClosed("the session is closed: open a new one"))
        if request.seq:
            self._answer(request, reply)  # type: ignore[arg-type]  # Closed or Failed
        elif self.port is not None:
            self.port.ended(self, reason)

    def _start_deferred(self) -> None:
        request, self.deferred = self.deferred, None
        assert request is not None
        self._start(request)

    def _answer(self, request: Request, reply: Reply) -> None:
        payload = None if type(reply) is Closed else reply.payload  # type: ignore[union-attr]  # only Closed has none
        size = 0 if payload is None else len(payload)
        wire = self.wire
        self.log.keep(request.seq, (reply, wire.format), size + _REPLY_OVERHEAD)
        port = self.port
        if port is not None:
            if port.wire is not wire:
                reply = self._converted(reply, wire.format, port.wire.format)
            reply.channel = self.channel
            port.send(reply, size)

    def _send(self, frame: Frame, format: Format | None = None) -> None:
        port = self.port
        if port is not None:
            frame = self._converted(frame, format or self._format, port.wire.format)
            frame.channel = self.channel  # type: ignore[attr-defined]  # every session frame has one
            payload = getattr(frame, "payload", None)
            port.send(frame, 0 if payload is None else len(payload))

    def _converted(self, frame: Any, source: Format, target: Format) -> Any:
        """A reply for a door that speaks another format than the one it was made in."""
        if source == target:
            return frame
        try:
            return transcode(self.engine.spec, frame, source, target)
        except OpenEnvError as exc:
            error = InvalidObservation(f"the reply cannot be sent in this format: {exc.message}")
            detail = encode_map(self._located(error).to_wire(), target)
            return Failed(frame.channel, frame.seq, error.code, error.message, False, detail)

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
            self._send(stream.show(self.channel, request.seq, payload, whole))
        return stream.has_credit

    def add_credit(self, seq: int, units: int) -> None:
        """More partial observations may be sent for the streaming step ``seq``."""
        request, stream = self.current, self.stream
        if not isinstance(request, Step) or request.seq != seq or units < 1:
            return
        if stream is not None:
            stream.grant(units)
        self.driver.credited(self, units)

    # -- stopping ---------------------------------------------------------------------------

    def cancel(self, seq: int) -> None:
        """Stop request ``seq`` if it is running or waiting; unknown numbers are ignored."""
        if seq < 1:
            return  # no client's request: the engine's own close has number 0
        deferred = self.deferred
        if deferred is not None and not isinstance(deferred, Open) and deferred.seq == seq:
            self.deferred = None
            error = OperationCancelled("cancelled before it started")
            self._answer(deferred, failed(deferred, self._located(error), self._format))
            return
        current = self.current
        if current is None or isinstance(current, Open | Close) or current.seq != seq:
            return
        if self.interrupted is None:
            self.interrupted = "cancel"
            self.driver.interrupt(self)

    def shut(self, error: OpenEnvError) -> None:
        """Close the environment without being asked to; ``error`` answers what comes later."""
        if self.dead is not None:
            return
        if self.ticket is not None:
            self._give_up(error)
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
            self._answer(waiting, failed(waiting, self._located(error), self._format))
        if self.interrupted is None:
            self.interrupted = "cancel"
            self.driver.interrupt(self)
        if timeout is not None and self.driver.timed:
            self.due = min(self.due, self.engine.clock() + timeout)
            self.engine.deadlines.watch(self, self.due)

    def interruption(self, request: HostRequest, format: str) -> HostReply:
        """The reply of a request that stopped because it was asked to."""
        if self.interrupted == "deadline":
            return self._expired(request)
        error = OperationCancelled(f"{operation(request)}() was cancelled")
        return failed(request, self._located(error), format)

    def raised(self, request: HostRequest, exc: BaseException, format: str) -> HostReply:
        """The reply for what the host lets through, such as an environment's KeyboardInterrupt.

        Where calls run, signals do not arrive: it is the environment's own doing.
        """
        error = EnvironmentRaised(
            f"{operation(request)}() of {self.engine.spec.name} raised {type(exc).__name__}: {exc}",
            raised=type(exc).__name__,
            text=str(exc),
            phase=operation(request),
        )
        return failed(request, self._located(error), format)

    def check(self, now: float) -> float | None:
        """Deadlines: called by the engine's heap."""
        if self.dead is not None:
            return None
        if self.ticket is not None:
            if now >= self.parked_until:  # nobody waits for it any more
                self._give_up(SessionLost("its client did not come back in time"))
                return None
            if now >= self.due:
                self._give_up(self.engine.busy())
                return None
            self._send(self.engine.place_of(self))
            return min(self.due, self.parked_until, now + _WAITING_NEWS)
        if now >= self.parked_until:
            self.parked_until = inf
            self.engine.stats.abandoned += 1
            ttl = self.engine.options.timeouts.resume
            log.info("its client did not come back: closing", extra={"session_id": self.id})
            self.shut(
                SessionLost(f"its client did not come back in time (Timeouts.resume, {ttl} s)")
            )
            return None
        idle_at = self._idle_at()
        if self.current is not None:
            if now >= self.due:
                return self._overdue(now)
            return min(self.due, self.parked_until, max(idle_at, now + 1.0))
        if now < idle_at:
            look = min(idle_at, self.parked_until)
            return look if look != inf else None
        idle = self.engine.options.timeouts.idle
        self.engine.stats.expired += 1
        log.info("idle for %g s: closing", idle, extra={"session_id": self.id})
        self.shut(
            SessionClosed(
                f"the session was idle for {idle:g} s and was closed: raise Timeouts.idle"
                " or open a new one",
                field="idle",
                value=idle,
            )
        )
        return None

    def _give_up(self, error: OpenEnvError) -> None:
        """Wait for capacity no more."""
        assert self.current is not None
        self._send(failed(self.current, self._located(error), self._format))
        self._end(error)

    def _overdue(self, now: float) -> float | None:
        request = self.current
        assert request is not None
        if now - self.due > _HELD_UP:
            # This loop was held up, and the reply may be there, unread: look again after that.
            self.due = now + _HELD_UP / 2
            return self.due
        if self.interrupted != "deadline":
            self.engine.stats.timeouts += 1
            self.interrupted = "deadline"
            if self.driver.interrupt(self):
                self.due = now + self.engine.options.interrupt_grace
                return self.due
        self.driver.abandon(self)
        log.warning(
            "%s() did not stop at its deadline: its environment is given up",
            operation(request),
            extra={"session_id": self.id},
        )
        self._finish(
            self._expired(request),
            SessionClosed(
                f"{operation(request)}() did not stop at its deadline and its environment was"
                " given up: open a new session"
            ),
        )
        return None

    def die(self, error: OpenEnvError) -> None:
        """The environment is gone: called by the driver."""
        if self.dead is not None:
            return
        request = self.current
        reply = None
        if request is not None:
            error.add_context(phase=operation(request))
            reply = failed(request, self._located(error), self._format)
        self._finish(reply, error)

    def _finish(self, reply: HostReply | None, error: OpenEnvError) -> None:
        """Answer the running request with ``reply`` and end with ``error``."""
        request = self.current
        if request is not None and reply is not None:
            self._answer_last(request, reply)
        reason = self._end(error)
        if self.port is not None and not isinstance(request, Open):
            self.port.ended(self, reason)

    def _answer_last(self, request: HostRequest, reply: HostReply) -> None:
        if isinstance(request, Open) or request.seq == 0:
            if isinstance(request, Open):
                self._send(reply)
        else:
            self._answer(request, reply)  # type: ignore[arg-type]  # no Opened for a request

    def _end(self, error: OpenEnvError) -> OpenEnvError:
        """The environment is gone or given up; whatever comes now meets the reason."""
        self.current = _TOMBSTONE
        deferred, self.deferred = self.deferred, None
        self.dead = reason = self._located(self.engine.closed(self, error))
        if deferred is not None and not isinstance(deferred, Open) and deferred.seq:
            self._answer(deferred, failed(deferred, reason, self._format))
        return reason

    def _expired(self, request: HostRequest) -> HostReply:
        what = operation(request)
        name = self.engine.spec.name
        gone = self.engine.closing_reason(self)
        if gone is not None and not isinstance(request, Close):
            return failed(request, self._located(gone), self._format)
        if isinstance(request, Step | Reset) and self.engine.clock() >= self.episode_due:
            seconds = self.engine.options.timeouts.episode or 0.0
            message = (
                f"the episode of {name} took longer than its deadline of {seconds:g} s: raise"
                " Timeouts.episode; reset() begins another"
            )
            error = DeadlineExceeded(message, field="episode", value=seconds, phase=what, env=name)
        else:
            seconds = self._timeout(request) or 0.0
            whose = "client" if seconds == request.timeout else "server"
            message = (
                f"{what}() of {name} took longer than its deadline of {seconds:g} s: raise"
                f" Timeouts.{what} of the {whose} or make it faster"
            )
            error = DeadlineExceeded(message, field=what, value=seconds, phase=what, env=name)
        return failed(request, self._located(error), self._format)

    # -- the door ---------------------------------------------------------------------------

    def attach(self, port: Port, channel: int) -> None:
        """Send replies through this port from now on; a port before it is told so."""
        old = self.port
        if old is not None and (old is not port or self.channel != channel):
            old.ended(self, SessionLost("another connection took the session over"))
        self.port = port
        self.channel = channel
        self.parked_until = inf

    def park(self, ttl: float) -> None:
        """Live without a door for a while; what runs goes on, replies are kept."""
        self.parked_until = self.engine.clock() + ttl
        self.engine.deadlines.watch(self, self.parked_until)

    def detach(self, port: Port) -> bool:
        """The port is gone; ``False`` if another one has taken over already."""
        if self.port is not port:
            return False
        self.port = None
        return True

    @property
    def closing(self) -> bool:
        """Whether the session is closed or a close has been taken."""
        return isinstance(self.current, Close) or isinstance(self.deferred, Close)

    @property
    def _format(self) -> Format:
        return self.wire.format

    def _located(self, error: OpenEnvError) -> OpenEnvError:
        return error.add_context(session_id=self.id, env=self.engine.spec.name)

    def _timeout(self, request: HostRequest) -> float | None:
        """Seconds for this request: the server's, or less where the client asked for less."""
        own = self.engine.own_timeouts[type(request)]
        asked = request.timeout
        if not asked or asked <= 0:
            return own
        return asked if own is None else min(own, asked)

    def _idle_at(self) -> float:
        idle = self.engine.options.timeouts.idle
        return inf if idle is None else self.active_at + idle
