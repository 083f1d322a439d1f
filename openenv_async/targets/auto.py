"""``AutoEnv`` and ``AutoAction``: a client, or the action type, of any target."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, Self, SupportsIndex, TypeAlias, Unpack, overload

from openenv_async.client.arguments import refuse_unknown
from openenv_async.client.env import EnvClient
from openenv_async.client.launch import START_TIMEOUT
from openenv_async.client.loop_thread import background_loop
from openenv_async.client.settings import SETTINGS, ClientKeywords
from openenv_async.client.sync import SyncEnvClient
from openenv_async.endpoints.addresses import checked_url
from openenv_async.environment import Environment
from openenv_async.errors import ConnectFailed, InvalidOption, OpenEnvError, WrongTarget, shown
from openenv_async.providers.base import Provider, Worker
from openenv_async.targets.classes import (
    async_class,
    classes_of_folder,
    classes_of_installed,
    classes_of_path,
    classes_of_server,
    fetch_space,
    typed_client,
)
from openenv_async.targets.discovery import find_entry, looks_like_path, normal_name
from openenv_async.targets.listing import EnvironmentInfo, EnvironmentList, list_environments
from openenv_async.targets.resolve import ResolvedTarget, Target, resolve
from openenv_async.targets.served import close_worker, start_worker
from openenv_async.targets.sessions import copied_client, is_in_process
from openenv_async.types import ActT, ObsT, PlainValue, StateT

__all__ = [
    "AutoAction",
    "AutoEnv",
    "AutoEnvClient",
    "EnvironmentInfo",
    "EnvironmentList",
    "OwningEnvClient",
    "TypedAutoEnvClient",
    "list_environments",
]

log = logging.getLogger("openenv_async.targets")

_ARGUMENTS: Final = (
    *("base_url", "image", "provider", "params"),
    *("trust_remote_code", "start_timeout"),
)
_LOOK: Final = 3.0
"""Seconds that a Docker Engine has to say whether it has an image."""
_PROVIDERS: Final = ("process", "docker")


TypedTarget: TypeAlias = (
    Callable[..., Environment[ActT, ObsT, StateT]] | EnvClient[ActT, ObsT, StateT]
)
"""Targets whose types a type checker knows: an environment class, a factory, a client."""


class AutoKeywords(ClientKeywords, total=False):
    """Further arguments of ``AutoEnv.from_env`` and ``afrom_env``."""

    base_url: str | None
    image: str | None
    provider: str | Provider | None
    params: Mapping[str, Any] | None
    trust_remote_code: bool
    start_timeout: float


class AutoEnv:
    """Environments by name, folder, image, URL, Space, class or client; there are no instances."""

    def __new__(cls, *args: Any, **options: Any) -> Self:
        raise TypeError("AutoEnv is not called: AutoEnv.from_env(NAME) makes a client")

    @staticmethod
    def list_environments() -> EnvironmentList:
        """Return the installed environments: a list that shows itself as a table."""
        return list_environments()

    @staticmethod
    def get_env_info(name: str) -> EnvironmentInfo:
        """Return the facts of an installed environment.

        Raises:
            TargetNotFound: none has this name; the message tells the nearest.
        """
        for each in list_environments():
            if normal_name(each.name) == normal_name(name):
                return each
        find_entry(name)  # raises with the nearest names
        raise AssertionError("unreachable")

    @staticmethod
    def get_env_class(name: Target) -> type[EnvClient[Any, Any, Any]]:
        """Return the client class of an environment that is here: installed, a folder, a class."""
        return _classes(resolve(name, entry="AutoEnv.get_env_class"))[0]  # type: ignore[no-any-return]  # of the author's declaration

    @overload
    @staticmethod
    def from_env(
        name: TypedTarget[ActT, ObsT, StateT], **options: Unpack[AutoKeywords]
    ) -> TypedAutoEnvClient[ActT, ObsT, StateT]: ...

    @overload
    @staticmethod
    def from_env(name: Target = None, **options: Unpack[AutoKeywords]) -> AutoEnvClient: ...

    @staticmethod
    def from_env(name: Target = None, **options: Any) -> TypedAutoEnvClient[Any, Any, Any]:
        """Return a client with blocking calls. It works anywhere, in a running event loop too.

        Args:
            name, options: as for ``afrom_env``.
        """
        if name is not None:
            target = resolve(name, entry="AutoEnv.from_env")
            if target.kind == "engine" or is_in_process(target.given):
                raise WrongTarget(
                    f"{target.label} belongs to its event loop, and a blocking client runs on"
                    " another: give the environment itself, or await AutoEnv.afrom_env"
                )
        client = background_loop().run(AutoEnv.afrom_env(name, **options))
        return AutoEnvClient.of(client)

    @overload
    @staticmethod
    async def afrom_env(
        name: TypedTarget[ActT, ObsT, StateT], **options: Unpack[AutoKeywords]
    ) -> EnvClient[ActT, ObsT, StateT]: ...

    @overload
    @staticmethod
    async def afrom_env(
        name: Target = None, **options: Unpack[AutoKeywords]
    ) -> OwningEnvClient: ...

    @staticmethod
    async def afrom_env(
        name: Target = None,
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
        """Return a client; its server is started if need be, and ended by ``close``.

        Args:
            name: any target: an installed environment, a folder, ``module:Class``, a Space's
                ``owner/name``, a URL, an environment class, a client, a pool, … It may be left
                out with ``base_url`` or ``image``: the classes then come from the server's
                schema.
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
            WrongTarget: it is not a target at all.
            InvalidOption: the arguments contradict each other.
            ProviderError: no server could be started.
        """
        if params is not None and not isinstance(params, Mapping):
            raise TypeError(f"params must be a dict of constructor arguments, got {shown(params)}")
        unknown = [key for key in client_options if key not in SETTINGS]
        if unknown:
            refuse_unknown("AutoEnv.from_env", unknown, [*_ARGUMENTS, *SETTINGS])
        asked = _Request(name, base_url, image, trust_remote_code)
        if asked.has_clients:
            if params or provider:
                raise InvalidOption(f"{asked.label} runs already: it takes no params, no provider")
            return await _client_of(asked.target.with_arguments(None, token), client_options)
        kind, reason, chosen = await _choose(asked, provider, params, token)
        worker: Worker | None = None
        try:
            if chosen is None:
                url = asked.url or ""
            else:
                worker = await start_worker(chosen, start_timeout)
                url, token = worker.url, worker.token or token
            client = asked.client
            if client is None:
                client, _ = await asked.fetch_classes(url, token)
            made = owning_class(client)(url, token=token, **client_options)
        except BaseException:
            await close_worker(worker, chosen, owned=chosen is not asked.provider(provider))
            raise
        made.provider, made.provider_reason, made.worker = kind, reason, worker
        made._provider = None if chosen is asked.provider(provider) else chosen
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
        name: Target = None,
        *,
        base_url: str | None = None,
        token: str | None = None,
        trust_remote_code: bool = False,
    ) -> Any:
        """Return the action type of an environment; from the server's schema where it has no other.

        Args:
            name, base_url, token, trust_remote_code: as for ``AutoEnv.afrom_env``.
        """
        asked = _Request(name, base_url, None, trust_remote_code)
        if asked.action is not None:
            return asked.action
        if asked.url is None:
            raise WrongTarget(f"{asked.label} does not say its action type: give its URL or class")
        return background_loop().run(asked.fetch_classes(asked.url, token))[1]

    from_hub = from_env


# -- the client and its server ------------------------------------------------------------------


class OwningEnvClient(EnvClient[PlainValue, PlainValue, PlainValue]):
    """An environment's client, together with the server that was started for it.

    Attributes:
        provider: ``process``, ``docker``, ``in process``, ``space`` or ``url``.
        provider_reason: why that one.
        worker: the server, where one was started.
    """

    provider: str = "url"
    provider_reason: str = ""
    worker: Worker | None = None
    _plain: Any = None
    _provider: Provider | None = None
    _owner: int = 0

    async def close(self) -> None:
        """Close the session, and end the server that was started for it."""
        try:
            await super().close()
        finally:
            worker, self.worker = self.worker, None
            provider, self._provider = self._provider, None
            if self._owner != os.getpid():
                worker = provider = None  # forked: they are the parent's
            await close_worker(worker, provider, owned=True)

    def __repr__(self) -> str:
        return (
            f"<{self._plain.__name__} at {self.base_url} ({self.provider}: {self.provider_reason})>"
        )

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """Pickled, it is a plain client of the same server, which stays with its owner."""
        state = {k: v for k, v in self.__getstate__().items() if k not in _OWN}
        return (_unpickled, (self._plain,), state)


_OWN: Final = ("provider", "provider_reason", "worker", "_provider", "_owner", "_plain")


def _unpickled(cls: Any) -> Any:
    return cls.__new__(cls)


def owning_class(cls: Any) -> Any:
    """Return ``cls`` as a client that owns its server; another than ``EnvClient`` by its types."""
    cls = async_class(cls)
    types = dict(
        zip(("action_type", "observation_type", "state_type"), cls.model_types(), strict=True)
    )
    return type(
        cls.__name__, (OwningEnvClient, cls), types | {"_plain": cls, "__doc__": cls.__doc__}
    )


class TypedAutoEnvClient(SyncEnvClient[ActT, ObsT, StateT], Generic[ActT, ObsT, StateT]):
    """The client that ``AutoEnv.from_env`` gives: blocking calls, and the server started for it.

    Attributes:
        provider: ``process``, ``docker``, ``in process``, ``space`` or ``url``.
        provider_reason: why that one.
    """

    @classmethod
    def of(cls, client: EnvClient[ActT, ObsT, StateT]) -> Self:
        """Return a blocking view of an async client that is not used otherwise."""
        made = cls.__new__(cls)
        made._made = client
        return made

    @property
    def provider(self) -> str:
        """Return the kind of provider that serves it."""
        return str(getattr(self._client, "provider", "url"))

    @property
    def provider_reason(self) -> str:
        """Return the reason for that provider."""
        return str(getattr(self._client, "provider_reason", ""))

    @property
    def base_url(self) -> str:
        """Return the address of the server."""
        return self._client.base_url

    def __repr__(self) -> str:
        return f"<AutoEnvClient of {self._client!r}>"


class AutoEnvClient(TypedAutoEnvClient[PlainValue, PlainValue, PlainValue]):
    """``TypedAutoEnvClient`` where a name or an address tells no types to type checkers."""


async def _client_of(target: ResolvedTarget, options: Mapping[str, Any]) -> Any:
    """A client of a client, factory, pool or engine, which has its server or is its owner's."""
    given, cls = target.given, None
    if target.kind == "client" and not is_in_process(given):
        inner = given.client if isinstance(given, SyncEnvClient) else given
        cls = async_class(type(inner))
    sessions = await target.sessions(client=cls, **options).open()
    made = sessions.session()
    if isinstance(made, EnvClient):
        return made
    return copied_client(made, async_class(type(made)), None, {})


