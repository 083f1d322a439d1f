"""The REPL environment: Python over a long context, for recursive language models."""

from __future__ import annotations

from openenv_async.targets.discovery import EnvironmentEntry
from repl_env.client import REPLEnv
from repl_env.models import CodeBlockResult, ModelCall, REPLAction, REPLObservation, REPLState

__all__ = [
    "ENVIRONMENT",
    "CodeBlockResult",
    "ModelCall",
    "REPLAction",
    "REPLEnv",
    "REPLObservation",
    "REPLState",
]

ENVIRONMENT = EnvironmentEntry(
    environment="repl_env.environment:REPLEnvironment",
    client="repl_env.client:REPLEnv",
    action="repl_env.models:REPLAction",
    image="openenv-async-repl",
)
