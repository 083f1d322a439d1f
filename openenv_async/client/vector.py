"""Many sessions on one connection, driven in batches by a thread that is no event loop.

What a future and an await per session cost more than the step itself: here a batch of requests
crosses to the I/O thread once, leaves in one message, and one wake-up tells that enough replies
are there.

Rules:

- A *seat* is a place for one session. It answers every request exactly once: with a frame, or
  with the error that took its place.
- A seat whose session failed gets a new one with its next reset; so does every seat when the
  connection is gone for good.
- The calling thread owns what it is handed (``take``); until then it belongs to the I/O thread.
  Between them stand one lock, one event and ``call_soon_threadsafe``.
- With ``same_step`` an episode's end is followed by the next one's reset at once, by the I/O
  thread: the seat answers with both frames.
"""

from __future__ import annotations

import asyncio
import operator
import os
import random
import sys
import threading
from collections.abc import Sequence
from typing import Any

from openenv_async.client.arguments import (
    checked_count,
    checked_seed,
    checked_timeout,
)
from openenv_async.client.channel import Channel
from openenv_async.client.connection import ClientConnection
from openenv_async.client.env import EnvClient, GenericEnvClient
from openenv_async.client.loop_thread import background_loop, close_blocking
from openenv_async.client.models import WireModels, wire_models
from openenv_async.endpoints.addresses import checked_url
from openenv_async.errors import (
    CallerError,
    DeadlineExceeded,
    EpisodeNotStarted,
    InvalidOption,
    OpenEnvError,
    SessionBusy,
    SessionClosed,
    shown,
)
from openenv_async.protocol.frames import Begun, Close, Observation, Reset, State, Step

__all__ = ["Answer", "ResetRequest", "VectorSessions"]


class ResetRequest:
    """A reset of one seat.

    Attributes:
        seat: which.
        seed: as for ``EnvClient.reset``.
        options: the reset's own options, encoded.
    """

    __slots__ = ("options", "seat", "seed")

    def __init__(self, seat: int, seed: int | None, options: bytes | None) -> None:
        self.seat = seat
        self.seed = seed
        self.options = options


class Answer:
    """What a seat answered.

    Attributes:
        seat: which.
        frame: the reply; ``None`` when there is none.
        final: with ``same_step``: the reply, or the error, that ended the episode before the
            one that ``frame`` begins.
        error: why there is no ``frame``.
        again: whether it answers a reset.
    """

    __slots__ = ("again", "error", "final", "frame", "seat")

    def __init__(
        self,
        seat: int,
        frame: Observation | Begun | None,
        final: Observation | OpenEnvError | None,
        error: OpenEnvError | None,
        again: bool,
    ) -> None:
        self.seat = seat
        self.frame = frame
        self.final = final
        self.error = error
        self.again = again


class Seat:
    """A session's place; the receiver of its replies."""

    __slots__ = ("again", "broken", "channel", "final", "number", "owner", "rng", "seeded")

    def __init__(self, owner: VectorSessions, number: int) -> None:
        self.owner = owner
        self.number = number
        self.channel: Channel | None = None
        self.broken = False
        self.again = False
        self.final: Observation | OpenEnvError | None = None
        self.rng: random.Random | None = None
        self.seeded = False

    def done(self) -> bool:
        return False

    def set_result(self, frame: Any, /) -> None:
        owner = self.owner
        if owner.same_step and (frame.terminated or frame.truncated) and type(frame) is Observation:
            self.final = frame
            owner.reset_seat(self, None, None)
            return
        owner.deliver(Answer(self.number, frame, self.final, None, self.again))

    def set_exception(self, error: Any, /) -> None:
        owner = self.owner
        if not isinstance(error, CallerError) or isinstance(error, SessionClosed):
            self.broken = True
        if owner.same_step and self.broken and self.final is None and not self.again:
            self.final = error
            owner.reset_seat(self, None, None)
            return
        owner.deliver(Answer(self.number, None, self.final, error, self.again))


