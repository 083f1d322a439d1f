"""An MCP server as a program of this machine: started, spoken to over its pipes, ended.

Rules:

- The program is run without a shell, in a session and process group of its own, with the
  environment variables and the folder that it is given and no others.
- A message is a line of its output. Other lines are noise, which is kept with what it writes to its
  standard error: the last lines say why it ended.
- A line has a bound. The rest of a longer one is thrown away as it comes, and the request that
  waits is told.
- The end: its input is closed, then its group gets SIGTERM, then SIGKILL; what left the group is
  found by its mark. A guard does the last where this process was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, cast

import msgspec

from openenv_async.deadlines import wait_uncancelled
from openenv_async.errors import signal_name
from openenv_async.guard import GUARD_VARIABLE, Guard
from openenv_async.hosts.mcp_client import ChannelClosed

__all__ = ["StdioChannel"]

_TAIL_LINES: Final = 50
_TAIL_LINE_LENGTH: Final = 500
_CLOSE_GRACE: Final = 1.5
"""Seconds that a program has to end by itself once its input is closed."""
_TERM_GRACE: Final = 1.0
"""The same after SIGTERM."""
_KILL_GRACE: Final = 5.0
"""The same after SIGKILL, which takes effect when the system lets it."""
_TAIL_GRACE: Final = 0.2
"""Seconds that are waited for the rest of what an ended program wrote."""
_decode: Final = msgspec.json.Decoder().decode
_encode: Final = msgspec.json.Encoder().encode


class _Lines:
    """Lines of a pipe, each of a bounded size.

    Args:
        take: is given each line.
        limit: bytes of a line.
        too_long: called once for a longer one, which is thrown away; without it, its end is taken.
    """

    def __init__(
        self,
        take: Callable[[bytes], object],
        limit: int,
        too_long: Callable[[], object] | None = None,
    ) -> None:
        self._take = take
        self._limit = limit
        self._too_long = too_long
        self._parts: list[bytes] = []
        self._size = 0
        self._skipping = False

    def feed(self, data: bytes) -> None:
        """Take what came."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._add(line)
            self.end()
        self._add(rest)

    def _add(self, part: bytes) -> None:
        self._size += len(part)
        if self._skipping:
            return
        self._parts.append(part)
        if self._size <= self._limit:
            return
        if self._too_long is None:
            self._parts = [b"".join(self._parts)[-self._limit :]]
            self._size = len(self._parts[0])
        else:
            self._parts.clear()
            self._skipping = True
            self._too_long()

    def end(self) -> None:
        """Take the line that has come so far."""
        line = b"".join(self._parts)
        was_skipped, self._skipping = self._skipping, False
        self._parts.clear()
        self._size = 0
        if not was_skipped and line.strip():
            self._take(line)


