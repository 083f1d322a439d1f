"""A channel: one session's place on a connection that many sessions share.

Rules:

- One call at a time: ``future`` is who waits, ``waited`` the number of the request waited for.
- A request is kept until it is answered, so that it can be sent again on another transport; the
  server knows by its number what it has done already. The last one is in ``asked``, under the
  number ``waited``; those before it that were abandoned and are not answered yet in ``earlier``.
- A channel with an ``error`` is over; every later call on it meets that error.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from copy import copy
from math import inf
from typing import TYPE_CHECKING, Any, Final, Protocol

from openenv_async.errors import (
    DeadlineExceeded,
    OpenEnvError,
    SessionClosed,
    raised_again,
)
from openenv_async.protocol.frames import (
    Cancel,
    Close,
    Credit,
    Frame,
    Open,
    Opened,
    Partial,
    Payload,
    Request,
    State,
    Step,
)

if TYPE_CHECKING:
    from openenv_async.client.connection import ClientConnection

__all__ = ["BACKSTOP", "CREDIT", "Channel", "Receiver", "StreamedStep"]


BACKSTOP: Final = 5.0
"""Seconds after the server's deadline at which the client stops waiting for its answer."""

CREDIT: Final = 64
"""Partial observations that the server may send ahead of the consumer."""


class Receiver(Protocol):
    """The receiver of a channel's reply: a future, or a cheaper object that acts as one."""

    def done(self) -> bool: ...

    def set_result(self, result: Any, /) -> None: ...

    def set_exception(self, exception: Any, /) -> None: ...


