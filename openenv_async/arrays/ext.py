"""Arrays and NumPy scalars as Ext payloads of msgpack."""

from __future__ import annotations

import functools
import math
import re
import struct
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "EXT_INT",
    "EXT_NDARRAY",
    "EXT_NPSCALAR",
    "MAX_NDIM",
    "assemble",
    "ext_pieces",
    "from_ext",
    "int_from_bytes",
    "int_to_bytes",
    "is_large_array",
    "numpy_types",
    "parts",
    "to_ext",
    "wire_dtype",
]

EXT_NDARRAY: Final = 1
EXT_NPSCALAR: Final = 2
EXT_INT: Final = 3

MAX_NDIM: Final = 32
_MAX_INT: Final = 1024
"""Bytes of the greatest integer that travels; Python writes none that is much greater as text."""
_LARGE: Final = 1 << 18
"""Bytes from which on an array is put into a payload after the rest."""
_SMALL: Final = 4096
"""Bytes up to which copying an array's elements costs less than taking a view of them."""
_BUFFERS: Final = "biufc"
"""Kinds of arrays that show their elements as they lie; datetimes and text do not."""
# Booleans, integers, floats, complex, datetimes and fixed-size text. ``O`` and ``V`` are not here:
# objects would need pickle, structured dtypes have no dtype string that says all.
_DTYPE: Final = re.compile(
    r"[<>|](?:b1|[iu][1248]|f(?:2|4|8|12|16)|c(?:8|16|24|32)|[US][1-9][0-9]{0,8}"
    r"|[mM]8(?:\[[0-9]{0,9}(?:Y|M|W|D|h|m|s|ms|us|μs|ns|ps|fs|as)\])?)"
)


def int_to_bytes(value: int) -> bytes:
    """The payload of an integer of more than 64 bits: two's complement, big-endian.

    Raises:
        ValueError: it is too large to travel.
    """
    size = value.bit_length() // 8 + 1
    if size > _MAX_INT:
        raise ValueError(f"an integer of {size:,} bytes cannot travel: at most {_MAX_INT:,} do")
    return value.to_bytes(size, "big", signed=True)


def int_from_bytes(payload: memoryview) -> int:
    """The inverse of :func:`int_to_bytes`.

    Raises:
        ValueError: it is too large to travel.
    """
    if len(payload) > _MAX_INT:
        raise ValueError(f"malformed integer: {len(payload):,} bytes, at most {_MAX_INT:,} travel")
    return int.from_bytes(payload, "big", signed=True)


def numpy_types() -> tuple[type, ...]:
    """``ndarray`` and every scalar type; empty as long as nobody has imported NumPy."""
    return _numpy_types() if "numpy" in sys.modules else ()


@functools.cache
def _numpy_types() -> tuple[type, ...]:
    import numpy as np

    return (np.ndarray, *set(np.sctypeDict.values()))


def to_ext(value: Any) -> tuple[int, bytes] | None:
    """Ext code and payload of an array or NumPy scalar; None for anything else.

    Raises:
        TypeError: the dtype cannot travel; the message names it and the remedy.
    """
    np = sys.modules.get("numpy")
    if np is None:
        return None
    if type(value) is np.ndarray:
        if value.nbytes <= _SMALL:
            return EXT_NDARRAY, _head(value.dtype, value.shape) + value.tobytes()
        if value.dtype.kind in _BUFFERS and value.flags.c_contiguous:
            return EXT_NDARRAY, b"".join((_head(value.dtype, value.shape), value.data))
    if isinstance(value, np.ndarray):
        code = EXT_NDARRAY
    elif isinstance(value, np.generic):
        code = EXT_NPSCALAR
    else:
        return None
    return code, b"".join(ext_pieces(value))


def is_large_array(value: Any, least: int = _LARGE) -> bool:
    """Return whether a copy of an array's elements is worth avoiding: ``least`` bytes or more."""
    np = sys.modules.get("numpy")
    return np is not None and isinstance(value, np.ndarray) and value.nbytes >= least


def ext_pieces(value: Any) -> tuple[bytes, Any]:
    """The payload of an array's or scalar's Ext in two pieces: its head, its elements as they lie.

    Raises:
        TypeError: as ``to_ext``.
    """
    np = sys.modules.get("numpy")
    if (
        np is not None
        and type(value) is np.ndarray
        and value.dtype.kind in _BUFFERS
        and value.flags.c_contiguous
        and value.size
    ):
        return _head(value.dtype, value.shape), value.data.cast("B")
    dtype, shape, data = parts(value)
    return _packed(dtype, shape), data


