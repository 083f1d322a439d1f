"""A program run for an agent: started clean, watched, and ended with all that it started.

Rules:

- It is run without a shell, in a session and process group of its own, with the variables and the
  folder that it is given and no others.
- Its output is read to the end; a bounded part of it is kept, the first and the last of it.
- It has ended when its process has. Then, and when its caller is cancelled, its group gets SIGTERM
  and SIGKILL, and what left the group is found by its mark. A guard does that where this process
  was killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, cast

from openenv_async.deadlines import wait_uncancelled
from openenv_async.guard import GUARD_VARIABLE, own_guard

__all__ = ["KeptOutput", "ProgramEnd", "run_program"]

log = logging.getLogger("openenv_async.gateway")

HEAD: Final = 64 * 1024
TAIL: Final = 64 * 1024
_TERM_GRACE: Final = 2.0
"""Seconds that a program has to end itself after SIGTERM."""
_KILL_GRACE: Final = 10.0
"""Seconds until a killed one has ended, which is when the system lets it."""
_DRAIN: Final = 0.5
"""Seconds for the rest of what an ended program wrote: an heir of its pipe may keep it open."""


class KeptOutput:
    """The beginning and the end of what a program wrote, and all of it in a file if asked for.

    A file that cannot be written to, on a full disk for one, gets no more; the program goes on.

    Args:
        file: takes everything up to ``most`` bytes.
        most: bytes of the file.
        head, tail: bytes that are kept here.

    Attributes:
        size: bytes written so far.
    """

    def __init__(
        self,
        file: IO[bytes] | None = None,
        most: int = 64 * 2**20,
        *,
        head: int = HEAD,
        tail: int = TAIL,
    ) -> None:
        self.size = 0
        self._file = file
        self._most = most
        self._head_size = head
        self._tail_size = tail
        self._head = bytearray()
        self._tail: deque[bytes] = deque()
        self._tail_kept = 0

    def add(self, data: bytes) -> None:
        """Take what was written."""
        if self._file is not None and self.size < self._most:
            try:
                self._file.write(data[: self._most - self.size])
            except OSError as exc:
                self._give_up(exc)
        self.size += len(data)
        room = self._head_size - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        if not data:
            return
        self._tail.append(data)
        self._tail_kept += len(data)
        while self._tail_kept - len(self._tail[0]) >= self._tail_size:
            self._tail_kept -= len(self._tail.popleft())

    def close(self) -> None:
        """Close the file. Idempotent."""
        file, self._file = self._file, None
        if file is not None:
            try:
                file.close()
            except OSError as exc:  # what it buffered is lost
                log.warning("the output of an agent is not whole in its file: %s", exc)

    def _give_up(self, exc: OSError) -> None:
        file, self._file = self._file, None
        log.warning("the output of an agent goes to its file no more: %s", exc)
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()

    def text(self) -> str:
        """Return what is kept, with a line that says what is not."""
        tail = b"".join(self._tail)[-self._tail_size :]
        left_out = self.size - len(self._head) - len(tail)
        middle = f"\n[{left_out} bytes are left out]\n".encode() if left_out else b""
        return (bytes(self._head) + middle + tail).decode(errors="replace")

    def last(self, characters: int) -> str:
        """Return the last characters of it."""
        tail = b"".join(self._tail)
        data = tail if len(tail) >= 4 * characters else bytes(self._head) + tail
        return data[-4 * characters :].decode(errors="replace")[-characters:]


@dataclass(frozen=True, slots=True)
class ProgramEnd:
    """The end of a program.

    Attributes:
        code: its exit code; negative: the number of the signal that ended it.
        output: what it wrote to its standard output and error.
    """

    code: int
    output: KeptOutput


class _Program(asyncio.SubprocessProtocol):
    """The pipes of a program, and its end."""

    def __init__(self, output: KeptOutput) -> None:
        loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = loop.create_future()
        self.drained: asyncio.Future[None] = loop.create_future()
        self._output = output

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self._output.add(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1 and not self.drained.done():
            self.drained.set_result(None)

    def process_exited(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def run_program(
    command: Sequence[str],
    *,
    environ: Mapping[str, str],
    folder: Path,
    stdin: bytes = b"",
    output: KeptOutput | None = None,
) -> ProgramEnd:
    """Run a program to its end; cancelled, end it with all that it started.

    Args:
        command: the path of a program, and its arguments.
        environ: its environment variables.
        folder: its working directory.
        stdin: what it can read, to its end.
        output: takes what it writes.

    Raises:
        OSError: the system does not start it.
    """
    loop = asyncio.get_running_loop()
    guard = own_guard()
    output = KeptOutput() if output is None else output
    mark = await loop.run_in_executor(None, guard.new_mark)
    starting = asyncio.ensure_future(
        loop.subprocess_exec(
            lambda: _Program(output),
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=folder,
            env={**environ, GUARD_VARIABLE: mark},
            start_new_session=True,
        )
    )
    try:
        await wait_uncancelled(starting)  # or nobody would end what is started
    except asyncio.CancelledError:
        if starting.exception() is None:
            await _ended(*starting.result(), mark)
        raise
    transport, program = starting.result()
    try:
        pipe = cast(asyncio.WriteTransport, transport.get_pipe_transport(0))
        if not pipe.is_closing():  # as it is of a program that has ended meanwhile
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                pipe.write(stdin)
        pipe.close()  # once all is written
        await asyncio.shield(program.ended)
        await asyncio.wait([program.drained], timeout=_DRAIN)
    finally:
        await _ended(transport, program, mark)
    code = transport.get_returncode()
    assert code is not None
    return ProgramEnd(code, output)


async def _ended(transport: asyncio.SubprocessTransport, program: _Program, mark: str) -> None:
    """End what is left of a program, however often the caller is cancelled meanwhile."""
    ending = asyncio.create_task(_end(transport, program, mark), name="openenv-agent-end")
    await wait_uncancelled(ending)
    ending.result()


async def _end(transport: asyncio.SubprocessTransport, program: _Program, mark: str) -> None:
    """End what is left of a program."""
    loop = asyncio.get_running_loop()
    if not program.ended.done():
        _signal(transport, signal.SIGTERM)
        await asyncio.wait([program.ended], timeout=_TERM_GRACE)
    _signal(transport, signal.SIGKILL)
    await asyncio.wait([program.ended], timeout=_KILL_GRACE)
    transport.close()
    await loop.run_in_executor(None, own_guard().end, mark)


def _signal(transport: asyncio.SubprocessTransport, number: int) -> None:
    """Send a signal to the program's group, of which members may outlive it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(transport.get_pid(), number)
