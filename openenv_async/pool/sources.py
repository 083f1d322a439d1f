"""Names of environments and images, as the constructors of a pool take them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openenv_async.client.env import EnvClient
from openenv_async.errors import TargetNotFound
from openenv_async.hosts import is_registered_id
from openenv_async.renamed import renamed_attributes
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets import manifest
from openenv_async.targets.discovery import (
    find_entry,
    image_name,
    is_address,
    is_installed,
    looks_like_path,
)

__all__ = ["image_of", "importable", "installed_client"]


def installed_client(name: str) -> type[EnvClient[Any, Any, Any]] | None:
    """Return the client class of an installed environment, where it has one.

    Raises:
        TargetNotFound: no installed environment has this name.
    """
    if _is_spec(name):
        raise TargetNotFound(
            f"from_env() takes the name of an installed environment, got {name!r}: from_spec()"
            " takes module:Class, folders, Gymnasium's ids and schemes such as mcp:COMMAND"
        )
    found: type[EnvClient[Any, Any, Any]] | None = find_entry(name).client_class()
    return found


def importable(
    spec: EnvironmentSpec | type | str | Path, params: Mapping[str, Any] | None
) -> tuple[str, Mapping[str, Any] | None]:
    """Return the text by which another process finds an environment, and its parameters.

    Raises:
        TargetNotFound: another process could not import it.
    """
    if isinstance(spec, EnvironmentSpec):
        return _import_path(spec._factory), {**spec.params, **(params or {})}
    return (str(spec) if isinstance(spec, str | Path) else _import_path(spec)), params


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


__getattr__ = renamed_attributes(__name__, {"Sources": "openenv_async.pool.pool.EnvPool"})
