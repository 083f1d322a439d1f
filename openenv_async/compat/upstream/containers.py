"""Upstream's providers: objects that start what serves an environment, and stop it."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Self

from openenv_async.client.launch import OwnedContainer
from openenv_async.client.loop_thread import background_loop, close_blocking

__all__ = ["ContainerProvider", "LocalDockerProvider", "RuntimeProvider"]


class ContainerProvider(ABC):
    """Base of providers that start a container of an image."""

    @abstractmethod
    def start_container(
        self,
        image: str,
        port: int | None = None,
        env_vars: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> str:
        """Start a container and return the address of its server."""

    @abstractmethod
    def stop_container(self) -> None:
        """Stop and remove the container."""

    @abstractmethod
    def wait_for_ready(self, base_url: str, timeout_s: float = 30.0) -> None:
        """Return when the server answers.

        Raises:
            TimeoutError: it does not within ``timeout_s`` seconds.
        """

    def close(self) -> None:  # noqa: B027  # a hook that may stay empty
        """Release what the provider holds beside the container."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class RuntimeProvider(ABC):
    """Base of providers that start a server without a container."""

    @abstractmethod
    def start(
        self,
        port: int | None = None,
        env_vars: dict[str, str] | None = None,
        workers: int = 1,
        **kwargs: Any,
    ) -> str:
        """Start the server and return its address."""

    @abstractmethod
    def stop(self) -> None:
        """Stop the server."""

    @abstractmethod
    def wait_for_ready(self, timeout_s: float = 30.0) -> None:
        """Return when the server answers.

        Raises:
            TimeoutError: it does not within ``timeout_s`` seconds.
        """

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


class LocalDockerProvider(ContainerProvider):
    """Containers of the Docker Engine of this machine, with limits, owned by this process.

    A container is ready when ``start_container`` returns. It goes with the process that started
    it, however that ends.

    Attributes:
        token: the access token of the container's server; ``None`` before it runs.
    """

    def __init__(self) -> None:
        self.token: str | None = None
        self._container: OwnedContainer | None = None

    def start_container(
        self,
        image: str,
        port: int | None = None,
        env_vars: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> str:
        """Start a container and return the address of its server.

        Args:
            image: its name.
            port: not taken: a free port of this machine is.
            env_vars: environment variables.
            kwargs: further options of ``DockerProvider``; ``start_timeout`` in seconds.

        Raises:
            TypeError: an option is unknown, or ``port`` is given.
            WorkerStartFailed, ProviderError, DeadlineExceeded: it did not start.
        """
        if port is not None:
            raise TypeError(
                "start_container(port=…) is not taken: a free port of this machine is, and the"
                " address that is returned has it; container_port names the container's"
            )
        from openenv_async.providers.docker import DockerProvider  # which takes long to load

        self.stop_container()
        timeout = kwargs.pop("start_timeout", 60.0)
        inner = kwargs.pop("container_port", 8000)
        provider = DockerProvider(image, port=inner, env=env_vars, **kwargs)
        container = self._container = OwnedContainer(provider, timeout)
        try:
            worker = background_loop().run(container.start())
        except BaseException:
            self._container = None
            raise
        self.token = worker.token
        return worker.url

    def stop_container(self) -> None:
        """Stop and remove the container; idempotent."""
        container, self._container, self.token = self._container, None, None
        if container is not None:
            close_blocking(container.aclose())

    def wait_for_ready(self, base_url: str, timeout_s: float = 30.0) -> None:
        """Return at once: ``start_container`` has waited."""

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # __init__ raised
            self.stop_container()
