"""The options of a container, as a caller gives them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from openenv_async.endpoints.local import LOCAL_FOLDER_VARIABLE
from openenv_async.endpoints.tokens import TOKEN_VARIABLE

__all__ = ["LEASE_VARIABLE", "ContainerOptions", "Redactor", "check_limits", "size"]

LEASE_VARIABLE: Final = "OPENENV_OWNER_LEASE"
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MIN_LINE: Final = 8
_UNITS: Final = {"": 1, "b": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True, kw_only=True)
class ContainerOptions:
    """The options of containers; the arguments of ``DockerProvider`` explain them."""

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
    local_folder: bool = True
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
                raise ValueError(f"{name!r} is not a valid name of an environment variable")
            if name in (TOKEN_VARIABLE, LEASE_VARIABLE, LOCAL_FOLDER_VARIABLE):
                raise ValueError(f"{name} is set for each container by its provider")
        if both := self.env.keys() & self.secrets.keys():
            raise ValueError(f"{min(both)} is in env and in secrets: give it once")
        if any(name.startswith("openenv_async.") for name in self.labels):
            raise ValueError("labels that begin with openenv_async. say who owns a container")
        if not 0 < self.port < 65536:
            raise ValueError(f"{self.port} is not a valid port")
        check_limits(self.memory, self.cpus, self.pids, self.lifetime)
        size(self.shm_size)


def check_limits(memory: int | str, cpus: float, pids: int, lifetime: float) -> None:
    """Refuse limits that are none, which the Engine would take for no limit.

    Raises:
        ValueError: one is.
    """
    if not (0 < cpus < math.inf and pids >= 1 and lifetime > 0):
        raise ValueError(
            "cpus, pids and lifetime are positive: a container without limits can take the machine"
            " with it"
        )
    size(memory)


def size(value: int | str) -> int:
    """Bytes of ``512``, ``"512m"`` or ``"2g"``.

    Raises:
        ValueError: it is not a valid size.
    """
    if isinstance(value, int):
        if value <= 0:
            raise ValueError(f"{value} bytes is not a valid size")
        return value
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([bkmgt]?)b?", value.strip().lower())
    if match is None or float(match[1]) <= 0:
        raise ValueError(f"{value!r} is not a valid size: write 512m or 2g")
    return int(float(match[1]) * _UNITS[match[2]])


class Redactor:
    """A filter of secrets in text that leaves this module: errors, and the tails of logs."""

    def __init__(self, secrets: Iterable[str]) -> None:
        words = {secret for secret in secrets if secret}
        # Logs come line by line, and the longest first: one may be part of another.
        words |= {line for word in words for line in word.split("\n") if len(line) >= _MIN_LINE}
        self._secrets = sorted(words, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text
