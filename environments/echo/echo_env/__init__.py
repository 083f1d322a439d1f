"""The echo environment: it says what it is told."""

from __future__ import annotations

from echo_env.client import EchoEnv
from echo_env.models import EchoAction, EchoObservation
from openenv_async.targets.discovery import EnvironmentEntry

__all__ = ["ENVIRONMENT", "EchoAction", "EchoEnv", "EchoObservation"]

ENVIRONMENT = EnvironmentEntry(
    environment="echo_env.environment:EchoEnvironment",
    client="echo_env.client:EchoEnv",
    action="echo_env.models:EchoAction",
    image="openenv-async-echo",
)
