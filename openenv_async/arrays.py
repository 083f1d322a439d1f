"""NumPy arrays and scalars on the wire.

In msgpack an array is an Ext of code 1 and a NumPy scalar one of code 2. Both have the same
payload::

    u8            n = length of the dtype string
    n bytes       dtype string, ASCII: NumPy's ``dtype.str``, such as ``<f4``, ``|u1``, ``>i2``,
                  ``<M8[ns]``, ``<U5`` (UCS-4), ``|S3``
    u8            ndim (0 for a scalar)
    ndim x u64    shape, little-endian
    rest          the elements in C order, exactly product(shape) * itemsize bytes

In native JSON the same things are tagged objects, each with one key::

    {"__ndarray__": [dtype, [shape...], base64 of the elements]}
    {"__npscalar__": [dtype, base64 of the element]}
    {"__float__": "nan" | "inf" | "-inf"}
    {"__bytes__": base64}           only inside pydantic models, which read text as bytes
    {"__escaped__": {key: value}}   an object that really has one of these five as its only key

Decoding copies nothing from msgpack: an array is a read-only view that keeps the message it
came in alive and may be unaligned; call ``.copy()`` to keep a small array out of a large
message, or to write to it. NumPy is imported when the first array is met.
"""

from __future__ import annotations

import binascii
import functools
import math
import re
import struct
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "EXT_NDARRAY",
    "EXT_NPSCALAR",
    "array_dtype",
    "as_array",
    "as_scalar",
    "from_ext",
    "numpy_types",
    "tag",
    "to_ext",
    "to_plain",
    "untag",
]

EXT_NDARRAY: Final = 1
EXT_NPSCALAR: Final = 2

_MAX_NDIM: Final = 32
# Booleans, integers, floats, complex, datetimes and fixed-size text. ``O`` and ``V`` are not here:
# objects would need pickle, structured dtypes have no dtype string that says all.
_DTYPE: Final = re.compile(
    r"[<>|](?:b1|[iu][1248]|f(?:2|4|8|12|16)|c(?:8|16|24|32)|[US][1-9][0-9]{0,8}"
    r"|[mM]8(?:\[[0-9]{0,9}(?:Y|M|W|D|h|m|s|ms|us|μs|ns|ps|fs|as)\])?)"
)


def numpy_types() -> tuple[type, ...]:
    """``ndarray`` and every scalar type; empty as long as nobody has imported NumPy."""
    return _numpy_types() if "numpy" in sys.modules else ()


@functools.cache
def _numpy_types() -> tuple[type, ...]:
    import numpy as np

    return (np.ndarray, *set(np.sctypeDict.values()))


# -- msgpack ------------------------------------------------------------------------------


def to_ext(value: Any) -> tuple[int, bytes] | None:
    """Ext code and payload of an array or NumPy scalar; None for anything else.

    Raises:
        TypeError: the dtype cannot travel; the message names it and the remedy.
    """
    np = sys.modules.get("numpy")
    if np is None:
        return None
    if isinstance(value, np.ndarray):
        code = EXT_NDARRAY
    elif isinstance(value, np.generic):
        code = EXT_NPSCALAR
    else:
        return None
    dtype, shape, data = _parts(value)
    head = struct.pack(f"<B{len(dtype)}sB{len(shape)}Q", len(dtype), dtype, len(shape), *shape)
    return code, b"".join((head, data))


def from_ext(code: int, payload: memoryview) -> Any:
    """The array (a read-only view of ``payload``) or scalar of an Ext.

    Raises:
        ValueError: the payload does not follow the layout above.
    """
    try:
        name_end = 1 + payload[0]
        dtype = _dtype(bytes(payload[1:name_end]))
        ndim = payload[name_end]
        data_start = name_end + 1 + 8 * ndim
        if ndim > _MAX_NDIM:
            raise ValueError(f"malformed array: {ndim} dimensions, at most {_MAX_NDIM} travel")
        shape = struct.unpack_from(f"<{ndim}Q", payload, name_end + 1)
    except (IndexError, struct.error) as error:
        raise ValueError("malformed array: the header is truncated") from error
    return _assemble(dtype, shape, payload[data_start:], scalar=code == EXT_NPSCALAR)


