"""Upstream's functions between models and what travels."""

from __future__ import annotations

import pytest
from pydantic import Field, ValidationError

from openenv_async.compat.upstream.mcp_types import CallToolAction, ListToolsAction
from openenv_async.compat.upstream.serialization import (
    deserialize_action,
    deserialize_action_with_preprocessing,
    serialize_observation,
)
from openenv_async.compat.upstream.types import Action, Observation


class Typed(Action):
    type: str
    action_id: int = 0
    arguments: dict[str, int] = Field(default_factory=dict)


class Said(Observation):
    text: str


def test_actions_of_tools_are_told_by_their_type() -> None:
    call = {"type": "call_tool", "tool_name": "look"}
    assert isinstance(deserialize_action(call, Action), CallToolAction)
    assert isinstance(deserialize_action({"type": "list_tools"}, CallToolAction), ListToolsAction)


def test_a_class_of_the_environments_own_decides_for_itself() -> None:
    made = deserialize_action({"type": "list_tools"}, Typed)
    assert isinstance(made, Typed)
    with pytest.raises(ValidationError):
        deserialize_action({"type": "call_tool", "tool_name": "look"}, Typed)


def test_fields_of_a_form_are_text() -> None:
    call = {"type": "call_tool", "tool_name": "look", "arguments": '{"far": 1}'}
    made = deserialize_action_with_preprocessing(call, Action)
    assert isinstance(made, CallToolAction)
    assert made.arguments == {"far": 1}
    moved = deserialize_action_with_preprocessing({"type": "move", "action_id": "4"}, Typed)
    assert isinstance(moved, Typed)
    assert moved.action_id == 4
    with pytest.raises(ValidationError):
        deserialize_action_with_preprocessing({"type": "move", "action_id": "left"}, Typed)


def test_reward_and_done_stand_beside_the_observation() -> None:
    assert serialize_observation(Said(text="hi", reward=1, done=True)) == {
        "observation": {"metadata": {}, "text": "hi"},
        "reward": 1,
        "done": True,
    }
    with_metadata = serialize_observation(Said(text="hi", metadata={"why": "so"}))
    assert with_metadata["metadata"] == with_metadata["observation"]["metadata"] == {"why": "so"}
