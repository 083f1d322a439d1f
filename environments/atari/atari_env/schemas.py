"""JSON Schemas that know the game."""

from __future__ import annotations

from typing import Any

from atari_env.emulator import Emulator
from atari_env.frames import FrameStack, resize
from atari_env.models import AtariAction, AtariObservation
from atari_env.settings import Settings
from openenv_async.models import json_schema

__all__ = ["schemas"]


def schemas(settings: Settings) -> dict[str, Any]:
    """Action and observation schema for a game played with ``settings``."""
    emulator = Emulator(settings.game_name)
    _, _, _, picture = emulator.start(settings.mode, settings.difficulty, settings.obs_type)
    stack = FrameStack(settings.frame_stack or 1)
    stack.fill(resize(picture) if settings.obs_type == "resized" else picture)
    actions = emulator.actions(settings.full_action_space)
    emulator.release()
    action, observation = json_schema(AtariAction), json_schema(AtariObservation)
    of = _properties(action)
    of["action_id"]["maximum"] = len(actions) - 1
    of["action_id"]["description"] = ", ".join(f"{i}: {a.name}" for i, a in enumerate(actions))
    of = _properties(observation)
    of["screen"]["x-ndarray"] |= {"shape": list(stack.observe().shape), "low": 0, "high": 255}
    of["legal_actions"]["const"] = list(range(len(actions)))
    return {"action": action, "observation": observation}


def _properties(schema: dict[str, Any]) -> dict[str, Any]:
    """The properties of the object that a schema of a model describes."""
    if "$ref" in schema:
        schema = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    properties: dict[str, Any] = schema["properties"]
    return properties
