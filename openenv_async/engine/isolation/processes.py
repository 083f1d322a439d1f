"""Environments in worker processes: killed when they hang, replaced when they die.

The server process owns every socket, number and deadline; a worker runs an engine of its own
and is spoken to with the same frames, payloads undecoded, over a Unix socket. Workers are
spawned, never forked, so that libraries with threads are safe.

By default a session has a process to itself, so that it shares neither working directory nor
environment variables nor module globals with another. With ``workers`` set, that many processes
share the sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing.spawn
import os
import pickle
import signal
import socket
import sys
from collections import deque
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Final

import msgspec

from openenv_async.engine.host import HostReply, HostRequest, failed
from openenv_async.engine.isolation.pipe import MAX_PIPE_MESSAGE, Pipe
from openenv_async.engine.isolation.worker import Recipe, boot_code
from openenv_async.engine.latency import TimedWire
from openenv_async.engine.resources import oom_kills
from openenv_async.engine.session import Session
from openenv_async.engine.traced import TracedHost
from openenv_async.engine.transcode import transcode
from openenv_async.errors import (
    EnvironmentDied,
    OpenEnvError,
    OperationUnsupported,
    ProtocolError,
    ResourceLimit,
    ServerError,
)
from openenv_async.protocol.codec import BadFrame, MsgpackCodec
from openenv_async.protocol.frames import (
    PROTOCOL_VERSION,
    Cancel,
    Close,
    Credit,
    Failed,
    Frame,
    Hello,
    Open,
    Opened,
    Partial,
    Step,
)
from openenv_async.tokens import TOKEN_VARIABLE
from openenv_async.types import Timeouts

if TYPE_CHECKING:
    from openenv_async.engine.engine import Engine, EngineOptions
    from openenv_async.spec import EnvironmentSpec

__all__ = ["ProcessDriver", "make_recipe"]

log = logging.getLogger("openenv_async.worker")

_TAIL_LINES: Final = 50
_TAIL_LINE_LENGTH: Final = 500
_EXIT_GRACE: Final = 2.0
"""Seconds that a worker has to end by itself once its socket is closed."""
_DEATH_GRACE: Final = 0.5
"""The same where the worker closed it: long enough to learn how it ended."""
_LAST_WORDS: Final = 0.2
"""Seconds that are waited for the rest of a dead worker's output."""
_DESCRIPTORS: Final = 10
"""File descriptors that a worker takes while it is spawned; it keeps four."""


class _Place:
    """Where a session lives: its worker, its channel there, its last request number there."""

    __slots__ = ("channel", "format", "seq", "worker")

    def __init__(self, worker: _Worker, channel: int) -> None:
        self.worker = worker
        self.channel = channel
        self.seq = 0
        self.format: Any = "msgpack"


