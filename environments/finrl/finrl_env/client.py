"""The client."""

from __future__ import annotations

from finrl_env.models import FinRLAction, FinRLObservation, FinRLState
from openenv_async.client.env import EnvClient

__all__ = ["FinRLEnv"]


class FinRLEnv(EnvClient[FinRLAction, FinRLObservation, FinRLState]):
    """One session of a served FinRL environment."""
