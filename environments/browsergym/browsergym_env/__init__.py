"""Web tasks on a real browser: MiniWoB++ pages, offline, in Chromium."""

from __future__ import annotations

from browsergym_env.client import BrowserGymEnv
from browsergym_env.models import BrowserGymAction, BrowserGymObservation, BrowserGymState
from browsergym_env.tasks import TASKS, TEST_TASKS, TRAIN_TASKS
from openenv_async.targets.discovery import EnvironmentEntry

__all__ = [
    "ENVIRONMENT",
    "TASKS",
    "TEST_TASKS",
    "TRAIN_TASKS",
    "BrowserGymAction",
    "BrowserGymEnv",
    "BrowserGymObservation",
    "BrowserGymState",
]

ENVIRONMENT = EnvironmentEntry(
    environment="browsergym_env.environment:BrowserGymEnvironment",
    client="browsergym_env.client:BrowserGymEnv",
    action="browsergym_env.models:BrowserGymAction",
    image="openenv-async-browsergym",
)
