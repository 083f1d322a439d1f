"""Arrays and NumPy scalars as Ext payloads."""

from __future__ import annotations

import math
import struct
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from openenv_async import arrays
from openenv_async.errors import InvalidModel
from tests.arrays.codecs import CODECS, FORMATS, same, trip

DTYPES = [
    *("?", "i1", "u1"),
    *(f"{order}{kind}" for order in "<>" for kind in ("i2", "i4", "i8", "u2", "u4", "u8")),
    *(f"{order}{kind}" for order in "<>" for kind in ("f2", "f4", "f8", "c8", "c16")),
    *("g", "<M8[ns]", ">M8[D]", "<M8[25s]", "<m8[us]", "<M8", "<U5", ">U3", "S7"),
]


def example(dtype: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    numbers = np.arange(math.prod(shape)).reshape(shape)
    return (numbers % 2 == 0) if dtype == "?" else numbers.astype(dtype)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4), (9, 500)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_round_trips(dtype: str, shape: tuple[int, ...], name: str) -> None:
    array = example(dtype, shape)
    assert same(trip(array, name), array)
    assert same(trip({"a": [array]}, name)["a"][0], array)


@pytest.mark.parametrize("name", FORMATS)
@given(
    array=hnp.arrays(
        dtype=st.one_of(
            hnp.boolean_dtypes(),
            hnp.integer_dtypes(),
            hnp.unsigned_integer_dtypes(),
            hnp.floating_dtypes(),
            hnp.complex_number_dtypes(),
            hnp.datetime64_dtypes(),
            hnp.timedelta64_dtypes(),
            hnp.unicode_string_dtypes(max_len=4),
            hnp.byte_string_dtypes(max_len=4),
        ),
        shape=hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
    )
)
def test_round_trip_is_bit_exact(name: str, array: npt.NDArray[Any]) -> None:
    assert same(trip(array, name), array)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("rows", [4, 1000])  # a small array, and one that is put in as it lies
def test_layouts_become_c_order(name: str, rows: int) -> None:
    base = np.arange(6 * rows, dtype=">i4").reshape(rows, 6)
    for view in (base.T, np.asfortranarray(base), base[::2, ::-1], base[1:3], base[0, 0, None]):
        back = trip(view, name)
        assert back.flags.c_contiguous
        np.testing.assert_array_equal(back, view)
        assert back.dtype == view.dtype


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "scalar",
    [
        *(np.float32(0.1), np.float64(math.nan), np.int64(-5), np.uint8(255), np.bool_(True)),
        *(np.complex64(1 + 2j), np.datetime64("2024-01-02T03", "ns"), np.timedelta64(5, "s")),
        *(np.str_("hi"), np.bytes_(b"hi"), np.float16(math.inf)),
    ],
)
def test_scalars_round_trip(scalar: Any, name: str) -> None:
    assert same(trip(scalar, name), scalar)
    assert same(trip([{"x": scalar}], name)[0]["x"], scalar)


def test_nan_payload_bits_survive_in_arrays() -> None:
    bits = np.array([0x7FC00001, 0xFFC0BEEF, 0x80000000], dtype="<u4").view("<f4")
    for name in FORMATS:
        assert trip(bits, name).tobytes() == bits.tobytes()


def test_decoding_msgpack_copies_nothing_and_is_read_only() -> None:
    codec = CODECS["msgpack"]
    data = codec.encode({"image": np.arange(1000, dtype=np.uint8)})
    image = codec.decode(memoryview(data))["image"]
    assert np.shares_memory(image, np.frombuffer(data, np.uint8))
    assert not image.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        image[0] = 1
    writable = bytearray(data)
    assert not codec.decode(memoryview(writable))["image"].flags.writeable


def test_json_arrays_are_read_only_too() -> None:
    assert not trip(np.zeros(3), "json").flags.writeable


