"""Folders in OpenEnv's form, in words of our own, with the ways in which such folders import."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Final

__all__ = ["write_folder"]

_MODELS: Final = """
    from openenv.core.env_server.types import Action, Observation, State

    class LampAction(Action):
        level: int

    class LampObservation(Observation):
        light: int = 0
        seed: int | None = None

    class LampState(State):
        light: int = 0
"""
_ENVIRONMENT: Final = """
    from openenv.core.env_server.interfaces import Environment
    try:
        from ..models import LampAction, LampObservation, LampState
    except ImportError:
        from models import LampAction, LampObservation, LampState

    class LampEnvironment(Environment):
        def __init__(self, brightest=3):
            super().__init__()
            self.brightest = brightest
            self._state = LampState()
            self.seed = None

        def reset(self, seed=None, episode_id=None, **more):
            self.seed = seed
            self._state = LampState(episode_id=episode_id)
            return LampObservation(seed=seed)

        def step(self, action, timeout_s=None, **more):
            self._state.step_count += 1
            self._state.light += action.level
            done = self._state.light >= self.brightest
            return LampObservation(light=self._state.light, seed=self.seed, reward=1.0, done=done)

        @property
        def state(self):
            return self._state
"""
_APP: Final = """
    from openenv.core.env_server.http_server import create_app
    try:
        from ..models import LampAction, LampObservation
        from .lamp_environment import LampEnvironment
    except ImportError:
        from models import LampAction, LampObservation
        from server.lamp_environment import LampEnvironment

    print("an application may print")

    def create_lamp():
        return LampEnvironment(brightest=5)

    app = create_app(create_lamp, LampAction, LampObservation, env_name="lamp")
"""


def write_folder(
    folder: Path,
    *,
    app: str = _APP,
    environment: str = _ENVIRONMENT,
    models: str = _MODELS,
    named: str | None = "server.app:app",
    project: str = "",
    is_package: bool = True,
) -> Path:
    """Write a folder and return it.

    Args:
        folder: to be made.
        app, environment, models: sources.
        named: the application that the manifest names.
        project: pyproject.toml.
        is_package: whether it has an ``__init__.py``.
    """
    (folder / "server").mkdir(parents=True)
    about = {"spec_version": "1", "name": "lamp_env", "type": "space", "runtime": "fastapi"}
    if named is not None:
        about["app"] = named
    text = "".join(f"{key}: {value}\n" for key, value in about.items())
    (folder / "openenv.yaml").write_text(f"{text}port: 8000\n")
    if is_package:
        (folder / "__init__.py").write_text("")
        (folder / "server/__init__.py").write_text("")
    sources = {"models": models, "server/lamp_environment": environment, "server/app": app}
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
    if project:
        (folder / "pyproject.toml").write_text(textwrap.dedent(project))
    return folder