class _Output(asyncio.SubprocessProtocol):
    """What a worker prints, and that it ended.

    Not a ``Process`` with streams: its ``wait`` would also wait for whoever inherited the output.
    """

    def __init__(self, worker: _Worker) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.drained: asyncio.Future[None] = loop.create_future()
        self._worker = worker
        self._rest = b""

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep the last lines, and pass them on to the log."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_TAIL_LINE_LENGTH:]
        for line in lines:
            self._keep(line)

    def _keep(self, line: bytes) -> None:
        text = line[-_TAIL_LINE_LENGTH:].decode(errors="replace")
        self._worker.tail.append(text)
        log.info("worker %d: %s", self._worker.number, text)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Called by the loop."""
        if self._rest:
            self._keep(self._rest)
            self._rest = b""
        if not self.drained.done():
            self.drained.set_result(None)

    def process_exited(self) -> None:
        """Called by the loop."""
        if not self.ended.done():
            self.ended.set_result(None)


class _Worker:
    """One worker process, from before it is spawned until it is reaped."""

    def __init__(self, driver: ProcessDriver, number: int) -> None:
        self.number = number
        self.sessions: dict[int, Session] = {}
        self.retired = False
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.doomed: OpenEnvError | None = None
        self._driver = driver
        self._loop = driver.loop
        self._next_channel = 0
        self._out: list[Frame] = [Hello(PROTOCOL_VERSION)]
        self._flushing = False
        self._pipe = Pipe(self._receive, self._lost)
        self._codec = MsgpackCodec("client", MAX_PIPE_MESSAGE)
        self._output = _Output(self)
        self._process: asyncio.SubprocessTransport | None = None
        self._refusal: OSError | None = None
        self._oom_kills = oom_kills()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self.life = self._loop.create_task(self._live(), name=f"openenv-worker-{number}")

    # -- life ---------------------------------------------------------------------------------

    async def _live(self) -> None:
        """Spawn the process, carry its messages, reap it."""
        ends = contextlib.ExitStack()
        try:
            ours, theirs = map(ends.enter_context, socket.socketpair())
            _, their_lifeline = map(ends.enter_context, socket.socketpair())
            with theirs, their_lifeline:
                self._process, _ = await self._loop.subprocess_exec(
                    lambda: self._output,
                    sys.executable,
                    "-c",
                    boot_code(theirs.fileno(), their_lifeline.fileno()),
                    pass_fds=(theirs.fileno(), their_lifeline.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    env=_worker_environ(),
                    start_new_session=True,
                )
            if self.doomed is not None:
                self._kill_group()
            await self._loop.create_connection(lambda: self._pipe, sock=ours)
            self._pipe.send(self._driver.recipe)
            self._flush()
            await self._wait()
            await asyncio.wait([self._output.drained], timeout=_LAST_WORDS)
        except OSError as exc:
            self._refusal = exc
        finally:
            self._pipe.close()
            ends.close()
            self._kill_group()
            self._bury()
            if self._process is not None:
                self._process.close()

    async def _wait(self) -> None:
        """Until the process has ended; a retired one is killed when it takes too long."""
        ended = self._output.ended
        await asyncio.wait([ended, self._gone], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([ended], timeout=_EXIT_GRACE if self.retired else _DEATH_GRACE)
        if not ended.done():
            self._kill_group()
        await ended

    def _kill_group(self) -> None:
        """Kill the process and what it forked."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.get_pid(), signal.SIGKILL)

    def _lost(self) -> None:
        if self._pipe.is_garbled:
            self.kill(ServerError("it wrote garbage on its pipe"))
        if not self._gone.done():
            self._gone.set_result(None)

    def _bury(self) -> None:
        """Every session that lived here is over, at once."""
        code = None if self._process is None else self._process.get_returncode()
        if self.doomed is not None or not self.retired:
            self._driver.engine.stats.workers_died += 1
            log.warning("a worker is gone, code %s", code, extra={"worker": self.number})
        self.retired = True
        sessions, self.sessions = self.sessions, {}
        self._driver.forget(self)
        for session in sessions.values():
            session.die(self._epitaph(code))

    def _epitaph(self, code: int | None) -> OpenEnvError:
        name = self._driver.engine.spec.name
        if self._refusal is not None and code is None:
            return ResourceLimit(
                f"no process could be started for {name}: {self._refusal.strerror}; close sessions,"
                " or raise"
                " what the system allows (open files, processes, memory)",
                errno=self._refusal.errno,
                env=name,
            )
        oom: bool | None = False
        if self.doomed is not None:
            why = self.doomed.message
        elif code == -signal.SIGKILL:
            before, now = self._oom_kills, oom_kills()
            oom = None if before is None or now is None else now > before
            why = "it was killed by SIGKILL" + (", because memory ran out" if oom else "")
        elif code is None:
            why = "it could not be started"
        elif code < 0:
            why = f"it was killed by {_signal_name(-code)}"
        else:
            why = f"it exited with code {code}"
        return EnvironmentDied(
            f"the process of {name} is gone: {why}; open a new session",
            retryable=True,
            exit_code=code,
            oom=oom,
            log_tail="\n".join(self.tail) or None,
            env=name,
            worker=self.number,
        )

    def kill(self, why: OpenEnvError) -> None:
        """End the process now."""
        self.retired = True
        self.doomed = self.doomed or why
        self._kill_group()

    def retire(self) -> None:
        """Close the socket: the worker closes what it has and ends by itself."""
        self.retired = True
        self._pipe.close()
        self._lost()

    # -- frames -------------------------------------------------------------------------------

    def adopt(self, session: Session) -> int:
        """A channel for a session."""
        self._next_channel += 1
        self.sessions[self._next_channel] = session
        return self._next_channel

    def send(self, frame: Frame) -> None:
        """Queue a frame for the write at the end of this loop turn."""
        self._out.append(frame)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._pipe.connected and self._out:
            out, self._out = self._out, []
            self._pipe.send(self._codec.encode(out))

    def _receive(self, message: bytes) -> None:
        try:
            frames = self._codec.decode(message)
        except OpenEnvError as exc:
            self.kill(ServerError(f"it wrote garbage on its pipe: {exc}"))
            return
        for frame in frames:
            if isinstance(frame, BadFrame):
                self.kill(ServerError(f"it wrote a bad frame on its pipe: {frame.error}"))
                return
            session = self.sessions.get(getattr(frame, "channel", 0))
            if session is not None:
                self._driver.returned(session, frame)
            elif isinstance(frame, Failed) and frame.channel == 0:
                log.warning("worker %d reports: %s", self.number, frame.message)


