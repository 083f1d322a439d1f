"""Calls to a Docker Engine: each with a deadline, few at a time, retried when one fails.

aiodocker has no deadlines and an Engine under load answers some calls with 5xx, or not at all.
Rules:

- Every call has a deadline of its own; a caller may be cancelled at any time.
- Transient failures (connection lost, 409, 429, 5xx, no answer in time) are tried again with
  jitter, inside what time the caller has. Each call is such that doing it twice is doing it once:
  containers have names that only one start uses.
- After many failures in a row, no *new* container is begun for a while. Looking, logs and removing
  go on: they are what heals.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from openenv_async.errors import ProviderError

__all__ = ["Breaker", "Calls", "EngineError", "NoSuchContainer", "NoSuchImage"]

log = logging.getLogger("openenv_async.providers.docker")
T = TypeVar("T")

_ATTEMPTS: Final = 12
_ATTEMPTS_TO_CONNECT: Final = 4
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 2.0
_TRANSIENT: Final = frozenset({409, 429, 500, 502, 503, 504, 900})
_FOR_GOOD: Final = (
    "executable file not found",
    "exec format error",
    "could not select device driver",
    "no such file or directory",
    "not a directory",
)
"""Words in a 5xx of a start that say that another attempt would end the same."""


class EngineError(ProviderError):
    """The Docker Engine refused a call, or did not answer."""

    code = "docker_engine_error"


class NoSuchContainer(EngineError):
    """The Engine has no container of this name or id."""

    code = "docker_no_such_container"


class NoSuchImage(EngineError):
    """The Engine has no image of this name."""

    code = "docker_no_such_image"


class _Stumble(Exception):
    """A transient failure: the call may be tried again."""

    def __init__(self, error: EngineError, nobody_listens: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.nobody_listens = nobody_listens


class Breaker:
    """A circuit breaker that delays new starts while the Engine fails.

    Args:
        failures: in a row, after which it holds them.
        pause: seconds of the first hold; each further one is twice as long.
        longest: seconds of the longest.
    """

    def __init__(self, failures: int = 20, pause: float = 1.0, longest: float = 30.0) -> None:
        self._failures = failures
        self._pause = pause
        self._longest = longest
        self._in_a_row = 0
        self._holds = 0
        self._until = 0.0

    def succeeded(self) -> None:
        """A call was answered."""
        self._in_a_row = self._holds = 0
        self._until = 0.0

    def failed(self, now: float) -> None:
        """A call was not."""
        self._in_a_row += 1
        if self._in_a_row >= self._failures and now >= self._until:
            hold = min(self._pause * 2**self._holds, self._longest)
            self._holds += 1
            self._in_a_row = 0
            self._until = now + hold
            log.warning("the Docker Engine fails: no new containers for %.1f s", hold)

    def hold(self, now: float) -> float:
        """Seconds that a new start has to wait."""
        return max(0.0, self._until - now)

    async def passed(self) -> None:
        """Wait until a new start need not wait."""
        now = asyncio.get_running_loop().time
        while (hold := self.hold(now())) > 0:  # noqa: ASYNC110  # its end may move
            await asyncio.sleep(hold)


class Calls:
    """The calls to one Engine, from one event loop.

    Args:
        no_answer: what to say if no Engine answers, from the cause.
        max_calls: at once.
        redact: takes secrets out of the Engine's words.
    """

    def __init__(
        self,
        no_answer: Callable[[BaseException | None], str],
        *,
        max_calls: int,
        redact: Callable[[str], str],
    ) -> None:
        self.breaker = Breaker()
        self._no_answer = no_answer
        self._redact = redact
        self._gate = asyncio.Semaphore(max_calls)

    async def do(
        self,
        what: str,
        once: Callable[[], Awaitable[T]],
        timeout: float,
        *,
        missing: type[EngineError] = NoSuchContainer,
        attempt: float = 15.0,
        wanted: Callable[[], bool] = lambda: True,
    ) -> T:
        """Do a call until it is done.

        Args:
            what: for messages: ``could not WHAT``.
            once: does it once.
            timeout: seconds for all attempts.
            missing: what a 404 means.
            attempt: seconds for one; an answer that was lost must not cost all the time.
            wanted: asked before each further attempt.

        Raises:
            EngineError: it was refused, or not answered.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        pause = _FIRST_PAUSE
        for number in range(1, _ATTEMPTS + 1):
            left = until - loop.time()
            try:
                async with self._gate, asyncio.timeout(max(0.0, min(left, attempt))):
                    result = await self._attempt(what, once, missing)
            except TimeoutError:
                stumble = _Stumble(
                    EngineError(f"could not {what}: the Docker Engine did not answer in time"),
                    False,
                )
            except _Stumble as exc:
                stumble = exc
            else:
                self.breaker.succeeded()
                return result
            self.breaker.failed(loop.time())
            left = until - loop.time()
            last = number >= (_ATTEMPTS_TO_CONNECT if stumble.nobody_listens else _ATTEMPTS)
            if last or left <= 0 or not wanted():
                raise stumble.error from stumble.__cause__
            await asyncio.sleep(min(pause * random.uniform(0.5, 1.5), left))
            pause = min(pause * 2, _LONGEST_PAUSE)
        raise AssertionError("unreachable")

    async def _attempt(
        self, what: str, once: Callable[[], Awaitable[T]], missing: type[EngineError]
    ) -> T:
        import aiohttp
        from aiodocker import DockerError

        try:
            return await once()
        except DockerError as exc:
            words = self._redact(" ".join(exc.message.split()))
            if exc.status == 404:
                raise missing(f"could not {what}: {words}", retryable=False) from None
            nobody = exc.status == 900 and isinstance(exc.__context__, aiohttp.ClientConnectorError)
            if nobody:
                words = self._no_answer(exc.__context__)
            hopeless = exc.status == 500 and any(word in words.lower() for word in _FOR_GOOD)
            if exc.status not in _TRANSIENT or hopeless:
                raise EngineError(f"could not {what}: {words}", retryable=False) from None
            raise _Stumble(EngineError(f"could not {what}: {words}"), nobody) from None
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            if isinstance(exc, TimeoutError):
                raise
            words = f"the Docker Engine broke off ({type(exc).__name__})"
            error = EngineError(f"could not {what}: {words}")
            raise _Stumble(error, False) from exc
