"""The client."""

from __future__ import annotations

from atari_env.models import AtariAction, AtariObservation, AtariState
from openenv_async.client.env import EnvClient

__all__ = ["AtariEnv"]


class AtariEnv(EnvClient[AtariAction, AtariObservation, AtariState]):
    """One session of a served Atari environment."""