# -- what was asked for -------------------------------------------------------------------------


class _Request:
    """The target of a call, and the classes that it has here.

    Attributes:
        label: for messages.
        target: of the name, or of the URL or image alone.
        url: of the server that runs already.
        image: that a container can be made of.
        wants_image: whether it was asked for.
        client: the environment's own client class.
        action: its own action type.
    """

    def __init__(
        self, name: Target, base_url: str | None, image: str | None, trust_remote_code: bool
    ) -> None:
        if image is not None and not isinstance(image, str):
            raise TypeError(f"image must be text, got {shown(image)}")
        if name is None and base_url is None and image is None:
            raise InvalidOption("name an environment, or give base_url= or image=")
        if base_url is not None and image is not None:
            raise InvalidOption(
                "base_url= is a server that runs, image= one to be started: give one"
            )
        own = None if base_url is None else resolve(checked_url(base_url))
        entry = "AutoEnv.from_env"
        by_image = None if image is None else resolve(f"docker://{image}", entry=entry)
        target = resolve(name, entry=entry) if name is not None else own or by_image
        assert target is not None
        self.target = target
        self.label = target.label
        self.url: str | None = base_url
        self.image = image
        self.wants_image = image is not None or target.kind == "image"
        self.client: Any = None
        self.action: Any = None
        self.space = target.given if target.kind == "space" else None
        if target.kind == "url":
            self.url = target.given
        elif target.kind == "image":
            self.image = target.given
        elif target.kind == "space":
            self._read_space(trust_remote_code)
        elif target.kind in ("named", "environment") and not target.is_application:
            self.client, self.action = _classes(target)
            if target.is_installed and self.image is None:
                self.image = find_entry(target.given).image

    @property
    def has_clients(self) -> bool:
        """Return whether the target makes its clients itself."""
        return self.target.kind in ("client", "factory", "pool", "engine")

    def provider(self, given: str | Provider | None) -> Provider | None:
        """Return the provider that stays its owner's."""
        if isinstance(given, Provider):
            return given
        return self.target.given[0] if self.target.kind == "provider" else None

    def _read_space(self, trust_remote_code: bool) -> None:
        from openenv_async.providers.space import space_url

        self.url = self.url or space_url(self.target.given)
        if trust_remote_code:
            self.client, self.action = classes_of_folder(str(fetch_space(self.target.given)))
        else:
            log.info(
                "%s: its code is not run; classes come from its schema (trust_remote_code)",
                self.target.given,
            )

    async def fetch_classes(self, url: str, token: str | None) -> tuple[Any, Any]:
        """Return client class and action type by the server's schema."""
        try:
            return await classes_of_server(url, token)
        except ConnectFailed as exc:
            if self.space is None:
                raise
            raise ConnectFailed(
                f"there is no folder {self.space!r}, and as a Space it does not answer:"
                f" {exc.message}"
            ) from exc