class Channel:
    """One session's place on a connection: its request numbers and the reply it waits for."""

    __slots__ = (
        "acked",
        "asked",
        "connection",
        "due",
        "earlier",
        "error",
        "future",
        "id",
        "number",
        "opened",
        "scheduled",
        "secret",
        "seq",
        "sink",
        "steps",
        "waited",
        "waiting",
    )

    def __init__(self, connection: ClientConnection, number: int, id: str, secret: str) -> None:
        self.connection = connection
        self.number = number
        self.id = id
        self.secret = secret
        self.opened = False
        self.seq = 0
        self.acked = 0
        self.steps = 0
        self.asked: Request | Open | None = None
        self.earlier: dict[int, Request | Open] | None = None
        self.future: Receiver | None = None
        self.waited = 0
        self.sink: Callable[[Partial], None] | None = None
        self.error: OpenEnvError | None = None
        self.waiting: tuple[int, int] | None = None
        self.due = inf
        self.scheduled = inf

    # -- calls ------------------------------------------------------------------------------------

    def call(self, request: Request | Open, timeout: float | None) -> asyncio.Future[Any]:
        """Send a request; the future holds the reply frame or raises the typed error.

        Args:
            request: with ``seq`` set by ``next_seq``.
            timeout: seconds the server was given, ``None`` for no deadline.
        """
        future: asyncio.Future[Any] = self.connection.loop.create_future()
        self.post(request, future, timeout)
        return future

    def post(self, request: Request | Open, receiver: Receiver, timeout: float | None) -> None:
        """Send a request for a receiver of the caller's own, which may serve call after call."""
        connection = self.connection
        error = self.error or connection.error
        if error is not None:
            receiver.set_exception(raised_again(error))
            return
        seq = 0 if type(request) is Open else request.seq  # type: ignore[union-attr]  # an Open has none
        running = self.future
        if running is not None and not running.done():  # only a close comes while a call runs
            running.set_exception(
                SessionClosed("the session was closed by this side while this call was running")
            )
        if self.asked is not None:
            self.earlier = self.unanswered()
        self.asked = request
        self.future = receiver
        self.waited = seq
        if timeout is None:
            self.due = inf
        else:
            self.due = connection.loop.time() + timeout + BACKSTOP
            if self.due < self.scheduled:
                connection.deadlines.watch(self, self.due)
        connection.outbox.send(request)

    def step(self, payload: Payload, future: Receiver, timeout: float | None) -> None:
        """Send the next step of a channel on which no call runs; ``post`` for the common case.

        Args:
            payload: the action.
            future: the receiver of the observation.
            timeout: seconds the server was given, ``None`` for no deadline.
        """
        error = self.error  # also where it is the connection's: all its channels have it
        if error is not None:
            future.set_exception(raised_again(error))
            return
        if self.asked is not None:
            self.earlier = self.unanswered()
        self.seq = self.waited = seq = self.seq + 1
        self.asked = request = Step(self.number, seq, self.acked, payload, timeout or 0.0)
        self.future = future
        connection = self.connection
        outbox = connection.outbox
        if len(payload) > outbox.small_size:
            outbox.send(request)
        else:
            outbox.queue.append(request)
            outbox.answered = left = outbox.answered - 1
            if not left or outbox.flushing is None:
                outbox.hurry()
        if timeout is None:
            self.due = inf
        else:
            # Now, not when the turn began: callers may have computed for seconds in it.
            self.due = due = connection.clock() + timeout + BACKSTOP
            if due < self.scheduled:
                connection.deadlines.watch(self, due)

    async def pause(self, seconds: float) -> None:
        """Hold the channel for a caller who will send again what was refused.

        Other calls are busy meanwhile, and the end of the session ends the pause.

        Raises:
            OpenEnvError: the session ended.
        """
        loop = self.connection.loop
        held: asyncio.Future[None] = loop.create_future()
        self.future, self.waited = held, 0  # no request is waited for
        timer = loop.call_later(seconds, _resume, held)
        try:
            await held
        finally:
            timer.cancel()
            if self.future is held:
                self.future = None

    def next_seq(self) -> int:
        """The number of the next request."""
        self.seq = seq = self.seq + 1
        return seq

    def cancel(self, seq: int) -> None:
        """Cancel request ``seq``: tell the server, and drop the late reply."""
        if self.waited == seq:
            self.future = None
        if self._find(seq) is not None:
            self.connection.outbox.send(Cancel(self.number, seq))

    def grant(self, seq: int, units: int) -> None:
        """Allow more partial observations."""
        request = self._find(seq)
        if type(request) is Step:
            request.credit += units  # in all: should the request be sent again
        self.connection.outbox.send(Credit(self.number, seq, units))

    # -- what is not answered ---------------------------------------------------------------------

    def unanswered(self) -> dict[int, Request | Open]:
        """Requests without an answer, by number, in the order they were made."""
        requests = {} if self.earlier is None else self.earlier.copy()
        if self.asked is not None:
            requests[self.waited] = self.asked
        return requests

    def _find(self, seq: int) -> Request | Open | None:
        if seq == self.waited:
            return self.asked
        return None if self.earlier is None else self.earlier.get(seq)

    def settle(self, seq: int) -> bool:
        """Request ``seq`` needs no answer any more; whether it did."""
        found = self._find(seq) is not None
        if seq == self.waited:
            self.asked = None
        elif self.earlier is not None:
            self.earlier.pop(seq, None)
        return found

    # -- answers ----------------------------------------------------------------------------------

    def on_opened(self, frame: Opened) -> None:
        """The session is open, or was resumed."""
        self.opened = True
        self.waiting = None
        if not self.settle(0):
            return  # resumed
        future = self.future
        if future is not None and self.waited == 0:
            self.future = None
            if not future.done():
                future.set_result(frame)

    def on_failed(self, seq: int, error: OpenEnvError) -> bool:
        """The server answered request ``seq`` with an error.

        Returns:
            Whether it was the one that is waited for.
        """
        if seq > self.acked:
            self.acked = seq
        return self._end(seq, error)

    def refuse(self, seq: int, error: OpenEnvError) -> Frame | None:
        """Request ``seq`` must not be sent: its number is given back, its caller told.

        Returns:
            What to send in its place, where a later number was given out already: a number
            that never comes would leave a gap, at which the server refuses all that follow.
        """
        instead = None
        if seq and seq == self.seq:
            self.seq -= 1
        elif seq:
            instead = State(self.number, seq, self.acked)
        self._end(seq, error.add_context(session_id=self.id))
        return instead

    def _end(self, seq: int, error: OpenEnvError) -> bool:
        """Nothing will come for request ``seq``: raise in its caller, if that still waits."""
        self.settle(seq)
        future = self.future
        if future is None or self.waited != seq:
            return False
        self.future = None
        if not future.done():
            future.set_exception(error)
        return True

    # -- the session's end ------------------------------------------------------------------------

    def close_soon(self) -> None:
        """Ask for the session to be closed without waiting for the answer."""
        if self.error is None:
            self.connection.outbox.send(Close(self.number, self.next_seq(), self.acked))
        self.connection.forget(self)

    def fail(self, error: OpenEnvError) -> None:
        """The session is over: its caller, and every later one, meets ``error``."""
        self.error = error
        self.asked = self.earlier = None
        future, self.future = self.future, None
        if future is not None and not future.done():
            future.set_exception(raised_again(error))

    def lose(self, error: OpenEnvError) -> None:
        """End a session whose server is gone; further frames of it are ignored."""
        self.fail(error)
        self.connection.forget(self)
        self.error = error  # and not that it was closed here

    def catch_up(
        self,
        seq: int,
        request: Request | None = None,
        receiver: Receiver | None = None,
        timeout: float | None = None,
        waited: float = 0.0,
    ) -> None:
        """Go on where another thread has come to, which asked and was answered meanwhile.

        Args:
            seq: the last number that was given out.
            request: that of this number, if it is not answered yet; it was sent.
            receiver: of its reply.
            timeout: seconds the server was given, ``None`` for no deadline.
            waited: seconds since it was sent.
        """
        self.seq = self.waited = seq
        self.acked = max(self.acked, seq if request is None else seq - 1)
        if request is None:
            return
        error = self.error or self.connection.error
        if error is not None:
            assert receiver is not None
            receiver.set_exception(raised_again(error))
            return
        self.asked, self.future, self.due = request, receiver, inf
        if timeout is not None:
            self.due = self.connection.loop.time() + timeout + BACKSTOP - waited
            if self.due < self.scheduled:
                self.connection.deadlines.watch(self, self.due)

    def add_progress(self, error: OpenEnvError) -> None:
        """Say in the error that ends the session how far it had come."""
        error.detail["last_acknowledged_request"] = self.acked
        error.detail["last_acknowledged_step"] = self.steps

    # -- another transport, another connection ----------------------------------------------------

    def resumption(self) -> list[Frame]:
        """Return what to send on a new transport: the session, and all that was not answered."""
        frames: list[Frame] = []
        if self.opened:
            frames.append(Open(self.number, self.id, self.secret, True, self.acked))
        for seq, request in self.unanswered().items():
            # A copy of a step that streams: credit granted before it is written goes on its own.
            streams = type(request) is Step and request.credit
            frames.append(copy(request) if streams else request)
            if seq and (self.future is None or seq != self.waited):
                frames.append(Cancel(self.number, seq))
        return frames

    def succeed(self, left_behind: Channel) -> None:
        """Go on where the channel of a connection that is gone had stopped."""
        self.seq, self.acked = left_behind.seq, left_behind.acked
        self.steps = left_behind.steps
        self.earlier = left_behind.unanswered()

    def check(self, now: float) -> float | None:
        """Stop waiting for a server that is late with its own deadline."""
        future, connection = self.future, self.connection
        if future is None or self.error is not None:
            return None
        if now < self.due:
            return self.due if self.due != inf else None
        if now - self.due > 1.0:
            # This loop was blocked; the frames that it missed lie in the socket. Look again after
            # reading.
            self.due = now + 1.0
            return self.due
        again = connection.doubt(self.due - BACKSTOP, now) + BACKSTOP
        if again > now:
            self.due = again
            return again
        self.due = inf
        self.cancel(self.waited)
        if not future.done():
            future.set_exception(
                DeadlineExceeded(
                    connection.silence(),
                    session_id=self.id,
                    request_id=self.waited or None,
                )
            )
        return None


