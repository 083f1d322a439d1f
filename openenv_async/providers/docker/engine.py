"""Calls to a Docker Engine: each with its own deadline, few at a time, again when it stumbles.

aiodocker has no deadlines and an Engine under load answers some calls with 5xx, or not at all.
Rules:

- Every call has a deadline of its own; a caller may be cut off at any time.
- Transient failures (connection lost, 409, 429, 5xx, no answer in time) are tried again with
  jitter, inside what time the caller has. Each call is such that doing it twice is doing it once:
  containers have names that only one start uses.
- After many failures in a row, no *new* container is begun for a while. Looking, logs and removing
  go on: they are what heals.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import random
import socket
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from openenv_async.errors import ProviderError

if TYPE_CHECKING:
    from aiodocker import Docker

__all__ = ["Engine", "EngineError", "NoSuchContainer", "NoSuchImage"]

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
    """Holds new starts back while the Engine fails.

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


class Engine:
    """One Docker Engine, as one event loop sees it.

    Args:
        url: ``unix://…`` or ``tcp://…``; ``None``: as the docker command finds it.
        max_calls: requests at once.
        redact: takes secrets out of the Engine's words.
    """

    def __init__(self, url: str | None, *, max_calls: int, redact: Callable[[str], str]) -> None:
        self.breaker = Breaker()
        self._redact = redact
        self._host: str | None = None
        self._calls = asyncio.Semaphore(max_calls)
        self._docker = self._connect(url)
        self.url = self._docker._connection_info  # what aiodocker found; it has no public name

    def _connect(self, url: str | None) -> Docker:
        from aiodocker import Docker

        try:
            return Docker(url)
        except (AssertionError, ValueError, OSError) as exc:
            raise EngineError(
                "no Docker Engine was found: start one, or name it in DOCKER_HOST"
            ) from exc

    async def aclose(self) -> None:
        """Close the sockets."""
        await self._docker.close()

    # -- calls --------------------------------------------------------------------------------

    async def create(
        self,
        name: str,
        body: Mapping[str, Any],
        *,
        platform: str | None,
        timeout: float,
        wanted: Callable[[], bool],
    ) -> str:
        """Make a container, or find the one that an unanswered attempt made: its id.

        Args:
            name: that no other start uses.
            body: of the request.
            platform: of the image.
            timeout: seconds for all attempts.
            wanted: asked before each further attempt.

        Raises:
            NoSuchImage: its image is not there.
        """
        params = {"name": name} | ({"platform": platform} if platform else {})
        data = json.dumps(body)

        async def once() -> str:
            from aiodocker import DockerError

            try:
                made = await self._docker._query_json(
                    "containers/create", "POST", params=params, data=data
                )
            except DockerError as exc:
                if exc.status != 409 or "already in use" not in exc.message:
                    raise
                return str((await self._docker.containers.container(name).show())["Id"])
            return str(made["Id"])

        return await self._call(
            "create a container", once, timeout, missing=NoSuchImage, wanted=wanted
        )

    async def start(self, name: str, *, timeout: float) -> None:
        """Start a container; one that runs already is left as it is."""
        container = self._docker.containers.container(name)
        await self._call("start a container", container.start, timeout)

    async def connect_network(self, network: str, name: str, *, timeout: float) -> None:
        """Put a container into one more network."""
        body = {"Container": name}

        async def once() -> None:
            from aiodocker import DockerError

            try:
                found = await self._docker.networks.get(network)
                await found.connect(body)
            except DockerError as exc:
                if "already exists in network" not in exc.message:
                    raise

        await self._call(f"connect to the network {network}", once, timeout)

    async def shares_networks(self, *, timeout: float = 10.0) -> bool:
        """Whether its bridges are bridges of this machine.

        Not so for one on another machine, in a virtual machine (Docker Desktop), or for whoever
        runs in a container himself: those have another host name.
        """
        if sys.platform != "linux" or not self.url.startswith("unix://"):
            return False
        if self._host is None:
            about = await self._call("ask about the Engine", self._docker.system.info, timeout)
            self._host = str(about.get("Name"))
        return self._host == socket.gethostname()

    async def inspect(self, name: str, *, timeout: float = 10.0) -> dict[str, Any]:
        """All that the Engine knows of a container."""
        container = self._docker.containers.container(name)
        return await self._call("look at a container", container.show, timeout)

    async def image(self, name: str, *, timeout: float = 10.0) -> dict[str, Any]:
        """All that it knows of an image.

        Raises:
            NoSuchImage: it has none of this name.
        """
        look = functools.partial(self._docker.images.inspect, name)
        return dict(await self._call(f"look at {name}", look, timeout, missing=NoSuchImage))

    async def pull(self, name: str, *, platform: str | None, timeout: float) -> None:
        """Get an image from its registry."""
        get = functools.partial(self._docker.images.pull, name, platform=platform)
        await self._call(f"pull {name}", get, timeout, missing=NoSuchImage, attempt=timeout)

    async def log_tail(self, name: str, *, lines: int, timeout: float) -> str:
        """The last lines that a container wrote, without secrets."""
        container = self._docker.containers.container(name)
        get = functools.partial(container.log, stdout=True, stderr=True, tail=lines)
        parts = await self._call("read a log", get, timeout)
        return self._redact("".join(parts)).rstrip("\n")

    async def remove(self, name: str, *, timeout: float) -> None:
        """Kill and remove a container with its anonymous volumes; none is as good as removed."""

        async def once() -> None:
            from aiodocker import DockerError

            container = self._docker.containers.container(name)
            try:
                await container.delete(force=True, v=True)
            except DockerError as exc:
                if exc.status == 409 and "already in progress" in exc.message:
                    return  # somebody else removes it
                raise

        with contextlib.suppress(NoSuchContainer):
            await self._call("remove a container", once, timeout)

    async def containers(self, label: str, *, timeout: float = 10.0) -> list[dict[str, Any]]:
        """Containers with a label (``NAME`` or ``NAME=VALUE``), ended ones too, in short."""
        params = {"all": "true", "filters": json.dumps({"label": [label]})}
        get = functools.partial(self._docker._query_json, "containers/json", params=params)
        found: list[dict[str, Any]] = await self._call("list containers", get, timeout)
        return found

    async def deaths(self, label: str) -> AsyncGenerator[str, None]:
        """Ids of containers with a label that ended, as the Engine tells: it may miss some."""
        filters = {"type": ["container"], "event": ["die", "destroy", "oom"], "label": [label]}
        events: Any = self._docker.events
        heard = events.subscribe(create_task=False)
        running = asyncio.ensure_future(events.run(filters=json.dumps(filters)))
        try:
            while (event := await heard.get()) is not None:
                yield str(event.get("id", ""))
        finally:
            running.cancel()
            await asyncio.wait([running])
            if not running.cancelled():
                running.exception()  # the poll finds out what is wrong

    # -- inside -------------------------------------------------------------------------------

    async def _call(
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
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        pause = _FIRST_PAUSE
        for number in range(1, _ATTEMPTS + 1):
            left = until - loop.time()
            try:
                async with self._calls, asyncio.timeout(max(0.0, min(left, attempt))):
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
                words = f"no Docker Engine answers at {self.url}: start it, or set DOCKER_HOST"
            hopeless = exc.status == 500 and any(word in words.lower() for word in _FOR_GOOD)
            if exc.status not in _TRANSIENT or hopeless:
                raise EngineError(f"could not {what}: {words}", retryable=False) from None
            raise _Stumble(EngineError(f"could not {what}: {words}"), nobody) from None
        except (aiohttp.ClientError, OSError, ValueError) as exc:
            if isinstance(exc, TimeoutError):
                raise
            error = EngineError(f"could not {what}: {type(exc).__name__} at {self.url}")
            raise _Stumble(error, False) from exc
