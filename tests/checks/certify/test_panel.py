"""The panel of policies that solve nothing."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.certification import Certification
from openenv_async.checks.certify import panel
from openenv_async.checks.certify.subject import Subject
from openenv_async.checks.validation.candidate import Candidate
from openenv_async.errors import InvalidModel
from openenv_async.rollouts.policies import Turn
from openenv_async.types import StepResult


def subject(schema: Any = None, **stated: Any) -> Subject:
    return Subject(Candidate(schema={"action": schema or {}}), Certification(**stated))


def turn(info: Any = None, reward: float | None = None, t: int = 0) -> Turn:
    return Turn(0, t, None, StepResult({}, reward=reward, info=info or {}))


NAMED = {"$defs": {"Text": {"type": "string"}}, "$ref": "#/$defs/Text"}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string"}, ""),
        ({"type": "string", "minLength": 2}, "  "),
        ({"type": "integer", "minimum": 3}, 3),
        ({"type": "integer", "maximum": -2}, -2),
        ({"type": "number"}, 0),
        ({"type": "boolean"}, False),
        ({"type": ["null", "string"]}, None),
        ({"enum": ["left", "right"]}, "left"),
        ({"const": 7}, 7),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        ({"type": "array", "items": {"type": "integer"}}, []),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 2}, [0, 0]),
        ({"type": "array", "prefixItems": [{"type": "string"}, {"const": 1}]}, ["", 1]),
        ({"type": "object"}, {}),
        ({"properties": {"a": NAMED["$defs"]["Text"], "b": {}}, "required": ["a"]}, {"a": ""}),  # type: ignore[index] # a dict
        (NAMED, ""),
        (True, None),
        ({}, None),
    ],
)
def test_the_smallest_action(schema: Any, value: Any) -> None:
    assert panel.smallest(schema) == value


def test_the_smallest_array_lies_in_its_bounds() -> None:
    np = pytest.importorskip("numpy")
    schema = {"x-ndarray": {"dtype": "float32", "shape": [2], "low": [-1.0, 0.5]}}
    assert panel.smallest(schema).tolist() == [0.0, 0.5]
    assert panel.smallest(schema).dtype == np.float32


@pytest.mark.parametrize("schema", [False, {"$ref": "#"}])
def test_of_some_schemas_there_is_none(schema: Any) -> None:
    with pytest.raises(InvalidModel):
        panel.smallest(schema)


def test_doing_nothing_keeps_to_what_is_legal() -> None:
    schema = {"type": "integer", "minimum": 0, "maximum": 3, "x-legal-actions": True}
    policy = panel.does_nothing(subject(schema))
    assert policy({}, turn()) == 0
    assert policy({}, turn({"legal_actions": [2, 3]})) == 2
    assert panel.does_nothing(subject(schema, nothing=None))({}) is None


def test_constants_are_stated_of_the_schema_and_answers() -> None:
    found = panel.constants(subject({"enum": ["left", "right"]}, constants=["up"]))
    assert list(found.values()) == ["up", "left", "right"]
    answers = panel.constants(subject(answer=str), ["teal", "teal", "9", "teal"])
    assert {"0", "yes", "A", "teal", "9"} <= set(answers.values())
    assert panel.constants(subject({"type": "string"})) == {}


def test_what_is_answered_by_the_panel() -> None:
    stated = subject(answer=str)
    seen = {"text": "Is it 17 or 23?", "more": ["or blue"]}
    assert panel.echo(stated)(seen) == "Is it 17 or 23?\nor blue"
    assert {"17", "23", "blue", "yes"} <= set(panel.every_option(stated)(seen).split(", "))
    assert panel.every_option(subject(answer=str, options=lambda o: ["x", "y", "x"]))({}) == "x, y"
    assert panel.nonsense(stated)(seen, turn()) == panel.nonsense(stated)(seen, turn())
    assert panel.nonsense(stated)(seen, turn()) != panel.nonsense(stated)(seen, turn(t=1))


def test_what_was_paid_is_repeated_in_later_episodes_too() -> None:
    drawn = iter("abc")
    policy = panel.Repeats(lambda observation: next(drawn))
    first = policy.for_episode(0)
    assert first({}, turn()) == "a"
    assert first({}, turn(reward=0.0, t=1)) == "b"
    assert first({}, turn(reward=1.0, t=2)) == "b"
    assert policy.for_episode(1)({}, turn()) == "b"
