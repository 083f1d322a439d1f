"""ProcessProvider: workers are server processes on this machine, the embedded default.

A worker ends with this process, however that one goes: it watches its standard input.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from openenv_async.deadlines import wait_uncancelled
from openenv_async.errors import ProviderError, ServerError, WorkerStartFailed, signal_name
from openenv_async.providers.base import Provider, Worker, WorkerExit
from openenv_async.providers.local_server import LocalServer

__all__ = ["ProcessProvider", "ProcessWorker"]

_numbers = itertools.count(1)


class ProcessWorker(Worker):
    """One server process.

    Attributes:
        pid: its process id.
    """

    def __init__(self, provider: ProcessProvider, server: LocalServer, token: str | None) -> None:
        name = f"process-{next(_numbers)}"
        super().__init__(name, server.url, token=token)
        self.pid = server.pid
        self._provider = provider
        self._server = server
        self._watching = asyncio.create_task(self._watch(), name=f"openenv-watch-{name}")

    async def _watch(self) -> None:
        code = await self._server.wait()
        if not self.exited.done():
            self.exited.set_result(
                WorkerExit(_reason(code), exit_code=code, log_tail=self._server.log_tail or None)
            )

    async def log_tail(self) -> str:
        """The last lines it wrote to standard error."""
        return self._server.log_tail

    @contextlib.asynccontextmanager
    async def following(self, take: Callable[[str], object]) -> AsyncIterator[None]:
        """Have each line taken as it is written."""
        end = self._server.listen(take)
        try:
            yield
        finally:
            end()

    async def aclose(self) -> None:
        """Shut it down, killing it if need be."""
        self._watching.cancel()
        self._provider._workers.discard(self)
        await self._server.aclose()


class ProcessProvider(Provider):
    """A provider of ``openenv-async serve TARGET`` as processes of this machine.

    Args:
        target: as for ``openenv-async serve``: an installed environment, ``module:Class`` or a
            folder with an ``openenv.yaml``.
        params: constructor arguments of the environment; values that JSON can say.
        max_sessions: environments that one process may hold; ``None``: the server's default.
        arguments: more arguments of ``openenv-async serve``, such as ``--step-timeout=5``.
        environ: environment variables that a process has beside those of this one.
        start_timeout: seconds that a process has to listen.
        stop_timeout: seconds that it has to shut down before it is killed.
    """

    name = "process"

    def __init__(
        self,
        target: str,
        params: Mapping[str, Any] | None = None,
        *,
        max_sessions: int | None = None,
        arguments: Sequence[str] = (),
        environ: Mapping[str, str] | None = None,
        start_timeout: float = 60.0,
        stop_timeout: float = 15.0,
    ) -> None:
        self.target = target
        self.params = dict(params or {})
        self._arguments = [*arguments]
        if max_sessions is not None:
            self._arguments.append(f"--max-sessions={max_sessions}")
        self._environ = dict(environ or {})
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._workers: set[ProcessWorker] = set()

    def __getstate__(self) -> dict[str, Any]:
        """The settings; the workers stay with the process that started them."""
        return {**self.__dict__, "_workers": set()}

    async def start(self, *, timeout: float | None = None) -> ProcessWorker:
        """Start a process; it listens when this returns."""
        token = secrets.token_urlsafe(24)
        server = LocalServer(
            self.target,
            self.params,
            arguments=self._arguments,
            environ=self._environ,
            token=token,
            start_timeout=self._start_timeout if timeout is None else timeout,
            stop_timeout=self._stop_timeout,
        )
        try:
            await server.__aenter__()
        except ServerError as exc:
            raise WorkerStartFailed(exc.message, phase="open", log_tail=exc.log_tail) from exc
        except OSError as exc:
            raise ProviderError(f"no process can be started: {exc}", phase="open") from exc
        worker = ProcessWorker(self, server, token)
        self._workers.add(worker)
        return worker

    async def aclose(self) -> None:
        """Shut all processes down."""
        closing = [asyncio.create_task(worker.aclose()) for worker in self._workers]
        await wait_uncancelled(*closing)
        for task in closing:
            task.result()


def _reason(code: int) -> str:
    if code >= 0:
        return f"its process exited with code {code}"
    return f"its process was killed by {signal_name(-code)}"
