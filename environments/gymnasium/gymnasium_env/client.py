"""The client."""

from __future__ import annotations

from gymnasium_env.models import GymnasiumAction, GymnasiumObservation, GymnasiumState
from openenv_async.client.env import EnvClient

__all__ = ["GymnasiumEnv"]


class GymnasiumEnv(EnvClient[GymnasiumAction, GymnasiumObservation, GymnasiumState]):
    """One session of a served Gymnasium environment."""
