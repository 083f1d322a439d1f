"""Values as the array and scalar types that fields declare, and arrays as plain lists."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, get_origin

from openenv_async.arrays.ext import numpy_types, parts

if TYPE_CHECKING:
    import numpy as np

__all__ = ["NONFINITE", "array_dtype", "as_array", "as_scalar", "from_words", "to_plain"]

NONFINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""Floats that JSON cannot write, by the text that stands for them where floats are declared."""


def array_dtype(annotation: Any) -> Any:
    """The dtype named by ``NDArray[dtype]``; None for a bare ``np.ndarray``."""
    aliased = getattr(get_origin(annotation), "__value__", None)
    if aliased is not None:  # from NumPy 2.5 on, NDArray is a `type` statement
        annotation = aliased[annotation.__args__]
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

    if type(value) is np.ndarray:
        array = value
    elif isinstance(value, np.ndarray | list | tuple | bool | int | float | complex | np.generic):
        array = np.asarray(value)  # a ragged list is a ValueError
    else:
        raise ValueError(f"Expected an array, got `{type(value).__name__}`")
    if array.dtype.kind == "U" and isinstance(value, list):
        array = np.asarray(from_words(value))
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

    if isinstance(value, str) and issubclass(kind, np.floating):
        value = from_words(value)
    array = np.asarray(value) if isinstance(value, str | bytes) else as_array(None, value)
    if array.ndim:
        raise ValueError(f"Expected `{kind.__name__}`, got an array")
    return _converted(array, kind)[()]


def from_words(tree: Any) -> Any:
    """Nested lists of numbers with the words for NaN and infinity as floats.

    The same object where there is a text that is none of them.
    """
    if isinstance(tree, str):
        return NONFINITE.get(tree, tree)
    if not isinstance(tree, list):
        return tree
    made = [from_words(item) for item in tree]
    return tree if any(isinstance(item, str) for item in made) else made


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


def to_plain(value: Any) -> Any:
    """An array as nested lists, a NumPy scalar as a number; datetimes as ISO text.

    Raises:
        TypeError: the dtype has no plain form.
    """
    parts(value)  # the same refusals as in the other formats
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
