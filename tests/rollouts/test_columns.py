"""Kinds of columns: found, widened, built and read back exactly."""

from __future__ import annotations

import io
import math
import sys
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it has none
import pyarrow.parquet as pq  # type: ignore[import-untyped]  # it has none
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from openenv_async.arrays import to_ext
from openenv_async.rollouts import columns
from openenv_async.rollouts.columns import (
    JSON,
    NULL,
    Kind,
    arrow_type,
    column,
    fixed,
    json_text,
    kind_from,
    kind_of,
    merged,
    restored,
)

INT, FLOAT, TEXT = Kind("int"), Kind("float"), Kind("text")


def exts(value: Any) -> Any:
    """A tree as records have it: each array an Ext."""
    if isinstance(value, dict):
        return {key: exts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exts(item) for item in value]
    made = to_ext(value)
    return value if made is None else msgspec.msgpack.Ext(*made)


def same(a: Any, b: Any) -> bool:
    """Equal, of one type, dtype and shape."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return bool(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes())
    if isinstance(a, np.generic):
        return bool(a.dtype == b.dtype and a.tobytes() == b.tobytes())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b or (a != a and b != b))


def through_parquet(array: Any) -> Any:
    file = io.BytesIO()
    pq.write_table(pa.table({"column": array}), file)
    return pq.read_table(file)["column"].combine_chunks()


def round_trip(values: list[Any], kind: Kind | None = None) -> tuple[Kind, Any]:
    """Write a column of values and check that it is read back; return its kind and type."""
    given_values = exts(values)
    kind = kind or kind_of(given_values)
    array, others = column(kind, given_values)
    assert array.type == arrow_type(kind)
    assert kind_from(msgspec.json.decode(msgspec.json.encode(kind.as_plain()))) == kind
    read = restored(kind, through_parquet(array))
    assert len(read) == len(values)
    for at, (before, after) in enumerate(zip(values, read, strict=True)):
        assert at in others or same(before, after), (before, after)
    return kind, array.type


PIXELS = np.arange(40 * 50 * 3, dtype=np.uint8).reshape(40, 50, 3)


@pytest.mark.parametrize(
    ("values", "kind", "arrow"),
    [
        ([1, None, -(2**63)], "int", "int64"),
        ([1.5, math.nan, -math.inf, None], "float", "double"),
        ([True, None], "bool", "bool"),
        (["a", "×", "", None], "text", "string"),
        ([b"a", b"", None], "bytes", "binary"),
        ([np.float32(1.5), None], "scalar", "float"),
        ([np.int16(3)], "scalar", "int16"),
        ([np.arange(3, dtype=np.float32), None, np.zeros(0, np.float32)], "array", "list<float>"),
        ([np.zeros((2, 3), ">i2"), None], "array", "list<list<int16>>"),
        ([np.zeros((2, 3, 4), np.uint8)], "array", "list<list<list<uint8>>>"),
        ([np.arange(5).astype(np.float16)], "array", "list<float>"),
        ([np.array([True, False, True]), None], "array", "list<bool>"),
        ([PIXELS, None, PIXELS[:32, :33]], "image", "binary"),
        ([PIXELS[..., :1]], "image", "binary"),
        ([PIXELS[..., 0]], "image", "binary"),
        ([[1, 2], [], None, [3, None]], "list", "list<int64>"),
        ([[[1.5]], [[], [2.5, 3.5]]], "list", "list<list<double>>"),
        ([{"a": 1, "b": "x"}, None, {"b": "y", "a": None}], "dict", "struct<a: int64, b: string>"),
        ([{"a": {"b": np.zeros(2)}}], "dict", "struct<a: struct<b: list<double>>>"),
        ([[{"a": 1}], [{"a": 2}, {"a": 3}]], "list", "list<struct<a: int64>>"),
        ([None, None], "null", "string"),
        # no one kind
        ([1, "a", None], "json", "string"),
        ([{"a": 1}, {"b": 1}], "json", "string"),
        ([{}, {}], "json", "string"),
        ([{1: "a"}], "json", "string"),
        ([{"a": 1, "A": 2}], "json", "string"),
        ([{"": 1}], "json", "string"),
        ([[1, "a"]], "json", "string"),
        ([2**64 - 1], "json", "string"),
        ([np.zeros((2, 2)), np.zeros((3, 2))], "json", "string"),
        ([np.zeros(2), np.zeros(2, np.float32)], "json", "string"),
        ([np.zeros((0, 3))], "json", "string"),
        ([np.array(3)], "json", "string"),
        ([np.array(["a"])], "json", "string"),
        ([np.zeros(2, complex)], "json", "string"),
        ([{"a": 1, "more": {}}, {"a": 2, "more": {"b": 1}}], "dict", None),
    ],
)
def test_values_come_back_as_they_were(values: list[Any], kind: str, arrow: str | None) -> None:
    found, of = round_trip(values)
    assert found.name == kind
    if arrow is not None:
        assert str(of).replace("item: ", "").replace("element: ", "") == arrow


def test_a_board_is_no_picture() -> None:
    kind, _ = round_trip([np.zeros((19, 19), np.uint8)])
    assert kind == Kind("array", "|u1", (19, 19))


def test_without_pillow_pictures_are_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = kind_of(exts([PIXELS]))
    array, _ = column(kind, exts([PIXELS]))
    assert array[0].as_py().startswith(b"\x89PNG")
    monkeypatch.setattr(columns, "_has_pillow", lambda: False)
    columns._kind_of_head.cache_clear()
    try:
        made, of = round_trip([PIXELS])
        assert made == Kind("array", "|u1", (40, 50, 3))
        assert of == pa.list_(pa.list_(pa.list_(pa.uint8())))
    finally:
        columns._kind_of_head.cache_clear()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match="needs Pillow"):
        restored(kind, array)


def test_integers_among_floats_are_floats_and_told_of() -> None:
    kind = kind_of([1, 2.5, None, 2**60])
    assert kind == Kind("number")
    array, others = column(kind, [1, 2.5, None, 2**60])
    assert array.to_pylist() == [1.0, 2.5, None, None]
    assert others == [0, 3]
    nested = kind_of([{"a": [1.5]}, {"a": [1]}])
    array, others = column(nested, [{"a": [1.5]}, {"a": [1]}])
    assert array.to_pylist() == [{"a": [1.5]}, {"a": [1.0]}]
    assert others == [1]


def test_a_value_of_another_kind_is_left_out_and_told_of() -> None:
    array, others = column(INT, [1, "a", None, 2, 2.5])
    assert array.to_pylist() == [1, None, None, 2, None]
    assert others == [1, 4]
    kind = Kind("array", "<f4", (None,))
    values = exts([np.zeros(2, np.float32), np.zeros(2), {"a": 1}, None])
    array, others = column(kind, values)
    assert array.to_pylist() == [[0.0, 0.0], None, None, None]
    assert others == [1, 2]


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (NULL, INT, INT),
        (INT, NULL, INT),
        (INT, FLOAT, Kind("number")),
        (Kind("number"), INT, Kind("number")),
        (INT, TEXT, INT),
        (JSON, INT, JSON),
        (INT, JSON, INT),
        (fixed({"a": "null"}), fixed({"a": "int"}), fixed({"a": "int"})),
        (fixed({"a": "int", "b": "null"}), fixed({"b": "text", "a": "float"}), None),
        (fixed({"a": "int"}), fixed({"b": "int"}), fixed({"a": "int"})),
        (fixed({"a": "null[]"}), fixed({"a": "int[]"}), fixed({"a": "int[]"})),
    ],
)
def test_kinds_are_merged(one: Kind, other: Kind, both: Kind | None) -> None:
    assert merged(one, other) == (both or fixed({"a": "number", "b": "text"}))


def test_a_dict_of_too_many_fields_is_text() -> None:
    assert kind_of([{str(n): n for n in range(64)}]).name == "dict"
    assert kind_of([{str(n): n for n in range(65)}]) == JSON
    deep: Any = 1
    for _ in range(9):
        deep = [deep]
    assert kind_of([deep]) == JSON
    assert kind_of(deep).name == "list"


def test_more_values_than_are_converted_at_once() -> None:
    count = 3 * columns._PIECE + 5
    round_trip([*range(count)])
    round_trip([f"{n}" for n in range(count)])
    assert kind_of([*range(count), "a"]) == JSON


def test_large_arrays_are_joined_one_by_one() -> None:
    large = [np.full(columns._LARGE, value, np.float32) for value in range(3)]
    kind, _ = round_trip(large)
    assert kind == Kind("array", "<f4", (None,))


def test_a_slice_of_a_column_is_restored() -> None:
    values = [{"a": np.arange(n, dtype=np.int32), "b": [n, None]} for n in range(9)]
    kind = kind_of(exts(values))
    array, _ = column(kind, exts(values))
    assert all(map(same, restored(kind, array.slice(3, 4)), values[3:7]))
    chunked = pa.chunked_array([array.slice(0, 4), array.slice(4)])
    assert all(map(same, restored(kind, chunked), values))


def test_json_says_what_json_has_no_word_for() -> None:
    assert json_text({"a": 1, "b": "x"}) == '{"a":1,"b":"x"}'
    assert json_text({"__float__": 1}) == '{"__escaped__":{"__float__":1}}'
    assert json_text([math.nan, b"a"]) == '[{"__float__":"nan"},{"__bytes__":"YQ=="}]'
    assert json_text(exts({"a": np.int8(3)})) == '{"a":{"__npscalar__":["|i1","Aw=="]}}'
    assert json_text({3: 4}) == '{"__items__":[[3,4]]}'
    assert json_text({}) == "{}"


ARRAYS = nps.arrays(
    st.sampled_from([np.dtype(name) for name in ("<f4", "<f8", "|i1", "<u8", "|b1", ">i4")]),
    nps.array_shapes(max_dims=3, max_side=3, min_side=0),
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
    | st.binary(max_size=3)
    | ARRAYS
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(first=st.lists(VALUES, max_size=5), later=st.lists(VALUES, max_size=5))
def test_any_values_are_in_the_column_or_told_of(first: list[Any], later: list[Any]) -> None:
    kind = kind_of(exts(first))
    round_trip(first, kind)
    round_trip(later, merged(kind, kind_of(exts(later))))
