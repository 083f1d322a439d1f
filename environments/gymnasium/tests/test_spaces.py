"""Spaces on the wire."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium_env.spaces import reader, schema, writer

from openenv_async.errors import InvalidAction, InvalidOption
from openenv_async.models import PayloadCodec
from openenv_async.schemas.sample import sample

INF = float("inf")
SPACES: list[spaces.Space[Any]] = [
    spaces.Discrete(3),
    spaces.Discrete(4, start=-2),
    spaces.Box(-1.0, 1.0, (2, 3), np.float32),
    spaces.Box(-INF, INF, (2,), np.float64),
    spaces.Box(np.array([-INF, 0.0, 2.0, -5.0]), np.array([-3.0, INF, 3.0, INF]), dtype=np.float64),
    spaces.Box(0, 255, (4, 4, 3), np.uint8),
    spaces.Box(0.0, 1.0, (), np.float32),
    spaces.MultiDiscrete([3, 5, 2]),
    spaces.MultiDiscrete(np.array([[3, 5], [2, 2]]), start=np.array([[1, 0], [-1, 4]])),
    spaces.MultiBinary(4),
    spaces.MultiBinary((2, 2)),
    spaces.Text(5, min_length=2, charset="abc"),
    spaces.Tuple((spaces.Discrete(2), spaces.Box(0.0, 1.0, (1,)))),
    spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Dict({"c": spaces.MultiBinary(2)})}),
    spaces.Sequence(spaces.Discrete(3)),
    spaces.Graph(spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(3)),
    spaces.Graph(spaces.Discrete(4), None),
    spaces.OneOf((spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,)), spaces.MultiBinary(2))),
    spaces.Dict({"g": spaces.Graph(spaces.Box(0.0, 1.0, (1,)), spaces.Box(0.0, 1.0, (2,)))}),
]


GRAPH = spaces.Graph(spaces.Box(0.0, 1.0, (1,)), spaces.Discrete(3))
ONE_OF = spaces.OneOf((spaces.Discrete(2), spaces.Box(0.0, 1.0, (2,))))


def same(left: Any, right: Any) -> bool:
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[k], right[k]) for k in left)
    if isinstance(left, list | tuple):
        if isinstance(left, spaces.GraphInstance) is not isinstance(right, spaces.GraphInstance):
            return False
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    return bool(left == right)


@pytest.mark.parametrize("space", SPACES, ids=str)
@pytest.mark.parametrize("format", ["msgpack", "json"])
def test_elements_travel_both_ways(space: spaces.Space[Any], format: Any) -> None:
    space.seed(0)
    codec: PayloadCodec[Any] = PayloadCodec(Any, format)
    write, read = writer(space), reader(space)
    for _ in range(20):
        element = space.sample()
        there = codec.decode(codec.encode(write(element)))
        back = read(there)
        assert space.contains(back)
        assert same(back, element)


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_samples_of_the_schema_are_elements(space: spaces.Space[Any]) -> None:
    described = json.loads(json.dumps(schema(space)))
    rng, read = random.Random(0), reader(space)
    for _ in range(50):
        assert space.contains(read(sample(described, rng)))


def test_the_schema_says_what_an_array_is() -> None:
    assert schema(spaces.Box(-2.0, 2.0, (1,), np.float32)) == {
        "type": "array",
        "x-ndarray": {"dtype": "<f4", "shape": [1], "low": -2.0, "high": 2.0},
    }
    mixed = spaces.Box(np.array([-INF, 0.0]), np.array([INF, 1.0]), dtype=np.float64)
    assert schema(mixed)["x-ndarray"] == {
        "dtype": "<f8",
        "shape": [2],
        "low": [None, 0.0],
        "high": [None, 1.0],
    }
    assert schema(spaces.Discrete(3, start=1)) == {"type": "integer", "minimum": 1, "maximum": 3}


@pytest.mark.parametrize(
    ("space", "given", "wanted"),
    [
        (spaces.Discrete(3), np.int64(2), 2),
        (spaces.Discrete(3), np.array(2), 2),
        (spaces.Box(-1.0, 1.0, (2,), np.float32), [0, 0.5], np.array([0, 0.5], "f4")),
        (spaces.Box(0, 255, (2,), np.uint8), [0, 255], np.array([0, 255], "u1")),
        (spaces.MultiBinary(2), [True, False], np.array([1, 0], "i1")),
    ],
)
def test_what_says_the_same_is_taken(space: spaces.Space[Any], given: Any, wanted: Any) -> None:
    assert same(reader(space)(given), wanted)


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (spaces.Discrete(3), 3, "an integer from 0 to 2, got 3"),
        (spaces.Discrete(3), 1.0, "an integer from 0 to 2, got 1.0"),
        (spaces.Discrete(3), True, "an integer from 0 to 2, got True"),
        (spaces.Discrete(3), None, "an integer"),
        (spaces.Box(-1.0, 1.0, (2,)), [0.0], "an array of float32 of shape (2,)"),
        (spaces.Box(-1.0, 1.0, (2,)), [0.0, 1.5], "within Box"),
        (spaces.Box(-1.0, 1.0, (2,)), [0.0, float("nan")], "within Box"),
        (spaces.Box(-1.0, 1.0, (2,)), ["a", "b"], "an array of float32"),
        (spaces.Box(-1.0, 1.0, (2,)), [[1], [1, 2]], "an array of float32"),
        (spaces.Box(0, 255, (1,), np.uint8), [256], "an array of uint8"),
        (spaces.MultiBinary(2), [257, 0], "an array of int8"),
        (spaces.MultiDiscrete([2, 2]), [0.0, 1.0], "an array of int64"),
        (spaces.Text(3, charset="ab"), "abc", "within Text"),
        (spaces.Text(3), 4, "within Text"),
        (spaces.Tuple((spaces.Discrete(2),)), [1, 1], "a list of 1"),
        (spaces.Tuple((spaces.Discrete(2),)), [2], "action[0] must be an integer from 0 to 1"),
        (spaces.Dict({"a": spaces.Discrete(2)}), {"b": 1}, "an object with the keys ['a']"),
        (spaces.Dict({"a": spaces.Discrete(2)}), {"a": 5}, "action['a'] must be"),
        (spaces.Sequence(spaces.Discrete(2)), 1, "a list"),
        (spaces.Box(-1.0, 1.0, (99,)), list(range(99)), "..."),
        (ONE_OF, [2, 0], "a pair of a number from 0 to 1 and an element of that space"),
        (ONE_OF, [1, 3], "action[1] must be an array"),
        (ONE_OF, 1, "a pair of a number"),
        (GRAPH, {"nodes": [[0.5]]}, "an object with the keys ['nodes', 'edges', 'edge_links']"),
        (
            GRAPH,
            {"nodes": [[0.5]], "edges": [1], "edge_links": [[0, 1]]},
            "action.edge_links must be indices from 0 to 0",
        ),
        (GRAPH, {"nodes": [[0.5]], "edges": [1], "edge_links": None}, "one pair for each"),
        (GRAPH, {"nodes": [[2.0]], "edges": None, "edge_links": None}, "within"),
    ],
)
def test_what_is_no_element_is_refused(space: spaces.Space[Any], value: Any, message: str) -> None:
    with pytest.raises(InvalidAction) as caught:
        reader(space)(value)
    assert message in caught.value.message


class Odd(spaces.Space[Any]):
    """A kind of space that only its author knows."""


def test_other_spaces_are_refused() -> None:
    space = Odd()
    for make in (schema, reader, writer):
        with pytest.raises(InvalidOption, match="Odd cannot be served"):
            make(space)
