"""Random values that fit a schema."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async.models import json_schema
from openenv_async.schemas.sample import sample

SEEDS = st.integers(0, 2**32)
RNGS = [random.Random(seed) for seed in range(20)]


class Color(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass
class Node:
    value: Annotated[int, msgspec.Meta(ge=-3, le=7)]
    children: list[Node] = field(default_factory=list)
    next: Node | None = None


@dataclass
class Everything:
    whole: Annotated[int, msgspec.Meta(gt=0, lt=3)]
    share: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
    even: Annotated[int, msgspec.Meta(multiple_of=2)]
    text: Annotated[str, msgspec.Meta(min_length=2, max_length=5)]
    color: Color
    word: Literal["a", "b", 3]
    maybe: int | str | None
    pair: tuple[int, str]
    many: Annotated[list[float], msgspec.Meta(min_length=1, max_length=2)]
    table: dict[str, bool]
    node: Node
    flag: bool = False
    anything: Any = None


@given(seed=SEEDS)
def test_samples_fit_the_model(seed: int) -> None:
    value = sample(json_schema(Everything), random.Random(seed))
    result = msgspec.convert(value, Everything)
    assert result.whole in (1, 2)
    assert set(value) <= set(Everything.__dataclass_fields__)


def test_a_seed_says_it_all() -> None:
    schema = json_schema(Everything)
    assert sample(schema, random.Random(5)) == sample(schema, random.Random(5))


def test_defaults_are_given_half_of_the_time() -> None:
    rng = random.Random(0)
    given_ = sum("flag" in sample(json_schema(Everything), rng) for _ in range(400))
    assert 140 < given_ < 260


@pytest.mark.parametrize("dtype", ["|u1", "<i4", "<i8", "<u8", "<f4", "<f8", "|b1", "<c8", "<i2"])
@given(seed=SEEDS)
def test_arrays(dtype: str, seed: int) -> None:
    spec = {"dtype": dtype, "shape": [2, 3], "low": 0, "high": 1}
    value = sample({"type": "array", "x-ndarray": spec}, random.Random(seed))
    assert isinstance(value, np.ndarray)
    assert (value.dtype.str, value.shape) == (dtype, (2, 3))
    assert (np.real(value) >= 0).all()
    assert (np.real(value) <= 1).all()
    free = sample({"x-ndarray": {"dtype": dtype, "shape": []}}, random.Random(seed))
    assert free.shape == ()


def test_array_bounds_may_be_arrays_and_sizes_open() -> None:
    spec = {"shape": [None, 2], "low": [0.0, 5.0], "high": [1.0, 6.0]}
    value = sample({"x-ndarray": spec}, random.Random(1))
    assert value.dtype == np.float32
    assert 1 <= len(value) <= 4
    assert (value[:, 1] >= 5).all()


def test_another_schema_may_be_given_to_draw_from() -> None:
    schema = {"type": "integer", "minimum": -1, "maximum": 8, "x-sample": {"enum": [3, 5]}}
    drawn = {sample({"type": "array", "items": schema, "minItems": 3}, rng)[0] for rng in RNGS}
    assert drawn == {3, 5}


def test_model_with_arrays() -> None:
    @dataclass
    class Act:
        move: Annotated[
            npt.NDArray[np.int8],
            msgspec.Meta(extra_json_schema={"x-ndarray": {"shape": [3], "low": -1, "high": 1}}),
        ]

    value = sample(json_schema(Act), random.Random(0))["move"]
    assert (value.dtype, value.shape) == (np.dtype(np.int8), (3,))


@given(seed=SEEDS)
def test_plain_schemas(seed: int) -> None:
    rng = random.Random(seed)
    assert sample({"const": {"a": 1}}, rng) == {"a": 1}
    assert sample({"enum": [1, None]}, rng) in (1, None)
    assert sample({}, rng) is None
    assert 5 < sample({"type": "number", "exclusiveMinimum": 5, "exclusiveMaximum": 5.1}, rng) < 5.1
    assert sample({"type": "integer", "exclusiveMinimum": 1, "maximum": 2}, rng) == 2
    assert sample({"type": "integer", "minimum": 0.5, "maximum": 1.5}, rng) == 1
    assert sample({"type": "integer", "minimum": 2**62}, rng) >= 2**62
    assert isinstance(sample({"type": ["integer", "string"]}, rng), int | str)
    assert sample({"properties": {"a": {"type": "null"}}, "required": ["a"]}, rng) == {"a": None}
    assert set(sample({"type": "object", "required": ["z"]}, rng)) == {"z"}
    assert len(sample({"type": "array", "items": {"type": "null"}, "minItems": 9}, rng)) >= 9
    pair = [{"type": "integer"}, {"type": "string"}]
    assert len(sample({"type": "array", "prefixItems": pair, "items": False}, rng)) == 2
    assert sample({"allOf": [{"type": "integer", "minimum": 3}], "maximum": 3}, rng) == 3
    low, high = -1.7e308, 1.7e308
    assert low <= sample({"type": "number", "minimum": low, "maximum": high}, rng) <= high


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"enum": []},
        {"type": "shape"},
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "number", "minimum": 3, "maximum": 2},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "array", "minItems": 3, "maxItems": 1},
        {"type": "string", "minLength": 3, "maxLength": 1},
    ],
)
def test_impossible_schemas_are_value_errors(schema: Any) -> None:
    with pytest.raises(ValueError, match="no "):
        sample(schema, random.Random(0))
