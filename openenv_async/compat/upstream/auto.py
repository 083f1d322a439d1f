"""Upstream's ``AutoEnv`` and ``AutoAction``: a client of a name, an image, a Space or a URL.

The clients take and give dicts: an environment's own client class is imported from its package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openenv_async.client.loop_thread import background_loop
from openenv_async.compat.upstream.clients import (
    GenericAction,
    GenericEnvClient,
    ImageProvider,
    Starting,
)
from openenv_async.compat.upstream.containers import ContainerProvider, RuntimeProvider
from openenv_async.targets import auto

__all__ = ["AutoAction", "AutoEnv"]


class AutoEnv:
    """Environments by name, folder, Space, image or URL; there are no instances of it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> AutoEnv:
        raise TypeError("AutoEnv is not called: AutoEnv.from_env(NAME) makes a client")

    @classmethod
    def from_env(
        cls,
        name: str,
        base_url: str | None = None,
        docker_image: str | None = None,
        container_provider: ContainerProvider | None = None,
        wait_timeout: float = 30.0,
        env_vars: dict[str, str] | None = None,
        trust_remote_code: bool = False,
        skip_install: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return a client; its server is started by the first call, and ended by ``close``.

        Args:
            name: an installed environment, a folder, or a Space's ``owner/name``.
            base_url: a server that runs.
            docker_image: an image that serves it.
            container_provider: starts the image in place of the Docker Engine of this machine.
            wait_timeout: seconds in which the server has to answer.
            env_vars: environment variables of the container.
            trust_remote_code, skip_install: taken and without effect: nothing is installed, and no
                code of a Space runs here.
            kwargs: of the client, such as ``message_timeout_s``.

        Raises:
            ValueError: ``env_vars`` are given, and there is no container.
        """
        if base_url is not None:
            return GenericEnvClient(base_url, **kwargs)
        if docker_image is not None:
            options: dict[str, Any] = {} if env_vars is None else {"env_vars": env_vars}
            if container_provider is None:
                options["start_timeout"] = wait_timeout
            image = ImageProvider(container_provider, docker_image, options, wait_timeout)
            return Starting(GenericEnvClient(provider=image, **kwargs))
        if env_vars is not None or container_provider is not None:
            raise ValueError(
                f"AutoEnv.from_env({name!r}) starts no container, and env_vars and"
                " container_provider are of one: give docker_image, or set the variables here"
            )
        return GenericEnvClient(provider=_Target(name, wait_timeout), **kwargs)

    from_hub = from_env

    @classmethod
    def get_env_class(cls, name: str) -> Any:
        """Return the client class of an environment that is here; see ``openenv_async.AutoEnv``."""
        return auto.AutoEnv.get_env_class(name)

    @classmethod
    def get_env_info(cls, name: str) -> dict[str, Any]:
        """Return facts about an installed environment."""
        found = auto.AutoEnv.get_env_info(name)
        names = ("name", "version", "description")
        return {key: getattr(found, key, None) for key in names}

    @classmethod
    def list_environments(cls) -> Any:
        """Return the installed environments: a list that shows itself as a table."""
        return auto.AutoEnv.list_environments()


class AutoAction:
    """Action types by name or URL; there are no instances of it."""

    def __new__(cls, *args: Any, **kwargs: Any) -> AutoAction:
        raise TypeError("AutoAction is not called: AutoAction.from_env(NAME) gives a class")

    @classmethod
    def from_env(cls, name: str, skip_install: bool = False, **kwargs: Any) -> Any:
        """Return the action type of an environment; ``GenericAction`` with ``skip_install``."""
        return GenericAction if skip_install else auto.AutoAction.from_env(name, **kwargs)

    from_hub = from_env


class _Target(RuntimeProvider):
    """The server of a target, started when a client asks for it."""

    def __init__(self, name: str, timeout: float) -> None:
        self.token: str | None = None
        self._name = name
        self._timeout = timeout
        self._env: Any = None

    def start(
        self,
        port: int | None = None,
        env_vars: Mapping[str, str] | None = None,
        workers: int = 1,
        **kwargs: Any,
    ) -> str:
        """Start it and return its address."""
        making = auto.AutoEnv.afrom_env(self._name, start_timeout=self._timeout)
        self._env = background_loop().run(making)
        self.token = self._env.settings.token
        url: str = self._env.base_url
        return url

    def stop(self) -> None:
        """Stop it."""
        env, self._env = self._env, None
        if env is not None:
            background_loop().run(env.close())

    def wait_for_ready(self, timeout_s: float = 30.0) -> None:
        """Return at once: ``start`` has waited."""
