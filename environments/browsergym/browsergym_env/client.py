"""The client."""

from __future__ import annotations

from browsergym_env.models import BrowserGymAction, BrowserGymObservation, BrowserGymState
from openenv_async.client.env import EnvClient

__all__ = ["BrowserGymEnv"]


class BrowserGymEnv(EnvClient[BrowserGymAction, BrowserGymObservation, BrowserGymState]):
    """One session of a served BrowserGym environment."""
