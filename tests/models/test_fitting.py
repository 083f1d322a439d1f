"""Tests of values against their declared types, made once."""

from __future__ import annotations

import datetime
import decimal
import uuid
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from openenv_async.errors import InvalidModel, ProtocolError
from openenv_async.models import PayloadCodec, fit_test


class Color(Enum):
    RED = "red"


@dataclass
class Leaf:
    n: int = 0
    x: float | None = None
    names: list[str] = field(default_factory=list)


@dataclass
class Tree:
    leaf: Leaf = field(default_factory=Leaf)
    below: list[Tree] = field(default_factory=list)
    free: Any = None


@dataclass
class Pictures:
    now: NDArray[np.uint8]
    before: NDArray[np.uint8] | None = None
    other: np.ndarray | None = None  # of any dtype


class Struct(msgspec.Struct, rename="camel"):
    the_n: int = 0


class Pair(NamedTuple):
    a: int
    b: str


class Typed(TypedDict, total=False):
    n: int
    leaf: Leaf


FLOATS: Any = np.zeros(2)
GOOD: list[tuple[Any, Any]] = [
    (int, 1),
    (float, 1),
    (float, np.float32(1)),
    (int, np.int64(1)),
    (bool, np.bool_(True)),
    (str | None, None),
    (bytes, b"x"),
    (datetime.datetime, datetime.datetime(2020, 1, 1)),
    (datetime.date, datetime.date(2020, 1, 1)),
    (uuid.UUID, uuid.UUID(int=1)),
    (decimal.Decimal, decimal.Decimal("1.5")),
    (Color, Color.RED),
    (Literal["a", 1], 1),
    (Leaf, Leaf(1, 2, ["a"])),
    (Tree, Tree(below=[Tree(), Tree(free={1: 2})])),
    (Struct, Struct(3)),
    (Pair, Pair(1, "b")),
    (Typed, {"n": 1}),
    (dict[str, int], {"a": 1}),
    (dict[str, list[int]], {"a": [1]}),
    (dict[int, str], {1: "a"}),
    (tuple[int, str], (1, "a")),
    (tuple[int, ...], (1, 2)),
    (set[int], {1}),
    (list[list[float]], [[1.0] * 100] * 100),
    (np.ndarray, np.zeros(3)),
    (NDArray[np.uint8], np.zeros(3, np.uint8)),
    (Pictures, Pictures(np.zeros(2, np.uint8), np.zeros(2, np.uint8), np.zeros(1))),
    (Pictures, Pictures(np.zeros(2, np.uint8))),
    (Annotated[int, msgspec.Meta(description="any")], 1),
]
BAD: list[tuple[Any, Any]] = [
    (int, "1"),
    (int, True),
    (int, 1.5),
    (bool, 1),
    (str, 1),
    (float, "1"),
    (Literal["a", 1], True),
    (Literal["a"], ["a"]),
    (Color, "green"),
    (Leaf, Leaf("1")),  # type: ignore[arg-type]  # the fault
    (Leaf, Leaf(names=[1])),  # type: ignore[list-item]  # the fault
    (Leaf, {"n": "1"}),
    (Tree, Tree(below=[Tree(leaf=Leaf(None))])),  # type: ignore[arg-type]  # the fault
    (Struct, Struct("3")),  # type: ignore[arg-type]  # the fault
    (Typed, {"m": 1}),
    (Typed, {"n": "1"}),
    (dict[str, int], {1: 1}),
    (dict[str, Any], {1: 1}),
    (dict[str, int], {"a": "1"}),
    (tuple[int, str], (1, 2)),
    (tuple[int, str], (1,)),
    (list[int], [1, "2"]),
    (NDArray[np.uint8], np.array(["a"])),
    (Pictures, Pictures(FLOATS)),
    (Pictures, Pictures(np.zeros(2, np.uint8), FLOATS)),
    (Pictures, Pictures([0, 1])),  # type: ignore[arg-type]  # the fault
    (Annotated[int, msgspec.Meta(ge=0)], -1),
    (Annotated[str, msgspec.Meta(max_length=1)], "ab"),
]


def decodes(declared: Any, value: Any) -> bool:
    codec: PayloadCodec[Any] = PayloadCodec(declared, "msgpack")
    try:
        codec.decode(codec.encode(value))
    except (InvalidModel, ProtocolError):
        return False
    return True


@pytest.mark.parametrize(("declared", "value"), GOOD)
def test_what_is_of_its_type(declared: Any, value: Any) -> None:
    test = fit_test(declared)
    assert test is not None
    assert test(value)
    assert decodes(declared, value)


@pytest.mark.parametrize(("declared", "value"), BAD)
def test_what_is_not(declared: Any, value: Any) -> None:
    test = fit_test(declared)
    assert test is not None
    assert not test(value)


def test_anything_needs_no_test() -> None:
    assert fit_test(Any) is None


@pytest.mark.parametrize("at", [0, 5, 31, -1, -32])
def test_the_ends_of_long_containers_are_looked_at(at: int) -> None:
    items: list[Any] = [0] * 1000
    items[at] = "text"
    for declared, value in (
        (list[int], items),
        (tuple[int, ...], tuple(items)),
        (Tree, Tree(leaf=Leaf(names=["x" if item == 0 else item for item in items]))),
    ):
        test = fit_test(declared)
        assert test is not None
        assert test(value) is (declared is Tree)


scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats() | st.text()
values = st.recursive(
    scalars | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
kinds = st.recursive(
    st.sampled_from([int, float, str, bool, bytes, type(None), Any, Literal["a", 1], Leaf]),
    lambda inner: (
        inner.map(lambda kind: list[kind])  # type: ignore[valid-type]  # a value
        | inner.map(lambda kind: dict[str, kind])  # type: ignore[valid-type]  # a value
        | inner.map(lambda kind: kind | None)
    ),
    max_leaves=3,
)


@given(kinds, values)
def test_where_it_says_yes_the_other_end_can_read_it(declared: Any, value: Any) -> None:
    test = fit_test(declared)
    if test is not None and test(value):
        assert decodes(declared, value)
