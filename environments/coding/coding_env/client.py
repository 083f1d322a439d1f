"""The client."""

from __future__ import annotations

from coding_env.models import CodeAction, CodeObservation, CodingState
from openenv_async.client.env import EnvClient

__all__ = ["CodingEnv"]


class CodingEnv(EnvClient[CodeAction, CodeObservation, CodingState]):
    """One session of a served coding environment."""
