"""Values as the array types that fields declare, and arrays as plain lists."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from openenv_async import arrays
from openenv_async.errors import InvalidModel
from tests.arrays.codecs import CODECS, same


def test_plain_is_lists_and_numbers() -> None:
    encode = CODECS["plain"].encode
    assert encode({"a": np.eye(2), "b": np.float32(1.5), "c": np.array(3)}) == (
        b'{"a":[[1.0,0.0],[0.0,1.0]],"b":1.5,"c":3}'
    )
    assert encode([np.array([math.nan]), math.inf]) == b'[["NaN"],"Infinity"]'
    assert encode({"a": -math.inf, "b": None}) == b'{"a":"-Infinity","b":null}'
    assert encode(np.array(["2024-01-02"], "M8[D]")) == b'["2024-01-02"]'
    with pytest.raises(InvalidModel, match="real and imag"):
        encode(np.array([1j]))


@pytest.mark.parametrize(
    ("dtype", "given_", "expected"),
    [
        (np.float32, [1, 2.5], np.array([1, 2.5], np.float32)),
        (np.float32, [], np.array([], np.float32)),
        (np.uint8, [[0, 255]], np.array([[0, 255]], np.uint8)),
        (np.int64, np.array([3], np.int8), np.array([3], np.int64)),
        (np.float64, np.array([3.0], np.float32), np.array([3.0])),
        (np.floating, [1, 2], np.array([1.0, 2.0])),
        (np.bool_, [True], np.array([True])),
        (np.datetime64, ["2024-01-02"], np.array(["2024-01-02"], "M8[D]")),
        (np.complex64, [1.5], np.array([1.5], np.complex64)),
    ],
)
def test_typed_arrays_convert(dtype: Any, given_: Any, expected: Any) -> None:
    result = arrays.as_array(npt.NDArray[dtype], given_)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize(
    ("dtype", "given_"),
    [
        *((np.uint8, [256]), (np.uint8, [-1]), (np.int32, [1.5]), (np.float32, [None, 1.0])),
        *((np.float32, ["1"]), (np.float32, [[1], [1, 2]]), (np.float32, "x"), (np.bool_, [2])),
        *((np.int64, [2**70]), (np.float16, [1e10]), (np.integer, [1.5]), (np.float32, None)),
        *((np.float32, {}), (np.float32, [1j]), (np.datetime64, ["tomorrow"])),
    ],
)
def test_typed_arrays_never_lose_a_number(dtype: Any, given_: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        arrays.as_array(npt.NDArray[dtype], given_)


def test_byte_order_is_not_a_different_type() -> None:
    array = np.arange(3, dtype=">f4")
    assert arrays.as_array(npt.NDArray[np.float32], array) is array


def test_typed_scalars() -> None:
    assert same(arrays.as_scalar(np.float32, 0.5), np.float32(0.5))
    assert same(arrays.as_scalar(np.str_, "a"), np.str_("a"))
    for kind, value in ((np.uint8, 300), (np.int8, 1.5), (np.float32, [1.0]), (np.int8, "3")):
        with pytest.raises(ValueError, match=r"."):
            arrays.as_scalar(kind, value)
