"""The sessions that agents play over MCP: named by handles, opened by ``reset``, ended.

Rules:

- A handle is random, and not the id or the secret of the engine's session: who has it can do what
  an agent may, and nothing on the other transports.
- The engine's session is opened by the first reset, counts to capacity from then on, and ends with
  ``Timeouts.idle`` like any other. The handle lives on, so that an agent is told what happened and
  can reset; a handle without a session ends after the same time.
- Revisions without sessions have nothing that shows whether a client is still there. So a handle
  that nobody uses ends, and its session with it, after a time of its own, which is shorter.
- Calls of one session run one at a time, in the order in which they came; few may wait.
- A client that holds a stream of events open is alive; when its last stream ends and it asks for
  nothing more in ``Timeouts.resume``, its session ends.
- A call that nobody waits for any more is cancelled where the revision says so.
- A session that a client of another transport holds may be lent: agents take steps in it, its
  client begins and ends its episodes and reads what the steps gave, rewards and all. A handle that
  is taken back opens nothing any more.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf
from typing import Any, Final

from openenv_async.engine import Engine, Session
from openenv_async.engine.callers import OWNER, Caller
from openenv_async.engine.requests import Codecs, transcode
from openenv_async.errors import (
    CallerError,
    EpisodeNotStarted,
    InvalidOption,
    OpenEnvError,
    OperationCancelled,
    ServerBusy,
    SessionBusy,
    SessionClosed,
    SessionNotFound,
    UnreadableReply,
)
from openenv_async.protocol import frames
from openenv_async.protocol.codec import encode_map
from openenv_async.server.http_sessions import OPENING, CallReplySink, as_error
from openenv_async.server.mcp.content import Told

__all__ = ["IDLE_TIMEOUT", "AgentSession", "AgentSessions", "LentSession", "LentStep"]

IDLE_TIMEOUT: Final = 600.0
"""Seconds that an agent may think between two calls."""
_MAX_WAITING: Final = 16
"""Calls of one session that may wait for the one that runs."""
_CLOSED: Final = "the session was closed by its client"
_SPARE: Final = 64
"""Handles beyond twice the capacity: most have a session, or have just lost it."""
_HANDLE_BYTES: Final = 24
_RESULT_COST: Final = 512
"""Bytes that a kept result counts beside its observation."""
_WAITS: Final = -1
_CANCELLED: Final = -2
_LOOK: Final = 5.0
"""Seconds until another look at a session that is in use."""


class AgentSession(CallReplySink):
    """One session, as an agent has it.

    Attributes:
        handle: its name.
        caller: whose it is.
        session: of the engine; ``None`` before the first reset, and after it ended.
        last: what the agent was told last; ``None`` before the first reset.
        calls: the number in the session of each call that runs, by the request's id; ``_WAITS`` of
            one that waits, ``_CANCELLED`` of one that was cancelled while it did.
    """

    is_lent = False

    def __init__(
        self,
        sessions: AgentSessions,
        handle: str,
        codecs: Codecs | None = None,
        caller: Caller = OWNER,
    ) -> None:
        super().__init__(codecs or sessions.engine.codecs("msgpack"))
        self.caller: Final = caller
        self.handle: Final = handle
        self.session: Session | None = None
        self.last: Told | None = None
        self.calls: dict[str | int, int] = {}
        self.scheduled = inf
        self._sessions = sessions
        self._engine = sessions.engine
        self._lost: OpenEnvError | None = None
        self._turn = asyncio.Lock()
        self._waiting_calls = 0
        self._streams: set[asyncio.Event] = set()
        self._had_stream = False
        self._gone_at = inf
        self._used_at = self._engine.clock()

    # -- calls ------------------------------------------------------------------------------------

    async def reset(
        self, seed: int | None, options: dict[str, Any], call_id: str | int
    ) -> frames.Begun:
        """Begin an episode, in a session that is opened for it if there is none.

        Raises:
            OpenEnvError: the session cannot be opened, or the reset failed.
        """
        payload = encode_map(options, "msgpack") if options else None
        async with _Turn(self, call_id):
            session = await self._opened()
            reply = await self._call(
                session, lambda seq: frames.Reset(0, seq, seq - 1, payload, seed), call_id
            )
        assert isinstance(reply, frames.Begun)
        return reply

    def refused(self, error: OpenEnvError) -> None:
        """Note that an agent's action was refused, and why."""

    async def step(self, payload: bytes, call_id: str | int) -> frames.Observation:
        """Take a step; the payload is the action.

        Raises:
            OpenEnvError: there is no episode, or the step failed.
        """
        async with _Turn(self, call_id):
            reply = await self._call(
                self._playing("step"), lambda seq: frames.Step(0, seq, seq - 1, payload), call_id
            )
        assert isinstance(reply, frames.Observation)
        return reply

    async def state(self, call_id: str | int) -> frames.StateIs:
        """Ask for the state.

        Raises:
            OpenEnvError: there is no session, or the call failed.
        """
        async with _Turn(self, call_id):
            reply = await self._call(
                self._playing("state"), lambda seq: frames.State(0, seq, seq - 1), call_id
            )
        assert isinstance(reply, frames.StateIs)
        return reply

    def cancel(self, call_id: str | int) -> None:
        """Cancel a call that runs or waits; one that does neither is left alone."""
        if self.calls.get(call_id, _CANCELLED) == _WAITS:
            self.calls[call_id] = _CANCELLED
        elif call_id in self.calls:
            self._stop(self.calls[call_id])

    def _stop(self, seq: int) -> None:
        """Stop the call that runs."""
        if self.session is not None:
            self.session.cancel(seq)

    def close(self) -> None:
        """End the session, and the handle with it."""
        self._sessions.forget(self)
        self._shut(_CLOSED)
        for stream in self._streams:
            stream.set()

    async def _opened(self) -> Session:
        """The engine's session, opened if there is none.

        Raises:
            OpenEnvError: it cannot be opened.
        """
        session = self._alive()
        if session is not None:
            return session
        waiting = self.expect(OPENING)
        options = self._sessions.options
        payload = encode_map(options, "msgpack") if options else None
        asked = frames.Open(0, secrets.token_hex(16), secrets.token_hex(16), payload=payload)
        session = self._engine.open(asked, self)
        try:
            reply = await waiting
        except asyncio.CancelledError:
            if session is not None:
                session.shut(SessionClosed("its client went away"))
            raise
        if isinstance(reply, frames.Failed):
            raise as_error(reply, "msgpack")
        if isinstance(reply, OpenEnvError):
            raise reply
        assert session is not None
        if not self._sessions.has(self):
            session.shut(SessionClosed(_CLOSED))
        self._check_handle()
        self.session, self._lost = session, None
        return session

    def _check_handle(self) -> None:
        """Return if the handle has not ended.

        Raises:
            SessionClosed: it has, while the call waited.
        """
        if not self._sessions.has(self):
            raise SessionClosed(_CLOSED)

    def _alive(self) -> Session | None:
        if self.session is not None and self.session.dead is not None:
            self._lost, self.session = self.session.dead, None
        return self.session

    def _playing(self, what: str) -> Session:
        """The engine's session.

        Raises:
            EpisodeNotStarted: there is none.
        """
        session = self._alive()
        if session is not None:
            return session
        why = "" if self._lost is None else f" ({self._lost.message})"
        raise EpisodeNotStarted(f"{what} without an episode: call reset first{why}", phase=what)

    async def _call(
        self, session: Session, frame: Callable[[int], frames.Request], call_id: str | int
    ) -> frames.Frame:
        """Run one request of the session; only one runs at a time.

        Raises:
            OpenEnvError: its reply is an error.
        """
        seq, waiting = self._submit(session, frame, call_id)
        try:
            reply = await waiting
        except asyncio.CancelledError:
            self._stop(seq)
            raise
        finally:
            self._used_at = self._engine.clock()
        if isinstance(reply, OpenEnvError):
            raise reply
        if isinstance(reply, frames.Failed):
            raise as_error(reply, "msgpack")
        return reply

    def _submit(
        self, session: Session, frame: Callable[[int], frames.Request], call_id: str | int
    ) -> tuple[int, asyncio.Future[frames.Frame | OpenEnvError]]:
        """Submit one request; return its number, and the future of its reply.

        Raises:
            OperationCancelled: its call was cancelled while it waited.
        """
        seq = session.log.taken + 1
        self._start(call_id, seq)
        waiting = self.expect(seq)
        request = frame(seq)
        session.charge(request)
        session.submit(request)
        return seq, waiting

    def _start(self, call_id: str | int, seq: int) -> None:
        """Note that a call runs from now on.

        Raises:
            OperationCancelled: it was cancelled while it waited.
        """
        if self.calls.get(call_id) == _CANCELLED:
            raise OperationCancelled("cancelled before it started")
        self.calls[call_id] = seq

    # -- its turn ---------------------------------------------------------------------------------

    async def begin_turn(self) -> None:
        """Wait until no other call runs.

        Raises:
            SessionBusy: too many wait.
            SessionClosed: the handle ended meanwhile.
        """
        if self._waiting_calls >= _MAX_WAITING:
            raise SessionBusy(
                f"{_MAX_WAITING} calls of this session wait for another one: await their results"
            )
        self._waiting_calls += 1
        self._used_at, self._gone_at = self._engine.clock(), inf
        try:
            await self._turn.acquire()
        finally:
            self._waiting_calls -= 1
        if not self._sessions.has(self):
            self.end_turn()
        self._check_handle()

    def end_turn(self) -> None:
        """Let the next call run."""
        self._turn.release()
        if not self._streams and self._gone_at == inf and self._had_stream:
            self._watch_client()

    # -- its life ---------------------------------------------------------------------------------

    def streaming(self) -> asyncio.Event:
        """One more stream of events is open; the event is set when it is to end."""
        stream = asyncio.Event()
        self._streams.add(stream)
        self._had_stream, self._gone_at = True, inf
        return stream

    def stream_ended(self, stream: asyncio.Event) -> None:
        """The client is gone, or it has another stream, or comes again soon."""
        self._streams.discard(stream)
        if not self._streams:
            self._watch_client()

    def _watch_client(self) -> None:
        self._gone_at = self._engine.clock() + (self._engine.options.timeouts.resume or 0.0)
        self._engine.deadlines.watch(self, self._gone_at)

    def end_streams(self) -> None:
        """The server is going away."""
        for stream in self._streams:
            stream.set()

    def ended(self, channel: int, reason: OpenEnvError) -> None:
        """The engine's session is over."""
        self._lost, self.session = reason, None
        super().ended(channel, reason)

    def check(self, now: float) -> float | None:
        """End what nobody uses; called by the engine's heap."""
        if not self._sessions.has(self):
            return None
        if self._turn.locked() or self._streams:
            return now + _LOOK
        if now >= self._gone_at:
            self._sessions.forget(self)
            self._shut("its client is gone")
            return None
        idle_at = self._used_at + (self._engine.options.timeouts.idle or inf)
        unused_at = self._used_at + self._sessions.idle_timeout
        if now >= unused_at or (now >= idle_at and self._alive() is None):
            self._sessions.forget(self)
            self._shut(f"its client asked for nothing for {now - self._used_at:.0f} s")
            return None
        return min(self._gone_at, max(min(idle_at, unused_at), now + _LOOK))

    def _shut(self, why: str) -> None:
        session = self._alive()
        if session is not None:
            session.shut(SessionClosed(why))


