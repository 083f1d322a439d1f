"""The client."""

from __future__ import annotations

from typing import Any

from echo_env.models import EchoAction, EchoObservation
from openenv_async.client.env import EnvClient

__all__ = ["EchoEnv"]


class EchoEnv(EnvClient[EchoAction, EchoObservation, dict[str, Any]]):
    """One session of a served echo environment."""
