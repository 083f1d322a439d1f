"""Any registered Gymnasium environment."""

from __future__ import annotations

from gymnasium_env.client import GymnasiumEnv
from gymnasium_env.models import GymnasiumAction, GymnasiumObservation, GymnasiumState
from openenv_async.targets.discovery import EnvironmentEntry

__all__ = [
    "ENVIRONMENT",
    "INLINE_ENVIRONMENT",
    "GymnasiumAction",
    "GymnasiumEnv",
    "GymnasiumObservation",
    "GymnasiumState",
]

ENVIRONMENT = EnvironmentEntry(
    environment="gymnasium_env.environment:GymnasiumEnvironment",
    client="gymnasium_env.client:GymnasiumEnv",
    action="gymnasium_env.models:GymnasiumAction",
    image="openenv-async-gymnasium",
)
INLINE_ENVIRONMENT = EnvironmentEntry(
    environment="gymnasium_env.environment:InlineGymnasiumEnvironment",
    client="gymnasium_env.client:GymnasiumEnv",
    action="gymnasium_env.models:GymnasiumAction",
    image="openenv-async-gymnasium",
)
