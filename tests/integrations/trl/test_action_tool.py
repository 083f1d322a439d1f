"""A tool made of an action's schema: its parameters, hints, defaults and text."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from openenv_async.errors import OperationUnsupported
from openenv_async.integrations.trl.action_tool import action_function

Plain: Any = dict
Floats: Any = list[float]
SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "Move\n  a piece.",
    "properties": {
        "note": {"type": "string", "default": "none"},
        "by": {"type": "integer", "description": "How\n far."},
        "side": {"enum": ["left", "right"]},
        "cost": {"type": ["number", "null"], "default": None},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/Part"}},
        "anything": {},
    },
    "required": ["by", "side"],
    "$defs": {"Part": {"type": "object"}},
}


def hint_of(schema: Any, **more: Any) -> Any:
    """The hint of a required field of this schema."""
    whole = {"type": "object", "properties": {"field": schema}, "required": ["field"], **more}
    return inspect.signature(action_function("act", whole)).parameters["field"].annotation


def test_required_fields_stand_first_and_the_others_have_their_defaults() -> None:
    parameters = inspect.signature(action_function("move", SCHEMA)).parameters
    assert list(parameters) == ["by", "side", "note", "cost", "parts", "anything"]
    assert {each.kind for each in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    no = inspect.Parameter.empty
    assert [each.default for each in parameters.values()] == [no, no, "none", None, None, None]
    assert {name: each.annotation for name, each in parameters.items()} == {
        "by": int,
        "side": str,
        "note": str,
        "cost": float | None,
        "parts": list[Plain] | None,
        "anything": Any,
    }


def test_its_text_is_that_of_the_schema() -> None:
    tool = action_function("move", SCHEMA)
    assert tool.__name__ == tool.__qualname__ == "move"
    assert inspect.getdoc(tool) == (
        "Move a piece.\n\nArgs:\n"
        "    by: How far.\n"
        "    side: The side. One of left, right.\n"
        "    note: The note.\n"
        "    cost: The cost.\n"
        "    parts: The parts.\n"
        "    anything: The anything."
    )


def test_it_makes_an_action_of_the_fields_that_are_given() -> None:
    tool = action_function("move", SCHEMA)
    assert tool(by=0, side="left", note="", cost=None) == {"by": 0, "side": "left", "note": ""}


def test_an_action_without_fields_is_a_call_without_arguments() -> None:
    tool = action_function("wait", {"type": "object"})
    assert tool() == {}
    assert tool.__doc__ == "Take one action."
    assert not inspect.signature(tool).parameters


@pytest.mark.parametrize(
    ("schema", "hint"),
    [
        ({"type": "string"}, str),
        ({"type": "boolean"}, bool),
        ({"type": "object"}, dict),
        ({"type": "array"}, list),
        ({"type": "array", "items": {"type": "array", "items": {"type": "number"}}}, list[Floats]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, int | None),
        ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, int | str),
        ({"anyOf": [{"type": "integer"}, {}]}, Any),
        ({"type": ["integer", "string", "null"]}, int | str | None),
        ({"type": "unheard of"}, Any),
        ({"enum": [1, 2]}, int),
        (True, Any),
    ],
)
def test_hints(schema: Any, hint: Any) -> None:
    assert hint_of(schema) == hint


def test_a_schema_that_contains_itself_has_an_end() -> None:
    tree = {"type": "array", "items": {"$ref": "#/$defs/Tree"}}
    hint = hint_of({"$ref": "#/$defs/Tree"}, **{"$defs": {"Tree": tree}})
    depth = 0
    while hint is not Any:
        (hint,) = hint.__args__
        depth += 1
    assert depth == 17


def test_the_action_may_be_a_reference() -> None:
    whole = {
        "$ref": "#/$defs/Act",
        "$defs": {"Act": {"type": "object", "properties": {"a": {"type": "integer"}}}},
    }
    assert list(inspect.signature(action_function("act", whole)).parameters) == ["a"]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer"},
        {},
        {"type": "object", "properties": {"not a name": {}}},
    ],
)
def test_an_action_that_is_no_object_of_named_fields(schema: dict[str, Any]) -> None:
    with pytest.raises(OperationUnsupported, match="not an object of named fields: give tools="):
        action_function("act", schema)
