"""The engine: every session of one environment, over whichever transport it came."""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from openenv_async.deadlines import Deadlines
from openenv_async.engine.callers import OWNER, Caller
from openenv_async.engine.executors.inline import InlineExecutor
from openenv_async.engine.executors.processes import ProcessExecutor
from openenv_async.engine.executors.recipe import make_recipe
from openenv_async.engine.executors.tasks import TaskExecutor
from openenv_async.engine.executors.threads import ThreadExecutor
from openenv_async.engine.following import Following
from openenv_async.engine.interfaces import Executor, ReplySink
from openenv_async.engine.listing import TaskListing
from openenv_async.engine.options import EngineOptions
from openenv_async.engine.quotas import Account
from openenv_async.engine.requests import OPERATIONS, Codecs, failed
from openenv_async.engine.resources import Resources
from openenv_async.engine.runner import Telling
from openenv_async.engine.session import Session
from openenv_async.engine.statistics import EngineStats, Histogram, StepTimer
from openenv_async.errors import (
    GoingAway,
    OpenEnvError,
    ProtocolError,
    ServerBusy,
    SessionClosed,
    SessionLost,
    SessionNotFound,
    error_class,
    shown,
)
from openenv_async.models import Format
from openenv_async.protocol.frames import Open, Opened, Waiting
from openenv_async.protocol.lifecycle import Phase
from openenv_async.protocol.replies import Retained
from openenv_async.spec import EnvironmentSpec

__all__ = ["Engine"]

log = logging.getLogger("openenv_async.engine")

_MAX_CLOSED_REASONS: Final = 1024
"""Sessions that ended while their client was away, of which the reason is kept for it."""
_PATIENCE: Final = 1.0
"""Seconds that a worker has to tell how many of its sessions are in an episode."""
_REPLY_OVERHEAD: Final = 512
"""Bytes that a kept reply counts beside its payload, for its message and the request's action."""


