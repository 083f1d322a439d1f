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

Upstream's form is read as well: ``spec_version: 1``, ``app: server.app:app`` and ``port`` beside
the name. The needs of ``openenv-async validate`` may be told::

    validation:
      params: {id: CartPole-v1}            # constructor arguments
      actions: [{code: "print(1)"}]        # instead of random ones
      varying: [elapsed]                   # fields that differ from run to run
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from openenv_async.errors import TargetNotFound

__all__ = [
    "MANIFEST",
    "ClientSection",
    "Manifest",
    "ModelsSection",
    "ServerSection",
    "ValidationSection",
    "load",
    "read",
]

MANIFEST: Final = "openenv.yaml"
Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class ServerSection(msgspec.Struct, frozen=True):
    """The settings of the server."""

    port: Port = 8000
    dockerfile: str = "Dockerfile"
    environment: str | None = None


class ClientSection(msgspec.Struct, frozen=True, rename={"class_name": "class"}):
    """The place of the client class."""

    module: str = "client"
    class_name: str | None = None


class ModelsSection(msgspec.Struct, frozen=True):
    """The model types, as ``module.Name``."""

    action: str | None = None
    observation: str | None = None
    state: str | None = None


class ValidationSection(msgspec.Struct, frozen=True):
    """The arguments and actions that ``validate`` plays with.

    Attributes:
        params: constructor arguments.
        actions: actions to choose from; without them they are drawn from the schema.
        varying: names of fields that differ between equal episodes, such as a duration.
    """

    params: dict[str, Any] = {}
    actions: tuple[Any, ...] = ()
    varying: tuple[str, ...] = ()


class Manifest(msgspec.Struct, frozen=True):
    """The manifest of one environment.

    Attributes:
        spec_version: of upstream's form; ``None`` in the other one.
        type, runtime, app, port: of upstream's form; ``app`` is ``module:app``.
    """

    name: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    version: str = "1.0.0"
    description: str = ""
    server: ServerSection = ServerSection()
    client: ClientSection | None = None
    models: ModelsSection = ModelsSection()
    dependencies: tuple[str, ...] = ()
    validation: ValidationSection = ValidationSection()
    spec_version: int | None = None
    type: str | None = None
    runtime: str | None = None
    app: str | None = None
    port: Port | None = None

    @property
    def serving_port(self) -> int:
        """The port that the container listens on."""
        return self.server.port if self.port is None else self.port


def load(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        TargetNotFound: the folder has none, or it is not what it should be.
    """
    path = folder / MANIFEST
    data = read(folder)
    try:
        return msgspec.convert(data, Manifest)
    except msgspec.ValidationError as exc:
        raise TargetNotFound(f"{path} is not a valid manifest: {exc}") from exc


def read(folder: Path) -> Any:
    """Return the contents of the manifest's file, as plain values.

    Raises:
        TargetNotFound: there is none, or it is not YAML.
    """
    import yaml

    path = folder / MANIFEST
    try:
        return yaml.safe_load(path.read_bytes())
    except FileNotFoundError:
        raise TargetNotFound(f"{folder} has no {MANIFEST}: it is not an environment") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as exc:
        text = " ".join(str(exc).split())
        raise TargetNotFound(f"{path} cannot be read: {text}") from exc