def _parts(value: Any) -> tuple[bytes, tuple[int, ...], Any]:
    """Dtype string, shape and elements in C order of an array or scalar."""
    import numpy as np

    if isinstance(value, np.ma.MaskedArray):
        raise TypeError("a masked array cannot travel: send .filled(...) or data and mask apart")
    array = np.asarray(value)
    name = array.dtype.str
    if _DTYPE.fullmatch(name) is None or array.ndim > _MAX_NDIM:
        raise TypeError(_unsupported(array))
    # reshape before the view: a 0-d array has no axis to reinterpret
    flat = np.ascontiguousarray(array).reshape(-1)
    return name.encode(), array.shape, flat.view(np.uint8).data if flat.size else b""


def _unsupported(array: np.ndarray[Any, Any]) -> str:
    kind = array.dtype.kind
    if array.ndim > _MAX_NDIM:
        return f"an array of {array.ndim} dimensions cannot travel: at most {_MAX_NDIM}"
    if kind == "O":
        remedy = "give it a numeric dtype or send a list"
    elif array.dtype.names is not None:
        remedy = "send each field as an array of its own, in a dict"
    else:
        remedy = "convert it with .astype() to a plain numeric dtype"
    return f"an array of dtype {array.dtype} cannot travel: {remedy}"


@functools.lru_cache(maxsize=256)
def _dtype(name: bytes) -> np.dtype[Any]:
    import numpy as np

    text = name.decode("ascii", "replace")
    if _DTYPE.fullmatch(text) is None:
        raise ValueError(f"malformed array: {text!r} is not a dtype that travels")
    try:
        return np.dtype(text)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"malformed array: {text!r} is not a dtype here") from error


def _assemble(dtype: np.dtype[Any], shape: tuple[int, ...], data: Any, *, scalar: bool) -> Any:
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
    array.flags.writeable = False
    if dtype.kind in "bU" and array.size:
        # NumPy trusts these bytes: a bool of 7 and a code point past Unicode misbehave later.
        raw = array.reshape(-1).view(np.uint8 if dtype.kind == "b" else f"{dtype.str[0]}u4")
        if raw.max() > (1 if dtype.kind == "b" else sys.maxunicode):
            raise ValueError(f"malformed array: elements are not valid {dtype.str}")
    return array[()] if scalar else array


# -- JSON ---------------------------------------------------------------------------------