class Engine:
    """The sessions of one environment.

    It starts by itself on the loop of its first request and must be closed with ``aclose`` on
    that loop. Everything but the constructor runs on the loop.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        options: EngineOptions | None = None,
        *,
        make_executor: Callable[[asyncio.AbstractEventLoop], Executor] | None = None,
    ) -> None:
        if not isinstance(spec, EnvironmentSpec):
            raise TypeError(
                f"an Engine serves an EnvironmentSpec, got {shown(spec)}: EnvironmentSpec(env)"
                " makes one"
            )
        if options is not None and not isinstance(options, EngineOptions):
            raise TypeError(f"options must be an EngineOptions, got {shown(options)}")
        self.spec = spec
        self.options = options or EngineOptions()
        self.in_worker = make_executor is not None
        limit = self.options.limits.max_error_size
        self.telling: Final = Telling(self.options.debug, limit, self.in_worker)
        self.epoch = secrets.token_hex(8)
        self.own_timeouts: dict[type, float | None] = {
            kind: getattr(self.options.timeouts, name) for kind, name in OPERATIONS.items()
        }
        self.times_episodes = self.options.timeouts.episode is not None
        self.started_at = time.time()
        self.stats = EngineStats()
        self.timer = StepTimer()
        self.waits = Histogram()
        self.resources = Resources(self.options.min_free_memory)
        self.sessions: dict[str, Session] = {}
        self.listing: Final = TaskListing(spec)
        self.following: Final = Following(lambda: self.clock())
        self.retained = Retained(self.options.limits.max_retained_total, _REPLY_OVERHEAD)
        self.clock: Callable[[], float] = time.monotonic
        self.accounts: dict[Caller, Account] = {}
        self.labels: Mapping[str, str] = {}
        self.rows = 1 if spec.vector is None else spec.vector.batch_size
        self.max_sessions = 1 if spec.is_instance else self.options.max_sessions
        self.draining: str | None = None
        self._ends_at = 0.0
        self._recipe: bytes | None = None
        processes = self.options.workers or spec.contract.isolation == "process"
        self._make_executor = make_executor
        if make_executor is None:
            spec.check()
        if processes and make_executor is None:
            self._recipe = make_recipe(spec, self.options)
        self._codecs: dict[str, Codecs] = {}
        self._closing_reasons: dict[str, OpenEnvError] = {}
        self._closed_reasons: dict[
            str, tuple[str, OpenEnvError]
        ] = {}  # secret and reason, oldest first
        self._queue: dict[Session, float] = {}  # in order of arrival, with its time
        self._tickets = 0
        self._admitting = False
        self._emptied: asyncio.Future[None] | None = None
        self._hurried = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._deadlines: Deadlines | None = None
        self._executor: Executor | None = None
        self._tasks: TaskExecutor | None = None

    @property
    def deadlines(self) -> Deadlines:
        """The heap of this engine."""
        self._start()
        assert self._deadlines is not None
        return self._deadlines

    @property
    def executor(self) -> Executor:
        """The executor that sessions are opened with."""
        return self._start()

    def count_error(self, code: str) -> None:
        """Count one more request that was answered with an error of this code."""
        if error_class(code) is OpenEnvError:
            code = "other"  # codes are labels, so their number is bounded
        errors = self.stats.errors
        errors[code] = errors.get(code, 0) + 1

    def account_of(self, caller: Caller) -> Account | None:
        """Return what a caller's use is counted in; ``None`` for one without a name."""
        if caller.name is None:
            return None
        account = self.accounts.get(caller)
        if account is None:
            account = self.accounts[caller] = Account(caller)
        return account

    def received(self, size: int, caller: Caller) -> None:
        """Count bytes of a message or body that came from a caller."""
        self.stats.bytes_in += size
        account = self.account_of(caller)
        if account is not None:
            account.receive(size)

    def sent(self, size: int, caller: Caller) -> None:
        """Count bytes of a message or body that were sent to a caller."""
        self.stats.bytes_out += size
        account = self.account_of(caller)
        if account is not None:
            account.send(size)

    def codecs(self, format: Format) -> Codecs:
        """The environment's payload codecs in one format, made once."""
        codecs = self._codecs.get(format)
        if codecs is None:
            codecs = self._codecs[format] = Codecs(self.spec, format)
        return codecs

    def _start(self) -> Executor:
        loop = asyncio.get_running_loop()
        if self._executor is not None:
            if loop is not self._loop:
                raise RuntimeError(
                    "the engine belongs to another event loop: make one app per loop"
                )
            return self._executor
        self._loop = loop
        self.clock = loop.time
        self._deadlines = Deadlines(loop.time, loop.call_at)
        if self._make_executor is not None:
            self._executor = self._make_executor(loop)
        elif self._recipe is not None:
            self._executor = ProcessExecutor(
                self.spec, self.options, self._recipe, self.stats, self.resources
            )
        elif self.spec.contract.isolation == "thread":
            threads = self.options.max_threads or self.max_sessions
            self._executor = ThreadExecutor(loop, threads, self.spec.cls)
        elif self.spec.contract.is_async:
            self._executor = TaskExecutor(loop)
        else:
            self._executor = InlineExecutor(loop, self.max_sessions, self.spec.cls)
        return self._executor

    async def prepare(self) -> None:
        """Load what sessions share, in a thread; workers load it themselves."""
        if self._recipe is None:
            await asyncio.to_thread(self.spec.prepare, self.max_sessions)
            contract, tasks = self.spec.contract, self.spec.tasks
            if tasks is not None and contract.isolation == "inline" and not contract.is_async:
                # A reset that has to wait for them would move its session off the loop for good.
                await tasks.in_thread(tasks.read_all)

    def tasks_for(self, session: Session) -> TaskExecutor:
        """Return what awaits the calls of a session whose environment turned out to be async.

        From here on it has a task, whatever ran its calls before.
        """
        executor = self._start()
        if isinstance(executor, TaskExecutor):
            return executor
        if self._tasks is None:
            assert self._loop is not None
            self._tasks = TaskExecutor(self._loop)
        if session.executor is not self._tasks:
            if isinstance(executor, InlineExecutor | ThreadExecutor):
                executor.leave(session)
            session.slot, session.executor = None, self._tasks
        return self._tasks

    def time_steps(self, sessions: Iterable[Session]) -> None:
        """Measure the next step of each of these sessions."""
        self.timer.arm(sessions, self._start())

    # -- sessions ---------------------------------------------------------------------------

    def open(self, request: Open, sink: ReplySink) -> Session | None:
        """Open or resume a session; the answer goes to ``sink``.

        Returns:
            The session, or ``None`` when it was refused.
        """
        try:
            executor = self._start()
            session = self._existing(request, getattr(sink, "caller", OWNER))
            if session is not None:
                session.attach(sink, request.channel)
                self.stats.resumed += 1
                session.log.acknowledge(request.ack)
                if not isinstance(session.current, Open):
                    sink.send(Opened(request.channel, True, session.log.taken))
                    session.repeat_running()  # it may end before its request comes again
                return session
            account = self.account_of(getattr(sink, "caller", OWNER))
            if account is not None:
                account.check_open()
            waits = self._admit()
        except OpenEnvError as exc:
            exc.add_context(session_id=request.session, env=self.spec.name, phase="open")
            self.stats.refused += 1
            self.count_error(exc.code)
            sink.send(failed(request, exc, sink.codecs.format))
            return None
        session = Session(self, request, executor, sink)
        self.sessions[session.id] = session
        if account is not None:
            account.begin()
            account.charge(self.rows)
        if waits:
            self._tickets += 1
            self._queue[session] = self.clock()
            session.wait(request, self._tickets)
            return session
        self._begin(session, request)
        return session if session.dead is None else None

    def _begin(self, session: Session, request: Open) -> None:
        self.stats.opened += 1
        self.stats.peak_sessions = max(self.stats.peak_sessions, self.active)
        session.open(request)

    @property
    def active(self) -> int:
        """Sessions that have capacity, waiting ones not counted."""
        return len(self.sessions) - len(self._queue)

    @property
    def waiting(self) -> int:
        """Sessions that wait for capacity."""
        return len(self._queue)

    @property
    def longest_wait(self) -> float:
        """Seconds that the first in the queue has waited; 0 when nobody waits."""
        return self.clock() - next(iter(self._queue.values())) if self._queue else 0.0

    def position_of(self, session: Session) -> Waiting:
        """Return where a waiting session stands in the queue: from 1, counted from above."""
        first = next(iter(self._queue), session)
        ahead = (session.ticket or 0) - (first.ticket or 0)
        depth = len(self._queue)
        return Waiting(session.channel, min(ahead + 1, depth), depth)

    def _admit_waiting(self) -> None:
        """Give free capacity to the sessions that wait, first come, first served."""
        if self._admitting:
            return  # a session that could not be built came back here; the loop below goes on
        self._admitting = True
        try:
            while self._queue and self.active < self.max_sessions and self.draining is None:
                session = next(iter(self._queue))
                self.waits.add(self.clock() - self._queue.pop(session))
                request = session.current
                assert isinstance(request, Open)
                self._begin(session, request)
        finally:
            self._admitting = False

    def _existing(self, request: Open, caller: Caller) -> Session | None:
        """The session that ``request`` names, if it is to be resumed."""
        if not (_is_token(request.session) and _is_token(request.secret)):
            raise ProtocolError("session id and secret must be 32 hex digits each")
        session = self.sessions.get(request.session)
        if session is not None:
            is_secret = hmac.compare_digest(session.secret, request.secret)
            if not (is_secret and caller.may_see(session)):
                raise SessionNotFound("no session has this id and secret")
            if request.session in self._closing_reasons:
                raise self._closing_reasons[request.session]
            return session
        if request.resume:
            secret, reason = self._closed_reasons.get(request.session, ("", None))
            if reason is not None and hmac.compare_digest(secret, request.secret):
                raise reason
            raise SessionLost(
                "the session is gone: the server restarted, or it was away for longer than"
                f" Timeouts.resume ({self.options.timeouts.resume} s); call reset() for a new"
                " episode",
                epoch=self.epoch,
            )
        return None

    def _admit(self) -> bool:
        """Return whether a new session must wait for capacity.

        Raises:
            GoingAway, ResourceLimit, ServerBusy: it cannot even wait.
        """
        if self.draining is not None:
            raise self._going_away()
        self.resources.check_memory()
        if self.active < self.max_sessions and not self._queue:
            return False
        if len(self._queue) >= self.options.max_waiting:
            raise self.busy()
        return True

    def busy(self) -> ServerBusy:
        """The error of a full server."""
        if self.spec.is_instance:
            remedy, setting = "serve a class instead of an instance", None
        else:
            remedy, setting = "raise --max-sessions (max_sessions)", "max_sessions"
        return ServerBusy(
            f"all {self.max_sessions} sessions of {self.spec.name} are taken and"
            f" {len(self._queue)} wait: close one, wait longer, or {remedy}",
            limit=self.max_sessions,
            active=self.active,
            depth=len(self._queue),
            setting=setting,
            retry_after=1.0,
        )

    def find(self, session_id: str, secret: str, caller: Caller = OWNER) -> Session:
        """A session by what its client knows, for a caller who may see it.

        Raises:
            SessionNotFound: none has this id and secret, or it is another caller's.
            SessionClosed: it is being closed.
        """
        session = self.sessions.get(session_id)
        known = session is not None and _is_token(secret)  # only ASCII can be compared
        if (
            session is None
            or not (known and hmac.compare_digest(session.secret, secret))
            or not caller.may_see(session)
        ):
            raise SessionNotFound(
                "no session has this id: it was closed, was idle for too long, or never was;"
                " call reset() without a session id to open one"
            )
        if session_id in self._closing_reasons:
            raise self._closing_reasons[session_id]
        return session

    def lost(self, session: Session, sink: ReplySink, left: bool) -> None:
        """Take notice that the connection of a session is gone.

        Args:
            session: the session.
            sink: the one it replied to; nothing happens if another one has taken over.
            left: the client closed the connection on purpose, so it will not come back.
        """
        if not session.detach(sink) or session.dead is not None:
            return
        ttl = self.options.timeouts.resume
        if ttl is not None and not left:
            session.park(ttl)
        else:
            session.shut(SessionClosed("its connection was closed"))

    def closing(self, session: Session, error: OpenEnvError) -> None:
        """Note why a session begins to close; later calls on it meet ``error``."""
        self._closing_reasons.setdefault(session.id, error)

    def closing_reason(self, session: Session) -> OpenEnvError | None:
        """Return the reason why a session is being closed, if it is."""
        return self._closing_reasons.get(session.id)

    def closed(self, session: Session, error: OpenEnvError) -> OpenEnvError:
        """Give back the capacity of a session whose environment is gone; called by it."""
        reason = self._closing_reasons.pop(session.id, error)
        if self.sessions.pop(session.id, None) is not None:
            account = self.account_of(session.caller)
            if account is not None:
                account.end()
        session.log.release()
        self.deadlines.forget(session)
        if session.sink is None:  # the client is told when it comes back
            self._closed_reasons[session.id] = (session.secret, reason)
            if len(self._closed_reasons) > _MAX_CLOSED_REASONS:
                del self._closed_reasons[next(iter(self._closed_reasons))]
        if session in self._queue:
            del self._queue[session]
        else:
            self.stats.closed += 1
            if self._queue:
                self._admit_waiting()
        if not self.sessions and self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)
        return reason

    def change(self, options: EngineOptions) -> None:
        """Take other numbers of sessions and other deadlines, for what begins from now on."""
        self.options = dataclasses.replace(
            self.options,
            max_sessions=options.max_sessions,
            max_waiting=options.max_waiting,
            timeouts=options.timeouts,
        )
        if not self.spec.is_instance:
            self.max_sessions = options.max_sessions
        for kind, name in OPERATIONS.items():
            self.own_timeouts[kind] = getattr(options.timeouts, name)
        self.times_episodes = options.timeouts.episode is not None
        self._admit_waiting()

    # -- shutting down ----------------------------------------------------------------------

    def drain(self, reason: str, seconds: float) -> None:
        """Open no further session and begin no further episode; those under way go on.

        Args:
            reason: told to clients.
            seconds: after which the server means to end them; asked again, from now.
        """
        self._ends_at = self.clock() + seconds
        if self.draining is not None:
            return
        self.draining = self.telling.draining = reason
        if isinstance(self._executor, ProcessExecutor):
            self._executor.drain(reason)
        for session in list(self._queue):
            session.shut(self._going_away())

    @property
    def seconds_left(self) -> float:
        """The time that a draining engine leaves its episodes."""
        return max(0.0, self._ends_at - self.clock())

    def shut_all(self) -> None:
        """Close every session, now that the server goes away; their clients are told."""
        for session in list(self.sessions.values()):
            session.shut(self._going_away())

    def count_playing(self) -> int:
        """Return how many sessions of this process are in an episode, or run a request."""
        return sum(
            session.runner.phase is Phase.RUNNING or session.current is not None
            for session in self.sessions.values()
        )

    async def playing(self) -> int:
        """Return how many sessions are in an episode, wherever it runs."""
        if isinstance(self._executor, ProcessExecutor):
            return await self._executor.count_playing(_PATIENCE)
        return self.count_playing()

    def _going_away(self) -> GoingAway:
        return GoingAway(f"the server is going away: {self.draining}")

    def hurry(self) -> None:
        """Let ``aclose`` wait no longer for environments to close; called in the engine's loop."""
        self._hurried = True
        if self._emptied is not None and not self._emptied.done():
            self._emptied.set_result(None)

    async def aclose(self, reason: str = "shutdown") -> None:
        """Close every session, each under its close deadline, then what ran them."""
        self.draining = reason
        if self._executor is None or self._loop is None:
            return
        self.shut_all()
        if self.sessions and not self._hurried:
            self._emptied = self._loop.create_future()
            try:
                await asyncio.wait_for(self._emptied, self.options.close_grace)
            except TimeoutError:
                log.warning(
                    "%d environments did not close within %g s",
                    len(self.sessions),
                    self.options.close_grace,
                )
        self.deadlines.close()
        self.following.close()
        await self._executor.aclose()
        if self._tasks is not None:
            await self._tasks.aclose()


def _is_token(value: str) -> bool:
    return len(value) == 32 and value.isascii() and value.isalnum()