def test_golden_payload() -> None:
    code, payload = arrays.to_ext(np.array([[1, 2]], dtype="<i2")) or (0, b"")
    assert (code, payload.hex()) == (
        1,
        "03" + b"<i2".hex() + "02" + "0100000000000000" + "0200000000000000" + "01000200",
    )
    code, payload = arrays.to_ext(np.float32(1)) or (0, b"")
    assert (code, payload) == (2, b"\x03<f4\x00" + struct.pack("<f", 1))
    assert CODECS["json"].encode(np.array([1], "u1")) == b'{"__ndarray__":["|u1",[1],"AQ=="]}'
    assert CODECS["json"].encode([np.int8(1), math.nan, -math.inf]) == (
        b'[{"__npscalar__":["|i1","AQ=="]},{"__float__":"nan"},{"__float__":"-inf"}]'
    )


@pytest.mark.parametrize("name", ["msgpack", "json", "plain"])
@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.array([None, 1]), "dtype object cannot travel: give it a numeric dtype"),
        (np.zeros(2, dtype=[("a", "i4")]), "send each field"),
        (np.zeros(2, dtype="V4"), "astype"),
        (np.ma.masked_array([1, 2], [True, False]), "masked array"),
    ],
)
def test_unsupported_dtypes_name_the_remedy(array: Any, words: str, name: str) -> None:
    with pytest.raises(InvalidModel, match=words):
        CODECS[name].encode({"x": array})


def test_ndarray_subclasses_travel_as_arrays() -> None:
    class Sub(np.ndarray[Any, Any]):
        pass

    value = np.arange(3).view(Sub)
    for name in FORMATS:
        back = trip(value, name)
        assert type(back) is np.ndarray
        np.testing.assert_array_equal(back, value)


def header(dtype: bytes, *shape: int, ndim: int | None = None) -> bytes:
    count = len(shape) if ndim is None else ndim
    return bytes([len(dtype)]) + dtype + bytes([count]) + struct.pack(f"<{len(shape)}Q", *shape)


HOSTILE = [
    *(b"", b"\x03", b"\x03<f", b"\x03<f4", b"\x03<f4\x01", b"\xff" * 10),
    header(b"<f4", 1 << 60) + b"1234",
    header(b"<f4", 1 << 63, 1 << 63),
    header(b"<f4", 0, (1 << 64) - 1),
    header(b"<f4", 0, 1 << 62, 1 << 62),
    header(b"<f4", 2) + b"1234",
    header(b"<f4", 1) + b"12345",
    header(b"<f4", *[1] * 64) + b"1234",
    header(b"<f4", ndim=255) + b"1234",
    *(header(name, 1) + b"\0" * 8 for name in (b"|O", b"O8", b"|V8", b"<f8, <f8", b"float64")),
    *(header(name, 1) + b"\0" * 8 for name in (b"<q8", b"<f3", b"\xff\xfe", b"", b"<U0", b"<M9")),
    *(header(name, 0) for name in (b"<U999999999", b"<M8[999999999999s]", b"<U9999999999")),
    header(b"<U1", 1) + b"\xff\xff\xff\xff",
    header(b">U1", 1) + b"\x00\x11\x00\x00",
    header(b"|b1", 1) + b"\x07",
]


@pytest.mark.parametrize("payload", HOSTILE)
@pytest.mark.parametrize("code", [1, 2])
def test_hostile_payloads_are_value_errors(payload: bytes, code: int) -> None:
    if payload.startswith(b"\x0b<U999999999") and code == 1:
        pytest.skip("an empty array of long text is legal and allocates nothing")
    with pytest.raises(ValueError, match="malformed array"):
        arrays.from_ext(code, memoryview(payload))
    data = msgspec.msgpack.encode([msgspec.msgpack.Ext(code, payload)])
    with pytest.raises(InvalidModel):
        CODECS["msgpack"].decode(data)


@given(code=st.sampled_from([1, 2]), payload=st.binary())
def test_random_payloads_are_arrays_or_value_errors(code: int, payload: bytes) -> None:
    try:
        value = arrays.from_ext(code, memoryview(payload))
    except ValueError:
        return
    repr(value)