_TAGS: Final = frozenset({"__ndarray__", "__npscalar__", "__float__", "__bytes__", "__escaped__"})
_FLOATS: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Verbatim:
    """Wraps a tagged object that :func:`tag` must not escape."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def tag(tree: Any) -> Any:
    """Plain JSON for a tree of builtins, bytes, arrays, NumPy scalars and :class:`Verbatim`."""
    kind = type(tree)
    if kind is dict:
        result = {key: tag(value) for key, value in tree.items()}
        if len(result) == 1 and not _TAGS.isdisjoint(result):
            return {"__escaped__": result}
        return result
    if kind is list or kind is tuple:
        return [tag(value) for value in tree]
    if kind is float:
        return tree if math.isfinite(tree) else {"__float__": str(tree)}
    if kind is Verbatim:
        return tree.value
    if kind is bytes or kind is bytearray:
        return tag_bytes(tree)
    if kind in numpy_types():
        dtype, shape, data = _parts(tree)
        text = binascii.b2a_base64(data, newline=False).decode()
        if kind is _numpy_types()[0]:
            return {"__ndarray__": [dtype.decode(), list(shape), text]}
        return {"__npscalar__": [dtype.decode(), text]}
    return tree


def tag_bytes(value: bytes | bytearray | memoryview) -> dict[str, str]:
    """Bytes as a tagged object."""
    return {"__bytes__": binascii.b2a_base64(value, newline=False).decode()}


def untag(tree: Any) -> Any:
    """The inverse of :func:`tag`.

    Raises:
        ValueError: a tagged object is malformed.
    """
    if isinstance(tree, list):
        return [untag(value) for value in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) != 1:
        return {key: untag(value) for key, value in tree.items()}
    [(key, value)] = tree.items()
    if key not in _TAGS:
        return {key: untag(value)}
    try:
        return _untag_one(key, value)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"malformed {key} object: {error}") from error


def _untag_one(key: str, value: Any) -> Any:
    if key == "__escaped__":
        if not isinstance(value, dict) or len(value) != 1 or _TAGS.isdisjoint(value):
            raise ValueError("expected an object whose only key is a tag")
        return {inner: untag(item) for inner, item in value.items()}
    if key == "__float__":
        return _FLOATS[value]
    if key == "__bytes__":
        return binascii.a2b_base64(value, strict_mode=True)
    if not isinstance(value, list) or len(value) != (3 if key == "__ndarray__" else 2):
        raise ValueError("expected [dtype, shape, base64] or [dtype, base64]")
    name, *middle, text = value
    shape = middle[0] if middle else []
    if (
        not isinstance(shape, list)
        or len(shape) > _MAX_NDIM
        or any(type(size) is not int or not 0 <= size < 1 << 64 for size in shape)
    ):
        raise ValueError("the shape is not a list of sizes")
    data = binascii.a2b_base64(text, strict_mode=True)
    return _assemble(_dtype(name.encode()), tuple(shape), data, scalar=not middle)


def to_plain(value: Any) -> Any:
    """An array as nested lists, a NumPy scalar as a number; datetimes as ISO text.

    Raises:
        TypeError: the dtype has no plain form.
    """
    _parts(value)  # the same refusals as in the other formats
    kind = value.dtype.kind
    if kind == "M":
        return value.astype(str).tolist()
    if kind == "m":
        return value.astype("i8").tolist()
    if kind == "c":
        raise TypeError(
            f"an array of dtype {value.dtype} has no plain JSON form: send real and imag apart"
        )
    return value.tolist()


# -- typed fields -------------------------------------------------------------------------


def array_dtype(annotation: Any) -> Any:
    """The dtype named by ``NDArray[dtype]``; None for a bare ``np.ndarray``."""
    for argument in getattr(annotation, "__args__", ())[1:2]:
        scalar = (getattr(argument, "__args__", None) or (None,))[0]
        return scalar if isinstance(scalar, type) else None
    return None


def as_array(annotation: Any, value: Any) -> Any:
    """``value`` as the array type that a field declares.

    An array of the declared dtype is passed through, whatever its byte order. Other values are
    converted when no kind of number is lost: int to float is fine, 1.5 or None to int is not.

    Raises:
        ValueError: the value is ragged, of another kind or out of the dtype's range.
    """
    import numpy as np

    if not isinstance(value, np.ndarray | list | tuple | bool | int | float | complex | np.generic):
        raise ValueError(f"Expected an array, got `{type(value).__name__}`")
    array = np.asarray(value)  # a ragged list is a ValueError
    if array.dtype.kind == "O":
        raise ValueError("Expected an array of numbers, got null or mixed elements")
    wanted = array_dtype(annotation)
    return array if wanted is None else _converted(array, wanted)


def as_scalar(kind: type, value: Any) -> Any:
    """``value`` as the NumPy scalar type ``kind``.

    Raises:
        ValueError: the value is of another kind or out of range.
    """
    import numpy as np

    array = np.asarray(value) if isinstance(value, str | bytes) else as_array(None, value)
    if array.ndim:
        raise ValueError(f"Expected `{kind.__name__}`, got an array")
    return _converted(array, kind)[()]


def _converted(array: np.ndarray[Any, Any], wanted: type) -> np.ndarray[Any, Any]:
    import numpy as np

    have = array.dtype
    if issubclass(have.type, wanted):
        return array
    message = f"Expected an array of {wanted.__name__}, got {have.name}"
    if wanted in (np.floating, np.inexact) and have.kind in "biu":
        wanted = np.float64
    if wanted not in numpy_types():  # another abstract type, such as np.integer
        raise ValueError(message)
    target: np.dtype[Any] = np.dtype(wanted)
    if target.kind in "iu" and have.kind in "iu":
        bounds = np.iinfo(target)
        if array.size and (int(array.min()) < bounds.min or int(array.max()) > bounds.max):
            raise ValueError(f"{message} with elements outside its range")
    elif array.size and not (
        np.can_cast(have, target, "same_kind") or (target.kind == "M" and have.kind == "U")
    ):
        raise ValueError(message)
    try:
        with np.errstate(over="raise"):
            return array.astype(target)
    except FloatingPointError as error:
        raise ValueError(f"{message} with elements outside its range") from error
