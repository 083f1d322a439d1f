"""Common parts of the adapters: spaces that are given or read, options of resets, rendering."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from openenv_async.environment import RENDER_KEY
from openenv_async.errors import InvalidObservation, InvalidOption, OperationUnsupported
from openenv_async.integrations.gymnasium.settings import (
    Translation,
    frame_of,
    render_metadata,
    render_options,
)

NUMBER = {"type": "integer", "minimum": 0, "maximum": 3}
SCHEMA: dict[str, Any] = {
    "action": {"type": "object", "properties": {"move": NUMBER, "note": {"anyOf": []}}},
    "observation": {"type": "object", "properties": {"a": NUMBER, "b": {"type": "boolean"}}},
}


def with_options(*names: str) -> dict[str, Any]:
    return {**SCHEMA, "reset": {"properties": {name: {} for name in names}}}


def test_spaces_are_read_from_the_schema() -> None:
    made = Translation(SCHEMA)
    assert made.action.space == spaces.Discrete(4)
    assert made.action.to_wire(2) == {"move": 2}
    assert set(made.observation.space) == {"a", "b"}  # type: ignore[call-overload]  # a Dict
    assert not made.decodes_itself


def test_one_field_counts() -> None:
    made = Translation(SCHEMA, observation_field="b", action_field="move")
    assert made.observation.space == spaces.Discrete(2)
    assert made.observation.from_wire({"a": 1, "b": True}) == 1


def test_spaces_that_are_given_go_before_the_schema() -> None:
    made = Translation(
        {"action": {}, "observation": {}},
        action_space=spaces.Discrete(2),
        encode_action=lambda action: {"go": int(action)},
        observation_space=spaces.Box(0, 9, (1,), np.int64),
        decode_observation=lambda seen: np.array([seen["a"]]),
    )
    assert made.decodes_itself
    assert made.action.to_wire(1) == {"go": 1}
    assert made.observation.from_wire({"a": 5}).tolist() == [5]
    with pytest.raises(InvalidObservation):
        made.observation.from_wire({"a": 0.5})


def test_spaces_of_no_numbers_take_what_is_decoded() -> None:
    text = spaces.Text(3)
    made = Translation(
        SCHEMA, action_space=text, observation_space=text, decode_observation=str.upper
    )
    assert made.action.to_wire("as it is") == "as it is"
    assert made.observation.from_wire("longer than three") == "LONGER THAN THREE"


@pytest.mark.parametrize("given", [{"encode_action": str}, {"decode_observation": str}], ids=str)
def test_a_conversion_needs_its_space(given: dict[str, Any]) -> None:
    with pytest.raises(OperationUnsupported, match="encode_action= needs action_space="):
        Translation(SCHEMA, **given)


def test_a_copy_reads_its_spaces_again() -> None:
    made = Translation(SCHEMA, action_field="move", observation_field="a")
    copy = pickle.loads(pickle.dumps(made))
    assert copy.action.space == made.action.space
    assert copy.observation.from_wire({"a": 2}) == 2


def test_options_are_wrapped_if_reset_takes_options() -> None:
    plain, wraps = Translation(with_options("level")), Translation(with_options("options"))
    given = {"level": 2}
    assert plain.reset_options(given, resume=False) == given
    assert plain.reset_options(given, resume=False) is not given
    assert wraps.reset_options(given, resume=False) == {"options": given}
    assert wraps.reset_options({}, resume=False) == {"options": {}}
    for made in (plain, wraps):
        assert made.reset_options(None, resume=False) == {}


def test_a_generator_goes_on_if_the_environment_can() -> None:
    keeps, cannot = Translation(with_options("keep_rng")), Translation(with_options("level"))
    assert keeps.resume_options == {"keep_rng": True}
    assert keeps.reset_options({"a": 1}, resume=True) == {"a": 1, "keep_rng": True}
    assert keeps.reset_options(None, resume=False) == {}
    assert cannot.resume_options is None
    assert cannot.reset_options(None, resume=True) == {}


@pytest.mark.parametrize("options", [5, ["a"], {1: 2}, "ab"])
def test_options_are_a_dict_by_name(options: Any) -> None:
    with pytest.raises(InvalidOption, match=r"reset\(options=…\) must be a dict from names"):
        Translation(SCHEMA).reset_options(options, resume=False)


def test_the_options_of_a_session_that_renders() -> None:
    assert render_options(None) == {}
    assert render_options("rgb_array") == {"render_mode": "rgb_array"}
    with pytest.raises(OperationUnsupported, match="needs a window"):
        render_options("human")


def test_metadata_is_the_environments_without_its_window() -> None:
    about = {"modes": ["human", "rgb_array", "ansi"], "fps": 30}
    schema = {"state": {RENDER_KEY: about}}
    assert render_metadata(schema, "ansi") == {
        "render_modes": ["rgb_array", "ansi"],
        "render_fps": 30,
    }
    assert render_metadata({"state": {RENDER_KEY: {"modes": []}}}, None) == {"render_modes": []}
    with pytest.raises(OperationUnsupported, match=r"'x' \(it has: rgb_array, ansi\)"):
        render_metadata(schema, "x")
    with pytest.raises(OperationUnsupported, match=r"'rgb_array' \(it has: none\)"):
        render_metadata({}, "rgb_array")


def test_a_frame_is_memory_of_the_callers_own() -> None:
    frame = np.zeros((2, 2, 3), np.uint8)
    state = {"frame": frame.view()}
    kept = frame_of(state)
    frame[:] = 1
    assert not kept.any()
    assert frame_of({"frame": "text"}) == "text"