class VectorSessions:
    """``count`` sessions of one server, called in batches and answered as they finish.

    Opens with the first reset. Calls come from one thread at a time; any thread but the I/O
    thread may call.

    Args:
        client: where to and with which settings: an ``EnvClient`` that is not used otherwise.
        count: how many sessions.
        same_step: follow an end by a reset at once.
        resume_options: encoded options of the resets that follow an end in a session whose
            first reset was seeded, where the environment can go on drawing from the generator
            it has; without them the seeds of later episodes are drawn from the first one.
    """

    def __init__(
        self,
        client: EnvClient[Any, Any, Any] | str,
        count: int,
        *,
        same_step: bool = False,
        resume_options: dict[str, Any] | None = None,
    ) -> None:
        self.count = checked_count(count, "the number of sessions", 1, ValueError)
        if not isinstance(client, EnvClient):
            client = GenericEnvClient(checked_url(client, "client"))
        self.client = client
        self.same_step = same_step
        self._resume_options = resume_options
        self._resume_payload: bytes | None = None
        self._start_over()

    def _start_over(self) -> None:
        self._pid = os.getpid()
        self._seats = [Seat(self, number) for number in range(self.count)]
        self._connection: ClientConnection | None = None
        self._wire: WireModels | None = None
        self._connecting: asyncio.Task[ClientConnection] | None = None
        self._reviving: set[asyncio.Task[None]] = set()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._answers: list[Answer] = []
        self._wanted = 0
        self._waiting = 0
        self._closed = False

    def __getstate__(self) -> dict[str, Any]:
        """The settings: a copy opens sessions of its own."""
        names = ("client", "count", "same_step", "_resume_options", "_resume_payload")
        return {name: self.__dict__[name] for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start_over()

    # -- the calling thread -----------------------------------------------------------------------

    @property
    def wire(self) -> WireModels:
        """Encodes and decodes payloads in the connection's format.

        Raises:
            EpisodeNotStarted: nothing is open yet.
        """
        if self._wire is None:
            raise EpisodeNotStarted("step() before reset(): call reset() first")
        return self._wire

    @property
    def opened(self) -> bool:
        """Whether the sessions are open."""
        return self._connection is not None

    @property
    def waiting(self) -> int:
        """Requests without an answer taken yet."""
        return self._waiting

    def open(self) -> None:
        """Connect and open every session; idempotent.

        Raises:
            ConnectFailed, Unauthorized, ServerBusy, EnvironmentStartFailed: it did not work.
        """
        if self._closed:
            raise SessionClosed("these sessions were closed: make new ones")
        if self._pid != os.getpid():
            self._start_over()  # forked: the sessions are the parent's
        if self._connection is None:
            background_loop().run(self._open())

    def reset(self, requests: Sequence[ResetRequest]) -> None:
        """Ask for resets; ``take`` gives their answers.

        Raises:
            InvalidOption: a request is wrong; none is sent then.
        """
        requests = list(requests)
        for request in requests:
            if not isinstance(request, ResetRequest):
                raise InvalidOption(f"reset() takes ResetRequests, got {shown(request)}")
            request.seat = self._checked_seats([request.seat])[0]
            request.seed = checked_seed(request.seed)
            if not isinstance(request.options, bytes | None):
                raise InvalidOption(
                    "the options of a ResetRequest must be encoded (wire.encode_any) or None,"
                    f" got {shown(request.options)}"
                )
        self.open()
        self._post(self._send_resets, requests)

    def step(
        self, seats: Sequence[int], actions: Sequence[bytes], resets: Sequence[int] = ()
    ) -> None:
        """Ask for one step of each of ``seats``; ``take`` gives their answers.

        Args:
            seats: which sessions.
            actions: encoded actions, one for each seat.
            resets: seats that begin an episode instead, in the same message.

        Raises:
            InvalidOption: a seat does not exist, or has no action; nothing is sent then.
        """
        if len(seats) != len(actions):
            raise InvalidOption(
                f"step() takes one action a seat, got {len(actions)} for {len(seats)}"
            )
        seats, resets = self._checked_seats(seats), self._checked_seats(resets)
        if self._connection is None or self._pid != os.getpid():
            raise EpisodeNotStarted("step() before reset(): call reset() first")
        self._post(self._send_steps, seats, actions, resets)

    def _checked_seats(self, seats: Sequence[int]) -> Sequence[int]:
        """The seats, all of which exist; a wrong one would be lost on the I/O thread."""
        try:
            found = list(map(operator.index, seats))
        except TypeError:
            found = [-1]
        if found and not 0 <= min(found) <= max(found) < self.count:
            raise InvalidOption(f"seats are 0 to {self.count - 1}, got {shown(seats)}")
        return found

    def _post(self, send: Any, *requests: Any) -> None:
        if self._closed or sys.is_finalizing():
            raise SessionClosed("these sessions were closed: make new ones")
        counted = requests[0] if len(requests) == 1 else (*requests[0], *requests[2])
        self._waiting += len(counted)
        background_loop().loop.call_soon_threadsafe(send, *requests)

    def take(self, count: int, timeout: float | None = None) -> list[Answer]:
        """The first ``count`` answers, and what else is there by then.

        Every request has its deadline, so it returns also without ``timeout``.

        Raises:
            DeadlineExceeded: there were not as many within ``timeout`` seconds; those there
                are can be taken later.
            InvalidOption: an argument is of the wrong type.
        """
        count = checked_count(count, "take(count=…)", 0, InvalidOption)
        if timeout is not None:
            timeout = checked_timeout(timeout, "take")
        if count > self._waiting:
            raise SessionBusy(
                f"{count} answers were asked for, but only {self._waiting} requests were sent"
            )
        with self._lock:
            if len(self._answers) < count:
                self._wanted = count
                self._wake.clear()
            else:
                self._wake.set()
        if not self._wake.wait(timeout):
            raise DeadlineExceeded(
                f"{self.client.base_url} gave fewer than {count} answers within {timeout:g} s"
            )
        with self._lock:
            answers, self._answers = self._answers, []
            self._wanted = 0
        self._waiting -= len(answers)
        return answers

    def states(self) -> list[Any]:
        """The state of every session, decoded; none of them may be busy."""
        self.open()
        return background_loop().run(self._states())

    def close(self) -> None:
        """Close every session and the connection; idempotent, never raises for lost ones."""
        if self._closed:
            return
        self._closed = True
        if self._connection is not None and self._pid == os.getpid():
            close_blocking(self._close())

    # -- the I/O thread ---------------------------------------------------------------------------

    def _send_steps(
        self, seats: Sequence[int], actions: Sequence[bytes], resets: Sequence[int]
    ) -> None:
        seconds = self.client.timeouts.step
        timeout = seconds or 0.0
        places = self._seats
        for number, action in zip(seats, actions, strict=True):
            seat = places[number]
            seat.again = False
            seat.final = None
            channel = seat.channel
            if channel is None:
                seat.set_exception(EpisodeNotStarted("step() before reset(): call reset() first"))
                continue
            if channel.future is not None:
                self.deliver(Answer(number, None, None, _busy(number), False))
                continue
            channel.seq = seq = channel.seq + 1
            channel.steps += 1
            channel.post(Step(channel.number, seq, channel.acked, action, timeout), seat, seconds)
        for number in resets:
            places[number].final = None
            self.reset_seat(places[number], None, None)

    def _send_resets(self, requests: Sequence[ResetRequest]) -> None:
        for request in requests:
            seat = self._seats[request.seat]
            seat.final = None
            if seat.channel is not None and seat.channel.future is not None:
                self.deliver(Answer(request.seat, None, None, _busy(request.seat), True))
                continue
            if request.seed is not None:
                seat.rng = random.Random(request.seed)
            self.reset_seat(seat, request.seed, request.options)

    def reset_seat(self, seat: Seat, seed: int | None, options: bytes | None) -> None:
        """Begin an episode, in a new session if the old one failed."""
        seat.again = True
        channel = seat.channel
        if channel is None or seat.broken or channel.error is not None:
            task = asyncio.ensure_future(self._revive(seat, seed, options))
            self._reviving.add(task)
            task.add_done_callback(self._reviving.discard)
            return
        if seed is not None:
            seat.seeded = True
        elif seat.rng is not None:  # a seeded run goes on as it must
            if seat.seeded and options is None and self._resume_payload is not None:
                options = self._resume_payload
            else:
                seed = seat.rng.getrandbits(31)
                seat.seeded = True
        seconds = self.client.timeouts.reset
        number, seq, acked = channel.number, channel.next_seq(), channel.acked
        request = Reset(number, seq, acked, options, seed, None, seconds or 0.0)
        channel.post(request, seat, seconds)

    async def _revive(self, seat: Seat, seed: int | None, options: bytes | None) -> None:
        """A new session for a seat, then its reset."""
        channel, seat.channel = seat.channel, None
        if channel is not None:
            channel.close_soon()
        try:
            await self._open_seat(seat)
        except OpenEnvError as exc:
            self.deliver(Answer(seat.number, None, seat.final, exc, True))
        else:
            self.reset_seat(seat, seed, options)

    def deliver(self, answer: Answer) -> None:
        with self._lock:
            answers = self._answers
            answers.append(answer)
            if len(answers) >= self._wanted:
                self._wake.set()

    async def _open(self) -> None:
        await self._connected()
        opening = [asyncio.ensure_future(self._open_seat(seat)) for seat in self._seats]
        try:
            await asyncio.gather(*opening)
        except BaseException:
            for task in opening:
                task.cancel()
            await asyncio.wait(opening)
            await self._close()
            raise

    async def _connected(self) -> ClientConnection:
        """The connection; a new one when the old is gone for good. One dials for all."""
        connection = self._connection
        if connection is not None and connection.error is None:
            return connection
        if self._connecting is None:
            self._connecting = asyncio.ensure_future(self._dial(connection))
            self._connecting.add_done_callback(self._dialled)
        return await asyncio.shield(self._connecting)

    async def _dial(self, old: ClientConnection | None) -> ClientConnection:
        if old is not None:
            await old.aclose()
        return await self.client._connect()

    def _dialled(self, task: asyncio.Task[ClientConnection]) -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._connection = task.result()
            self._wire = wire_models(
                self.client, self._connection.format, self._connection.upstream
            )
            if self._resume_options is not None:
                self._resume_payload = self.wire.encode_any(self._resume_options)

    async def _open_seat(self, seat: Seat) -> None:
        connection = await self._connected()
        channel = connection.channel()
        try:
            await channel.call(self.client._opening_of(channel), self.client.timeouts.open)
        except BaseException:
            channel.close_soon()
            raise
        seat.channel = channel
        seat.broken = seat.seeded = False

    async def _states(self) -> list[Any]:
        seconds = self.client.timeouts.state
        calls = []
        for seat in self._seats:
            channel = seat.channel
            if channel is None or channel.future is not None:
                raise _busy(seat.number)
            request = State(channel.number, channel.next_seq(), channel.acked, seconds or 0.0)
            calls.append(channel.call(request, seconds))
        replies = await asyncio.gather(*calls)
        return [self.wire.decode_state(reply.payload) for reply in replies]

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        tasks: list[asyncio.Future[Any]] = [*self._reviving]
        if self._connecting is not None:
            tasks.append(self._connecting)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        seconds = self.client.timeouts.close
        closing = []
        for seat in self._seats:
            channel, seat.channel = seat.channel, None
            if channel is not None and channel.error is None and channel.connection.up:
                request = Close(channel.number, channel.next_seq(), channel.acked, seconds or 0.0)
                channel.future = None  # whoever waited has gone
                closing.append(channel.call(request, seconds))
        if closing:
            await asyncio.gather(*closing, return_exceptions=True)
        if connection is not None:
            await connection.aclose()


def _busy(number: int) -> OpenEnvError:
    return SessionBusy(
        f"environment {number} is still busy with its last call: take its answer first"
    )
