"""Start a worker and wait until its server shakes hands: what answers is ready, nothing else is.

A health URL says that a process listens; only the handshake says that this server speaks our
protocol, takes our token and lets us in.

Rules of a container that is one client's own:

- Nothing is started before the client opens: by ``await``, ``async with`` or its first call.
- The container is gone when ``close`` returns; a pickled client starts one of its own.
- A forked process starts one of its own, and leaves its parent's alone.
- It is not replaced: a caller that lost it is told what became of it, with its last lines.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import os
from collections.abc import Callable
from typing import Any, Final

from openenv_async.client.settings import ClientSettings
from openenv_async.client.websocket import dial
from openenv_async.endpoints.tls import Trust
from openenv_async.errors import (
    ConnectFailed,
    DeadlineExceeded,
    OpenEnvError,
    ServerError,
    TransportError,
    WorkerDied,
    WorkerStartFailed,
)
from openenv_async.providers.base import Provider, Worker, with_log_tail
from openenv_async.types import Timeouts

__all__ = [
    "START_TIMEOUT",
    "OwnedContainer",
    "docker_options",
    "last_lines",
    "launch",
    "wait_ready",
]

START_TIMEOUT: Final = 60.0
"""Seconds that a worker has to start and answer, unless told otherwise."""

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.25
_LOG_WAIT: Final = 2.0


async def launch(
    provider: Provider,
    *,
    timeout: float = START_TIMEOUT,
    on_started: Callable[[], None] | None = None,
    ssl: Trust = None,
) -> Worker:
    """A worker of ``provider`` whose server answers; the caller owns it.

    Cancelled anywhere, or failed, it leaves no worker behind.

    Args:
        provider: starts the worker.
        timeout: seconds for starting and answering together.
        on_started: called when the provider has started it, before it answers.
        ssl: as for ``ClientSettings``: what to trust where its address is https.

    Raises:
        WorkerStartFailed: it ended before it answered, or answers with something else.
        DeadlineExceeded: it did not answer in time; ``log_tail`` has what it wrote.
        ProviderError: the provider itself does not work.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout
    worker = await provider.start(timeout=timeout)
    if on_started is not None:
        on_started()
    try:
        await wait_ready(worker, timeout=until - loop.time(), ssl=ssl)
    except BaseException:
        worker.is_failing = True
        await worker.aclose()
        raise
    return worker


async def wait_ready(worker: Worker, *, timeout: float, ssl: Trust = None) -> None:
    """Return when the server of ``worker`` shakes hands.

    Raises:
        WorkerStartFailed: the worker ended, or what answers is not what was started.
        DeadlineExceeded: nothing answered within ``timeout`` seconds.
    """
    try:
        async with asyncio.timeout(timeout):
            await _answer(worker, ssl)
    except TimeoutError:
        log_tail = await last_lines(worker)
        raise DeadlineExceeded(
            with_log_tail(
                f"the worker {worker.name} did not answer within {timeout:.2g} s", log_tail
            ),
            phase="open",
            container_id=worker.container_id,
            log_tail=log_tail,
        ) from None


async def _answer(worker: Worker, ssl: Trust) -> None:
    """Shake hands, as often as it takes; ends early when the worker does."""
    dialing = asyncio.ensure_future(_shake_hands(worker, ssl))
    try:
        both: tuple[asyncio.Future[Any], ...] = (dialing, worker.exited)
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if dialing.done():
            try:
                dialing.result()
            except OpenEnvError as exc:
                raise _start_failed(
                    worker, f"answers wrongly: {exc.message}", await last_lines(worker)
                ) from exc
        else:
            ended = worker.exited.result()
            raise _start_failed(
                worker, ended.reason, ended.log_tail, exit_code=ended.exit_code, oom=ended.oom
            )
    finally:
        dialing.cancel()
        with contextlib.suppress(asyncio.CancelledError, OpenEnvError):
            await dialing


async def _shake_hands(worker: Worker, ssl: Trust) -> None:
    pause = _FIRST_PAUSE
    settings = ClientSettings(token=worker.token, ssl=ssl, timeouts=Timeouts(connect=5.0))
    while True:
        try:
            connection = await dial(worker.url, settings)
        except (ConnectFailed, ServerError):
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)
        else:
            await connection.aclose()
            return


async def last_lines(worker: Worker) -> str | None:
    """Return the worker's log tail, if that can be had, and soon."""
    with contextlib.suppress(TimeoutError, OpenEnvError):
        async with asyncio.timeout(_LOG_WAIT):
            return await worker.log_tail() or None
    return None


def _start_failed(
    worker: Worker,
    what: str,
    log_tail: str | None,
    *,
    exit_code: int | None = None,
    oom: bool | None = None,
) -> WorkerStartFailed:
    return WorkerStartFailed(
        with_log_tail(f"the worker {worker.name} did not start: {what}", log_tail),
        phase="open",
        container_id=worker.container_id,
        exit_code=exit_code,
        oom=oom,
        log_tail=log_tail,
    )


_CLIENT_OPTIONS: Final = frozenset(
    {"timeouts", "limits", "options", "share", "subprotocol", "headers"}
)
_NEWS: Final = 3.0
"""Seconds that the news of a container's end may take after its connection broke."""


class OwnedContainer:
    """The container behind one client.

    Args:
        provider: starts it; closed with it.
        timeout: seconds for starting and answering.
    """

    def __init__(self, provider: Provider, timeout: float = START_TIMEOUT) -> None:
        self._provider = provider
        self._timeout = timeout
        self._worker: Worker | None = None
        self._pid = os.getpid()

    def _check_process(self) -> None:
        """Leave the container to the process that started it, when this one was forked."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._worker = None
            self._provider = copy.copy(self._provider)

    def __getstate__(self) -> dict[str, Any]:
        """The settings."""
        return {**self.__dict__, "_worker": None}

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
        """Return the error to raise instead: a broken connection may mean a dead container."""
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


def docker_options(options: dict[str, Any], port: int) -> tuple[OwnedContainer, dict[str, Any]]:
    """The container that ``from_docker_image`` was asked for, and what is left for the client.

    Raises:
        TypeError: an option belongs to neither.
    """
    from openenv_async.providers.docker import DockerProvider

    client = {name: options.pop(name) for name in _CLIENT_OPTIONS & options.keys()}
    timeout = options.pop("start_timeout", START_TIMEOUT)
    provider = DockerProvider(options.pop("image"), port=port, **options)
    return OwnedContainer(provider, timeout), client
