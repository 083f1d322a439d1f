"""Gymnasium spaces on the wire: their JSON Schema, and their elements both ways.

    Space          element on the wire         schema
    Box            array                       x-ndarray: dtype, shape, low, high
    Discrete       integer                     integer, minimum, maximum
    MultiDiscrete  array                       x-ndarray
    MultiBinary    array                       x-ndarray, 0 to 1
    Text           string                      string, minLength, maxLength, x-charset
    Tuple          list                        array, prefixItems
    Dict           object                      object, properties, all required
    Sequence       list                        array, items

``low`` and ``high`` are numbers when they are the same everywhere, else nested lists; ``null``
stands for no bound. An element that comes in may be spelt as lists where the space has arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from openenv_async.errors import InvalidAction, InvalidOption

__all__ = ["reader", "schema", "writer"]


def schema(space: spaces.Space[Any]) -> dict[str, Any]:
    """The JSON Schema of a space's elements.

    Raises:
        InvalidOption: elements of this kind of space cannot travel.
    """
    match space:
        case spaces.Discrete():
            first = int(space.start)
            return {"type": "integer", "minimum": first, "maximum": first + int(space.n) - 1}
        case spaces.Box():
            return _array(space, space.low, space.high)
        case spaces.MultiDiscrete():
            return _array(space, space.start, space.start + space.nvec - 1)
        case spaces.MultiBinary():
            return _array(space, np.zeros(space.shape, "i1"), np.ones(space.shape, "i1"))
        case spaces.Text():
            return {
                "type": "string",
                "minLength": space.min_length,
                "maxLength": space.max_length,
                "x-charset": "".join(sorted(space.character_set)),
            }
        case spaces.Tuple():
            parts = [schema(part) for part in space.spaces]
            size = len(parts)
            return {
                "type": "array",
                "prefixItems": parts,
                "items": False,
                "minItems": size,
                "maxItems": size,
            }
        case spaces.Dict():
            return {
                "type": "object",
                "properties": {str(key): schema(part) for key, part in space.spaces.items()},
                "required": [str(key) for key in space.spaces],
                "additionalProperties": False,
            }
        case spaces.Sequence():
            return {"type": "array", "items": schema(space.feature_space)}
        case _:
            raise _unsupported(space)


def _array(space: spaces.Space[Any], low: Any, high: Any) -> dict[str, Any]:
    assert space.dtype is not None
    assert space.shape is not None
    return {
        "type": "array",
        "x-ndarray": {
            "dtype": np.dtype(space.dtype).str,
            "shape": list(space.shape),
            "low": _bound(np.asarray(low)),
            "high": _bound(np.asarray(high)),
        },
    }


def _bound(values: np.ndarray[Any, Any]) -> Any:
    if values.size and np.all(values == values.flat[0]):
        return _finite(values.flat[0].item())
    return _finite(values.tolist())


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value if np.isfinite(value) else None


def _unsupported(space: spaces.Space[Any]) -> InvalidOption:
    return InvalidOption(
        f"a space of type {type(space).__name__} cannot be served: wrap the environment so that"
        " it uses Box, Discrete, MultiDiscrete, MultiBinary, Text, Tuple, Dict or Sequence"
    )


# -- out ----------------------------------------------------------------------------------------


def writer(space: spaces.Space[Any]) -> Callable[[Any], Any]:
    """What turns an element of ``space`` into what travels; arrays are not copied."""
    match space:
        case spaces.Discrete():
            return int
        case spaces.Box() | spaces.MultiDiscrete() | spaces.MultiBinary():
            dtype = space.dtype
            return lambda value: value if type(value) is np.ndarray else np.asarray(value, dtype)
        case spaces.Text():
            return str
        case spaces.Tuple():
            parts = [writer(part) for part in space.spaces]
            return lambda value: [write(item) for write, item in zip(parts, value, strict=True)]
        case spaces.Dict():
            named = {key: writer(part) for key, part in space.spaces.items()}
            return lambda value: {str(key): write(value[key]) for key, write in named.items()}
        case spaces.Sequence():
            write_item = writer(space.feature_space)
            return lambda value: [write_item(item) for item in value]
        case _:
            raise _unsupported(space)


# -- in -----------------------------------------------------------------------------------------


def reader(space: spaces.Space[Any]) -> Callable[[Any], Any]:
    """What turns what came in into an element of ``space``.

    The returned function raises ``InvalidAction``, with the place and what is wanted there.
    """
    return _reader(space, "action")


def _reader(space: spaces.Space[Any], where: str) -> Callable[[Any], Any]:
    match space:
        case spaces.Discrete():
            return _discrete(space, where)
        case spaces.Box() | spaces.MultiDiscrete() | spaces.MultiBinary():
            return _numbers(space, where)
        case spaces.Text():
            return _checked(space, where, lambda value: value)
        case spaces.Tuple():
            parts = [_reader(part, f"{where}[{i}]") for i, part in enumerate(space.spaces)]
            return _tuple(parts, where)
        case spaces.Dict():
            named = {
                key: _reader(part, f"{where}[{str(key)!r}]") for key, part in space.spaces.items()
            }
            return _dict(named, where)
        case spaces.Sequence():
            read = _reader(space.feature_space, f"{where}[...]")
            return _sequence(read, where)
        case _:
            raise _unsupported(space)


def _refused(where: str, value: Any, wanted: str) -> InvalidAction:
    shown = repr(value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return InvalidAction(f"invalid action: {where} must be {wanted}, got {shown}")


def _discrete(space: spaces.Discrete, where: str) -> Callable[[Any], Any]:
    first = int(space.start)
    last = first + int(space.n) - 1
    make = space.dtype.type

    def read(value: Any) -> Any:
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        if isinstance(value, np.integer):
            value = int(value)
        if type(value) is not int or not first <= value <= last:
            raise _refused(where, value, f"an integer from {first} to {last}")
        return make(value)

    return read


def _numbers(space: Any, where: str) -> Callable[[Any], Any]:
    dtype, shape = space.dtype, space.shape
    wanted = f"an array of {dtype} of shape {shape} within {space}"

    kinds = "iub" if dtype.kind in "iu" else "iufb"

    def read(value: Any) -> Any:
        try:
            given = np.asarray(value)
        except (TypeError, ValueError):  # a ragged list
            raise _refused(where, value, wanted) from None
        if given.shape != shape or (given.dtype.kind not in kinds and given.size):
            raise _refused(where, value, wanted)
        array = given.astype(dtype)
        # What a narrower integer cannot hold has wrapped around.
        if not space.contains(array) or (dtype.kind in "iu" and not np.array_equal(array, given)):
            raise _refused(where, value, wanted)
        return array

    return read


def _checked(
    space: spaces.Space[Any], where: str, convert: Callable[[Any], Any]
) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        value = convert(value)
        if not space.contains(value):
            raise _refused(where, value, f"within {space}")
        return value

    return read


def _tuple(parts: list[Callable[[Any], Any]], where: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) != len(parts):
            raise _refused(where, value, f"a list of {len(parts)}")
        return tuple(part(item) for part, item in zip(parts, value, strict=True))

    return read


def _dict(named: dict[Any, Callable[[Any], Any]], where: str) -> Callable[[Any], Any]:
    names = {str(key) for key in named}

    def read(value: Any) -> Any:
        if not isinstance(value, dict) or set(value) != names:
            raise _refused(where, value, f"an object with the keys {sorted(names)}")
        return {key: part(value[str(key)]) for key, part in named.items()}

    return read


def _sequence(read_item: Callable[[Any], Any], where: str) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, list | tuple):
            raise _refused(where, value, "a list")
        return tuple(read_item(item) for item in value)

    return read
