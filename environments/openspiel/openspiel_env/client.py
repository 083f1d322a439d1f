"""The client."""

from __future__ import annotations

from openenv_async.client.env import EnvClient
from openspiel_env.models import OpenSpielAction, OpenSpielObservation, OpenSpielState

__all__ = ["OpenSpielEnv"]


class OpenSpielEnv(EnvClient[OpenSpielAction, OpenSpielObservation, OpenSpielState]):
    """One session of a served OpenSpiel environment."""
