"""What a call of ``from_env`` names, and the classes that it has: declared, never guessed."""

from __future__ import annotations

import inspect
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from openenv_async.client.env import EnvClient
from openenv_async.client.models import ModelHooks
from openenv_async.endpoints.addresses import checked_url
from openenv_async.errors import (
    ConnectFailed,
    InvalidOption,
    ProviderError,
    TargetNotFound,
    shown,
)
from openenv_async.schemas.classes import model_from_schema
from openenv_async.targets import manifest
from openenv_async.targets.discovery import (
    EnvironmentEntry,
    find_entry,
    find_target,
    folder_prefix,
    import_object,
    is_installed,
    looks_like_path,
    mistaken,
    object_path,
)

__all__ = ["Asked", "classes_of_server", "fetch_space", "read_source"]

log = logging.getLogger("openenv_async.targets")

_SPACE: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_KINDS: Final = ("action", "observation", "state")


@dataclass(slots=True)
class Asked:
    """What a call of ``from_env`` names.

    Attributes:
        label: for messages.
        target: what a local process can serve; ``None`` for what lies elsewhere.
        url: where it is served already.
        image: what a container can be made of, and whether it was asked for.
        space: ``owner/name``.
        client: the environment's own client class.
        action: its own action type.
    """

    label: str
    target: str | None = None
    url: str | None = None
    image: str | None = None
    wants_image: bool = False
    space: str | None = None
    client: Any = None
    action: Any = None


def read_source(
    name: str | None, base_url: str | None, image: str | None, trust_remote_code: bool
) -> Asked:
    """What is asked for, and the classes that it has here.

    Raises:
        TargetNotFound, InvalidOption: it makes no sense.
    """
    arguments: tuple[tuple[str, Any], ...] = (("name", name), ("image", image))
    for what, given in arguments:
        if given is not None and not isinstance(given, str):
            cls = given if inspect.isclass(given) else type(given)
            cure = f": connect({cls.__name__}) plays on it" if hasattr(cls, "step") else ""
            raise TypeError(f"{what} must be text, got {shown(given)}{cure}")
    if base_url is not None:
        checked_url(base_url)
    if name is None and base_url is None and image is None:
        raise InvalidOption("name an environment, or give base_url= or image=")
    if base_url is not None and image is not None:
        raise InvalidOption("base_url= is a server that runs, image= one to be started: give one")
    asked = Asked(name or base_url or image or "", url=base_url, image=image)
    asked.wants_image = image is not None
    if name is None:
        return asked
    if "://" in name:
        raise InvalidOption(f"{name!r} is an address: give it as base_url=")
    if looks_like_path(name):
        if _SPACE.fullmatch(name) and not Path(name).exists():
            return _read_space(asked, name, trust_remote_code)
        asked.client, asked.action = _classes_of_folder(name)
        asked.target = name
    elif ":" in name:
        asked.client, asked.action = _classes_of_spec(name)
        asked.target = name
    elif (Path(name) / manifest.MANIFEST).is_file() and not is_installed(name):
        asked.client, asked.action = _classes_of_folder(name)
        asked.target = f"./{name}"
    else:
        entry = find_entry(name)
        asked.client, asked.action = _classes_of_entry(entry)
        asked.target = name
        asked.image = asked.image or entry.image
    return asked


def _read_space(asked: Asked, name: str, trust_remote_code: bool) -> Asked:
    from openenv_async.providers.space import space_url

    asked.space = name
    asked.url = asked.url or space_url(name)
    if trust_remote_code:
        asked.client, asked.action = _classes_of_folder(str(fetch_space(name)))
    else:
        log.info("%s: its code is not run; classes come from its schema (trust_remote_code)", name)
    return asked


def fetch_space(name: str) -> Path:
    """A Space's files in a folder of this machine.

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


def _classes_of_entry(entry: EnvironmentEntry) -> tuple[Any, Any]:
    client, action = entry.client_class(), entry.action_class()
    if client is None:
        client, made = _classes_of_spec(entry.environment)
        action = action or made
    return client, action or client.model_types()[0]


def _classes_of_spec(target: str) -> tuple[Any, Any]:
    """A client class with the types that an environment declares."""
    spec = find_target(target)
    action, observation, state = (spec.types[kind] for kind in _KINDS)
    return _client_class(spec.name, action, observation, state), action


def _classes_of_folder(text: str) -> tuple[Any, Any]:
    folder = Path(text).expanduser()
    if not folder.is_dir():
        raise TargetNotFound(mistaken(text) or f"there is no folder {text!r}")
    about = manifest.load(folder)
    prefix = folder_prefix(folder)
    models = about.models
    action = None if models.action is None else import_object(object_path(prefix, models.action))
    section = about.client
    if section is None or section.class_name is None:
        client, made = _classes_of_spec(text)
        return client, action or made
    client = import_object(f"{prefix}{section.module}:{section.class_name}")
    if not (inspect.isclass(client) and issubclass(client, ModelHooks)):
        raise TargetNotFound(f"{section.class_name} of {folder} is no EnvClient")
    return client, action or client.model_types()[0]


def _client_class(name: str, action: Any, observation: Any, state: Any) -> Any:
    title = "".join(part.capitalize() for part in re.split(r"\W|_", name) if part)
    types = {"action_type": action, "observation_type": observation, "state_type": state}
    return type(f"{title}Env", (EnvClient,), types)


async def classes_of_server(asked: Asked, url: str, token: str | None) -> tuple[Any, Any]:
    """Classes made from the schemas that a server gives."""
    from openenv_async.client.server_info import fetch_schema

    try:
        schema = await fetch_schema(url, token=token)
    except ConnectFailed as exc:
        if asked.space is None:
            raise
        raise ConnectFailed(
            f"there is no folder {asked.space!r}, and as a Space it does not answer: {exc.message}"
        ) from exc
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