@dataclass(frozen=True, slots=True)
class LentStep:
    """A step of an agent in a session that is lent.

    Attributes:
        action: in MessagePack.
        reply: what it gave, in MessagePack.
        at: when it was answered, by the engine's clock.
    """

    action: bytes
    reply: frames.Observation
    at: float

    @property
    def size(self) -> int:
        """Bytes that it counts while it is kept."""
        return len(self.action) + len(self.reply.payload) + _RESULT_COST


class LentSession(AgentSession):
    """A session of a client of another transport, in which agents take steps.

    Attributes:
        token: opens this session over MCP, and nothing else of the server.
        first: the number of the oldest step that is kept; they count from 0.
        steps: those that agents took, oldest first.
        mistakes: actions of agents that the environment did not take, or that are none.
        unreadable: those among them that are none.
        failure: what the environment, or what carries it, failed with first in a step of an agent.
        is_failure_told: its client was told.
    """

    is_lent = True

    def __init__(self, sessions: AgentSessions, handle: str, session: Session) -> None:
        # It has codecs of its own, by which the engine tells its requests.
        codecs = Codecs(sessions.engine.spec, "msgpack")
        super().__init__(sessions, handle, codecs, session.caller)
        self.token: Final = secrets.token_urlsafe(_HANDLE_BYTES)
        self.first = 0
        self.steps: deque[LentStep] = deque()
        self.mistakes = self.unreadable = 0
        self.failure: OpenEnvError | None = None
        self.is_failure_told = False
        self._lent: Final = session
        self._size = 0
        self._news = asyncio.Event()

    @property
    def session_id(self) -> str:
        """The id of the session that is lent."""
        return self._lent.id

    @property
    def is_over(self) -> bool:
        """True once the session is closed, or the handle was taken back."""
        return self._lent.dead is not None or not self._sessions.has(self)

    async def observed(self, since: int, seconds: float) -> None:
        """Return once there is a step beyond ``since``, or a failure, it is over, or time is up."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self.first + len(self.steps) <= since and not self.is_over:
            if self.failure is not None and not self.is_failure_told:
                return
            left = min(until - loop.time(), _LOOK)
            if left <= 0:
                return
            self._news.clear()
            try:
                await asyncio.wait_for(self._news.wait(), left)
            except TimeoutError:
                continue

    def last_reply(self) -> frames.Begun | frames.Observation | None:
        """The last observation that its own client was sent, while it is kept."""
        kept = self._lent.log.get(self._lent.log.taken)
        if kept is None or not isinstance(kept.reply, frames.Begun | frames.Observation):
            return None
        reply: frames.Begun | frames.Observation = transcode(
            self._engine.spec, kept.reply, kept.format, "msgpack"
        )
        return reply

    def _stop(self, seq: int) -> None:
        self._lent.end_visit(self)

    def close(self) -> None:
        """End the handle; the session is its client's."""
        self._sessions.forget(self)
        self._lent.end_visit(self)
        self._news.set()
        self.end_streams()

    def check(self, now: float) -> float | None:
        """End the handle of a session that ended; called by the engine's heap."""
        if self.is_over:
            self.close()
            return None
        return now + _LOOK

    def stream_ended(self, stream: asyncio.Event) -> None:
        """The client is gone, which ends nothing."""
        self._streams.discard(stream)

    def _alive(self) -> Session | None:
        if self._lent.dead is not None:
            self._lost = self._lent.dead
            return None
        return self._lent

    def _submit(
        self, session: Session, frame: Callable[[int], frames.Request], call_id: str | int
    ) -> tuple[int, asyncio.Future[frames.Frame | OpenEnvError]]:
        self._start(call_id, 0)
        waiting = self.expect(0)
        request = frame(1)
        assert isinstance(request, frames.Step | frames.State)
        request.seq = request.ack = 0
        session.charge(request)
        session.visit(request, self)
        return 0, waiting

    def refused(self, error: OpenEnvError) -> None:
        """Count a mistake of an agent, for the session's client."""
        self.mistakes += 1
        self.unreadable += isinstance(error, UnreadableReply)

    async def step(self, payload: bytes, call_id: str | int) -> frames.Observation:
        """Take a step, and keep it for the session's client."""
        try:
            reply = await super().step(payload, call_id)
        except OpenEnvError as exc:
            if self.failure is None and not isinstance(exc, CallerError):
                self.failure = exc
                self._news.set()
            raise
        self._keep(LentStep(bytes(payload), reply, self._engine.clock()))
        return reply

    def _keep(self, step: LentStep) -> None:
        """Keep a step; the oldest go when there are too many."""
        most = self._engine.options.limits.max_retained_size
        self.steps.append(step)
        self._size += step.size
        while self._size > most and len(self.steps) > 1:
            self._size -= self.steps.popleft().size
            self.first += 1
        self._news.set()


