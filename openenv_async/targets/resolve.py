"""The one way in: from anything that names or is an environment to a target.

``resolve`` tells what it was given, at once and without importing or starting an environment that
is only named; what cannot be played on is refused there. A ``ResolvedTarget`` then gives a server
(``serve``), clients (``sessions``), a provider of workers for a pool (``provider``), or the
environment itself (``spec``).

========== =========================================== ==========================================
kind       given                                       what serves it
========== =========================================== ==========================================
url        the URL of a server                         that server
urls       several URLs, or pairs of URL and token     those servers
finder     a callable that returns URLs                those servers
named      an installed name, ``module:Class``,        a process of this machine
           a folder, an id of Gymnasium,
           or of ``targets.schemes``
image      ``docker://IMAGE``, ``NAME:TAG``            a container
space      ``owner/space``                             the running Space
environment a class, factory, instance or              this process, on the background loop
           ``EnvironmentSpec``
engine     an ``Engine``                               nothing: its sessions are in this loop
client     a client, whose settings are copied         its server
factory    what makes clients                          the server of the clients
pool       an ``EnvPool`` or ``SyncEnvPool``           its workers
provider   a ``Provider``, or several                  its workers
========== =========================================== ==========================================
"""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import functools
import inspect
import os
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol, runtime_checkable

from openenv_async import hosts
from openenv_async.client.models import ModelHooks
from openenv_async.endpoints.addresses import checked_addresses, told_url
from openenv_async.endpoints.tokens import check_token
from openenv_async.environment import Environment
from openenv_async.errors import InvalidOption, TargetNotFound, WrongTarget, shown
from openenv_async.providers.base import Provider
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets import manifest
from openenv_async.targets.discovery import upstream_app
from openenv_async.targets.naming import read_name
from openenv_async.targets.schemes import scheme_forms, told_target

if TYPE_CHECKING:
    from openenv_async.client.env import EnvClient
    from openenv_async.targets.served import Server
    from openenv_async.targets.sessions import TargetSessions

__all__ = [
    "TARGETS",
    "Kind",
    "ResolvedTarget",
    "SessionPool",
    "Target",
    "environment_spec",
    "is_elsewhere",
    "is_environment",
    "resolve",
]

Kind = Literal[
    "url",
    "urls",
    "finder",
    "named",
    "image",
    "space",
    "environment",
    "engine",
    "client",
    "factory",
    "pool",
    "provider",
]
_STARTED: Final[frozenset[str]] = frozenset({"named", "image", "environment"})
"""Kinds for which a server is started; the others run already, or are their owner's to start."""
_ADDRESSED: Final[frozenset[str]] = frozenset({"url", "urls", "finder", "client"})
"""Kinds to whose servers a token can be sent."""

TARGETS: Final = (
    "the URL of a server, several URLs, an installed name, module:Class, a folder, docker://IMAGE,"
    f" owner/space, an id of Gymnasium, {''.join(f'{forms}, ' for forms in scheme_forms())}an"
    " environment (class, factory, instance or EnvironmentSpec), a client, what makes clients, a"
    " pool or a provider"
)
"""All that ``resolve`` takes, for messages."""

Target = Any
"""Anything that ``resolve`` takes; see the table at the top of ``targets.resolve``."""


@runtime_checkable
class SessionPool(Protocol):
    """A pool that leases clients, as an ``EnvPool`` does."""

    def session(self) -> Any:
        """Return a client that takes its slot when it opens and gives it back when it closes."""