def _resume(held: asyncio.Future[None]) -> None:
    if not held.done():
        held.set_result(None)


class StreamedStep:
    """A step under way whose partial observations are taken one by one.

    Args:
        channel: of the session; no other call may run on it.
        request: the step, with its credit.
        timeout: seconds the server was given, ``None`` for no deadline.

    Attributes:
        reply: the final observation, or the error.
    """

    def __init__(self, channel: Channel, request: Step, timeout: float | None) -> None:
        self._channel = channel
        self._seq = request.seq
        self._credit = request.credit
        self._arrived: deque[Partial] = deque()
        self._wake = asyncio.Event()
        self._expected = 0
        self._used = 0
        channel.sink = self._take
        self.reply: asyncio.Future[Any] = channel.call(request, timeout)
        self.reply.add_done_callback(lambda _: self._wake.set())

    def _take(self, partial: Partial) -> None:
        if partial.index == self._expected:  # others come twice, after a reconnect
            self._expected += 1
            self._arrived.append(partial)
            self._wake.set()

    async def next(self) -> Partial | None:
        """The next partial observation, or ``None`` once all were taken and the reply is there."""
        if self._used * 2 >= self._credit:
            self._channel.grant(self._seq, self._used)
            self._used = 0
        while not self._arrived:
            if self.reply.done():
                return None
            self._wake.clear()
            await self._wake.wait()
        self._used += 1
        return self._arrived.popleft()

    def close(self) -> None:
        """Take no more; cancels the step if it is still running."""
        if self._channel.sink == self._take:
            self._channel.sink = None
        if not self.reply.done():
            self.reply.cancel()
            self._channel.cancel(self._seq)
        elif not self.reply.cancelled():
            self.reply.exception()  # a caller that leaves early does not want to know
