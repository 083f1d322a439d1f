"""One worker process, from its birth to its burial.

Rules:

- The worker is not believed: replies are bounded, decoded into fixed types, and must
  carry the request's random id. Anything else is a breach, and the worker is killed.
- Time up: the code is interrupted first, which keeps the interpreter's state; one that does not
  yield within ``_GRACE`` seconds is killed.
- A worker is killed by its pidfd and reaped on request, so no signal can reach a stranger.
- SIGKILL that was not sent from here came from outside (its own filter forbids it): the
  infrastructure failed, not the code.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from coding_env.sandbox.inside.tree import held, used
from coding_env.sandbox.limits import Limits
from coding_env.sandbox.output import Output
from coding_env.sandbox.zygotes import Spawned, Zygote, readable, settle
from openenv_async.errors import EnvironmentDied, EnvironmentStartFailed

__all__ = ["Death", "Function", "Interpreter", "Reply"]

_GRACE: Final = 1.0
_TICK: Final = 0.1
_SHORT: Final = 0.002
_START_TIMEOUT: Final = 60.0
_END_TIMEOUT: Final = 10.0
_MAX_REPLY_SIZE: Final = 1 << 20
_MAX_CALL_SIZE: Final = 8 << 20
"""The limit of messages if code can call functions: their arguments may be long."""

Function = Callable[..., Awaitable[Any]]
"""A function that answers a call from inside; its arguments are whatever JSON the code sent."""


class Reply(msgspec.Struct):
    """A worker's answer."""

    id: str
    exit_code: int = 0
    error_type: str = ""
    error: str = ""
    result: str = ""
    value: str = ""
    files: dict[str, str] = {}
    call: str = ""
    args: list[Any] = []
    variables: dict[str, str] = {}
    asked: dict[str, str | dict[str, str]] = {}


@dataclass(frozen=True, slots=True)
class Death:
    """The end of a worker because of its code.

    Attributes:
        exit_code: of the process; negative: the signal.
        error_type: why.
    """

    exit_code: int
    error_type: str