class _Program(asyncio.SubprocessProtocol):
    """The pipes of the program, and its end.

    Not a ``Process`` with streams: its ``wait`` would also wait for the heirs of the pipes.
    """

    def __init__(self, channel: StdioChannel, limit: int) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.drained: asyncio.Future[None] = loop.create_future()
        self._channel = channel
        self._lines = {
            1: _Lines(channel._read, limit, channel._refuse_long),
            2: _Lines(channel.note, _TAIL_LINE_LENGTH),
        }
        self._open = {1, 2}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._lines[fd].feed(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd not in self._open:
            return
        self._lines[fd].end()
        self._open.discard(fd)
        if fd == 1:
            self._channel._hang_up()
        if not self._open and not self.drained.done():
            self.drained.set_result(None)

    def process_exited(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
        self._channel._hang_up()


class StdioChannel:
    """The way to a server that this process starts. ``start`` it, then give it to a client.

    Args:
        guard: ends the program after this process.
        threads: where what blocks is done.
        limit: bytes of one message.
    """

    def __init__(self, guard: Guard, threads: ThreadPoolExecutor, limit: int) -> None:
        self.take: Callable[[dict[str, Any]], dict[str, Any] | None] = lambda message: None
        self._guard = guard
        self._threads = threads
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._mark = ""
        self._program: _Program | None = None
        self._transport: asyncio.SubprocessTransport | None = None
        self._waiting: tuple[Any, asyncio.Future[dict[str, Any]]] | None = None
        self._abandoned: set[Any] = set()
        self._settling: asyncio.Future[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    async def start(
        self, command: Sequence[str], *, environ: Mapping[str, str], folder: Path
    ) -> None:
        """Start the program.

        Args:
            command: the path of a program, and its arguments.
            environ: its environment variables.
            folder: its working directory.

        Raises:
            OSError: the system does not start it.
        """
        self._mark = self._guard.new_mark()
        transport, program = await self._loop.subprocess_exec(
            lambda: _Program(self, self._limit),
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=folder,
            env={**environ, GUARD_VARIABLE: self._mark},
            start_new_session=True,
        )
        self._transport, self._program = transport, program

    @property
    def log_tail(self) -> str:
        """The last lines that it wrote and that are not messages."""
        return "\n".join(self._tail)

    @property
    def exit_code(self) -> int | None:
        """Exit code as of ``Popen.returncode``; ``None`` while it runs."""
        return None if self._transport is None else self._transport.get_returncode()

    # -- messages -----------------------------------------------------------------------------

    async def request(self, message: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
        """Send a request and return its reply."""
        reply: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._waiting = message["id"], reply
        try:
            self._write(message)
            return await reply
        except ChannelClosed:
            await self._learn_end()
            raise ChannelClosed(self._told_end()) from None
        finally:
            self._waiting = None

    async def notify(self, message: dict[str, Any]) -> None:
        """Send a notification."""
        with contextlib.suppress(ChannelClosed):
            self._write(message)

    async def abandon(self, message: dict[str, Any]) -> None:
        """Tell the server that nobody waits for a request."""
        self._abandoned.add(message["params"]["requestId"])
        await self.notify(message)

    async def settled(self, timeout: float) -> bool:
        """Return whether what was abandoned was answered after all."""
        if self._abandoned:
            self._settling = self._loop.create_future()
            await asyncio.wait([self._settling], timeout=timeout)
        return not self._abandoned

    def _write(self, message: dict[str, Any]) -> None:
        transport = self._transport
        stdin = None if transport is None else transport.get_pipe_transport(0)
        if stdin is None or stdin.is_closing() or self._is_gone():
            raise ChannelClosed("it is gone")
        stdin = cast(asyncio.WriteTransport, stdin)
        is_answer = "method" not in message
        if is_answer and stdin.get_write_buffer_size() > self._limit:
            return  # it asks and asks, and reads nothing
        stdin.write(_encode(message) + b"\n")

    def _read(self, line: bytes) -> None:
        try:
            message = _decode(line)
        except (msgspec.DecodeError, RecursionError):
            message = None
        several = message if isinstance(message, list) else [message]
        if not all(isinstance(each, dict) and each.get("jsonrpc") == "2.0" for each in several):
            self.note(line)
            return
        for each in several:
            if "method" in each:
                answer = self.take(each)
                if answer is not None:
                    with contextlib.suppress(ChannelClosed):
                        self._write(answer)
            else:
                self._answered(each)

    def _answered(self, reply: dict[str, Any]) -> None:
        number = reply.get("id")
        if self._waiting is not None and self._waiting[0] == number:
            if not self._waiting[1].done():
                self._waiting[1].set_result(reply)
            return
        if isinstance(number, int | str):
            self._abandoned.discard(number)
        if not self._abandoned and self._settling is not None and not self._settling.done():
            self._settling.set_result(None)

    def _refuse_long(self) -> None:
        """Answer the request that waits, whose reply it must be."""
        if self._waiting is not None and not self._waiting[1].done():
            error = {
                "code": 0,
                "message": f"the result is larger than {self._limit} bytes (max_result_size)",
            }
            self._waiting[1].set_result({"error": error})

    def note(self, line: bytes | str) -> None:
        """Keep a line for the tail."""
        text = line if isinstance(line, str) else line.decode(errors="replace")
        self._tail.append(text.rstrip()[-_TAIL_LINE_LENGTH:])

    # -- the end ------------------------------------------------------------------------------

    def _is_gone(self) -> bool:
        return self._program is None or self._program.ended.done() or 1 not in self._program._open

    def _hang_up(self) -> None:
        if self._waiting is not None and not self._waiting[1].done():
            self._waiting[1].set_exception(ChannelClosed("it is gone"))

    async def _learn_end(self) -> None:
        """Wait a moment for how it ended, and for the rest of its standard error."""
        program = self._program
        if program is not None:
            await asyncio.wait([program.ended], timeout=_CLOSE_GRACE)
            await asyncio.wait([program.drained], timeout=_TAIL_GRACE)

    def _told_end(self) -> str:
        code = self.exit_code
        if code is None:
            how = "it closed its output"
        elif code < 0:
            how = f"it was killed by {signal_name(-code)}"
        else:
            how = f"it exited with code {code}"
        return f"{how}: {self._tail[-1]}" if self._tail else how

    async def aclose(self) -> None:
        """End the program and all that it started."""
        if self._closing is None:
            self._closing = self._loop.create_task(self._close(), name="openenv-mcp-end")
        await wait_uncancelled(self._closing)
        self._closing.result()

    async def _close(self) -> None:
        transport, program = self._transport, self._program
        try:
            if transport is not None and program is not None:
                stdin = transport.get_pipe_transport(0)
                if stdin is not None and not stdin.is_closing():
                    cast(asyncio.WriteTransport, stdin).abort()
                if not await _within(program.ended, _CLOSE_GRACE):
                    self._kill(signal.SIGTERM)
                    await _within(program.ended, _TERM_GRACE)
                self._kill(signal.SIGKILL)
                await _within(program.ended, _KILL_GRACE)
        finally:
            if transport is not None:
                transport.close()
            if self._mark:
                await self._loop.run_in_executor(self._threads, self._guard.end, self._mark)

    def _kill(self, number: int) -> None:
        """Send a signal to the program's group, of which members may outlive it."""
        if self._transport is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._transport.get_pid(), number)


async def _within(future: asyncio.Future[None], seconds: float) -> bool:
    await asyncio.wait([future], timeout=seconds)
    return future.done()
