"""``AutoEnv`` and ``AutoAction``, and the choice of what serves an environment."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, Final, Self

from openenv_async.client.arguments import refuse_unknown
from openenv_async.client.launch import START_TIMEOUT, launch
from openenv_async.client.loop_thread import background_loop
from openenv_async.client.settings import SETTINGS
from openenv_async.errors import InvalidOption, OpenEnvError, shown
from openenv_async.providers.base import Provider, Worker
from openenv_async.targets.discovery import find_entry, normal_name
from openenv_async.targets.listing import EnvironmentInfo, EnvironmentList, list_environments
from openenv_async.targets.owning import AutoEnvClient, owning_class
from openenv_async.targets.resolve import Asked, classes_of_server, read_source

__all__ = [
    "AutoAction",
    "AutoEnv",
    "AutoEnvClient",
    "EnvironmentInfo",
    "EnvironmentList",
    "list_environments",
]

log = logging.getLogger("openenv_async.targets")

_ARGUMENTS: Final = (
    *("base_url", "image", "provider", "params"),
    *("trust_remote_code", "start_timeout"),
)
_LOOK: Final = 3.0
"""Seconds that a Docker Engine has to say whether it has an image."""


class AutoEnv:
    """Environments by name, folder, image, URL or Space; there are no instances of it."""

    def __new__(cls, *args: Any, **options: Any) -> Self:
        raise TypeError("AutoEnv is not called: AutoEnv.from_env(NAME) makes a client")

    @staticmethod
    def list_environments() -> EnvironmentList:
        """The installed environments; a list that shows itself as a table."""
        return list_environments()

    @staticmethod
    def get_env_info(name: str) -> EnvironmentInfo:
        """What is known of an installed environment.

        Raises:
            TargetNotFound: none has this name; the message tells the nearest.
        """
        for each in list_environments():
            if normal_name(each.name) == normal_name(name):
                return each
        find_entry(name)  # raises with the nearest names
        raise AssertionError("unreachable")

    @staticmethod
    def get_env_class(name: str) -> Any:
        """The client class of an environment that is here: installed, or a folder."""
        return read_source(name, None, None, False).client

    @staticmethod
    def from_env(name: str | None = None, **options: Any) -> AutoEnvClient:
        """A client with blocking calls. It works anywhere, in a running event loop too.

        Args:
            name, options: as for ``afrom_env``.
        """
        client = background_loop().run(AutoEnv.afrom_env(name, **options))
        return AutoEnvClient.of(client)

    @staticmethod
    async def afrom_env(
        name: str | None = None,
        *,
        base_url: str | None = None,
        image: str | None = None,
        provider: str | Provider | None = None,
        params: Mapping[str, Any] | None = None,
        token: str | None = None,
        trust_remote_code: bool = False,
        start_timeout: float = START_TIMEOUT,
        **client_options: Any,
    ) -> Any:
        """A client; what serves it is started if need be, and ended by ``close``.

        Args:
            name: an installed environment, a folder, ``module:Class``, or a Space's
                ``owner/name``. It may be left out with ``base_url`` or ``image``: the classes
                then come from the server's schema.
            base_url: a server that runs.
            image: a container image that serves it.
            provider: ``"process"``, ``"docker"``, or a ``Provider``. By default Docker when its
                Engine answers and has the environment's image, else a process of this machine;
                ``provider_reason`` of the client says which and why.
            params: constructor arguments of the environment. They ask for a process.
            token: the access token of the server at ``base_url``.
            trust_remote_code: take a Space's own classes: its code then runs here.
            start_timeout: seconds for starting the server.
            client_options: of the client class, such as ``timeouts``.

        Raises:
            TargetNotFound: there is no such environment; the message tells the nearest.
            InvalidOption: what is asked for makes no sense.
            ProviderError: no server could be started.
        """
        if params is not None and not isinstance(params, Mapping):
            raise TypeError(f"params must be a dict of constructor arguments, got {shown(params)}")
        unknown = [key for key in client_options if key not in SETTINGS]
        if unknown:
            refuse_unknown("AutoEnv.from_env", unknown, [*_ARGUMENTS, *SETTINGS])
        asked = read_source(name, base_url, image, trust_remote_code)
        kind, reason, chosen = await _choose(asked, provider, params)
        worker: Worker | None = None
        try:
            if chosen is None:
                url = asked.url or ""
            else:
                worker = await launch(chosen, timeout=start_timeout)
                url, token = worker.url, worker.token
            client = asked.client
            if client is None:
                client, _ = await classes_of_server(asked, url, token)
            made = owning_class(client)(url, token=token, **client_options)
        except BaseException:
            if worker is not None:
                await worker.aclose()
            if chosen is not None and chosen is not provider:
                await chosen.aclose()
            raise
        made.provider, made.provider_reason, made.worker = kind, reason, worker
        made._provider = None if chosen is provider else chosen
        made._owner = os.getpid()
        log.info("%s: %s (%s)", asked.label, kind, reason)
        return made

    from_hub = from_env


class AutoAction:
    """Action types by name, folder, image, URL or Space; there are no instances of it."""

    def __new__(cls, *args: Any, **options: Any) -> Self:
        raise TypeError("AutoAction is not called: AutoAction.from_env(NAME) gives a class")

    @staticmethod
    def from_env(
        name: str | None = None,
        *,
        base_url: str | None = None,
        token: str | None = None,
        trust_remote_code: bool = False,
    ) -> Any:
        """The action type of an environment; from the server's schema where it has no other.

        Args:
            name, base_url, token, trust_remote_code: as for ``AutoEnv.afrom_env``.
        """
        asked = read_source(name, base_url, None, trust_remote_code)
        if asked.action is not None:
            return asked.action
        made = background_loop().run(classes_of_server(asked, asked.url or "", token))
        return made[1]

    from_hub = from_env


async def _choose(
    asked: Asked, provider: str | Provider | None, params: Mapping[str, Any] | None
) -> tuple[str, str, Provider | None]:
    """What serves it: its kind, why, and the provider; none for a server that runs."""
    if isinstance(provider, Provider):
        return provider.name, "as asked for", provider
    if provider not in (None, "process", "docker"):
        raise InvalidOption(f"there is no provider {provider!r}; there are process and docker")
    if asked.space is not None or asked.url is not None:
        if params or provider:
            raise InvalidOption(f"{asked.label} runs already: it takes neither params nor provider")
        kind = "space" if asked.space is not None else "url"
        return kind, "it runs already", None
    if asked.wants_image or provider == "docker":
        if asked.image is None:
            raise InvalidOption(f"{asked.label} names no image: give image=")
        return "docker", "as asked for", _docker(asked.image, params)
    if provider is None and asked.image is not None and not params:
        why = await _why_not_docker(asked.image)
        if why is None:
            return "docker", f"the image {asked.image} is here", _docker(asked.image, None)
    else:
        why = "as asked for" if provider else "it has no image" if not params else "it has params"
    from openenv_async.providers.process import ProcessProvider

    assert asked.target is not None
    return "process", why, ProcessProvider(asked.target, params)


def _docker(image: str, params: Mapping[str, Any] | None) -> Provider:
    if params:
        raise InvalidOption("an image fixes its own arguments: params ask for provider='process'")
    from openenv_async.providers.docker import DockerProvider

    return DockerProvider(image)


async def _why_not_docker(image: str) -> str | None:
    """Why no container can be made of an image at once; ``None`` when one can."""
    from openenv_async.providers.docker.calls import EngineError, NoSuchImage
    from openenv_async.providers.docker.client import DockerClient

    try:
        engine = DockerClient(None, max_calls=1, redact=str)
    except OpenEnvError as exc:
        return exc.message
    try:
        await engine.image(image, timeout=_LOOK)
    except NoSuchImage:
        return f"Docker has no image {image}"
    except EngineError:
        return "no Docker Engine answers"
    finally:
        await engine.aclose()
    return None
