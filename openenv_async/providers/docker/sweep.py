"""Containers of ours on an Engine: who owns them, and removing what nobody owns any more."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Literal

from openenv_async.providers.docker.client import DockerClient
from openenv_async.providers.docker.owner import RUN, Owner, expires_at

__all__ = ["Kept", "kept_containers", "sweep"]

OwnerState = Literal["alive", "gone", "elsewhere"]


@dataclass(frozen=True, slots=True)
class Kept:
    """A container with our labels.

    Attributes:
        owner_state: ``elsewhere``: on a host, or in a container, whose processes cannot be seen.
        created: seconds since the epoch.
        expires: when it may be removed without its owner, in seconds since the epoch.
    """

    name: str
    id: str
    image: str
    state: str
    status: str
    created: float
    expires: float
    owner: Owner
    owner_state: OwnerState

    @property
    def is_orphan(self) -> bool:
        """Return whether its owner is known to be gone."""
        return self.owner_state == "gone"

    @property
    def is_expired(self) -> bool:
        """Return whether its time is over and nobody can say that it has an owner."""
        return self.owner_state == "elsewhere" and self.expires < time.time()


async def kept_containers(engine: DockerClient) -> list[Kept]:
    """All containers with our labels, the oldest first."""
    found = [_kept(listed) for listed in await engine.containers(RUN)]
    return sorted((kept for kept in found if kept is not None), key=lambda kept: kept.created)


async def sweep(engine: DockerClient, *, expired: bool = False) -> list[Kept]:
    """Remove the containers of this host's dead owners; those of others are left alone.

    Args:
        engine: where they are.
        expired: also those whose owner cannot be looked up and whose time is over.

    Returns:
        What was removed.
    """
    kept = await kept_containers(engine)
    left = [one for one in kept if one.is_orphan or (expired and one.is_expired)]
    await asyncio.gather(*(engine.remove(one.id, timeout=60.0) for one in left))
    return left


def _kept(listed: dict[str, Any]) -> Kept | None:
    labels = listed.get("Labels") or {}
    owner = Owner.of(labels)
    if owner is None:
        return None
    state: OwnerState = "elsewhere"
    if owner.is_here():
        state = "alive" if owner.is_alive() else "gone"
    names = listed.get("Names") or [""]
    return Kept(
        names[0].removeprefix("/"),
        listed["Id"],
        listed.get("Image", ""),
        listed.get("State", ""),
        listed.get("Status", ""),
        float(listed.get("Created", 0)),
        expires_at(labels),
        owner,
        state,
    )
