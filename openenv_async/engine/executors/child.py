"""One worker process as the server sees it: spawned, spoken to over its pipe, reaped.

Workers are spawned, never forked, so that libraries with threads are safe. A child is gone when
its process has ended, whatever its pipe says; then its executor hears of it, once.

Rules:

- A frame that cannot be encoded or read costs the request that it belongs to, no other one.
- Once a call was abandoned in it, the worker is asked for signs of life; it is killed when the
  thread that its environments share gives none.
- Output is read no faster than the log takes it, a slice per loop turn: a program that prints
  without end waits, and nothing else does. Clients see it only where all of it is their session's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec

from openenv_async.endpoints.tokens import TOKEN_VARIABLES
from openenv_async.engine.deadlines import LATE
from openenv_async.engine.executors.offspring import MARK_VARIABLE, Sweeper, new_mark
from openenv_async.engine.executors.pipe import MAX_PIPE_MESSAGE, Pipe, PipeCodec
from openenv_async.engine.interfaces import Call
from openenv_async.engine.requests import error_frame
from openenv_async.engine.resources import oom_kills
from openenv_async.errors import (
    EnvironmentDied,
    OpenEnvError,
    ProtocolError,
    ResourceLimit,
    ServerError,
    signal_name,
)
from openenv_async.protocol.codec import BadFrame
from openenv_async.protocol.frames import (
    PROTOCOL_VERSION,
    Failed,
    Frame,
    Hello,
    ObservationColumns,
)

__all__ = ["EXIT_GRACE", "Child"]

log = logging.getLogger("openenv_async.worker")

EXIT_GRACE: Final = 2.0
"""Seconds that a worker has to end by itself once its socket is closed."""
_DEATH_GRACE: Final = 1.0
"""The same where the worker closed it: long enough to learn how it ended."""
_OUTPUT_GRACE: Final = 0.2
"""Seconds that are waited for the rest of a dead worker's output."""
_TAIL_LINES: Final = 50
_TAIL_LINE_LENGTH: Final = 500
_LINES_A_TURN: Final = 64
"""Lines of output that are logged before the loop turns to others."""
_BEAT: Final = 1.0
"""Seconds between two questions whether abandoned calls have ended."""


class _Output(asyncio.SubprocessProtocol):
    """The output of a worker, and its end.

    Not a ``Process`` with streams: its ``wait`` would also wait for the heirs of the output.
    """

    def __init__(self, number: int) -> None:
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self.drained: asyncio.Future[None] = self._loop.create_future()
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._number = number
        self._rest = b""
        self._lines: deque[bytes] = deque()
        self._pipe: asyncio.ReadTransport | None = None
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        process = cast(asyncio.SubprocessTransport, transport)
        self._pipe = cast(asyncio.ReadTransport, process.get_pipe_transport(1))

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep the last lines, and pass them on to the log."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_TAIL_LINE_LENGTH:]
        waiting = bool(self._lines)
        self._lines += lines
        if not waiting:
            self._log_some()

    def _log_some(self) -> None:
        lines = self._lines
        for _ in range(min(len(lines), _LINES_A_TURN)):
            self._keep(lines.popleft())
        pipe = self._pipe
        if lines:
            if pipe is not None and not self._lost:
                with contextlib.suppress(RuntimeError, OSError):
                    pipe.pause_reading()
            self._loop.call_soon(self._log_some)
        elif self._lost:
            self._drain()
        elif pipe is not None:
            with contextlib.suppress(RuntimeError, OSError):
                pipe.resume_reading()

    def _keep(self, line: bytes) -> None:
        text = line[-_TAIL_LINE_LENGTH:].decode(errors="replace")
        self.tail.append(text)
        # Printed by the environment; a server that does not log it in workers would hide it.
        log.warning("%s", text, extra={"worker": self._number})

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        """Called by the loop."""
        if self._rest:
            self._lines.append(self._rest)
            self._rest = b""
        self._lost = True
        self._log_some()

    def _drain(self) -> None:
        if not self.drained.done():
            self.drained.set_result(None)

    def process_exited(self) -> None:
        """Called by the loop."""
        if not self.ended.done():
            self.ended.set_result(None)


