"""The games of OpenSpiel."""

from __future__ import annotations

from openenv_async.targets.discovery import EnvironmentEntry
from openspiel_env.client import OpenSpielEnv
from openspiel_env.models import (
    RANDOM_ACTION,
    OpenSpielAction,
    OpenSpielObservation,
    OpenSpielState,
)

__all__ = [
    "ENVIRONMENT",
    "RANDOM_ACTION",
    "OpenSpielAction",
    "OpenSpielEnv",
    "OpenSpielObservation",
    "OpenSpielState",
]

ENVIRONMENT = EnvironmentEntry(
    environment="openspiel_env.environment:OpenSpielEnvironment",
    client="openspiel_env.client:OpenSpielEnv",
    action="openspiel_env.models:OpenSpielAction",
    image="openenv-async-openspiel",
)
