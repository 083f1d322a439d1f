"""Portfolio trading on daily stock prices."""

from __future__ import annotations

from finrl_env.client import FinRLEnv
from finrl_env.frames import data_of
from finrl_env.models import FinRLAction, FinRLMetrics, FinRLObservation, FinRLState
from openenv_async.targets.discovery import EnvironmentEntry

__all__ = [
    "ENVIRONMENT",
    "FinRLAction",
    "FinRLEnv",
    "FinRLMetrics",
    "FinRLObservation",
    "FinRLState",
    "data_of",
]

ENVIRONMENT = EnvironmentEntry(
    environment="finrl_env.environment:FinRLEnvironment",
    client="finrl_env.client:FinRLEnv",
    action="finrl_env.models:FinRLAction",
    image="openenv-async-finrl",
)
