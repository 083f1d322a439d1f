"""Start a worker and wait until its server shakes hands: what answers is ready, nothing else is.

A health URL says that a process listens; only the handshake says that this server speaks our
protocol, takes our token and lets us in.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, Final

from openenv_async.client.settings import ClientSettings
from openenv_async.client.websocket import dial
from openenv_async.errors import (
    ConnectFailed,
    DeadlineExceeded,
    OpenEnvError,
    ServerError,
    WorkerStartFailed,
)
from openenv_async.providers.base import Provider, Worker, with_log_tail
from openenv_async.types import Timeouts

__all__ = ["START_TIMEOUT", "last_lines", "launch", "wait_ready"]

START_TIMEOUT: Final = 60.0
"""Seconds that a worker has to start and answer, unless told otherwise."""

_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 0.25
_LOG_WAIT: Final = 2.0


async def launch(provider: Provider, *, timeout: float = START_TIMEOUT) -> Worker:
    """A worker of ``provider`` whose server answers; the caller owns it.

    Cut off anywhere, or failed, it leaves no worker behind.

    Args:
        provider: starts the worker.
        timeout: seconds for starting and answering together.

    Raises:
        WorkerStartFailed: it ended before it answered, or answers with something else.
        DeadlineExceeded: it did not answer in time; ``log_tail`` has what it wrote.
        ProviderError: the provider itself does not work.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout
    worker = await provider.start(timeout=timeout)
    try:
        await wait_ready(worker, timeout=until - loop.time())
    except BaseException:
        await worker.aclose()
        raise
    return worker


async def wait_ready(worker: Worker, *, timeout: float) -> None:
    """Return when the server of ``worker`` shakes hands.

    Raises:
        WorkerStartFailed: the worker ended, or what answers is not what was started.
        DeadlineExceeded: nothing answered within ``timeout`` seconds.
    """
    try:
        async with asyncio.timeout(timeout):
            await _answer(worker)
    except TimeoutError:
        log_tail = await last_lines(worker)
        raise DeadlineExceeded(
            with_log_tail(
                f"the worker {worker.name} did not answer within {timeout:.3g} s", log_tail
            ),
            phase="open",
            container_id=worker.container_id,
            log_tail=log_tail,
        ) from None


async def _answer(worker: Worker) -> None:
    """Shake hands, as often as it takes; ends early when the worker does."""
    dialing = asyncio.ensure_future(_shake_hands(worker))
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


async def _shake_hands(worker: Worker) -> None:
    pause = _FIRST_PAUSE
    settings = ClientSettings(token=worker.token, timeouts=Timeouts(connect=5.0))
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
    """What the worker wrote last, if that can be had, and soon."""
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
