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
from openenv_async.engine.session import Session
from openenv_async.engine.transcode import transcode
from openenv_async.errors import (
    EnvironmentDied,
    OpenEnvError,
    OperationUnsupported,
    ProtocolError,
    ServerError,
)
from openenv_async.protocol.codec import MsgpackCodec
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
_LAST_WORDS: Final = 0.2
"""Seconds that are waited for the rest of a dead worker's output."""


class _Place:
    """Where a session lives: its worker, its channel there, its last request number there."""

    __slots__ = ("channel", "format", "seq", "worker")

    def __init__(self, worker: _Worker, channel: int) -> None:
        self.worker = worker
        self.channel = channel
        self.seq = 0
        self.format: Any = "msgpack"


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
        self._process: asyncio.subprocess.Process | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self.life = self._loop.create_task(self._live(), name=f"openenv-worker-{number}")

    # -- life ---------------------------------------------------------------------------------

    async def _live(self) -> None:
        """Spawn the process, carry its messages, reap it."""
        ours, theirs = socket.socketpair()
        lifeline, their_lifeline = socket.socketpair()
        reading: asyncio.Task[None] | None = None
        try:
            with theirs, their_lifeline:
                self._process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-c",
                    boot_code(theirs.fileno(), their_lifeline.fileno()),
                    pass_fds=(theirs.fileno(), their_lifeline.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                )
            if self.doomed is not None:
                self._kill_group()
            assert self._process.stdout is not None
            reading = self._loop.create_task(self._read_output(self._process.stdout))
            await self._loop.create_connection(lambda: self._pipe, sock=ours)
            self._pipe.send(self._driver.recipe)
            self._flush()
            await self._wait()
            await asyncio.wait([reading], timeout=_LAST_WORDS)
        except OSError as exc:
            self.tail.append(f"{type(exc).__name__}: {exc}")
        finally:
            self._pipe.close()
            ours.close()
            lifeline.close()
            if reading is not None:
                reading.cancel()
            self._kill_group()
            self._bury()

    async def _wait(self) -> None:
        """Until the process has ended; a retired one is killed when it takes too long."""
        assert self._process is not None
        ended: asyncio.Future[Any] = self._loop.create_task(self._process.wait())
        await asyncio.wait([ended, self._gone], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([ended], timeout=_EXIT_GRACE)
        if not ended.done():
            self._kill_group()
        await ended

    def _kill_group(self) -> None:
        """Kill the process and what it forked."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def _lost(self) -> None:
        if not self._gone.done():
            self._gone.set_result(None)

    def _bury(self) -> None:
        """Every session that lived here is over, at once."""
        self.retired = True
        code = None if self._process is None else self._process.returncode
        sessions, self.sessions = self.sessions, {}
        self._driver.forget(self)
        for session in sessions.values():
            session.die(self._epitaph(code))

    def _epitaph(self, code: int | None) -> OpenEnvError:
        name = self._driver.engine.spec.name
        if self.doomed is not None:
            why = self.doomed.message
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

    async def _read_output(self, stream: asyncio.StreamReader) -> None:
        """Keep the last lines that the worker prints, and pass them on to the log."""
        rest = b""
        while data := await stream.read(65536):
            *lines, rest = (rest + data).split(b"\n")
            rest = rest[-_TAIL_LINE_LENGTH:]
            for line in lines:
                text = line[-_TAIL_LINE_LENGTH:].decode(errors="replace")
                self.tail.append(text)
                log.info("worker %d: %s", self.number, text)
        if rest:
            self.tail.append(rest.decode(errors="replace"))

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
            worker = self._place()
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
        if not isinstance(inner, Open):
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
            payload = transcode(self.engine.spec, frame, "msgpack", place.format).payload
            session.emit(bytes(payload), frame.whole)
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
        session.complete(request, reply)

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
        """The worker for a new session: the emptiest one, or a new one."""
        alive = [worker for worker in self._workers if not worker.retired]
        if self._shared is not None and len(alive) >= self._shared:
            return min(alive, key=lambda worker: len(worker.sessions))
        self._numbers += 1
        worker = _Worker(self, self._numbers)
        self._workers.add(worker)
        return worker

    def _leave(self, place: _Place) -> None:
        place.worker.sessions.pop(place.channel, None)
        if self._shared is None:
            place.worker.retire()

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
    inner = replace(options, workers=0, max_waiting=0, timeouts=never, limits=limits)
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


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
