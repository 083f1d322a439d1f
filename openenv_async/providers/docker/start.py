"""The start of one container: created, started and looked at, or undone.

Rules:

- A container is named before it is asked for, by a UUID. However a start ends, the name is enough
  to find and remove what there may be.
- ``create`` is never interrupted: a request that was sent may still be obeyed. A cancelled caller
  waits until the Engine has answered and the container is removed; that is bounded by the deadlines
  of the calls, and further cancellation does not shorten it.
"""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from openenv_async.errors import (
    DeadlineExceeded,
    OpenEnvError,
    ProviderError,
    WorkerStartFailed,
)
from openenv_async.providers.base import with_log_tail
from openenv_async.providers.docker.attachment import Attachment
from openenv_async.providers.docker.body import create_body
from openenv_async.providers.docker.calls import EngineError
from openenv_async.providers.docker.images import PullPolicy
from openenv_async.providers.docker.local_folders import with_folder
from openenv_async.providers.docker.options import ContainerOptions
from openenv_async.providers.docker.owner import this_owner
from openenv_async.providers.docker.worker import (
    DockerWorker,
    direct_url,
    exit_of,
    port_url,
)

if TYPE_CHECKING:
    from openenv_async.providers.docker.provider import DockerProvider

__all__ = ["ContainerRecipe", "ContainerStart"]

_CREATE_TIMEOUT: Final = 60.0


@dataclass(frozen=True, slots=True)
class ContainerRecipe:
    """The common parts of all containers of a provider.

    Attributes:
        image: its name.
        pull_policy: of the image.
        options: the caller's.
        lease: seconds after which a server ends when its owner does not renew.
        labels: that the provider knows its containers by.
    """

    image: str
    pull_policy: PullPolicy
    options: ContainerOptions
    lease: float
    labels: dict[str, str]


class ContainerStart:
    """One start.

    Attributes:
        name: of the container, and of the worker.

    Args:
        provider: the worker's.
        recipe: of the container.
        at: the Engine that makes it.
        seconds: for all of it.
        is_closed: whether the provider takes no more workers.
    """

    def __init__(
        self,
        provider: DockerProvider,
        recipe: ContainerRecipe,
        at: Attachment,
        seconds: float,
        is_closed: Callable[[], bool],
    ) -> None:
        self.name = f"openenv-{uuid.uuid4().hex}"
        self._provider = provider
        self._recipe = recipe
        self._at = at
        self._engine = at.engine
        self._seconds = seconds
        self._until = at.loop.time() + seconds
        self._is_closed = is_closed
        self._is_wanted = True
        self._creating: asyncio.Task[str] | None = None
        self._doing = f"the image {recipe.image} was still being looked for, or pulled"

    async def run(self) -> DockerWorker:
        """The worker; or an error or cancellation, and no container."""
        try:
            async with asyncio.timeout_at(self._until):
                return await self._make()
        except BaseException as exc:
            await self._undo()
            if isinstance(exc, TimeoutError) and not isinstance(exc, OpenEnvError):
                raise DeadlineExceeded(
                    f"no container of {self._recipe.image} was started within"
                    f" {self._seconds:.3g} s: {self._doing}",
                    phase="open",
                ) from None
            if self._creating is None or not isinstance(exc, ProviderError):
                raise
            if isinstance(exc, WorkerStartFailed):
                raise
            raise WorkerStartFailed(
                f"the worker {self.name} did not start: {exc.message}",
                phase="open",
                retryable=exc.retryable,
            ) from exc

    async def _make(self) -> DockerWorker:
        recipe = self._recipe
        options = recipe.options
        image = await self._at.image(recipe.image, recipe.pull_policy, options.platform)
        self._doing = "the Docker Engine was busy"
        async with self._at.gate:
            if self._engine.breaker.hold(self._at.loop.time()) > 0:
                self._doing = "the Docker Engine failed too often to begin another"
                await self._engine.breaker.passed()
            self._refuse_if_closed()
            token = secrets.token_urlsafe(32)
            id = await self._create(image, token)
            for network in options.networks[1:]:
                await self._engine.connect_network(network, self.name, timeout=self._left())
            await self._engine.start(self.name, timeout=self._left())
            worker = await self._look(id, token)
            self._refuse_if_closed()
            return worker

    async def _create(self, image: dict[str, Any], token: str) -> str:
        """Ask for the container: its id. The request goes on when this is cancelled."""
        recipe = self._recipe
        body = create_body(
            recipe.image,
            image.get("Config") or {},
            recipe.options,
            this_owner(),
            token=token,
            lease=recipe.lease,
        )
        body["Labels"] |= recipe.labels
        folder = None
        if recipe.options.local_folder and await self._engine.shares_networks():
            folder = self._at.folders.make(self.name)
        # As long as there is time, and a little: see the rules above.
        self._creating = asyncio.create_task(
            self._ask(body, folder), name=f"openenv-create-{self.name}"
        )
        return await asyncio.shield(self._creating)

    async def _ask(self, body: dict[str, Any], folder: Path | None) -> str:
        """Ask for the container, with its folder mounted if the Engine can do that."""
        options = self._recipe.options
        timeout = min(max(self._left(), 1.0), _CREATE_TIMEOUT)

        async def create(body: dict[str, Any]) -> str:
            return await self._engine.create(
                self.name,
                body,
                platform=options.platform,
                timeout=timeout,
                wanted=lambda: self._is_wanted,
            )

        if folder is None:
            return await create(body)
        try:
            return await create(with_folder(body, folder))
        except EngineError as exc:
            if str(folder) not in exc.message and "mount" not in exc.message:
                raise
            self._at.folders.give_up(exc.message)
        self._at.folders.remove(self.name)
        return await create(body)

    async def _look(self, id: str, token: str) -> DockerWorker:
        """The worker of the container that was started, with the port that it got."""
        options = self._recipe.options
        info = await self._engine.inspect(self.name)
        state = info.get("State") or {}
        if not state.get("Running"):
            tail = await self._provider._log_tail(self.name)
            ended = exit_of(state, tail, options.memory)
            raise WorkerStartFailed(
                with_log_tail(f"the worker {self.name} did not start: {ended.reason}", tail),
                phase="open",
                container_id=id,
                exit_code=ended.exit_code,
                oom=ended.oom,
                log_tail=ended.log_tail or None,
                retryable=False,
            )
        by_port = port_url(info, options.port)
        if by_port is None:
            raise WorkerStartFailed(
                f"the worker {self.name} did not start: port {options.port} of its container is"
                " not published (a network of the kind host or none?)",
                phase="open",
                container_id=id,
                retryable=False,
            )
        url = None
        if options.direct and await self._engine.shares_networks():
            url = direct_url(info, options.port)
        self._at.folders.tell(self.name, by_port, *([url] if url else ()))
        return DockerWorker(self._provider, self.name, url or by_port, token, id, by_port)

    async def _undo(self) -> None:
        """Leave no container; not to be cancelled."""
        self._is_wanted = False
        if self._creating is not None:
            self._at.removals.begin(self.name, self._creating)
            await self._at.removals.end(self.name)
        else:
            self._at.folders.remove(self.name)

    def _left(self) -> float:
        return self._until - self._at.loop.time()

    def _refuse_if_closed(self) -> None:
        if self._is_closed():
            raise ProviderError("this provider was closed", retryable=False)
