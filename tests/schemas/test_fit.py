"""Values against schemas."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest

from openenv_async.checks.validation import misfit
from openenv_async.models import PayloadCodec, json_schema
from openenv_async.schemas.classes import model_from_schema
from openenv_async.schemas.sample import sample
from tests.checks.validation.broken import Move, Seen

ITEM = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
PATTERNS = {"patternProperties": {"^x": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("value", "schema", "problem"),
    [
        (1, {"type": "integer"}, None),
        (1.0, {"type": "integer"}, None),
        (True, {"type": "integer"}, "$ is bool True, not integer"),
        (None, {"type": ["integer", "null"]}, None),
        ("a", {"type": "number"}, "$ is str 'a', not number"),
        (3, {"minimum": 4}, "beyond the minimum 4"),
        (4, {"exclusiveMaximum": 4}, "beyond the exclusiveMaximum 4"),
        ("abc", {"maxLength": 2}, "3 characters"),
        ("abc", {"pattern": "^b"}, "not like ^b"),
        (b"abc", {"type": "string", "contentEncoding": "base64"}, None),
        ([1, 2], {"maxItems": 1}, "2 items"),
        ([1, "a"], {"items": {"type": "integer"}}, "$[1] is str 'a', not integer"),
        ([1, "a"], {"prefixItems": [{"type": "string"}]}, "$[0] is int 1, not string"),
        ({}, ITEM, "$ lacks 'n'"),
        ({"n": 1, "m": 2}, {**ITEM, "additionalProperties": False}, "has 'm'"),
        ({"n": 1, "m": 2}, {**ITEM, "additionalProperties": {"type": "string"}}, "$.m is int 2"),
        ({"n": "x"}, {"$ref": "#/$defs/I", "$defs": {"I": ITEM}}, "$.n is str 'x'"),
        ({"x1": 1}, {**PATTERNS, "additionalProperties": False}, None),
        ({"x1": "a"}, PATTERNS, "$.x1 is str 'a'"),
        ({"y1": 1}, {**PATTERNS, "additionalProperties": False}, "has 'y1'"),
        (0, {"minimum": 0, "exclusiveMinimum": False}, None),
        (0, {"minimum": -1, "exclusiveMinimum": True}, None),
        (1, {"anyOf": [{"type": "string"}, {"type": "null"}]}, "fits none"),
        (1, {"allOf": [{"type": "integer"}, {"minimum": 2}]}, "minimum 2"),
        (1, {"enum": [2, 3]}, "none of [2, 3]"),
        (1, {"const": 2}, "not 2"),
        (1, False, "must not be there"),
        (np.zeros(3, "f4"), {"x-ndarray": {"dtype": "<f4", "shape": [3]}}, None),
        (np.zeros(3, "f4"), {"x-ndarray": {"shape": [-1]}}, None),
        (np.zeros(3, "f4"), {"x-ndarray": {"shape": [4]}}, "the shape (3,), not (4,)"),
        (np.zeros(3, "f8"), {"x-ndarray": {"dtype": "<f4"}}, "the dtype <f8"),
        (np.full(3, 9, "u1"), {"x-ndarray": {"high": 8}}, "beyond high = 8"),
        ("a", {"x-ndarray": {}}, "not an array"),
        (np.float32(1), {"type": "number"}, None),
    ],
)
def test_what_fits(value: Any, schema: Any, problem: str | None) -> None:
    found = misfit(value, schema)
    assert (found is None) if problem is None else (problem in str(found)), found


@dataclass
class Inner:
    text: str
    number: int | None = None


@dataclass
class Outer:
    """What it is."""

    inner: Inner
    several: list[Inner]
    tags: dict[str, float]
    kind: str = "plain"


@pytest.mark.parametrize("model", [Move, Seen, Outer, int, list[str], dict[str, Any]])
def test_what_is_drawn_from_a_schema_fits_it(model: Any) -> None:
    schema = json_schema(model)
    rng = random.Random(1)
    for _ in range(100):
        value = sample(schema, rng)
        assert misfit(value, schema) is None


def test_a_class_from_a_schema_is_like_the_one_it_was_made_of() -> None:
    made = model_from_schema(json_schema(Outer), "Thing")
    assert made.type.__name__ == "Outer"
    assert made.type.__doc__ == "What it is."
    value = Outer(Inner("a", 1), [Inner("b")], {"x": 1.5}, "odd")
    read = made.read(msgspec.to_builtins(value))
    assert isinstance(read, made.type)
    assert (read.inner.text, read.inner.number, read.several[0].number) == ("a", 1, None)
    assert (read.tags, read.kind) == ({"x": 1.5}, "odd")
    encoded = PayloadCodec(made.type, "json").encode(read)
    assert msgspec.json.decode(encoded, type=Outer) == value
    assert made.type(inner=None, several=[], tags={}).kind == "plain"


def test_a_class_from_a_schema_reads_more_than_it_knows() -> None:
    made = model_from_schema(json_schema(Inner), "Thing")
    assert made.read({"text": "a", "new": 1}).text == "a"
    assert made.read({"number": 1}) == {"number": 1}
    assert made.read(None) is None


@pytest.mark.parametrize("schema", [None, {}, {"type": "integer"}, {"type": "object"}])
def test_what_is_no_object_stays_plain(schema: Any) -> None:
    made = model_from_schema(schema, "Thing")
    assert made.read({"a": 1}) == {"a": 1}


def test_a_field_that_cannot_be_an_attribute_makes_a_dict() -> None:
    schema = {"type": "object", "properties": {"class": {"type": "string"}}}
    assert model_from_schema(schema, "Thing").type is dict
