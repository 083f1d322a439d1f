"""Client classes and types of environments: declared or given by a schema, never guessed."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any, Final

from openenv_async.client.env import EnvClient
from openenv_async.client.models import ModelHooks
from openenv_async.errors import ProviderError, TargetNotFound
from openenv_async.schemas.classes import model_from_schema
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets import manifest
from openenv_async.targets.discovery import (
    find_entry,
    find_target,
    folder_prefix,
    import_object,
    mistaken,
    object_path,
)

__all__ = [
    "async_class",
    "classes_of_folder",
    "classes_of_installed",
    "classes_of_path",
    "classes_of_server",
    "fetch_space",
    "typed_client",
]

_KINDS: Final = ("action", "observation", "state")
_TYPES: Final = ("action_type", "observation_type", "state_type")
_HOOKS: Final = ("_serialize_action", "_parse_observation", "_parse_state")


def typed_client(spec: EnvironmentSpec) -> type[EnvClient[Any, Any, Any]]:
    """Return a client class with the types that an environment declares."""
    title = "".join(part.capitalize() for part in re.split(r"\W|_", spec.name) if part)
    types = {name: spec.types[kind] for name, kind in zip(_TYPES, _KINDS, strict=True)}
    return type(f"{title}Env", (EnvClient,), types)


def async_class(cls: Any) -> Any:
    """Return the async WebSocket client with the types and hooks of any client class."""
    if issubclass(cls, EnvClient):
        return cls
    body: dict[str, Any] = dict(zip(_TYPES, cls.model_types(), strict=True))
    body |= {h: getattr(cls, h) for h in _HOOKS if getattr(cls, h) is not getattr(ModelHooks, h)}
    return type(cls.__name__, (EnvClient,), body)


def fetch_space(name: str) -> Path:
    """Return a Space's files, in a folder of this machine.

    Raises:
        ProviderError: they cannot be had.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ProviderError(
            "the code of a Space needs huggingface_hub: pip install 'openenv-async[hub]'"
        ) from None
    try:
        return Path(snapshot_download(name, repo_type="space"))
    except Exception as exc:  # the library raises what its own dependencies do
        text = " ".join(str(exc).split())
        raise ProviderError(f"the Space {name} cannot be fetched: {text:.300}") from exc


def classes_of_installed(name: str) -> tuple[Any, Any]:
    """Return client class and action type of an installed environment."""
    entry = find_entry(name)
    client, action = entry.client_class(), entry.action_class()
    if client is None:
        client, made = classes_of_path(entry.environment)
        action = action or made
    return client, action or client.model_types()[0]


def classes_of_path(target: str) -> tuple[Any, Any]:
    """Return client class and action type by the types that an environment declares."""
    spec = find_target(target)
    return typed_client(spec), spec.types["action"]


def classes_of_folder(text: str) -> tuple[Any, Any]:
    """Return client class and action type that a folder's manifest names.

    Raises:
        TargetNotFound: it is not a folder of an environment.
    """
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise TargetNotFound(mistaken(text) or f"there is no folder {text!r}")
    about = manifest.load(folder)
    prefix = folder_prefix(folder)
    models = about.models
    action = None if models.action is None else import_object(object_path(prefix, models.action))
    section = about.client
    if section is None or section.class_name is None:
        client, made = classes_of_path(text)
        return client, action or made
    client = import_object(f"{prefix}{section.module}:{section.class_name}")
    if not (inspect.isclass(client) and issubclass(client, ModelHooks)):
        raise TargetNotFound(f"{section.class_name} of {folder} is not an EnvClient")
    return client, action or client.model_types()[0]


async def classes_of_server(url: str, token: str | None) -> tuple[Any, Any]:
    """Return client class and action type made from the schemas that a server gives.

    Raises:
        ConnectFailed: it does not give them.
    """
    from openenv_async.client.server_info import fetch_schema

    schema = await fetch_schema(url, token=token)
    action, observation, state = (
        model_from_schema(schema.get(kind), kind.title()) for kind in _KINDS
    )
    body = {
        "action_type": action.type,
        "observation_type": observation.type,
        "state_type": state.type,
        "_parse_observation": lambda self, data: observation.read(data),
        "_parse_state": lambda self, data: state.read(data),
    }
    return type("SchemaEnv", (EnvClient,), body), action.type
