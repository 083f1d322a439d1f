"""The contract of a provider: it starts workers, knows when and why one died, and ends them.

A *worker* is one running server with an address: a container, a process, a node of a cluster or
an address that somebody else looks after. Rules:

- ``Provider.start`` either gives a worker that the caller then owns, or leaves nothing behind,
  however far it had come when it was cancelled. It does not wait for the server to answer: the
  handshake decides that, see ``openenv_async.client.launch``.
- ``Worker.aclose`` ends what the worker is; idempotent, and a second cancellation of the caller
  does not stop it. It raises nothing but cancellation: what could not be removed is logged.
- A worker that ends by itself resolves ``Worker.exited`` with the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from openenv_async.errors import OpenEnvError, WorkerDied

__all__ = ["Provider", "Worker", "WorkerExit", "new_lines", "with_log_tail"]

_SHOWN_LINES: Final = 3
_SHOWN_CHARACTERS: Final = 600
_FOLLOW_INTERVAL: Final = 1.0


def with_log_tail(message: str, log_tail: str | None) -> str:
    """Append the last lines that a server wrote to a message: mostly they are the cause."""
    lines = [line.strip() for line in (log_tail or "").splitlines() if line.strip()]
    if not lines:
        return message
    shown = " | ".join(lines[-_SHOWN_LINES:])
    if len(shown) > _SHOWN_CHARACTERS:
        shown = f"…{shown[-_SHOWN_CHARACTERS:]}"
    return f"{message}; its log ends with: {shown}"


def new_lines(seen: list[str], now: list[str]) -> list[str]:
    """Return the lines of a log's end that its end of before did not have."""
    if not seen:
        return now
    for shared in range(min(len(seen), len(now)), 0, -1):
        if seen[-shared:] == now[:shared]:
            return now[shared:]
    return ["… some lines are left out here", *now] if now else []


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """The end of a worker that ended by itself.

    Attributes:
        reason: what happened, in a few words: ``"exited with code 137"``.
        exit_code: of its process, where it has one.
        oom: whether it was killed for its use of memory; ``None``: not known.
        log_tail: the last lines it wrote.
    """

    reason: str
    exit_code: int | None = None
    oom: bool | None = None
    log_tail: str | None = None


class Worker(ABC):
    """One running server.

    Attributes:
        name: unique among all workers of this process; what logs and errors call it.
        url: ``http://HOST:PORT``.
        token: access token of its server; ``None`` for none.
        container_id: of its container, where it is one.
        started_at: ``time.monotonic()`` of when it was started.
        is_failing: its server does not answer, or said that it goes away.
        leaving: its owner wants it gone: no new sessions, end it when the last one has ended.
        exited: resolved with a ``WorkerExit`` once it ended without ``aclose``; never cancel it.
    """

    container_id: str | None = None
    leaving: bool = False
    is_failing: bool = False

    def __init__(self, name: str, url: str, *, token: str | None = None) -> None:
        self.name = name
        self.url = url
        self.token = token
        self.started_at = time.monotonic()
        self.exited: asyncio.Future[WorkerExit] = asyncio.get_running_loop().create_future()

    def died(self, phase: str, *, env: str | None = None) -> OpenEnvError:
        """The error for callers whose worker ended by itself; only once ``exited`` is done."""
        ended = self.exited.result()
        return WorkerDied(
            with_log_tail(f"the worker {self.name} died: {ended.reason}", ended.log_tail),
            env=env,
            phase=phase,
            container_id=self.container_id,
            exit_code=ended.exit_code,
            oom=ended.oom,
            log_tail=ended.log_tail,
        )

    async def log_tail(self) -> str:
        """The last lines that the server wrote; empty where they cannot be had."""
        return ""

    @contextlib.asynccontextmanager
    async def following(self, take: Callable[[str], object]) -> AsyncIterator[None]:
        """Have the lines that the server writes taken for as long as the block lasts.

        The end of the log is looked at every second: of more lines than that has, some are left
        out, which is said.

        Args:
            take: is called with each line.
        """
        following = asyncio.create_task(self._follow(take), name=f"openenv-follow-{self.name}")
        try:
            yield
        finally:
            following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await following

    async def _follow(self, take: Callable[[str], object]) -> None:
        seen: list[str] = []
        while not self.exited.done():
            lines = (await self.log_tail()).splitlines()
            for line in new_lines(seen, lines):
                take(line)
            seen = lines or seen
            await asyncio.wait([self.exited], timeout=_FOLLOW_INTERVAL)
        for line in new_lines(seen, (self.exited.result().log_tail or "").splitlines()):
            take(line)

    @abstractmethod
    async def aclose(self) -> None:
        """End the server and free what it holds."""


class Provider(ABC):
    """A maker of workers. ``async with`` ends all that are left on leaving.

    Attributes:
        name: ``docker``, ``process``, …; what the command line and statistics call it.
        owns_workers: whether ``start`` makes something that costs; a pool does not shrink or
            replace workers that nobody started.
    """

    name: str = "provider"
    owns_workers: bool = True

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def room(self) -> int | None:
        """Return the number of workers that ``start`` could make now; ``None``: no limit."""
        return None

    @abstractmethod
    async def start(self, *, timeout: float | None = None) -> Worker:
        """Start a server.

        Args:
            timeout: seconds for all of it; ``None``: the provider's own.

        Raises:
            WorkerStartFailed: it did not start; nothing is left behind.
            ProviderError: the provider itself does not work: no Docker Engine answers, say.
            DeadlineExceeded: not within ``timeout``.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """End every worker that is left, and what the provider itself holds; idempotent."""
