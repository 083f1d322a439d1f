"""The body of a request to create a container."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from openenv_async.endpoints.tokens import TOKEN_VARIABLE
from openenv_async.providers.docker.options import LEASE_VARIABLE, ContainerOptions, size
from openenv_async.providers.docker.owner import Owner

__all__ = ["READ_ONLY", "create_body"]

READ_ONLY: Final = "openenv_async.read_only"
"""Label of an image whose server writes nowhere but ``/tmp``."""
_USER: Final = "10001:10001"


def create_body(
    image: str,
    config: Mapping[str, Any],
    options: ContainerOptions,
    owner: Owner,
    *,
    token: str,
    lease: float,
) -> dict[str, Any]:
    """The body of the Engine's ``POST /containers/create``.

    Args:
        image: its name.
        config: of the image, as the Engine's inspect gives it.
        options: the caller's.
        owner: this process.
        token: what the server in the container will ask for.
        lease: seconds after which it ends when its owner no longer renews.
    """
    variables = {
        **options.env,
        **options.secrets,
        TOKEN_VARIABLE: token,
        LEASE_VARIABLE: f"{lease:g}",
    }
    body: dict[str, Any] = {
        "Image": image,
        "Env": [f"{name}={value}" for name, value in variables.items()],
        "Labels": {**options.labels, **owner.labels(options.lifetime)},
        "ExposedPorts": {_port(options): {}},
        # Ours is the handshake; the image's would start a process every few seconds.
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": _host_config(options, config.get("Labels") or {}),
    }
    if options.command is not None:
        body["Cmd"] = list(options.command)
    user = options.user
    if user is None and (config.get("User") or "").partition(":")[0] in ("", "0", "root"):
        user = _USER
    if user is not None:
        body["User"] = user
    return body


def _host_config(options: ContainerOptions, labels: Mapping[str, str]) -> dict[str, Any]:
    """Limits, rights and the ways in; ``labels`` are the image's."""
    read_only = options.read_only
    if read_only is None:
        read_only = labels.get(READ_ONLY) == "true"
    memory = size(options.memory)
    host: dict[str, Any] = {
        # An empty host port: the Engine takes a free one, which no two starts can fight over.
        "PortBindings": {_port(options): [{"HostIp": "127.0.0.1", "HostPort": ""}]},
        "Memory": memory,
        "MemorySwap": memory,  # no swap on top of it
        "NanoCpus": int(options.cpus * 1e9),
        "PidsLimit": options.pids,
        "ShmSize": size(options.shm_size),
        "CapDrop": ["ALL"],
        "CapAdd": list(options.cap_add),
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": read_only,
        "Tmpfs": dict(options.tmpfs) if read_only else {},
        "Init": True,
        "Binds": [f"{_source(name)}:{where}" for name, where in options.volumes.items()],
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "8m", "max-file": "2"}},
    }
    if options.networks:
        host["NetworkMode"] = options.networks[0]
    if options.gpus is not None:
        host["DeviceRequests"] = [_gpus(options.gpus)]
    return host


def _port(options: ContainerOptions) -> str:
    return f"{options.port}/tcp"


def _source(name: str) -> str:
    """Return the source of a mount: a path of the Engine's machine, or a named volume as it is."""
    return os.path.abspath(os.path.expanduser(name)) if name.startswith((".", "/", "~")) else name


def _gpus(gpus: int | str | Sequence[str]) -> dict[str, Any]:
    """Return the device request of ``docker run --gpus``: a number, ``"all"`` or ids of devices."""
    request: dict[str, Any] = {"Driver": "", "Capabilities": [["gpu"]]}
    if gpus == "all":
        return request | {"Count": -1}
    if isinstance(gpus, int):
        return request | {"Count": gpus}
    return request | {"DeviceIDs": [gpus] if isinstance(gpus, str) else list(gpus)}