class Interpreter:
    """A worker that runs one request at a time.

    Args:
        zygote: which forked it.
        spawned: what it gave.
        folder: the private folder.
        limits: its limits.
        functions: what code can call outside.
    """

    def __init__(
        self,
        zygote: Zygote,
        spawned: Spawned,
        folder: str,
        limits: Limits,
        functions: Mapping[str, Function],
    ) -> None:
        self.pid = spawned.pid
        self.stdout = Output(spawned.stdout, limits.max_output_size)
        self.stderr = Output(spawned.stderr, limits.max_output_size)
        self._zygote = zygote
        self._pidfd, self._control = spawned.pidfd, spawned.control
        self._cpu_clock = ~spawned.pid << 3 | 2  # as clock_getcpuclockid(3) makes it
        self._folder, self._limits, self._functions = folder, limits, functions
        self._max_size = _MAX_CALL_SIZE if functions else _MAX_REPLY_SIZE
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._decoder = msgspec.json.Decoder(Reply)
        self._id = ""
        self._reply: asyncio.Future[Reply | None] = self._loop.create_future()
        self._answering: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._deadline = self._cpu_deadline = 0.0
        self._why = ""
        self._interrupted = 0.0
        self._began = self._disk_seen = 0.0
        self._closed = self._lost = False
        for fd, read in (
            (self._control, self._read),
            (spawned.stdout, lambda: self._read_output(self.stdout)),
            (spawned.stderr, lambda: self._read_output(self.stderr)),
        ):
            self._loop.add_reader(fd, read)

    async def ready(self) -> None:
        """Wait until it is confined.

        Raises:
            EnvironmentStartFailed: this machine cannot confine it.
        """
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                reply = await self._reply
        except TimeoutError:
            raise EnvironmentStartFailed("the sandbox's worker does not start") from None
        if reply is None or reply.error:
            reason = reply.error if reply else "it ended at once"
            raise EnvironmentStartFailed(f"the sandbox cannot confine its worker: {reason}")

    async def ask(
        self, op: str, *, timeout: float | None = None, **fields: Any
    ) -> tuple[Reply | None, str]:
        """Send a request and wait.

        Returns:
            The reply, ``None`` if the worker has ended or is to be ended; and which limit was
            exceeded, if one was.

        Cancelled, it leaves the worker busy: close it.
        """
        if self._lost:  # it said between two requests what it must not, or ended
            return None, self._why
        self._id = secrets.token_hex(8)
        self._reply = self._loop.create_future()
        self._why, self._interrupted = "", 0.0
        self._began = self._loop.time()
        self.stdout.clear()
        self.stderr.clear()
        if timeout is not None:
            self._deadline = self._began + timeout
            self._cpu_deadline = self.cpu_time() + self._limits.cpu_timeout
            self._watch()
        try:
            if not await self._send({"op": op, "id": self._id, **fields}):
                return None, self._why
            reply = await self._reply
            # Output that came before the reply was seen in the same loop turn, a first mebibyte.
            for output in (self.stdout, self.stderr):
                if output.size:
                    output.read()
            return reply, self._why
        finally:
            self._id = ""
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            answering, self._answering = self._answering, None
            if answering is not None:
                answering.cancel()
                await asyncio.wait([answering])

    def kill(self) -> None:
        """End it now; ``aclose`` buries it."""
        self._signal(signal.SIGKILL)

    def condemn(self, why: str) -> None:
        """``death`` shall end it for this reason."""
        self._why = why

    def cpu_time(self) -> float:
        """CPU seconds that it has used; 0 once it has ended."""
        try:
            return time.clock_gettime(self._cpu_clock)
        except OSError:
            return 0.0

    async def death(self) -> Death:
        """Wait for its end, which was seen or is now brought about; then close it.

        Raises:
            EnvironmentDied: the code did not cause it.
        """
        status = await self.aclose(kill=bool(self._why))
        if why := self._why:
            return Death(-1 if why == "Timeout" else -signal.SIGKILL, why)
        if status is None:
            raise EnvironmentDied("the sandbox was lost: reset() begins a new episode")
        code, cpu = status
        if code == -signal.SIGKILL and cpu < self._limits.total_cpu_timeout:
            raise EnvironmentDied(
                "the interpreter was killed from outside (out of memory?): reset() begins a new"
                " episode"
            )
        if code == -signal.SIGKILL or code == -signal.SIGXCPU:
            return Death(code, "CPULimitExceeded")
        return Death(code, "InterpreterExited" if code >= 0 else "InterpreterCrashed")

    async def aclose(self, *, kill: bool = True) -> tuple[int, float] | None:
        """End it and free what it holds; gives exit code and CPU seconds, once."""
        if self._closed:
            return None
        self._closed = True
        for fd in (self._control, self.stdout.fd, self.stderr.fd):
            self._loop.remove_reader(fd)
            os.close(fd)
        try:
            if kill:
                self.kill()
            try:
                await readable(self._loop, self._pidfd, _GRACE if not kill else _END_TIMEOUT)
            except TimeoutError:
                self._why = self._why or "ProtocolBreach"  # it closed its socket and goes on
                self.kill()
                await readable(self._loop, self._pidfd, _END_TIMEOUT)
            return await self._zygote.reap(self.pid)
        finally:
            os.close(self._pidfd)

    def _signal(self, number: int) -> None:
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            return

    # -- the wire --

    async def _send(self, message: dict[str, Any]) -> bool:
        """Send a message; return whether it went out: a worker may not read until its deadline."""
        text = msgspec.json.encode(message)
        data = memoryview(len(text).to_bytes(4, "big") + text)
        while not self._reply.done():
            try:
                data = data[os.write(self._control, data) :]
            except BlockingIOError:
                await self._writable()
            except OSError:
                return False
            if not data:
                return True
        return False

    async def _writable(self) -> None:
        future: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_writer(self._control, settle, future)
        try:
            await asyncio.wait((future, self._reply), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._loop.remove_writer(self._control)

    def _read(self) -> None:
        try:
            data = os.read(self._control, 1 << 18)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._settle(None)
            return
        self._buffer += data
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big")
            if size > self._max_size:
                self._breach()
                return
            if len(self._buffer) < 4 + size:
                return
            text = bytes(self._buffer[4 : 4 + size])
            del self._buffer[: 4 + size]
            self._take(text)

    def _take(self, text: bytes) -> None:
        try:
            reply = self._decoder.decode(text)
        except (msgspec.DecodeError, RecursionError):
            self._breach()
            return
        if reply.id != self._id or self._reply.done() or self._answering is not None:
            self._breach()
        elif reply.call:
            self._answering = self._loop.create_task(self._answer(reply))
        else:
            self._settle(reply)

    async def _answer(self, reply: Reply) -> None:
        function = self._functions.get(reply.call)
        if function is None:
            self._breach()
            return
        try:
            answer = {"value": await function(*reply.args)}
        except Exception as exc:  # of the host's function: the code is told
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        await self._send(answer)
        if self._answering is asyncio.current_task():
            self._answering = None  # in the turn of the last write, before the worker can go on

    def _breach(self) -> None:
        """The worker said what it must not."""
        self._why = self._why or "ProtocolBreach"
        self._settle(None)

    def _settle(self, reply: Reply | None) -> None:
        if reply is None and not self._closed:
            self._lost = True
            self._loop.remove_reader(self._control)
        if not self._reply.done():
            self._reply.set_result(reply)

    # -- limits --

    def _read_output(self, output: Output) -> None:
        if not output.read():
            self._loop.remove_reader(output.fd)
        elif output.size > self._limits.max_flood_size:
            self._interrupt("OutputLimitExceeded")

    def _watch(self) -> None:
        now = self._loop.time()
        if self._interrupted and now >= self._interrupted + _GRACE:
            self._settle(None)
            return
        if not self._interrupted:
            if now >= self._deadline:
                self._interrupt("Timeout")
            elif self._cpu_deadline <= self.cpu_time():
                self._interrupt("CPULimitExceeded")
        pause = min(_TICK, max(0.001, self._deadline - now)) if not self._interrupted else _TICK
        self._timer = self._loop.call_later(pause, self._tick)

    def _tick(self) -> None:
        if not self._interrupted and self.disk_is_full():
            self._why = "DiskLimitExceeded"
            self._settle(None)
            return
        self._watch()

    def disk_is_full(self) -> bool:
        """Return whether it keeps more than it may, in its folder or of what it removed there."""
        self._disk_seen = self._loop.time()
        limits = self._limits
        size, count = used(self._folder, limits.max_files)
        size += held(self.pid, self._folder, limits.max_file_size)
        return size > limits.max_disk_size or count > limits.max_files

    def disk_is_due(self) -> bool:
        """Return whether to look now: a short call right after a look cannot have written much."""
        now = self._loop.time()
        return now > self._began + _SHORT or now > self._disk_seen + _TICK

    def _interrupt(self, why: str) -> None:
        if not self._interrupted:
            self._why = why
            self._interrupted = self._loop.time()
            self._signal(signal.SIGINT)