class ProcessDriver:
    """Places sessions in worker processes.

    Args:
        engine: whose sessions they are.
        recipe: what ``make_recipe`` made.
        workers: processes that share the sessions; ``None`` gives each session its own.
    """

    timed = True

    def __init__(
        self,
        engine: Engine,
        loop: asyncio.AbstractEventLoop,
        recipe: bytes,
        workers: int | None,
    ) -> None:
        self.engine = engine
        self.loop = loop
        self.recipe = recipe
        self._workers: set[_Worker] = set()
        self._shared = workers
        self._numbers = 0
        self._closing = False

    # -- requests -----------------------------------------------------------------------------

    def start(self, session: Session, request: HostRequest) -> None:
        """Pass a request on to the session's worker."""
        place = session.slot
        if place is None:
            if isinstance(request, Close):  # it never got a worker
                session.complete(request, failed(request, ServerError("not started"), "msgpack"))
                return
            try:
                worker = self._place()
            except ResourceLimit as exc:
                session.complete(request, failed(request, exc, session.wire.format))
                return
            place = session.slot = _Place(worker, worker.adopt(session))
        assert isinstance(place, _Place)
        place.format = session.wire.format
        if isinstance(request, Step) and request.credit:
            session.begin_stream(request.credit)
        try:
            inner = transcode(self.engine.spec, request, place.format, "msgpack")
        except (OpenEnvError, ValueError) as exc:
            error = exc if isinstance(exc, OpenEnvError) else ProtocolError(str(exc))
            session.complete(request, failed(request, error, place.format))
            return
        if inner is request:
            inner = msgspec.structs.replace(request)
        inner.channel = place.channel
        inner.timeout = 0  # this process watches the clock
        if isinstance(inner, Open):
            if isinstance(session.host, TracedHost):
                inner.traceparent, inner.tracestate = session.host.trace
        else:
            place.seq += 1
            inner.seq, inner.ack = place.seq, place.seq - 1
        place.worker.send(inner)

    def returned(self, session: Session, frame: Any) -> None:
        """A frame came back from a worker."""
        place, request = session.slot, session.current
        assert isinstance(place, _Place)
        if request is None or session.dead is not None:
            return
        if isinstance(frame, Partial):
            self._show(session, place, request, frame)
            return
        seq = 0 if isinstance(frame, Opened) else getattr(frame, "seq", -1)
        if seq != (0 if isinstance(request, Open) else place.seq):
            return
        reply: HostReply = frame
        if place.format != "msgpack":
            try:
                reply = transcode(self.engine.spec, frame, "msgpack", place.format)
            except OpenEnvError as exc:
                reply = failed(request, exc, place.format)
        if not isinstance(request, Open):
            reply.seq = request.seq
        if isinstance(request, Close) or (isinstance(request, Open) and isinstance(reply, Failed)):
            self._leave(place)
        if type(session.wire) is TimedWire:
            session.wire.replied()
        session.complete(request, reply)

    def _show(
        self, session: Session, place: _Place, request: HostRequest, partial: Partial
    ) -> None:
        if partial.seq != place.seq:
            return  # of a step that was given up
        try:
            payload = transcode(self.engine.spec, partial, "msgpack", place.format).payload
        except OpenEnvError as exc:
            place.worker.send(Cancel(place.channel, place.seq))
            session.complete(request, failed(request, exc, place.format))
            return
        session.emit(bytes(payload), partial.whole)

    def interrupt(self, session: Session) -> bool:
        """Pass a cancellation on; a worker whose loop is blocked will not see it."""
        place = session.slot
        if isinstance(place, _Place) and not isinstance(session.current, Open):
            place.worker.send(Cancel(place.channel, place.seq))
        return True

    def credited(self, session: Session, units: int) -> None:
        """Pass credit on."""
        place = session.slot
        if isinstance(place, _Place):
            place.worker.send(Credit(place.channel, place.seq, units))

    def abandon(self, session: Session) -> None:
        """Kill the worker: nothing else stops code that does not want to stop."""
        place = session.slot
        assert isinstance(place, _Place)
        place.worker.sessions.pop(place.channel, None)
        place.worker.kill(ServerError("it hung past a deadline and was killed"))

    # -- workers ------------------------------------------------------------------------------

    def _place(self) -> _Worker:
        """The worker for a new session: the emptiest one, or a new one.

        Raises:
            ResourceLimit: too few file descriptors are left for a new one.
        """
        alive = [worker for worker in self._workers if not worker.retired]
        if self._shared is not None and len(alive) >= self._shared:
            return min(alive, key=lambda worker: len(worker.sessions))
        try:
            self.engine.resources.take_descriptors(_DESCRIPTORS, "another process")
        except ResourceLimit:
            if self._shared is not None and alive:
                return min(alive, key=lambda worker: len(worker.sessions))
            raise
        self.engine.stats.workers_started += 1
        self._numbers += 1
        worker = _Worker(self, self._numbers)
        self._workers.add(worker)
        return worker

    def _leave(self, place: _Place) -> None:
        place.worker.sessions.pop(place.channel, None)
        if self._shared is None:
            place.worker.retire()

    @property
    def worker_count(self) -> int:
        """Worker processes now, those included that are starting or ending."""
        return len(self._workers)

    def forget(self, worker: _Worker) -> None:
        """A worker is gone."""
        self._workers.discard(worker)

    async def aclose(self) -> None:
        """End every worker and wait for it."""
        workers = list(self._workers)
        for worker in workers:
            worker.retire()
        if workers:
            await asyncio.wait([worker.life for worker in workers], timeout=_EXIT_GRACE + 3)
        for worker in list(self._workers):
            worker.kill(ServerError("the server is closing"))