class Child:
    """One worker process, from before it is spawned until it is reaped.

    Args:
        number: its name in the log and in errors.
        recipe: the result of ``make_recipe``.
        environment: the environment's name, for errors.
        silence: seconds without a sign of life, once a call was abandoned, after which it is
            killed.
        sweeper: ends what its environments left.
        on_frame: called with each frame from the process and the session it is for.
        on_rows: called with this and each frame of replies to many of its sessions; it may raise
            ``ProtocolError``.
        on_unsent: called with the session, a frame for it that cannot be encoded and the error.
        on_alive: called when it has told how many abandoned calls still run in it.
        on_gone: called once, when the process has ended or could not be started.

    Attributes:
        sessions: those that live in it, by their channel on its pipe.
        shares: the executor's notes on sets of these, by their packed channels.
        retired: it takes no more sessions, and its end is expected.
        full: it takes no more sessions, because too many calls were abandoned in it.
        stuck: abandoned calls in it that have not ended, by its last report.
        kill_reason: the reason why it was killed, if it was.
        life: ends when the process is reaped.
    """

    def __init__(
        self,
        number: int,
        recipe: bytes,
        environment: str,
        silence: float,
        sweeper: Sweeper,
        on_frame: Callable[[Call, Any], None],
        on_rows: Callable[[Child, ObservationColumns], None],
        on_unsent: Callable[[Call, Any, OpenEnvError], None],
        on_alive: Callable[[Child], None],
        on_gone: Callable[[Child], None],
    ) -> None:
        self.number = number
        self.sessions: dict[int, Call] = {}
        self.shares: dict[bytes, Any] = {}
        self.retired = False
        self.full = False
        self.stuck = 0
        self.kill_reason: OpenEnvError | None = None
        self._recipe = recipe
        self._environment = environment
        self._silence = silence
        self._sweeper = sweeper
        self._mark = new_mark()
        self._on_frame = on_frame
        self._on_rows = on_rows
        self._on_unsent = on_unsent
        self._on_alive = on_alive
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._next_channel = 0
        self._out: list[Frame] = [Hello(PROTOCOL_VERSION)]
        self._notes: list[bytes] = []
        self._flushing = False
        self._is_up = False
        self._beat: asyncio.TimerHandle | None = None
        self._counts: asyncio.Future[int] | None = None
        self._pipe = Pipe(self._receive, self._lost, self._noted)
        self._codec = PipeCodec("client", MAX_PIPE_MESSAGE, self._unsendable)
        self._output = _Output(number)
        self._process: asyncio.SubprocessTransport | None = None
        self._refusal: OSError | None = None
        self._oom_kills = oom_kills()
        self._hung_up: asyncio.Future[None] = self._loop.create_future()
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
                    env={**_environ(), MARK_VARIABLE: self._mark},
                    start_new_session=True,
                )
            if self.kill_reason is not None:
                self._kill_group()
            await self._loop.create_connection(lambda: self._pipe, sock=ours)
            recipe, self._recipe = self._recipe, b""
            self._pipe.send(recipe)
            self._flush()
            await self._wait()
            await asyncio.wait([self._output.drained], timeout=_OUTPUT_GRACE)
        except OSError as exc:
            self._refusal = exc
        finally:
            self._pipe.close()
            ends.close()
            self._kill_group()
            if self._beat is not None:
                self._beat.cancel()
            if self._counts is not None and not self._counts.done():
                self._counts.set_result(0)
            self._on_gone(self)
            if self._process is not None:
                self._process.close()
                await self._sweeper.sweep(self._mark)

    async def _wait(self) -> None:
        """Wait until the process has ended; a retired one is killed when it takes too long."""
        ended = self._output.ended
        await asyncio.wait([ended, self._hung_up], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([ended], timeout=EXIT_GRACE if self.retired else _DEATH_GRACE)
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
        if not self._hung_up.done():
            self._hung_up.set_result(None)

    def kill(self, why: OpenEnvError) -> None:
        """End the process now."""
        self.retired = True
        self.kill_reason = self.kill_reason or why
        self._kill_group()

    def retire(self) -> None:
        """Close the socket: the worker closes what it has and ends by itself."""
        self.retired = True
        self._pipe.close()
        self._lost()

    # -- signs of life ------------------------------------------------------------------------

    def abandon(self, call: Call) -> None:
        """Have it abandon what runs for ``session``, for the sake of its other sessions."""
        self._note("drop", call.id)
        if self._beat is None:
            self._ask()

    def drain(self, reason: str) -> None:
        """Have its sessions begin no further episode."""
        self._note("drain", reason)

    def count_playing(self) -> asyncio.Future[int]:
        """Ask how many of its sessions are in an episode; asked already, it is the same answer."""
        if self._counts is None:
            self._counts = self._loop.create_future()
            self._note("playing")
        return self._counts

    def _note(self, *note: Any) -> None:
        self._notes.append(msgspec.msgpack.encode(note))
        self._flush_soon()

    def _ask(self) -> None:
        """Ask for a sign of life."""
        self._note("beat")
        due = self._loop.time() + self._silence
        self._beat = self._loop.call_at(due, self._is_silent, due)

    def _is_silent(self, due: float) -> None:
        if not self._is_up:  # it imports its modules; the requests that wait for it have deadlines
            self._ask()
        elif self._loop.time() - due > LATE:  # this loop was blocked, and may have it unread
            due = self._loop.time() + LATE / 2
            self._beat = self._loop.call_at(due, self._is_silent, due)
        else:
            self.kill(
                ServerError(
                    "a call hung past its deadline and nothing else could run for"
                    f" {self._silence:g} s, so it was killed"
                )
            )

    def _noted(self, note: bytes) -> None:
        """Take a count of sessions that was asked for, or a sign of life.

        That is the number of abandoned calls that still run in it.
        """
        match _read_note(note):
            case ["playing", int(count)]:
                counts, self._counts = self._counts, None
                if counts is not None and not counts.done():
                    counts.set_result(count)
                return
            case int(stuck):
                self.stuck = stuck
            case _:
                self.kill(ServerError("it wrote garbage on its pipe"))
                return
        if self._beat is not None:
            self._beat.cancel()
            self._beat = self._loop.call_later(_BEAT, self._ask) if self.stuck else None
        self._on_alive(self)

    # -- death --------------------------------------------------------------------------------

    @property
    def exit_code(self) -> int | None:
        """Exit code as of ``Popen.returncode``; ``None`` while it runs, or when it never did."""
        return None if self._process is None else self._process.get_returncode()

    def closed_reason(self) -> OpenEnvError:
        """Return why it is gone, as an error for one of its sessions."""
        code = self.exit_code
        if self._refusal is not None and code is None:
            return ResourceLimit(
                f"no process could be started for {self._environment}: {self._refusal.strerror};"
                " close sessions, or raise what the system allows (open files, processes, memory)",
                errno=self._refusal.errno,
                env=self._environment,
            )
        oom: bool | None = False
        if self.kill_reason is not None:
            why = self.kill_reason.message
        elif code == -signal.SIGKILL:
            before, now = self._oom_kills, oom_kills()
            oom = None if before is None or now is None else now > before
            why = "it was killed by SIGKILL" + (", because memory ran out" if oom else "")
        elif code is None:
            why = "it could not be started"
        elif code < 0:
            why = f"it was killed by {signal_name(-code)}"
        else:
            why = f"it exited with code {code}"
        tail = "\n".join(self._output.tail) or None
        if self._is_up and self._next_channel > 1:
            tail = None  # others lived in it: what they printed is for the server's log alone
        return EnvironmentDied(
            f"the process of {self._environment} is gone: {why}; open a new session",
            retryable=True,
            exit_code=code,
            oom=oom,
            log_tail=tail,
            env=self._environment,
            worker=self.number,
        )

    # -- frames -------------------------------------------------------------------------------

    def adopt(self, call: Call) -> int:
        """A channel for a session."""
        self._next_channel += 1
        self.sessions[self._next_channel] = call
        return self._next_channel

    def send(self, frame: Frame) -> None:
        """Queue a frame for the write at the end of this loop turn."""
        self._out.append(frame)
        if not self._flushing:
            self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._recipe or not self._pipe.connected:  # nothing goes before the recipe
            return
        if self._out:
            out, self._out = self._out, []
            self._pipe.send(self._codec.encode(out))
        if self._notes:
            notes, self._notes = self._notes, []
            for note in notes:
                self._pipe.note(note)

    def _unsendable(self, frame: Any, exc: Exception) -> None:
        error = ProtocolError(f"{type(frame).__name__} cannot be sent to its worker: {exc}")
        session = self.sessions.get(frame.channel)
        if session is not None:
            self._on_unsent(session, frame, error)

    def _spoiled(self, frame: BadFrame) -> None:
        """Answer the request of an unreadable reply."""
        error = ServerError(f"its worker sent a bad frame: {frame.error}")
        session = self.sessions.get(frame.channel)
        if session is None:
            log.warning("%s", error, extra={"worker": self.number})
        else:
            self._on_frame(session, error_frame(frame.channel, frame.seq, error, "msgpack"))

    def _receive(self, message: bytes) -> None:
        try:
            frames = self._codec.decode(message)
        except OpenEnvError as exc:
            self.kill(ServerError(f"it wrote garbage on its pipe: {exc}"))
            return
        self._is_up = True
        for frame in frames:
            if isinstance(frame, BadFrame):
                self._spoiled(frame)
                continue
            if type(frame) is ObservationColumns:
                self._take_rows(frame)
                continue
            session = self.sessions.get(getattr(frame, "channel", 0))
            if session is not None:
                self._on_frame(session, frame)
            elif isinstance(frame, Failed) and frame.channel == 0:
                log.warning("%s", frame.message, extra={"worker": self.number})

    def _take_rows(self, frame: ObservationColumns) -> None:
        try:
            self._on_rows(self, frame)
        except OpenEnvError as exc:
            self.kill(ServerError(f"it wrote garbage on its pipe: {exc}"))


def _read_note(note: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(note)
    except msgspec.MsgspecError:
        return None


def boot_code(channel: int, lifeline: int) -> str:
    """Return the ``python -c`` text that starts a worker on two inherited file descriptors."""
    return (
        f"import sys; sys.path[:] = {sys.path!r}; "
        "from openenv_async.engine.executors.worker import worker_main; "
        f"worker_main({channel}, {lifeline})"
    )


def _environ() -> dict[str, str]:
    """This process's environment variables, without the server's token."""
    return {name: value for name, value in os.environ.items() if name not in TOKEN_VARIABLES}
