"""The manifest of an environment's folder, ``openenv.yaml``.

Its form::

    name: my_env
    version: "1.0.0"
    description: My custom environment
    server:
      port: 8000
      dockerfile: server/Dockerfile
      environment: server.my_environment:MyEnvironment    # optional
    client:
      module: client
      class: MyEnv
    models:
      action: models.MyAction
      observation: models.MyObservation
      state: models.MyState
    dependencies:
      - numpy>=1.20

Only ``name`` is required. ``server.environment`` names the environment class, which otherwise is
looked for. Keys that are not known here are left alone: other tools may have theirs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from openenv_async.errors import TargetNotFound

__all__ = ["MANIFEST", "ClientSection", "Manifest", "ModelsSection", "ServerSection", "load"]

MANIFEST: Final = "openenv.yaml"


class ServerSection(msgspec.Struct, frozen=True):
    """How the environment is served."""

    port: int = 8000
    dockerfile: str = "Dockerfile"
    environment: str | None = None


class ClientSection(msgspec.Struct, frozen=True, rename={"class_name": "class"}):
    """Where the client class is."""

    module: str = "client"
    class_name: str | None = None


class ModelsSection(msgspec.Struct, frozen=True):
    """Where the model types are, as ``module.Name``."""

    action: str | None = None
    observation: str | None = None
    state: str | None = None


class Manifest(msgspec.Struct, frozen=True):
    """The manifest of one environment."""

    name: str
    version: str = "1.0.0"
    description: str = ""
    server: ServerSection = ServerSection()
    client: ClientSection | None = None
    models: ModelsSection = ModelsSection()
    dependencies: tuple[str, ...] = ()


def load(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        TargetNotFound: the folder has none, or it is not what it should be.
    """
    import yaml

    path = folder / MANIFEST
    try:
        data = yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        raise TargetNotFound(f"{folder} has no {MANIFEST}: it is no environment") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as exc:
        text = " ".join(str(exc).split())
        raise TargetNotFound(f"{path} cannot be read: {text}") from exc
    try:
        return msgspec.convert(data, Manifest)
    except msgspec.ValidationError as exc:
        raise TargetNotFound(f"{path} is no manifest: {exc}") from exc
