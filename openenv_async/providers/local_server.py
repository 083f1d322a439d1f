"""A server process on this machine, for as long as a block lasts.

The child runs ``openenv-async serve`` in a session of its own, so that Ctrl-C in a terminal is
this process's to handle, and watches its standard input: it ends by itself when this process is
gone, however it went.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Self

from openenv_async.endpoints.tokens import TOKEN_VARIABLE, TOKEN_VARIABLES
from openenv_async.errors import ServerError, shown

__all__ = ["LocalServer"]

_LOG_LINES: Final = 50
_LOG_PIECE: Final = 64 * 1024


class LocalServer:
    """``async with LocalServer("echo") as server:`` serves it at ``server.url``.

    Args:
        target: as for ``openenv-async serve``.
        params: constructor arguments; values that JSON can say.
        arguments: more arguments of ``openenv-async serve``.
        environ: environment variables that it has beside those of this process.
        token: access token that it asks for; ``None`` for none.
        start_timeout: seconds until it has to listen.
        stop_timeout: seconds that it has to shut down before it is killed.

    Raises:
        ServerError: it did not start; ``log_tail`` has what it wrote.
    """

    def __init__(
        self,
        target: str,
        params: Mapping[str, Any] | None = None,
        *,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        token: str | None = None,
        start_timeout: float = 60.0,
        stop_timeout: float = 15.0,
    ) -> None:
        if isinstance(target, os.PathLike):
            target = os.path.join(".", target)
        if not isinstance(target, str):
            raise TypeError(
                "a server's target is text (a name, module:Class or a folder), got"
                f" {shown(target)}: a class itself is for serve"
            )
        if params is not None and not isinstance(params, Mapping):
            raise TypeError(f"params must be a dict of constructor arguments, got {shown(params)}")
        self.target = target
        self._arguments = [
            *("serve", target, "--port", "0", "--json", "--until-stdin-closes"),
            *(f"--param={key}={json.dumps(value)}" for key, value in (params or {}).items()),
            *arguments,
        ]
        self._environ = dict(environ or {})
        self._token = token
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Future[Any] | None = None
        self._log: deque[str] = deque(maxlen=_LOG_LINES)
        self._listeners: list[Callable[[str], object]] = []
        self._about: dict[str, Any] = {}
        self._told = asyncio.Event()

    @property
    def url(self) -> str:
        """The address that it listens at."""
        return str(self._about["url"])

    @property
    def pid(self) -> int:
        """The id of its process."""
        return int(self._about["pid"])

    @property
    def environment(self) -> str:
        """The name of what it serves."""
        return str(self._about["environment"])

    @property
    def log_tail(self) -> str:
        """The last lines it wrote: what the environment prints, and what the server logs."""
        return "\n".join(self._log)

    def listen(self, listener: Callable[[str], object]) -> Callable[[], None]:
        """Have a callable take each line: those that are kept, and all that come.

        Returns:
            Ends that; idempotent.
        """
        for line in self._log:
            listener(line)
        self._listeners.append(listener)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return end

    async def __aenter__(self) -> Self:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "openenv_async.cli",
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_own_environ(self._token) | self._environ,
            start_new_session=True,
        )
        self._process = process
        assert process.stdout is not None
        assert process.stderr is not None
        self._reader = asyncio.gather(
            self._read_log(process.stderr), self._read_log(process.stdout, self._told)
        )
        try:
            async with asyncio.timeout(self._start_timeout):
                self._about = await self._read_about(process.stdout)
            self._told.set()
        except TimeoutError:
            await self.aclose()
            raise self._failed(f"did not listen within {self._start_timeout:g} s") from None
        except BaseException:
            await self.aclose()
            raise
        if not self._about:
            # Its end is on the way: a signal would be one for a process that is gone.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._stop_timeout):
                    await process.wait()
            await self.aclose()
            last = self._log[-1] if self._log else "it wrote nothing"
            last = last.removeprefix("error: ").removeprefix("Invalid value for TARGET: ")
            last = last.removesuffix(" (see openenv-async serve --help)")  # it was not typed here
            raise self._failed(f"did not start: {last}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def wait(self) -> int:
        """Return when its process has ended, and all it wrote is read: the exit code.

        A negative one is the signal that killed it. Only once it was started.
        """
        process, reader = self._process, self._reader
        assert process is not None
        assert reader is not None
        code = await process.wait()
        # A process that it started may hold its standard error open.
        await asyncio.wait([reader], timeout=1.0)
        return code

    async def aclose(self) -> None:
        """Shut the server down, killing it if need be; idempotent."""
        process, reader = self._process, self._reader
        if process is None or reader is None:
            return
        self._process = self._reader = None
        self._told.set()
        interrupted: asyncio.CancelledError | None = None
        self._signal(process, signal.SIGTERM)
        try:
            async with asyncio.timeout(self._stop_timeout):
                await process.wait()
        except TimeoutError:
            pass
        except asyncio.CancelledError as exc:
            interrupted = exc
        if process.returncode is None:
            self._kill(process)
        while process.returncode is None or not reader.done():
            try:
                await process.wait()
                await asyncio.wait([reader], timeout=1.0)
                reader.cancel()
            except asyncio.CancelledError as exc:
                interrupted = exc
        if process.stdin is not None:
            process.stdin.close()
        if interrupted is not None:
            raise interrupted

    def _signal(self, process: asyncio.subprocess.Process, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)

    def _kill(self, process: asyncio.subprocess.Process) -> None:
        """Kill it and what it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()

    async def _read_about(self, stream: asyncio.StreamReader) -> dict[str, Any]:
        """Read what the server says of itself; empty when it ends without.

        The output of an environment's module as it is imported comes before.
        """
        while line := await stream.readline():
            if line.startswith(b"{"):
                with contextlib.suppress(ValueError):
                    about = json.loads(line)
                    if "url" in about:
                        return dict(about)
            self._keep(line.decode(errors="replace").rstrip())
        return {}

    async def _read_log(
        self, stream: asyncio.StreamReader, after: asyncio.Event | None = None
    ) -> None:
        """Keep the last lines of a stream; it is read to its end, so that no writer waits."""
        if after is not None:
            await after.wait()
        rest = b""
        while piece := await stream.read(_LOG_PIECE):
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self._keep(line[:_LOG_PIECE].decode(errors="replace").rstrip())
            rest = rest[:_LOG_PIECE]  # of a line without end, its beginning
        if rest:
            self._keep(rest.decode(errors="replace").rstrip())

    def _keep(self, line: str) -> None:
        self._log.append(line)
        for listener in self._listeners:
            listener(line)

    def _failed(self, what: str) -> ServerError:
        return ServerError(
            f"the server of {self.target!r} {what}", log_tail=self.log_tail, phase="open"
        )


def _own_environ(token: str | None) -> dict[str, str]:
    """This process's environment variables, but not its token: that one is another server's."""
    environ = {name: value for name, value in os.environ.items() if name not in TOKEN_VARIABLES}
    environ.setdefault("PYTHONUNBUFFERED", "1")  # what the environment prints is read as it comes
    return environ if token is None else environ | {TOKEN_VARIABLE: token}
