"""Atari 2600 games of the Arcade Learning Environment."""

from __future__ import annotations

from atari_env.client import AtariEnv
from atari_env.models import AtariAction, AtariObservation, AtariState
from openenv_async.targets.discovery import EnvironmentEntry

__all__ = ["ENVIRONMENT", "AtariAction", "AtariEnv", "AtariObservation", "AtariState"]

ENVIRONMENT = EnvironmentEntry(
    environment="atari_env.environment:AtariEnvironment",
    client="atari_env.client:AtariEnv",
    action="atari_env.models:AtariAction",
    image="openenv-async-atari",
)
