"""The server's side of the zygote: one per event loop, shared by its sessions.

The first session that needs it starts it, the last that lets go ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from coding_env.sandbox.disk import remove_folder
from coding_env.sandbox.limits import Limits
from coding_env.sandbox.packages import link_packages
from openenv_async.errors import EnvironmentDied, EnvironmentStartFailed

__all__ = ["Spawned", "Zygote", "acquire", "release"]

_HERE: Final = str(Path(__file__).parent)
_START: Final = (
    "import json, sys; sys.path.insert(0, sys.argv[1]); from inside.zygote import main;"
    " sys.path.pop(0); main(*json.loads(sys.argv[2]))"
)
_ANSWER_TIMEOUT: Final = 60.0
_END_TIMEOUT: Final = 5.0

_Key = tuple[asyncio.AbstractEventLoop, tuple[str, ...]]
_shared: dict[_Key, Zygote] = {}


@dataclass(frozen=True, slots=True)
class Spawned:
    """A worker as it was forked: its pid, and descriptors that its owner closes."""

    pid: int
    pidfd: int
    control: int
    stdout: int
    stderr: int


class Zygote:
    """A running zygote; see ``inside.zygote``."""

    def __init__(self, key: _Key) -> None:
        self.key = key
        self.users = 0
        self.alive = True
        self._loop = key[0]
        self._next = 0
        self._waiting: dict[int, asyncio.Future[tuple[dict[str, Any], list[int]]]] = {}
        packages = key[1]
        self._links, read_paths = link_packages(packages) if packages else ("", [])
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        arguments = json.dumps([theirs.fileno(), read_paths, self._links, list(packages)])
        environment = {"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "LANG": "C.UTF-8", "TZ": "UTC"}
        if "LD_LIBRARY_PATH" in os.environ:  # where the interpreter itself may be
            environment["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
        environment |= {f"{lib}_NUM_THREADS": "1" for lib in ("OMP", "OPENBLAS", "MKL")}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-S", "-P", "-B", "-c", _START, _HERE, arguments],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                cwd="/",
            )
        except OSError as exc:
            self._socket.close()
            raise EnvironmentStartFailed(
                f"the sandbox cannot start {sys.executable}: {exc}"
            ) from exc
        finally:
            theirs.close()
        self._loop.add_reader(self._socket.fileno(), self._read)

    async def spawn(
        self, folder: str, limits: Limits, seed: int, functions: tuple[str, ...]
    ) -> Spawned:
        """Fork a worker. It says on its control socket when it is ready.

        Raises:
            EnvironmentStartFailed: there is no place for another process.
            EnvironmentDied: the zygote is gone.
        """
        request = {"op": "spawn", "folder": folder, "limits": asdict(limits), "seed": seed}
        request["functions"] = functions
        with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
            control, inside = socket.socketpair()
            ours.enter_context(control)
            theirs.enter_context(inside)
            readers, writers = [], [inside.fileno()]
            for _ in range(2):
                reader, writer = os.pipe2(os.O_CLOEXEC)
                ours.callback(os.close, reader)
                theirs.callback(os.close, writer)
                readers.append(reader)
                writers.append(writer)
            answer, fds = await self._ask(request, writers)
            if "error" in answer:
                raise EnvironmentStartFailed(
                    f"the sandbox cannot fork ({answer['error']}): raise the limit of processes"
                )
            for fd in (control.fileno(), *readers):
                os.set_blocking(fd, False)
            ours.pop_all()
            return Spawned(answer["pid"], fds[0], control.detach(), *readers)

    async def reap(self, pid: int) -> tuple[int, float] | None:
        """Exit code (negative: the signal) and CPU seconds of a worker that has ended.

        ``None`` if the zygote is gone, which took the knowledge with it.
        """
        try:
            answer, _ = await self._ask({"op": "reap", "pid": pid}, [])
        except EnvironmentDied:
            return None
        return answer["code"], answer["cpu"]

    async def _ask(
        self, request: Mapping[str, Any], fds: list[int]
    ) -> tuple[dict[str, Any], list[int]]:
        self._next += 1
        number = self._next
        future: asyncio.Future[tuple[dict[str, Any], list[int]]] = self._loop.create_future()
        self._waiting[number] = future
        data = json.dumps({**request, "id": number}).encode()
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                await self._send(data, fds)
                return await future
        except (asyncio.CancelledError, TimeoutError) as exc:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._discard(*future.result())  # it came in the very loop turn of the end
            if isinstance(exc, asyncio.CancelledError):
                raise
            raise EnvironmentDied(
                "the sandbox's zygote does not answer: reset() tries again"
            ) from None
        finally:
            self._waiting.pop(number, None)

    def _discard(self, answer: dict[str, Any], fds: list[int]) -> None:
        """An answer that nobody waits for any more."""
        for fd in fds:
            os.close(fd)
        if "pid" in answer and self.alive:  # a worker; it ends, since its socket is closed
            request = {"op": "reap", "id": 0, "pid": answer["pid"]}
            with contextlib.suppress(OSError):
                self._socket.send(json.dumps(request).encode())

    async def _send(self, data: bytes, fds: list[int]) -> None:
        while self.alive:
            try:
                socket.send_fds(self._socket, [data], fds)
            except BlockingIOError:
                await asyncio.sleep(0.001)  # its queue is full: it forks as fast as it can
            except OSError:
                self._died()
            else:
                return
        raise EnvironmentDied("the sandbox's zygote died: reset() starts another")

    def _read(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, 1 << 16, 1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._died()
            return
        answer = json.loads(data)
        future = self._waiting.get(answer["id"])
        if future is None or future.done():
            self._discard(answer, fds)
        else:
            future.set_result((answer, fds))

    def _died(self) -> None:
        if not self.alive:
            return
        self.alive = False
        if _shared.get(self.key) is self:
            del _shared[self.key]
        self._loop.remove_reader(self._socket.fileno())
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(
                    EnvironmentDied("the sandbox's zygote died: reset() starts another")
                )

    async def aclose(self) -> None:
        """End it, and what it forked."""
        self._died()
        self._socket.close()
        pidfd = os.pidfd_open(self._process.pid)
        try:
            await readable(self._loop, pidfd, _END_TIMEOUT)
        except TimeoutError:
            self._process.kill()
        except BaseException:
            self._process.kill()  # a cancelled caller must not be blocked by its end
            raise
        finally:
            os.close(pidfd)
            self._process.wait()
            if self._links:
                await remove_folder(self._links)


def settle(future: asyncio.Future[None]) -> None:
    """Let its waiter go on; a reader may call this more than once."""
    if not future.done():
        future.set_result(None)


async def readable(loop: asyncio.AbstractEventLoop, fd: int, timeout: float) -> None:
    """Wait until ``fd`` is readable; a pidfd is when its process has ended."""
    future: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, settle, future)
    try:
        async with asyncio.timeout(timeout):
            await future
    finally:
        loop.remove_reader(fd)


def acquire(packages: tuple[str, ...] = ()) -> Zygote:
    """The zygote of the running loop that has these packages; ``release`` gives it back.

    Raises:
        InvalidOption: one of them is not installed.
        EnvironmentStartFailed: it cannot be started.
    """
    key = (asyncio.get_running_loop(), packages)
    zygote = _shared.get(key)
    if zygote is None:
        zygote = _shared[key] = Zygote(key)
    zygote.users += 1
    return zygote


async def release(zygote: Zygote) -> None:
    """Let go of it; the last one ends it."""
    zygote.users -= 1
    if not zygote.users:
        await zygote.aclose()
