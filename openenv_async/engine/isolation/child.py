"""One worker process as the server sees it: spawned, spoken to over its pipe, reaped.

Workers are spawned, never forked, so that libraries with threads are safe. A child is gone when
its process has ended, whatever its pipe says; then its driver hears of it, once.
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
from typing import Any, Final

from openenv_async.engine.isolation.pipe import MAX_PIPE_MESSAGE, Pipe
from openenv_async.engine.isolation.worker import boot_code
from openenv_async.engine.resources import oom_kills
from openenv_async.engine.session import Session
from openenv_async.errors import EnvironmentDied, OpenEnvError, ResourceLimit, ServerError
from openenv_async.protocol.codec import BadFrame, MsgpackCodec
from openenv_async.protocol.frames import PROTOCOL_VERSION, Failed, Frame, Hello
from openenv_async.tokens import TOKEN_VARIABLE

__all__ = ["EXIT_GRACE", "Child"]

log = logging.getLogger("openenv_async.worker")

EXIT_GRACE: Final = 2.0
"""Seconds that a worker has to end by itself once its socket is closed."""
_DEATH_GRACE: Final = 1.0
"""The same where the worker closed it: long enough to learn how it ended."""
_LAST_WORDS: Final = 0.2
"""Seconds that are waited for the rest of a dead worker's output."""
_TAIL_LINES: Final = 50
_TAIL_LINE_LENGTH: Final = 500


class _Output(asyncio.SubprocessProtocol):
    """What a worker prints, and that it ended.

    Not a ``Process`` with streams: its ``wait`` would also wait for whoever inherited the output.
    """

    def __init__(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.drained: asyncio.Future[None] = loop.create_future()
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._number = number
        self._rest = b""

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """Keep the last lines, and pass them on to the log."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[-_TAIL_LINE_LENGTH:]
        for line in lines:
            self._keep(line)

    def _keep(self, line: bytes) -> None:
        text = line[-_TAIL_LINE_LENGTH:].decode(errors="replace")
        self.tail.append(text)
        log.info("worker %d: %s", self._number, text)

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


class Child:
    """One worker process, from before it is spawned until it is reaped.

    Args:
        number: its name in the log and in errors.
        recipe: what ``make_recipe`` made.
        environment: the environment's name, for errors.
        on_frame: called with each frame from the process and the session it is for.
        on_gone: called once, when the process has ended or could not be started.

    Attributes:
        sessions: those that live in it, by their channel on its pipe.
        retired: it takes no more sessions, and its end is expected.
        doomed: why it was killed, if it was.
        life: ends when the process is reaped.
    """

    def __init__(
        self,
        number: int,
        recipe: bytes,
        environment: str,
        on_frame: Callable[[Session, Any], None],
        on_gone: Callable[[Child], None],
    ) -> None:
        self.number = number
        self.sessions: dict[int, Session] = {}
        self.retired = False
        self.doomed: OpenEnvError | None = None
        self._recipe = recipe
        self._environment = environment
        self._on_frame = on_frame
        self._on_gone = on_gone
        self._loop = asyncio.get_running_loop()
        self._next_channel = 0
        self._out: list[Frame] = [Hello(PROTOCOL_VERSION)]
        self._flushing = False
        self._pipe = Pipe(self._receive, self._lost)
        self._codec = MsgpackCodec("client", MAX_PIPE_MESSAGE)
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
                    env=_environ(),
                    start_new_session=True,
                )
            if self.doomed is not None:
                self._kill_group()
            await self._loop.create_connection(lambda: self._pipe, sock=ours)
            self._pipe.send(self._recipe)
            self._flush()
            await self._wait()
            await asyncio.wait([self._output.drained], timeout=_LAST_WORDS)
        except OSError as exc:
            self._refusal = exc
        finally:
            self._pipe.close()
            ends.close()
            self._kill_group()
            self._on_gone(self)
            if self._process is not None:
                self._process.close()

    async def _wait(self) -> None:
        """Until the process has ended; a retired one is killed when it takes too long."""
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
        self.doomed = self.doomed or why
        self._kill_group()

    def retire(self) -> None:
        """Close the socket: the worker closes what it has and ends by itself."""
        self.retired = True
        self._pipe.close()
        self._lost()

    # -- death --------------------------------------------------------------------------------

    @property
    def exit_code(self) -> int | None:
        """As of ``Popen.returncode``; ``None`` while it runs and when it could not be started."""
        return None if self._process is None else self._process.get_returncode()

    def epitaph(self) -> OpenEnvError:
        """Why it is gone, as an error for one of its sessions."""
        code = self.exit_code
        if self._refusal is not None and code is None:
            return ResourceLimit(
                f"no process could be started for {self._environment}: {self._refusal.strerror};"
                " close sessions, or raise what the system allows (open files, processes, memory)",
                errno=self._refusal.errno,
                env=self._environment,
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
            f"the process of {self._environment} is gone: {why}; open a new session",
            retryable=True,
            exit_code=code,
            oom=oom,
            log_tail="\n".join(self._output.tail) or None,
            env=self._environment,
            worker=self.number,
        )

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
                self._on_frame(session, frame)
            elif isinstance(frame, Failed) and frame.channel == 0:
                log.warning("worker %d reports: %s", self.number, frame.message)


def _environ() -> dict[str, str]:
    """This process's environment variables, without the server's token."""
    return {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