def _classes(target: ResolvedTarget) -> tuple[Any, Any]:
    """Client class and action type of an environment that is here; its code is imported."""
    if target.kind == "environment":
        return typed_client(target.given), target.given.types["action"]
    if target.kind != "named":
        raise WrongTarget(
            f"{target.label} has its classes elsewhere: give an installed name, a folder,"
            " module:Class or the environment class"
        )
    if target.is_installed:
        return classes_of_installed(target.given)
    if looks_like_path(target.given):
        return classes_of_folder(target.given)
    return classes_of_path(target.given)


async def _choose(
    asked: _Request,
    provider: str | Provider | None,
    params: Mapping[str, Any] | None,
    token: str | None,
) -> tuple[str, str, Provider | None]:
    """The kind of provider, the reason for it, and itself; none for a server that runs."""
    own = asked.provider(provider)
    if own is not None:
        if asked.target.kind == "provider" and params:
            raise InvalidOption("a provider has its environment's arguments: it takes no params")
        return own.name, "as asked for", own
    if provider not in (None, *_PROVIDERS):
        raise InvalidOption(f"there is no provider {provider!r}; there are process and docker")
    if asked.url is not None:
        if params or provider:
            raise InvalidOption(f"{asked.label} runs already: it takes neither params nor provider")
        return ("url" if asked.space is None else "space"), "it runs already", None
    if asked.target.kind in ("urls", "finder"):
        if params or provider:
            raise InvalidOption(f"{asked.label} runs already: it takes neither params nor provider")
        found = asked.target.with_arguments(None, token).provider()
        return "url", "it runs already", found
    if asked.target.kind == "environment":
        if provider is not None:
            raise InvalidOption(f"{asked.label} is served in this process: it takes no provider")
        here = asked.target.with_arguments(params).provider()
        return here.name, "it is an environment of this process", here
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
    return "process", why, asked.target.with_arguments(params).provider()


def _docker(image: str, params: Mapping[str, Any] | None) -> Provider:
    if params:
        raise InvalidOption("an image fixes its own arguments: params ask for provider='process'")
    from openenv_async.providers.docker import DockerProvider

    return DockerProvider(image)


async def _why_not_docker(image: str) -> str | None:
    """Return why no container can be made of an image at once; ``None`` when one can."""
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
