"""The requests to a Docker Engine; ``calls`` sends them."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from openenv_async.providers.docker.address import find_engine
from openenv_async.providers.docker.calls import Calls, EngineError, NoSuchContainer, NoSuchImage
from openenv_async.renamed import renamed_attributes

__all__ = ["DockerClient"]

__getattr__ = renamed_attributes(__name__, {"Engine": "DockerClient"})

log = logging.getLogger("openenv_async.providers.docker")


class DockerClient:
    """One Docker Engine, as one event loop sees it.

    Args:
        url: ``unix://…`` or ``tcp://…``; ``None``: as the docker command finds it.
        max_calls: requests at once.
        redact: takes secrets out of the Engine's text.

    Raises:
        EngineError: the address, or what the docker command would read, is of no use.
    """

    def __init__(self, url: str | None, *, max_calls: int, redact: Callable[[str], str]) -> None:
        self._redact = redact
        self._shares_networks: bool | None = None
        self.address = find_engine(url)
        self.url = self.address.url
        self._docker = self.address.connect()
        self._calls = Calls(self.address.no_answer, max_calls=max_calls, redact=redact)
        self.breaker = self._calls.breaker

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
                # Podman 4.3 says 500 where Docker says 409.
                if exc.status not in (409, 500) or "already in use" not in exc.message:
                    raise
                return str((await self._docker.containers.container(name).show())["Id"])
            return str(made["Id"])

        return await self._calls.do(
            "create a container", once, timeout, missing=NoSuchImage, wanted=wanted
        )

    async def start(self, name: str, *, timeout: float) -> None:
        """Start a container; one that runs already is left as it is."""
        container = self._docker.containers.container(name)
        await self._calls.do("start a container", container.start, timeout)

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

        await self._calls.do(f"connect to the network {network}", once, timeout)

    async def shares_networks(self, *, timeout: float = 10.0) -> bool:
        """Return whether its bridges are bridges of this machine; asked once.

        Not so for an Engine on another machine or in a virtual machine (Docker Desktop), or when
        this process runs in a container: the host names then differ. A rootless one has this name
        and a network of its own, whose addresses may be somebody else's here.
        """
        if sys.platform != "linux" or not self.url.startswith("unix://"):
            return False
        if self._shares_networks is None:
            try:
                about = await self._calls.do(
                    "ask about the Engine", self._docker.system.info, timeout
                )
            except EngineError as exc:
                log.warning("containers are reached by their published ports: %s", exc.message)
                about = {}
            self._shares_networks = about.get(
                "Name"
            ) == socket.gethostname() and "name=rootless" not in (
                about.get("SecurityOptions") or []
            )
        return self._shares_networks

    async def inspect(self, name: str, *, timeout: float = 10.0) -> dict[str, Any]:
        """All that the Engine knows of a container."""
        container = self._docker.containers.container(name)
        return await self._calls.do("look at a container", container.show, timeout)

    async def image(self, name: str, *, timeout: float = 10.0) -> dict[str, Any]:
        """All that it knows of an image.

        Raises:
            NoSuchImage: it has none of this name.
        """
        look = functools.partial(self._docker.images.inspect, name)
        return dict(await self._calls.do(f"look at {name}", look, timeout, missing=NoSuchImage))

    async def pull(self, name: str, *, platform: str | None, timeout: float) -> None:
        """Get an image from its registry."""
        get = functools.partial(self._docker.images.pull, name, platform=platform)
        await self._calls.do(f"pull {name}", get, timeout, missing=NoSuchImage, attempt=timeout)

    async def log_tail(self, name: str, *, lines: int, timeout: float) -> str:
        """The last lines that a container wrote, without secrets."""
        container = self._docker.containers.container(name)
        get = functools.partial(container.log, stdout=True, stderr=True, tail=lines)
        parts = await self._calls.do("read a log", get, timeout)
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
            await self._calls.do("remove a container", once, timeout)

    async def prepare_command(self, name: str, body: Mapping[str, Any], *, timeout: float) -> str:
        """Make a command of a container, which is not started yet: its id."""
        data = json.dumps(body)

        async def once() -> str:
            from aiodocker import DockerError

            try:
                made = await self._docker._query_json(f"containers/{name}/exec", "POST", data=data)
            except DockerError as exc:
                if exc.status != 409:
                    raise
                raise NoSuchContainer(
                    f"could not prepare a command: {exc.message}", retryable=False
                ) from None
            return str(made["Id"])

        return await self._calls.do("prepare a command", once, timeout)

    async def upload(self, name: str, path: str, archive: bytes, *, timeout: float) -> None:
        """Unpack a tar archive in a folder of a container; twice is as good as once."""

        async def once() -> None:
            headers = {"Content-Type": "application/x-tar"}
            query = self._docker._query(
                f"containers/{name}/archive",
                "PUT",
                params={"path": path},
                data=archive,
                headers=headers,
                timeout=None,
            )
            async with query as response:
                await response.read()

        await self._calls.do(f"copy files to {path}", once, timeout, attempt=timeout)

    async def download(
        self, name: str, path: str, max_size: int, *, timeout: float
    ) -> bytes | None:
        """Return the tar archive of a file; ``None`` where there is none.

        Raises:
            EngineError: it is larger than ``max_size`` bytes; or the Engine failed.
        """
        from aiodocker import DockerError

        async def once() -> bytes | None:
            query = self._docker._query(
                f"containers/{name}/archive", "GET", params={"path": path}, timeout=None
            )
            try:
                async with query as response:
                    data = b""
                    async for part in response.content.iter_chunked(64 * 1024):
                        data += part
                        if len(data) > max_size:
                            response.close()
                            raise EngineError(
                                f"{path} is larger than {max_size} bytes", retryable=False
                            )
                    return data
            except DockerError as exc:
                if exc.status == 404 and "No such container" not in exc.message:
                    return None
                raise

        return await self._calls.do(f"read {path}", once, timeout, attempt=timeout)

    async def containers(self, label: str, *, timeout: float = 10.0) -> list[dict[str, Any]]:
        """Containers with a label (``NAME`` or ``NAME=VALUE``), ended ones too, in short."""
        params = {"all": "true", "filters": json.dumps({"label": [label]})}
        get = functools.partial(self._docker._query_json, "containers/json", params=params)
        found: list[dict[str, Any]] = await self._calls.do("list containers", get, timeout)
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
