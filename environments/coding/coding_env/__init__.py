"""The coding environment: Python execution for agents, with hidden tests or without."""

from __future__ import annotations

from coding_env.client import CodingEnv
from coding_env.models import CodeAction, CodeObservation, CodingState
from openenv_async.targets.discovery import EnvironmentEntry

__all__ = ["ENVIRONMENT", "CodeAction", "CodeObservation", "CodingEnv", "CodingState"]

ENVIRONMENT = EnvironmentEntry(
    environment="coding_env.environment:CodingEnvironment",
    client="coding_env.client:CodingEnv",
    action="coding_env.models:CodeAction",
    image="openenv-async-coding",
)
