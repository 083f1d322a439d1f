"""Decoded trees as the types that models declare."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pydantic
import pytest

from openenv_async import arrays
from openenv_async.models.decoding import (
    dec_hook,
    ext_hook,
    has_large_int,
    with_floats,
    without_scalars,
)
from openenv_async.models.inspection import described

# -- Ext types of msgpack -----------------------------------------------------------------


def test_an_ext_is_an_array_a_scalar_or_a_large_integer() -> None:
    code, payload = arrays.to_ext(np.array([1, 2], "u1")) or (0, b"")
    assert ext_hook(code, memoryview(payload)).tolist() == [1, 2]
    code, payload = arrays.to_ext(np.float32(0.5)) or (0, b"")
    scalar = ext_hook(code, memoryview(payload))
    assert (type(scalar), scalar) == (np.float32, 0.5)
    large = arrays.int_to_bytes(1 << 70)
    assert ext_hook(arrays.EXT_INT, memoryview(large)) == 1 << 70


def test_an_ext_of_another_code_stays_one() -> None:
    assert ext_hook(9, memoryview(b"abc")) == msgspec.msgpack.Ext(9, b"abc")


# -- types that msgspec does not know -----------------------------------------------------


class Model(pydantic.BaseModel):
    x: int


def test_each_kind_is_read_by_its_own_rules() -> None:
    array = dec_hook(npt.NDArray[np.float32], [1, 2])
    assert (array.dtype, array.tolist()) == (np.float32, [1.0, 2.0])
    scalar = dec_hook(np.int8, 5)
    assert (type(scalar), scalar) == (np.int8, 5)
    assert dec_hook(Model, {"x": 1}) == Model(x=1)
    assert dec_hook(PurePosixPath, "a/b") == PurePosixPath("a/b")


def test_another_type_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"Thing is not a type that travels"):
        dec_hook(type("Thing", (), {}), {})


# -- words of plain JSON ------------------------------------------------------------------


@dataclass
class Deep:
    number: float
    text: str
    either: float | None
    words: float | str
    many: list[float]
    named: dict[str, float]


def test_words_for_floats_are_read_where_a_float_is_declared() -> None:
    info = described(Deep)[1]
    tree = {
        "number": "NaN",
        "text": "NaN",
        "either": "-Infinity",
        "words": "Infinity",
        "many": ["Infinity", 1.0],
        "named": {"NaN": "NaN"},
        "other": "NaN",
    }
    made = with_floats(info, tree)
    assert math.isnan(made["number"])
    assert made["text"] == "NaN"
    assert made["either"] == -math.inf
    assert made["words"] == "Infinity", "where text may be, it is text"
    assert made["many"] == [math.inf, 1.0]
    assert math.isnan(made["named"]["NaN"])
    assert made["other"] == "NaN"
    assert tree["number"] == "NaN", "the tree that was given stays"


def test_other_words_and_other_values_stay() -> None:
    info = described(float)[1]
    assert with_floats(info, "nan") == "nan"
    assert with_floats(info, 1.5) == 1.5
    assert with_floats(described(list[float])[1], []) == []


def test_the_tag_tells_which_member_of_a_union_is_read() -> None:
    class A(msgspec.Struct, tag="a"):
        v: float

    class B(msgspec.Struct, tag="b"):
        v: str

    info = described(A | B)[1]
    assert with_floats(info, {"type": "a", "v": "Infinity"})["v"] == math.inf
    assert with_floats(info, {"type": "b", "v": "Infinity"})["v"] == "Infinity"


# -- large integers and scalars in trees --------------------------------------------------


@pytest.mark.parametrize("number", [1 << 64, -(1 << 63) - 1])
def test_integers_of_more_than_64_bits_are_found(number: int) -> None:
    trees: list[Any] = [number, [0, [number]], {"a": {"b": number}}, {number: 0}, (1, number)]
    assert all(map(has_large_int, trees))


@pytest.mark.parametrize("tree", [(1 << 64) - 1, -(1 << 63), True, 1e300, "1", [], {"a": [0]}])
def test_others_are_not(tree: Any) -> None:
    assert not has_large_int(tree)


def test_numpy_scalars_become_pythons() -> None:
    tree = {"a": [np.int8(3), "x"], "b": np.float64(0.5)}
    made = without_scalars(tree)
    assert made == {"a": [3, "x"], "b": 0.5}
    assert (type(made["a"][0]), type(made["b"])) == (int, float)


def test_a_tree_without_any_is_the_same_object() -> None:
    array = np.zeros(2)
    for tree in ({"a": [1, {"b": None}]}, [1, 2], array, "x"):
        assert without_scalars(tree) is tree
