"""Spaces of JSON Schemas, and their elements both ways; nothing is bent to fit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from openenv_async.errors import (
    InvalidAction,
    InvalidModel,
    InvalidObservation,
    OperationUnsupported,
)
from openenv_async.integrations.gymnasium.spaces import codec_of

INT = {"type": "integer"}
SMALL = {"type": "integer", "minimum": 1, "maximum": 4}
BITS: Any = spaces.Box(0, 1, (3,), np.dtype("bool"))
LEAST, MOST = -(2**63), 2**63 - 1


def array(dtype: str, shape: list[int | None], **bounds: Any) -> dict[str, Any]:
    return {"x-ndarray": {"dtype": dtype, "shape": shape, **bounds}}


@pytest.mark.parametrize(
    ("schema", "space"),
    [
        ({"type": "boolean"}, spaces.Discrete(2)),
        (SMALL, spaces.Discrete(4, start=1)),
        (
            {"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 4},
            spaces.Discrete(3, start=1),
        ),
        (
            {"type": "integer", "exclusiveMinimum": 0.5, "exclusiveMaximum": 3.5},
            spaces.Discrete(3, start=1),
        ),
        (
            {"type": "integer", "minimum": 2, "exclusiveMinimum": 0, "maximum": 3},
            spaces.Discrete(2, start=2),
        ),
        (INT, spaces.Box(LEAST, MOST, (), np.int64)),
        ({"type": "integer", "minimum": 3}, spaces.Box(3, MOST, (), np.int64)),
        ({"type": "integer", "maximum": 3}, spaces.Box(LEAST, 3, (), np.int64)),
        ({"type": "number"}, spaces.Box(-math.inf, math.inf, (), np.float64)),
        ({"type": "number", "minimum": 0, "maximum": 1}, spaces.Box(0, 1, (), np.float64)),
        (
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            spaces.Box(math.nextafter(0, 1), math.nextafter(1, 0), (), np.float64),
        ),
        ({"enum": ["a", None, 3]}, spaces.Discrete(3)),
        ({"const": "a"}, spaces.Discrete(1)),
        (
            {"type": "string", "maxLength": 5, "minLength": 2, "x-charset": "ab"},
            spaces.Text(5, min_length=2, charset="ab"),
        ),
        (array("<f4", [2], low=0, high=None), spaces.Box(0, math.inf, (2,), np.float32)),
        (array("|u1", [2, 3]), spaces.Box(0, 255, (2, 3), np.uint8)),
        (array("<i8", [2], low=[1, 2], high=[3, 3]), spaces.MultiDiscrete([3, 2], start=[1, 2])),
        (array("<i8", [1, 2], low=0, high=3), spaces.Box(0, 3, (1, 2), np.int64)),
        (array("<i8", [2], low=0), spaces.Box(0, MOST, (2,), np.int64)),
        (array("|i1", [3], low=0, high=1), spaces.MultiBinary(3)),
        (array("|i1", [3, 2], low=0, high=1), spaces.MultiBinary((3, 2))),
        (array("|i1", [3], low=0, high=2), spaces.Box(0, 2, (3,), np.int8)),
        (array("|b1", [3]), BITS),
        ({"type": "array", "items": SMALL}, spaces.Sequence(spaces.Discrete(4, start=1))),
        (
            {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
            spaces.Box(-math.inf, math.inf, (3,), np.float64),
        ),
        (
            {"type": "array", "items": INT, "minItems": 2, "maxItems": 2},
            spaces.Box(LEAST, MOST, (2,), np.int64),
        ),
        (
            {"type": "array", "items": INT, "minItems": 2, "maxItems": 3},
            spaces.Sequence(spaces.Box(LEAST, MOST, (), np.int64)),
        ),
        (
            {"type": "array", "prefixItems": [SMALL, {"type": "boolean"}]},
            spaces.Tuple([spaces.Discrete(4, start=1), spaces.Discrete(2)]),
        ),
        ({"type": "object", "properties": {"only": SMALL}}, spaces.Discrete(4, start=1)),
        (
            {"type": "object", "properties": {"b": SMALL, "a": {"type": "boolean"}}},
            spaces.Dict({"b": spaces.Discrete(4, start=1), "a": spaces.Discrete(2)}),
        ),
        ({"$ref": "#/$defs/S", "$defs": {"S": SMALL}}, spaces.Discrete(4, start=1)),
    ],
)
def test_the_space_of_a_schema(schema: dict[str, Any], space: spaces.Space[Any]) -> None:
    found = codec_of(schema).space
    assert found == space
    assert found.dtype == space.dtype
    if isinstance(space, spaces.Dict):
        assert isinstance(found, spaces.Dict)
        assert list(found) == sorted(schema["properties"])


@pytest.mark.parametrize(
    ("schema", "element", "sent"),
    [
        ({"type": "boolean"}, 1, True),
        ({"type": "boolean"}, False, False),
        (SMALL, 4, 4),
        (INT, np.int64(7), 7),
        ({"type": "number"}, 2, 2.0),
        ({"enum": ["a", "b"]}, np.int64(1), "b"),
        ({"type": "array", "items": SMALL}, (1, 2), [1, 2]),
        ({"type": "array", "prefixItems": [SMALL, {"type": "boolean"}]}, (1, 0), [1, False]),
        ({"type": "object", "properties": {"only": SMALL}}, 2, {"only": 2}),
        (
            {"type": "object", "properties": {"b": SMALL, "a": {"type": "boolean"}}},
            {"a": 1, "b": 3},
            {"b": 3, "a": True},
        ),
    ],
)
def test_an_element_there_and_back(schema: dict[str, Any], element: Any, sent: Any) -> None:
    codec = codec_of(schema)
    wire = codec.to_wire(element)
    assert wire == sent
    assert type(wire) is type(sent)
    back = codec.from_wire(wire)
    assert back == element or tuple(back) == tuple(element)
    assert codec.space.contains(back)


@pytest.mark.parametrize(
    ("schema", "wrong"),
    [
        ({"type": "boolean"}, 2),
        (SMALL, 5),
        (SMALL, 1.5),
        (INT, "1"),
        ({"enum": ["a", "b"]}, 2),
        ({"enum": ["a", "b"]}, "a"),
        ({"type": "array", "prefixItems": [SMALL, SMALL]}, (1,)),
        ({"type": "array", "prefixItems": [SMALL, SMALL]}, (1, 2, 3)),
        ({"type": "object", "properties": {"b": SMALL, "a": SMALL}}, {"b": 1}),
        ({"type": "object", "properties": {"b": SMALL, "a": SMALL}}, {"b": 1, "a": 1, "c": 1}),
        ({"type": "object", "properties": {"b": SMALL, "a": SMALL}}, [("b", 1), ("a", 1)]),
    ],
)
def test_an_action_that_is_none_of_the_space(schema: dict[str, Any], wrong: Any) -> None:
    with pytest.raises(InvalidAction):
        codec_of(schema).to_wire(wrong)


@pytest.mark.parametrize(
    ("schema", "wrong"),
    [
        ({"type": "boolean"}, "yes"),
        (SMALL, 0),
        ({"enum": ["a", "b"]}, "c"),
        (array("|u1", [2]), np.array([0.5, 1])),
        ({"type": "array", "prefixItems": [SMALL, SMALL]}, [1]),
        ({"type": "array", "prefixItems": [SMALL]}, 5),
        ({"type": "object", "properties": {"only": SMALL}}, {"other": 1}),
        ({"type": "object", "properties": {"only": SMALL}}, 5),
        ({"type": "object", "properties": {"a": SMALL, "b": SMALL}}, {"a": 1}),
    ],
)
def test_an_observation_that_is_none_of_the_space(schema: dict[str, Any], wrong: Any) -> None:
    with pytest.raises(InvalidObservation):
        codec_of(schema).from_wire(wrong)


@pytest.mark.parametrize(
    ("schema", "part"),
    [
        ({}, "the whole value without a type"),
        ({"type": "null"}, "the whole value of type 'null'"),
        ({"type": "object"}, "of type 'object'"),
        ({"anyOf": [INT, {"type": "null"}]}, r"\(integer or null\)"),
        ({"oneOf": [INT, {"$ref": "#"}]}, r"\(integer or object\)"),
        (array("<f4", [None]), "an array of unknown dtype or shape"),
        ({"x-ndarray": {"shape": [1]}}, "an array of unknown dtype or shape"),
        (array("<U3", [1]), "an array of <U3"),
        ({"x-space": {"kind": "unheard of"}}, "x-space cannot be read"),
        (
            {"type": "object", "properties": {"a": SMALL, "b": {"type": "null"}}},
            "'b' of type 'null'",
        ),
        (
            {"type": "array", "prefixItems": [{"type": "object", "properties": {"c": {}}}]},
            r"\[0\]\.c without a type",
        ),
        ({"type": "array", "items": {"type": "array", "items": {}}}, r"\[…\]\[…\] without a type"),
        (
            {
                "$ref": "#/$defs/T",
                "$defs": {"T": {"type": "array", "items": {"$ref": "#/$defs/T"}}},
            },
            "that contains itself",
        ),
    ],
)
def test_a_part_without_a_space_is_named(schema: dict[str, Any], part: str) -> None:
    with pytest.raises(OperationUnsupported, match=f"{part}.*has no Gymnasium space"):
        codec_of(schema)


def test_a_reference_to_nothing() -> None:
    with pytest.raises(InvalidModel):
        codec_of({"$ref": "#/$defs/None"})


def test_optional_parts_without_a_space_are_left_out_of_an_action() -> None:
    schema = {
        "type": "object",
        "properties": {"a": SMALL, "b": SMALL, "c": {"type": "null"}},
        "required": ["a"],
    }
    codec = codec_of(schema, optional=True)
    assert set(codec.space) == {"a", "b"}  # type: ignore[call-overload]  # a Dict
    with pytest.raises(OperationUnsupported, match="'c'"):
        codec_of(schema)
    with pytest.raises(OperationUnsupported, match="'c'"):
        codec_of({**schema, "required": ["c"]}, optional=True)
    none = {"type": "object", "properties": {"c": {"type": "null"}}}
    with pytest.raises(OperationUnsupported, match="without a property that has one"):
        codec_of(none, optional=True)


def test_one_field_of_an_object() -> None:
    schema = {"type": "object", "properties": {"a": SMALL, "b": {"type": "null"}}}
    codec = codec_of(schema, field="a")
    assert codec.space == spaces.Discrete(4, start=1)
    assert codec.to_wire(2) == {"a": 2}
    assert codec.from_wire({"a": 3, "b": None}) == 3
    with pytest.raises(OperationUnsupported, match="no field 'c', only a, b"):
        codec_of(schema, field="c")
    with pytest.raises(OperationUnsupported, match="'b' of type 'null'"):
        codec_of(schema, field="b")