def make_recipe(spec: EnvironmentSpec, options: EngineOptions) -> bytes:
    """What a worker needs to make the environment, pickled.

    Raises:
        OperationUnsupported: it cannot be sent to another process.
    """
    never = Timeouts(**{field.name: None for field in fields(Timeouts)})
    # Over a pipe of our own nothing is cut into pieces or refused for its size.
    limits = replace(options.limits, chunk_size=sys.maxsize, max_message_size=MAX_PIPE_MESSAGE)
    inner = replace(
        options, workers=None, max_waiting=0, timeouts=never, limits=limits, min_free_memory=0
    )
    types = (spec.types["action"], spec.types["observation"], spec.types["state"])
    recipe = Recipe(spec.source, types, spec.params, spec.name, inner)
    try:
        pickled = pickle.dumps(recipe)
        # As multiprocessing does it: the parent's path and directory first, and its main module
        # where something comes from there.
        preparation = multiprocessing.spawn.get_preparation_data("openenv-worker")
        preparation.pop("authkey", None)
        if b"__main__" not in pickled:
            for key in ("init_main_from_name", "init_main_from_path"):
                preparation.pop(key, None)
        return pickle.dumps((preparation, pickled))
    except (pickle.PicklingError, AttributeError, TypeError) as exc:
        raise OperationUnsupported(
            f"{spec.name} cannot run in a process of its own: it must be an importable class or"
            f" function, not an instance, a lambda or a local class ({exc})"
        ) from None


def _worker_environ() -> dict[str, str]:
    """This process's environment variables, without the server's token."""
    return {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
