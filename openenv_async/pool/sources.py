"""The ways to name what a pool plays: an environment, an image, addresses."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from openenv_async.errors import TargetNotFound
from openenv_async.hosts import is_registered_id
from openenv_async.providers.base import Provider
from openenv_async.providers.process import ProcessProvider
from openenv_async.providers.static import Finder, StaticProvider
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets import manifest
from openenv_async.targets.discovery import (
    find_entry,
    image_name,
    is_address,
    is_installed,
    looks_like_path,
)

__all__ = ["PoolConstructors", "image_of"]


class PoolConstructors:
    """The constructors of a pool.

    ``options`` are those of ``EnvPool``; what it does not know goes to the provider.
    """

    @classmethod
    def pool_class(cls) -> type:
        """Return the class whose options the constructors take."""
        return cls

    @classmethod
    def from_env(cls, name: str, params: Mapping[str, Any] | None = None, **options: Any) -> Self:
        """Server processes of an installed environment, with its client class.

        Args:
            name: of the environment.
            params: its constructor arguments.
            options: of ``EnvPool`` and ``ProcessProvider``.

        Raises:
            TargetNotFound: no installed environment has this name.
        """
        if _is_spec(name):
            raise TargetNotFound(
                f"from_env() takes the name of an installed environment, got {name!r}: from_spec()"
                " takes module:Class, folders and Gymnasium's ids"
            )
        entry = find_entry(name)
        client = entry.client_class()
        if client is not None:
            options.setdefault("client", client)
        return cls._of(ProcessProvider, name, params, **options)

    @classmethod
    def from_spec(
        cls,
        spec: EnvironmentSpec | type | str | Path,
        params: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """Server processes of an environment that need not be installed.

        Args:
            spec: ``module:Class``, a folder with an ``openenv.yaml``, the id of a registered
                Gymnasium environment, an ``Environment`` class or an ``EnvironmentSpec`` of one;
                a class must be importable by its name.
            params: constructor arguments.
            options: of ``EnvPool`` and ``ProcessProvider``.

        Raises:
            TargetNotFound: another process could not import it.
        """
        if isinstance(spec, EnvironmentSpec):
            params = {**spec.params, **(params or {})}
            target = _import_path(spec._factory)
        else:
            target = str(spec) if isinstance(spec, str | Path) else _import_path(spec)
        return cls._of(ProcessProvider, target, params, **options)

    @classmethod
    def from_docker_image(cls, image: str, **options: Any) -> Self:
        """Containers of an image.

        Args:
            image: its name.
            options: of ``EnvPool`` and ``DockerProvider``.
        """
        from openenv_async.providers.docker import DockerProvider

        return cls._of(DockerProvider, image, **options)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """A server that runs already.

        Args:
            url: of the server.
            options: of ``EnvPool``, and ``token``.
        """
        return cls._of(StaticProvider, url, **options)

    @classmethod
    def from_urls(cls, urls: Iterable[str] | Finder, **options: Any) -> Self:
        """Servers that run already.

        Args:
            urls: theirs, or a callable, sync or async, that gives them and is asked again.
            options: of ``EnvPool`` and ``StaticProvider``, ``token`` among them.
        """
        addresses = (urls,) if callable(urls) or isinstance(urls, str) else urls
        return cls._of(StaticProvider, *addresses, **options)

    @classmethod
    def from_dns(cls, url: str, **options: Any) -> Self:
        """The servers at all addresses of a host name, which is looked up again and again.

        Args:
            url: with the host name.
            options: of ``EnvPool`` and ``StaticProvider``, ``token`` among them.
        """
        return cls._of(StaticProvider.from_dns, url, **options)

    @classmethod
    def from_space(cls, space: str, **options: Any) -> Self:
        """A Hugging Face Space.

        Args:
            space: ``owner/name``.
            options: of ``EnvPool`` and ``SpaceProvider``.
        """
        from openenv_async.providers.space import SpaceProvider

        return cls._of(SpaceProvider, space, **options)

    @classmethod
    def _of(cls, make: Any, *args: Any, **options: Any) -> Self:
        """A pool of the provider that ``make`` makes of the options that are not the pool's."""
        own = set(inspect.signature(cls.pool_class()).parameters) - {"provider"}
        given = {name: options.pop(name) for name in own & options.keys()}
        if make is ProcessProvider and "sessions_per_worker" in given:
            options.setdefault("max_sessions", given["sessions_per_worker"])
        provider: Provider = make(*args, **options)
        make_pool: Any = cls
        pool: Self = make_pool(provider, **given)
        return pool


def image_of(target: str) -> str:
    """The image that serves an environment: its entry's, or the one that ``build`` makes.

    A target that is neither an installed environment nor a folder is an image's name itself.

    Raises:
        TargetNotFound: it is the ``module:Class`` of a file that is here.
    """
    if is_installed(target):
        return find_entry(target).image or image_name(target)
    folder = Path(target).expanduser()
    if (folder / manifest.MANIFEST).is_file():
        return image_name(manifest.load(folder).name)
    module, colon, _ = target.partition(":")
    if colon and "/" not in target and Path(*module.split(".")).with_suffix(".py").is_file():
        raise TargetNotFound(
            f"{target} is a class of a file, and containers run images: make a folder of it with"
            " openenv-async init, and its image with openenv-async build"
        )
    return target


def _import_path(made_by: Any) -> str:
    name = getattr(made_by, "__qualname__", repr(made_by))
    path = f"{getattr(made_by, '__module__', '?')}:{name}"
    if not inspect.isclass(made_by) or path.startswith("__main__:") or "<locals>" in path:
        raise TargetNotFound(
            f"another process cannot import {path}: define the class in a module of its own"
        )
    return path


def _is_spec(text: object) -> bool:
    """Tell whether a text is written as what ``from_spec`` takes, and names nothing installed."""
    if not isinstance(text, str):
        return False
    written = ":" in text or looks_like_path(text) or is_registered_id(text)
    return written and not is_address(text) and not is_installed(text)