@functools.lru_cache(maxsize=1024)
def _head(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the header of an array's elements, once it was checked that it may travel."""
    import numpy as np

    name, _, _ = parts(np.empty((0,) * len(shape), dtype))
    return _packed(name, shape)


def _packed(dtype: bytes, shape: tuple[int, ...]) -> bytes:
    return struct.pack(f"<B{len(dtype)}sB{len(shape)}Q", len(dtype), dtype, len(shape), *shape)


def from_ext(code: int, payload: memoryview) -> Any:
    """The array (a read-only view of ``payload``) or scalar of an Ext.

    Raises:
        ValueError: the payload does not follow the layout above.
    """
    try:
        name_end = 1 + payload[0]
        data_start = name_end + 1 + 8 * payload[name_end]
        dtype, shape = _layout(bytes(payload[:data_start]))
    except (IndexError, struct.error) as error:
        raise ValueError("malformed array: the header is truncated") from error
    return assemble(dtype, shape, payload[data_start:], scalar=code == EXT_NPSCALAR)


@functools.lru_cache(maxsize=1024)
def _layout(head: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Dtype and shape, from what stands before the elements."""
    name_end = 1 + head[0]
    dtype, ndim = wire_dtype(head[1:name_end]), head[name_end]
    if ndim > MAX_NDIM:
        raise ValueError(f"malformed array: {ndim} dimensions, at most {MAX_NDIM} travel")
    return dtype, struct.unpack_from(f"<{ndim}Q", head, name_end + 1)


def parts(value: Any) -> tuple[bytes, tuple[int, ...], Any]:
    """Dtype string, shape and elements in C order of an array or scalar."""
    import numpy as np

    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("a masked array cannot travel: send .filled(...) or data and mask apart")
    array = np.asarray(value)
    name = array.dtype.str
    if _DTYPE.fullmatch(name) is None or array.ndim > MAX_NDIM:
        raise TypeError(_unsupported(array))
    # reshape before the view: a 0-d array has no axis to reinterpret
    flat = np.ascontiguousarray(array).reshape(-1)
    return name.encode(), array.shape, flat.view(np.uint8).data if flat.size else b""


def _unsupported(array: np.ndarray[Any, Any]) -> str:
    kind = array.dtype.kind
    if array.ndim > MAX_NDIM:
        return f"an array of {array.ndim} dimensions cannot travel: at most {MAX_NDIM}"
    if kind == "O":
        remedy = "give it a numeric dtype or send a list"
    elif array.dtype.names is not None:
        remedy = "send each field as an array of its own, in a dict"
    else:
        remedy = "convert it with .astype() to a plain numeric dtype"
    return f"an array of dtype {array.dtype} cannot travel: {remedy}"


@functools.lru_cache(maxsize=256)
def wire_dtype(name: bytes) -> np.dtype[Any]:
    import numpy as np

    text = name.decode("ascii", "replace")
    if _DTYPE.fullmatch(text) is None:
        raise ValueError(f"malformed array: {text!r} is not a dtype that travels")
    try:
        return np.dtype(text)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"malformed array: {text!r} is not a dtype here") from error


def assemble(dtype: np.dtype[Any], shape: tuple[int, ...], data: Any, *, scalar: bool) -> Any:
    import numpy as np

    expected = math.prod(shape) * dtype.itemsize
    if expected != len(data):
        raise ValueError(
            f"malformed array: shape {list(shape)} of {dtype.str} takes {expected} bytes,"
            f" got {len(data)}"
        )
    if scalar and shape:
        raise ValueError("malformed array: a scalar has no dimensions")
    try:
        array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, data)
    except (ValueError, OverflowError, TypeError) as error:  # such as a shape of (0, 2**63)
        raise ValueError(f"malformed array: {error}") from error
    if array.flags.writeable:
        array.flags.writeable = False
    if dtype.kind in "bU" and array.size:
        # NumPy trusts these bytes: a bool of 7 and a code point past Unicode misbehave later.
        raw = array.reshape(-1).view(np.uint8 if dtype.kind == "b" else f"{dtype.str[0]}u4")
        if raw.max() > (1 if dtype.kind == "b" else sys.maxunicode):
            raise ValueError(f"malformed array: elements are not valid {dtype.str}")
    return array[()] if scalar else array