@dataclasses.dataclass(frozen=True, slots=True)
class ResolvedTarget:
    """A target that was checked: what it is, and how to get a server and sessions of it.

    Attributes:
        kind: see the table of ``targets.resolve``.
        label: for messages and logs; without secrets.
        given: the object itself: a ``str`` for ``named``, ``image``, ``space`` and ``url``; a list
            of addresses for ``urls``, a list of providers for ``provider``.
        is_installed: whether the name is that of an installed environment.
        params: constructor arguments of the environment.
        token: access token of the servers that run already.
    """

    kind: Kind
    label: str
    given: Any = dataclasses.field(repr=False)
    is_installed: bool = False
    params: Mapping[str, Any] | None = None
    token: str | None = dataclasses.field(default=None, repr=False)

    @property
    def is_application(self) -> bool:
        """Return whether it is a folder in OpenEnv's form, whose application makes it.

        It is served by a process of its own, and not imported in this one.
        """
        if self.kind != "named" or self.is_installed:
            return False
        folder = Path(self.given).expanduser()
        if not (folder / manifest.MANIFEST).is_file():
            return False
        try:
            return upstream_app(folder, manifest.load(folder)) is not None
        except TargetNotFound:  # the next that reads it says what is wrong
            return False

    @property
    def starts_server(self) -> bool:
        """Return whether a server has to be started for it."""
        return self.kind in _STARTED

    def with_arguments(
        self, params: Mapping[str, Any] | None = None, token: str | None = None
    ) -> ResolvedTarget:
        """Return this target with constructor arguments or a token.

        Raises:
            TypeError, InvalidOption: it takes none, or they are not valid.
        """
        if params is not None and not isinstance(params, Mapping):
            raise TypeError(f"params must be a dict of constructor arguments, got {shown(params)}")
        if params and self.kind not in ("named", "environment"):
            why = (
                "an image has its own"
                if self.kind == "image"
                else "what runs has its arguments already"
            )
            raise InvalidOption(
                f"{self.label} takes no params: {why}; params= belongs to names and classes"
            )
        if token is not None:
            check_token(token)
            if self.kind not in _ADDRESSED:
                raise InvalidOption(
                    f"{self.label} takes no token: token= belongs to the URLs of servers that run"
                )
        if not params and token is None:
            return self
        changed = dataclasses.replace(
            self, params=dict(params) if params else self.params, token=token or self.token
        )
        if changed.kind == "environment" and params:
            spec = _spec_with(self.given, params)
            changed = dataclasses.replace(changed, given=spec)
        return changed

    def spec(self, entry: str = "this call") -> EnvironmentSpec:
        """Return the environment itself; a named one is imported.

        Args:
            entry: what needs it, for the message.

        Raises:
            WrongTarget: it is a server or a client, whose environment is elsewhere.
            TargetNotFound, InvalidOption: the named one cannot be imported, or not built so.
        """
        if self.kind == "environment":
            spec: EnvironmentSpec = self.given
            return spec
        if self.kind == "named":
            from openenv_async.targets.discovery import find_target

            return find_target(self.given, self.params)
        raise WrongTarget(
            f"{entry} needs an environment itself, got {self.label}, which {_BEHIND[self.kind]}:"
            " give the class, module:Class, an installed name or a folder, or play there with"
            " AutoEnv.from_env, rollout or collect"
        )

    def client_class(self) -> type[EnvClient[Any, Any, Any]]:
        """Return the environment's own client class where it is known, else the generic one.

        An installed environment names it, a class has types to make it of, a client is of one.
        Nothing is imported for ``module:Class`` or a folder, nor fetched from a server.
        """
        from openenv_async.client.env import GenericEnvClient
        from openenv_async.targets.classes import async_class, typed_client

        if self.kind == "environment":
            return typed_client(self.given)
        own: Any = None
        if self.kind in ("client", "factory"):
            made = _returned(self.given) if self.kind == "factory" else type(self.given)
            known = inspect.isclass(made) and issubclass(made, ModelHooks)
            own = GenericEnvClient if not known else made
            if known and hasattr(self.given, "client"):  # a blocking one has its types
                own = type(self.given.client)
        if self.is_installed:
            from openenv_async.targets.discovery import find_entry

            own = find_entry(self.given).client_class()
        found: type[EnvClient[Any, Any, Any]] = async_class(own or GenericEnvClient)
        return found

    def client_settings(self) -> dict[str, Any]:
        """Return the settings of a client that was given, but for its address and token."""
        if self.kind not in ("client", "factory"):
            return {}
        from openenv_async.targets.sessions import settings_of

        return settings_of(self.given)

    def provider(self, **options: Any) -> Provider:
        """Return what starts or finds servers of the target; the caller owns it.

        Args:
            options: of ``ProcessProvider``, ``DockerProvider``, ``StaticProvider``,
                ``SpaceProvider`` or ``InProcessProvider``.

        Raises:
            WrongTarget: it has no server, or brings its own provider.
        """
        given, token = self.given, self.token
        match self.kind:
            case "url" | "finder":
                from openenv_async.providers.static import StaticProvider

                return StaticProvider(given, token=token, **options)
            case "urls":
                from openenv_async.providers.static import StaticProvider

                return StaticProvider(*given, token=token, **options)
            case "named":
                from openenv_async.providers.process import ProcessProvider

                return ProcessProvider(given, self.params, **options)
            case "image":
                from openenv_async.providers.docker import DockerProvider

                return DockerProvider(given, **options)
            case "space":
                from openenv_async.providers.space import SpaceProvider

                return SpaceProvider(given, **options)
            case "environment":
                from openenv_async.targets.served import InProcessProvider

                return InProcessProvider(given, **options)
            case "provider" if len(given) == 1 and not options:
                provider: Provider = given[0]
                return provider
            case "client" | "factory":
                from openenv_async.providers.static import StaticProvider
                from openenv_async.targets.sessions import address_of, made_by, own_provider

                client = made_by(given) if self.kind == "factory" else given
                if (containers := own_provider(client)) is not None:
                    return containers
                url, own = address_of(client)
                return StaticProvider((url, token or own), **options)
        raise WrongTarget(f"no workers can be started of {self.label}: {_BEHIND[self.kind]}")

    def serve(
        self,
        params: Mapping[str, Any] | None = None,
        token: str | None = None,
        *,
        start_timeout: float | None = None,
        **options: Any,
    ) -> AbstractAsyncContextManager[Server]:
        """Return a context that has a running server: started for it, or the one that there is.

        ``async with resolve("echo").serve() as server: server.url, server.token``

        A started server ends with the block.

        Args:
            params: constructor arguments of the environment.
            token: access token of a server that runs.
            start_timeout: seconds that a started server has to answer.
            options: as for ``provider``, where a server is started.

        Raises:
            WrongTarget: there is no server: the sessions of an ``Engine`` are in this loop.
            InvalidOption: it takes no params or no token.
            WorkerStartFailed, ProviderError, DeadlineExceeded: on entering; none could be started.
        """
        from openenv_async.targets.served import serving

        target = self.with_arguments(params, token)
        if target.kind == "engine":
            raise WrongTarget(
                f"{self.label} has no server, its sessions are in its event loop: give the"
                " environment, or play on it with connect_in_process"
            )
        return serving(target, start_timeout=start_timeout, options=options)

    def sessions(
        self,
        *,
        client: type[EnvClient[Any, Any, Any]] | None = None,
        connections: int | None = None,
        start_timeout: float | None = None,
        server: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> TargetSessions:
        """Return the clients of the target; what serves them starts on ``open``.

        Args:
            client: their class; by default ``client_class()``, or that of the client, factory or
                pool that was given.
            connections: WebSocket connections to each server that they share; one by default.
            start_timeout: seconds that a started server has to answer.
            server: options of ``provider``.
            settings: of the clients: ``timeouts``, ``options``, …
        """
        from openenv_async.targets.sessions import TargetSessions

        return TargetSessions(
            self,
            client=client,
            connections=connections,
            start_timeout=start_timeout,
            server=server,
            settings=settings,
        )


_BEHIND: Final[Mapping[str, str]] = {
    "url": "is a server that runs",
    "urls": "names servers that run",
    "finder": "finds servers that run",
    "named": "is an environment of this machine",
    "image": "has it in a container",
    "space": "is served elsewhere",
    "environment": "is an environment of this process",
    "engine": "belongs to its event loop",
    "client": "plays on a server",
    "factory": "makes clients of a server",
    "pool": "has workers of its own",
    "provider": "starts servers",
}


def resolve(
    target: Target,
    *,
    params: Mapping[str, Any] | None = None,
    token: str | None = None,
    entry: str = "resolve()",
) -> ResolvedTarget:
    """Tell what a target is; nothing is imported, started or played.

    Args:
        target: see the table at the top of ``targets.resolve``.
        params: constructor arguments, for a name or a class.
        token: access token, for URLs.
        entry: the call that was given the target, for messages.

    Raises:
        WrongTarget: it is nothing that can be played on; a ``TypeError``. The message lists what
            may be given.
        TargetNotFound: it is text that names nothing; the message has the nearest names.
        InvalidOption: a URL is not valid, or it takes no params or no token.
        TypeError, ValueError: a class cannot be served.
    """
    found = target if isinstance(target, ResolvedTarget) else _read(target, entry)
    return found.with_arguments(params, token)


def environment_spec(
    given: Target, *types: Any, params: Mapping[str, Any] | None = None, entry: str
) -> EnvironmentSpec:
    """Return the environment itself that a call is to serve or to build here.

    Args:
        given: a class, factory, instance or ``EnvironmentSpec``, or text that names one.
        types: action, observation and state type, instead of those that it declares.
        params: constructor arguments.
        entry: the call that was given it, for messages.

    Raises:
        WrongTarget: it is not an environment, or one that is elsewhere.
        TargetNotFound: there is none of this name.
        InvalidOption: it takes no such argument.
    """
    named = isinstance(given, ResolvedTarget | str | os.PathLike)
    if named or is_elsewhere(given):
        return resolve(given, params=params, entry=entry).spec(entry)
    if isinstance(given, EnvironmentSpec):
        return _spec_with(given, params) if params else given
    return EnvironmentSpec(given, *types, params=params)


def is_elsewhere(given: Any) -> bool:
    """Return whether it is a target whose environment is elsewhere, or a coroutine by mistake."""
    return (
        (isinstance(given, list | tuple) and all(isinstance(e, str | tuple) for e in given))
        or isinstance(given, Provider | ModelHooks)
        or (not inspect.isclass(given) and callable(getattr(given, "session", None)))
        or _is_engine(given)
        or inspect.iscoroutine(given)
    )


def _read(given: Any, entry: str) -> ResolvedTarget:
    if isinstance(given, os.PathLike) and isinstance(os.fspath(given), str):
        given = os.path.join(".", given)
    if isinstance(given, str):
        return _of_text(given)
    _refuse_wrong(given, entry)
    if isinstance(given, Provider):
        return ResolvedTarget("provider", f"a provider ({given.name})", [given])
    if isinstance(given, ModelHooks):
        return _of_client(given)
    if isinstance(given, EnvironmentSpec):
        return ResolvedTarget("environment", given.name, given)
    if _is_engine(given):
        return ResolvedTarget("engine", f"the engine of {given.spec.name}", given)
    if not inspect.isclass(given) and callable(getattr(given, "session", None)):
        return ResolvedTarget("pool", f"a pool ({type(given).__name__})", given)
    if is_environment(given):
        spec = EnvironmentSpec(given)
        return ResolvedTarget("environment", spec.name, spec)
    if callable(given):
        return _of_callable(given, entry)
    if isinstance(given, Iterable) and not isinstance(given, bytes | bytearray | Mapping):
        return _of_several(given, entry)
    raise _wrong(given, entry)


def _of_text(text: str) -> ResolvedTarget:
    named = read_name(text)
    match named.kind:
        case "url":
            return ResolvedTarget("url", f"the server at {told_url(named.text)}", named.text)
        case "image":
            return ResolvedTarget("image", f"the image {named.text}", named.text)
        case "space":
            return ResolvedTarget("space", f"the Space {named.text}", named.text)
        case "scheme":
            return ResolvedTarget("named", told_target(named.text), named.text)
        case "installed":
            return ResolvedTarget("named", named.text, named.text, is_installed=True)
        case _:
            return ResolvedTarget("named", named.text, named.text)


def _of_client(client: Any) -> ResolvedTarget:
    from openenv_async.targets.sessions import address_of, is_in_process, refuse_leased

    refuse_leased(client)
    place = "an environment in this process" if is_in_process(client) else address_of(client)[0]
    return ResolvedTarget("client", f"a client of {place}", client)


def _of_several(given: Iterable[Any], entry: str) -> ResolvedTarget:
    several = list(given)
    if not several:
        raise WrongTarget(f"{entry} was given no URL: {shown(given)} is empty")
    if all(isinstance(each, Provider) for each in several):
        return ResolvedTarget("provider", _list_of(several, "provider"), several)
    try:
        addresses = checked_addresses(given if isinstance(given, tuple) else several, "the targets")
    except TypeError as exc:
        raise WrongTarget(f"{entry} cannot play on {_kind_of(given)}: {exc}") from None
    return ResolvedTarget("urls", _list_of(addresses, "server"), addresses)


def _list_of(several: list[Any], noun: str) -> str:
    return f"a list of {len(several)} {noun}{'s' if len(several) > 1 else ''}"


def _of_callable(given: Callable[[], Any], entry: str) -> ResolvedTarget:
    """Return the target of a callable, by what it says that it returns.

    An environment: it is a factory of environments. A list: it finds URLs. Otherwise, also where
    it does not say, it is to make clients.
    """
    name = getattr(given, "__name__", None) or type(given).__name__
    made = _returned(given)
    if _is_several(made) or _finds(given):
        return ResolvedTarget("finder", f"the URL finder {name}", given)
    if inspect.isclass(made) and not issubclass(made, ModelHooks) and hasattr(made, "step"):
        spec = EnvironmentSpec(given)
        return ResolvedTarget("environment", spec.name, spec)
    if inspect.iscoroutinefunction(given):
        raise WrongTarget(
            f"{entry} cannot use {name}, which is async: what makes clients returns one at once"
        )
    _check_no_arguments(given, name, entry)
    return ResolvedTarget("factory", f"the client factory {name}", given)


def _returned(given: Any) -> Any:
    """The class that a callable says it returns; ``None`` where it does not say."""
    while isinstance(given, functools.partial):
        given = given.func
    if inspect.isclass(given):
        return given
    function = given if inspect.isroutine(given) else type(given).__call__
    try:
        made = typing.get_type_hints(function).get("return")
    except (NameError, TypeError, AttributeError):
        return None
    origin = typing.get_origin(made)
    if origin is collections.abc.Awaitable or origin is collections.abc.Coroutine:
        made = typing.get_args(made)[-1]
        origin = typing.get_origin(made)
    return origin or made


def _is_several(made: Any) -> bool:
    return inspect.isclass(made) and made is not str and issubclass(made, collections.abc.Iterable)


def _finds(given: Any) -> bool:
    """Return whether it is a look-up of addresses of a ``StaticProvider``."""
    static = sys.modules.get("openenv_async.providers.static")
    return static is not None and isinstance(given, static._Lookup)


def _check_no_arguments(given: Callable[[], Any], name: str, entry: str) -> None:
    with contextlib.suppress(ValueError):  # a builtin without a signature
        signature = inspect.signature(given)
        try:
            signature.bind()
        except TypeError as exc:
            raise WrongTarget(
                f"{entry} cannot use {name}{signature}, which cannot be called without arguments"
                f" ({exc}): what makes clients is functools.partial(MyEnv, url)"
            ) from None


def is_environment(given: Any) -> bool:
    """Return whether it is an environment or the class of one, rather than a client of it."""
    of_gymnasium = getattr(sys.modules.get("gymnasium"), "Env", None)
    kinds = (Environment,) if of_gymnasium is None else (Environment, of_gymnasium)
    if inspect.isclass(given):
        return issubclass(given, kinds) or _has_calls(given)
    return isinstance(given, kinds) or _has_calls(given) or hosts.is_application(given)


def _has_calls(given: Any) -> bool:
    return callable(getattr(given, "reset", None)) and callable(getattr(given, "step", None))


def _is_engine(given: Any) -> bool:
    module = sys.modules.get("openenv_async.engine.engine")
    return module is not None and isinstance(given, module.Engine)


def _spec_with(spec: EnvironmentSpec, params: Mapping[str, Any]) -> EnvironmentSpec:
    """Return a spec with more constructor arguments."""
    merged = {**spec.params, **params}
    return EnvironmentSpec(spec.source, *spec.models, params=merged, name=spec.name)


# -- what is refused ----------------------------------------------------------------------------


def _wrong(given: Any, entry: str, remedy: str = "") -> WrongTarget:
    return WrongTarget(f"{entry} cannot play on {_kind_of(given)}: {remedy or f'give {TARGETS}'}")


def _kind_of(given: Any) -> str:
    """Return an object as text for a message; a container without its items: one may be a token."""
    if isinstance(given, list | tuple | set | frozenset | dict):
        return f"a {type(given).__name__} of {len(given)}"
    return shown(given)


def _refuse_wrong(given: Any, entry: str) -> None:
    """Return unless it is something often given by mistake.

    Raises:
        WrongTarget: it is; the message has the remedy.
    """
    if inspect.iscoroutine(given):
        given.close()
        raise _wrong(given, entry, "it was not awaited")
    if inspect.ismodule(given):
        name = given.__name__.rpartition(".")[2]
        raise _wrong(given, entry, f"it is a module: name its class, such as {name}.MyEnvironment")
    if inspect.isclass(given):
        if issubclass(given, ModelHooks):
            raise WrongTarget(
                f"{entry} cannot play on {given.__name__}, the class of a client: it needs what"
                f" makes clients, functools.partial({given.__name__}, url)"
            )
        if issubclass(given, Provider):
            raise WrongTarget(f"{entry} needs an instance of the provider {given.__name__}")
        if callable(getattr(given, "session", None)):
            raise WrongTarget(f"{entry} needs an instance of the pool {given.__name__}")
        if not is_environment(given):
            raise _wrong(given, entry)
    elif not (
        isinstance(given, ModelHooks | Provider)
        or hasattr(given, "session")
        or hasattr(given, "reset")
    ):
        if isinstance(given, AbstractAsyncContextManager):
            raise _wrong(given, entry, "it was not entered: async with ... as env")
        if isinstance(given, AbstractContextManager):
            raise _wrong(given, entry, "it was not entered: with ... as env")
    if isinstance(given, str | bytes | bytearray):
        raise _wrong(given, entry)
