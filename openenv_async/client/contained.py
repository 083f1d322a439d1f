"""A container of one client's own: started when the client opens, removed when it closes.

Rules:

- Nothing is started before the client opens: by ``await``, ``async with`` or its first call.
- The container is gone when ``close`` returns; a pickled client starts one of its own.
- A forked process starts one of its own, and leaves its parent's alone.
- It is not replaced: whoever lost it is told what became of it, with its last lines.
"""

from __future__ import annotations

import asyncio
import copy
import os
from collections.abc import Callable
from typing import Any, Final

from openenv_async.client.launch import START_TIMEOUT, last_lines, launch
from openenv_async.errors import (
    ConnectFailed,
    DeadlineExceeded,
    OpenEnvError,
    TransportError,
    WorkerDied,
)
from openenv_async.providers.base import Provider, Worker

__all__ = ["Contained", "docker_options"]

_CLIENT_OPTIONS: Final = frozenset(
    {"timeouts", "limits", "options", "share", "subprotocol", "headers"}
)
_NEWS: Final = 3.0
"""Seconds that the news of a container's end may take after its connection broke."""


class Contained:
    """The container behind one client.

    Args:
        provider: starts it; closed with it.
        timeout: seconds for starting and answering.
    """

    def __init__(self, provider: Provider, timeout: float = START_TIMEOUT) -> None:
        self._provider = provider
        self._timeout = timeout
        self._worker: Worker | None = None
        self._starting: asyncio.Task[Worker] | None = None
        self._pid = os.getpid()

    def _check_process(self) -> None:
        """Leave the container to the process that started it, when this one was forked."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._worker = self._starting = None
            self._provider = copy.copy(self._provider)

    def __getstate__(self) -> dict[str, Any]:
        """The settings."""
        return {**self.__dict__, "_worker": None, "_starting": None}

    @property
    def worker(self) -> Worker | None:
        """The container, once it was started."""
        return self._worker

    async def start(self, died: Callable[[OpenEnvError], None] | None = None) -> Worker:
        """The running container; starts it first if need be.

        Args:
            died: called, in the loop that started it, when it ends by itself.

        Raises:
            WorkerStartFailed, ProviderError, DeadlineExceeded: it did not start.
            WorkerDied: it did, and ended.
        """
        self._check_process()
        if self._worker is None:
            try:
                worker = self._worker = await launch(self._provider, timeout=self._timeout)
            except BaseException:
                provider, self._provider = self._provider, copy.copy(self._provider)
                await provider.aclose()  # a copy, which has the settings, may try again
                raise
            if died is not None:
                worker.exited.add_done_callback(lambda _: died(worker.died("step")))
        if self._worker.exited.done():
            raise self._worker.died("open")
        return self._worker

    async def explain(self, error: OpenEnvError) -> OpenEnvError:
        """What to raise instead of ``error``: a broken connection may mean a dead container."""
        self._check_process()
        worker = self._worker
        if worker is None or isinstance(error, WorkerDied):
            return error
        if worker.exited.get_loop() is not asyncio.get_running_loop():
            return error
        if isinstance(error, TransportError):
            await asyncio.wait([worker.exited], timeout=_NEWS)
        if worker.exited.done():
            return worker.died(error.phase or "step")
        if isinstance(error, DeadlineExceeded | TransportError | ConnectFailed):
            error.add_context(log_tail=await last_lines(worker))
        error.add_context(container_id=worker.container_id)
        return error

    async def aclose(self) -> None:
        """Remove it; idempotent."""
        self._check_process()
        worker, self._worker = self._worker, None
        try:
            if worker is not None:
                await worker.aclose()
        finally:
            await self._provider.aclose()


def docker_options(options: dict[str, Any], port: int) -> tuple[Contained, dict[str, Any]]:
    """The container that ``from_docker_image`` was asked for, and what is left for the client.

    Raises:
        TypeError: an option belongs to neither.
    """
    from openenv_async.providers.docker import DockerProvider

    client = {name: options.pop(name) for name in _CLIENT_OPTIONS & options.keys()}
    timeout = options.pop("start_timeout", START_TIMEOUT)
    provider = DockerProvider(options.pop("image"), port=port, **options)
    return Contained(provider, timeout), client
