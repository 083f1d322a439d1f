"""What a container is made of: its options, and the Engine's words for them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from openenv_async.providers.docker.owner import Owner
from openenv_async.tokens import TOKEN_VARIABLE

__all__ = ["LEASE_VARIABLE", "READ_ONLY", "ContainerOptions", "Redactor", "create_body"]

LEASE_VARIABLE: Final = "OPENENV_OWNER_LEASE"
READ_ONLY: Final = "openenv_async.read_only"
"""Label of an image whose server writes nowhere but ``/tmp``."""
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MIN_LINE: Final = 8
_USER: Final = "10001:10001"
_UNITS: Final = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True, kw_only=True)
class ContainerOptions:
    """How containers are made; the arguments of ``DockerProvider`` explain them."""

    port: int = 8000
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    command: Sequence[str] | None = None
    memory: int | str = "2g"
    cpus: float = 2.0
    pids: int = 1024
    shm_size: int | str = "64m"
    gpus: int | str | Sequence[str] | None = None
    volumes: Mapping[str, str] = field(default_factory=dict)
    networks: Sequence[str] = ()
    direct: bool = True
    platform: str | None = None
    user: str | None = None
    read_only: bool | None = None
    tmpfs: Mapping[str, str] = field(default_factory=lambda: {"/tmp": "rw,nosuid,nodev,size=256m"})
    cap_add: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    lifetime: float = 86_400.0

    def __post_init__(self) -> None:
        for name in (*self.env, *self.secrets):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of an environment variable")
            if name in (TOKEN_VARIABLE, LEASE_VARIABLE):
                raise ValueError(f"{name} is set for each container by its provider")
        if both := self.env.keys() & self.secrets.keys():
            raise ValueError(f"{min(both)} is in env and in secrets: give it once")
        if any(name.startswith("openenv_async.") for name in self.labels):
            raise ValueError("labels that begin with openenv_async. say who owns a container")
        if not 0 < self.port < 65536:
            raise ValueError(f"{self.port} is no port")
        if self.cpus <= 0 or self.pids < 1 or self.lifetime <= 0:
            raise ValueError("cpus, pids and lifetime are positive: a container without limits can"
                             " take the machine with it")  # fmt: skip
        size(self.memory)
        size(self.shm_size)


def size(value: int | str) -> int:
    """Bytes of ``512``, ``"512m"`` or ``"2g"``.

    Raises:
        ValueError: it is no size.
    """
    if isinstance(value, int):
        if value <= 0:
            raise ValueError(f"{value} bytes is no size")
        return value
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([bkmgt]?)b?", value.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"{value!r} is no size: write 512m or 2g")
    return int(float(match[1]) * _UNITS[match[2]])


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
    port = f"{options.port}/tcp"
    labels = config.get("Labels") or {}
    read_only = options.read_only
    if read_only is None:
        read_only = labels.get(READ_ONLY) == "true"
    variables = {
        **options.env,
        **options.secrets,
        TOKEN_VARIABLE: token,
        LEASE_VARIABLE: f"{lease:g}",
    }
    user = options.user
    if user is None and (config.get("User") or "").partition(":")[0] in ("", "0", "root"):
        user = _USER
    memory = size(options.memory)
    host: dict[str, Any] = {
        # An empty host port: the Engine takes a free one, which no two starts can fight over.
        "PortBindings": {port: [{"HostIp": "127.0.0.1", "HostPort": ""}]},
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
    body: dict[str, Any] = {
        "Image": image,
        "Env": [f"{name}={value}" for name, value in variables.items()],
        "Labels": {**options.labels, **owner.labels(options.lifetime)},
        "ExposedPorts": {port: {}},
        # Ours is the handshake; the image's would start a process every few seconds.
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": host,
    }
    if options.command is not None:
        body["Cmd"] = list(options.command)
    if user is not None:
        body["User"] = user
    return body


def _source(name: str) -> str:
    """What is mounted: a path of the Engine's machine, or a named volume as it is."""
    return os.path.abspath(os.path.expanduser(name)) if name.startswith((".", "/", "~")) else name


def _gpus(gpus: int | str | Sequence[str]) -> dict[str, Any]:
    """As ``docker run --gpus``: a number, ``"all"`` or the ids of devices."""
    request: dict[str, Any] = {"Driver": "", "Capabilities": [["gpu"]]}
    if gpus == "all":
        return request | {"Count": -1}
    if isinstance(gpus, int):
        return request | {"Count": gpus}
    return request | {"DeviceIDs": [gpus] if isinstance(gpus, str) else list(gpus)}


class Redactor:
    """Replaces secrets in text that leaves this module: errors, and the tails of logs."""

    def __init__(self, secrets: Iterable[str]) -> None:
        words = {secret for secret in secrets if secret}
        # Logs come line by line, and the longest first: one may be part of another.
        words |= {line for word in words for line in word.split("\n") if len(line) >= _MIN_LINE}
        self._secrets = sorted(words, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text