class _Turn:
    """The turn of one call."""

    __slots__ = ("_call_id", "_session")

    def __init__(self, session: AgentSession, call_id: str | int) -> None:
        self._session = session
        self._call_id = call_id

    async def __aenter__(self) -> None:
        calls = self._session.calls
        calls[self._call_id] = _WAITS
        try:
            await self._session.begin_turn()
        except BaseException:
            calls.pop(self._call_id, None)
            raise

    async def __aexit__(self, *exc: object) -> None:
        self._session.calls.pop(self._call_id, None)
        self._session.end_turn()


class AgentSessions:
    """The sessions of one engine that agents play, by handle.

    Args:
        engine: what opens them.
        idle_timeout: seconds after which one ends that nobody uses, nor holds a stream of; ``None``
            for no such limit.

    Attributes:
        options: constructor options with which the engine's sessions are opened.
    """

    def __init__(self, engine: Engine, idle_timeout: float | None = IDLE_TIMEOUT) -> None:
        self.engine: Final = engine
        self.options: dict[str, Any] = {}
        self.idle_timeout: Final = idle_timeout or inf
        self._by_handle: dict[str, AgentSession] = {}
        self._lent: dict[str, LentSession] = {}

    def __len__(self) -> int:
        return len(self._by_handle)

    def __iter__(self) -> Iterator[AgentSession]:
        return iter(tuple(self._by_handle.values()))

    def new(self, caller: Caller = OWNER) -> AgentSession:
        """A session of a caller that is still to be opened.

        Raises:
            ServerBusy: there are too many handles.
        """
        most = 2 * self.engine.max_sessions + _SPARE
        if len(self._by_handle) - len(self._lent) >= most:
            raise ServerBusy(
                f"{most} clients of MCP have sessions: close one, or wait until one was idle for"
                " too long (--agent-idle-timeout)",
                limit=most,
                retry_after=1.0,
            )
        handle = secrets.token_urlsafe(_HANDLE_BYTES)
        session = self._by_handle[handle] = AgentSession(self, handle, None, caller)
        idle = min(self.engine.options.timeouts.idle or inf, self.idle_timeout)
        if idle < inf:
            self.engine.deadlines.watch(session, self.engine.clock() + idle)
        return session

    def lend(self, session: Session) -> LentSession:
        """The handle by which agents take steps in a session; asked again, the same one."""
        lent = self.lent(session)
        if lent is None:
            handle = secrets.token_urlsafe(_HANDLE_BYTES)
            lent = LentSession(self, handle, session)
            self._by_handle[handle] = self._lent[session.id] = lent
            self.engine.deadlines.watch(lent, self.engine.clock() + _LOOK)
        return lent

    def lent(self, session: Session) -> LentSession | None:
        """The handle of a session that is lent; ``None`` where it is not."""
        return self._lent.get(session.id)

    def token_of(self, handle: str | None) -> str | None:
        """The token of the session that is lent by this handle; ``None`` where none is."""
        session = None if handle is None else self._by_handle.get(handle)
        return session.token if isinstance(session, LentSession) else None

    def find(self, handle: str, caller: Caller = OWNER) -> AgentSession:
        """The session of this handle, for a caller who may see it.

        Raises:
            SessionNotFound: there is none.
        """
        session = self._by_handle.get(handle)
        if session is None or not caller.may_see(session):
            raise SessionNotFound(
                "no session has this handle: it was closed, was idle for too long, or never was;"
                " call reset without one to begin another"
            )
        return session

    def has(self, session: AgentSession) -> bool:
        """True until the handle ended."""
        return self._by_handle.get(session.handle) is session

    def forget(self, session: AgentSession) -> None:
        """End a handle."""
        if self.has(session):
            del self._by_handle[session.handle]
            if isinstance(session, LentSession):
                del self._lent[session.session_id]

    def end_streams(self) -> None:
        """The server is going away: let the streams of events end."""
        for session in self:
            session.end_streams()

    async def drawn_task(self) -> dict[str, Any]:
        """Reset options that name a task, drawn at random, for an environment that needs one.

        Raises:
            OpenEnvError: there are none, or they cannot be read.
        """
        book = self.engine.spec.tasks
        assert book is not None

        def draw(_: Any) -> dict[str, Any]:
            for split in book.splits:
                count = book.count(split)
                if count:
                    return {"split": split, "index": random.randrange(count)}
            raise InvalidOption(f"{self.engine.spec.name} has no task", option="task_id")

        return await self.engine.listing.ask(draw)
