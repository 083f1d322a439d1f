"""Gymnasium spaces on the wire: their JSON Schema, the space itself, and elements both ways.

    Space          element on the wire         schema
    Box            array                       x-ndarray: dtype, shape, low, high
    Discrete       integer                     integer, minimum, maximum
    MultiDiscrete  array                       x-ndarray
    MultiBinary    array                       x-ndarray, 0 to 1
    Text           string                      string, minLength, maxLength, x-charset
    Tuple          list                        array, prefixItems
    Dict           object                      object, properties, all required
    Sequence       list                        array, items
      stacked      its features, stacked       as of the feature, with a size of null
    Graph          object of three             nodes, edges, edge_links
    OneOf          list of two                 anyOf: number of the space, its element

``low`` and ``high`` are numbers when they are the same everywhere, else nested lists; ``null``
stands for no bound. An element that comes in may be spelt as lists where the space has arrays.

``x-space`` stands beside a schema and says the space itself: kind, dtype, shape, start, order of
the keys and whether they are integers. From it a client makes a space that equals the first.

Rules for values:

- An array of the space's dtype and shape passes as it is. Any other is cast where NumPy's
  ``same_kind`` allows it and no integer or finite number is lost; else it is refused.
- Integers must lie within the bounds of the space. So must every part of an action. Floats and
  text that an environment shows may leave the bounds that it declared: they arrive as they are.
"""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import numpy as np
from gymnasium import spaces

from openenv_async.errors import InvalidAction, InvalidObservation, InvalidOption, OpenEnvError

__all__ = ["SPACE_KEY", "described", "opener", "reader", "rebuilt", "schema", "sender", "writer"]

SPACE_KEY: Final = "x-space"
"""The key of a schema that says the space."""

_Convert = Callable[[Any], Any]
_Error = type[OpenEnvError]
_GRAPH: Final = ("nodes", "edges", "edge_links")
_SHOWN: Final = 80
"""Characters of a value that an error shows."""


# -- schemas ------------------------------------------------------------------------------------


def described(space: spaces.Space[Any]) -> dict[str, Any]:
    """Return the JSON Schema of a space's elements, with the space itself under ``x-space``.

    Raises:
        InvalidOption: the space cannot travel; the message says which part and why.
    """
    made = schema(space)
    about = _about(space)
    again = rebuilt(json.loads(json.dumps(about)))
    if not (again == space and _about(again) == about):
        raise InvalidOption(
            f"the space {space} cannot be served: a client would make {again} of it;"
            " wrap the environment so that it uses Gymnasium's own spaces"
        )
    return made | {SPACE_KEY: about}


def schema(space: spaces.Space[Any]) -> dict[str, Any]:
    """Return the JSON Schema of a space's elements.

    Raises:
        InvalidOption: elements of this kind of space cannot travel.
    """
    match space:
        case spaces.Discrete():
            first = int(space.start)
            return {"type": "integer", "minimum": first, "maximum": first + int(space.n) - 1}
        case spaces.Box() | spaces.MultiDiscrete() | spaces.MultiBinary():
            return _array_schema(space)
        case spaces.Text():
            return {
                "type": "string",
                "minLength": space.min_length,
                "maxLength": space.max_length,
                "x-charset": "".join(sorted(space.character_set)),
            }
        case spaces.Tuple():
            return _list_schema([schema(part) for part in space.spaces])
        case spaces.Dict():
            return _object_schema(
                {_name(key, space): schema(part) for key, part in space.spaces.items()}
            )
        case spaces.Sequence() if space.stack:
            return _stack_schema(space.feature_space)
        case spaces.Sequence():
            return {"type": "array", "items": schema(space.feature_space)}
        case spaces.Graph():
            return _graph_schema(space)
        case spaces.OneOf():
            numbers = [{"type": "integer", "minimum": i, "maximum": i} for i in range(len(space))]
            pairs = zip(numbers, space.spaces, strict=True)
            return {"anyOf": [_list_schema([number, schema(part)]) for number, part in pairs]}
        case _:
            raise _unsupported(space)


def _array_schema(space: spaces.Space[Any]) -> dict[str, Any]:
    dtype, low, high = _limits(space)
    if dtype.kind == "f" and dtype.itemsize > 8:
        raise InvalidOption(f"the space {space} cannot be served: use float64 or a smaller type")
    return {
        "type": "array",
        "x-ndarray": {
            "dtype": dtype.str,
            "shape": list(space.shape or ()),
            "low": _bound(low),
            "high": _bound(high),
        },
    }


def _limits(space: spaces.Space[Any]) -> tuple[np.dtype[Any], Any, Any]:
    """The dtype and the inclusive bounds of a space of numbers."""
    match space:
        case spaces.Box():
            return space.dtype, space.low, space.high
        case spaces.Discrete():
            start = np.asarray(space.start)
            return space.dtype, start, start + space.n - 1
        case spaces.MultiDiscrete():
            return space.dtype, space.start, space.start + space.nvec - 1
        case _:
            dtype = np.dtype(space.dtype)
            return dtype, np.zeros(space.shape or (), dtype), np.ones(space.shape or (), dtype)


def _bound(values: np.ndarray[Any, Any]) -> Any:
    if not values.size:
        return None
    if np.all(values == values.flat[0]):
        return _finite(values.flat[0].item())
    return _finite(values.tolist())


def _finite(value: Any) -> Any:
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return value if np.isfinite(value) else None


def _list_schema(parts: list[dict[str, Any]]) -> dict[str, Any]:
    size = len(parts)
    return {
        "type": "array",
        "prefixItems": parts,
        "items": False,
        "minItems": size,
        "maxItems": size,
    }


def _object_schema(parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": parts,
        "required": list(parts),
        "additionalProperties": False,
    }


def _stack_schema(feature: spaces.Space[Any], size: int | None = None) -> dict[str, Any]:
    """The schema of features that are stacked: as Gymnasium's vectors stack them.

    Args:
        feature: the space of one of them.
        size: how many, of which all parts have as many; ``None`` for any number.
    """
    made: dict[str, Any]
    match feature:
        case spaces.Discrete() | spaces.Box() | spaces.MultiDiscrete() | spaces.MultiBinary():
            made = _array_schema(feature)
            made["x-ndarray"]["shape"].insert(0, size)
            return made
        case spaces.Tuple():
            made = _list_schema([_stack_schema(part, size) for part in feature.spaces])
        case spaces.Dict():
            parts = feature.spaces.items()
            made = _object_schema(
                {_name(key, feature): _stack_schema(part, size) for key, part in parts}
            )
        case _:
            made = {"type": "array", "items": schema(feature)}
            return made if size is None else made | {"minItems": size, "maxItems": size}
    # Parts that are drawn apart would have different lengths.
    return made if size is not None else made | {"x-sample": _stack_schema(feature, 2)}


def _graph_schema(space: spaces.Graph) -> dict[str, Any]:
    nodes, nothing = _stack_schema(space.node_space), {"type": "null"}
    links = {"type": "array", "x-ndarray": {"dtype": "<i4", "shape": [None, 2], "low": 0}}
    edges: dict[str, Any] = nothing
    pairs: dict[str, Any] = nothing
    if space.edge_space is not None:
        edges = {"anyOf": [nothing, _stack_schema(space.edge_space)]}
        pairs = {"anyOf": [nothing, links]}
    # Edges and links that are drawn apart do not fit each other.
    drawn = _object_schema({"nodes": nodes, "edges": nothing, "edge_links": nothing})
    whole = _object_schema({"nodes": nodes, "edges": edges, "edge_links": pairs})
    return whole | {"x-sample": drawn}


def _name(key: Any, space: spaces.Space[Any]) -> str:
    """The name on the wire of a key of a ``Dict``: text, or an integer in digits."""
    if isinstance(key, str | int | np.integer) and not isinstance(key, bool):
        return str(_plain_key(key))
    raise InvalidOption(
        f"the key {key!r} of the space {space} cannot be served: use text or integers"
    )


def _plain_key(key: Any) -> str | int:
    """A key without its enum, of which JSON has the value."""
    return str.__str__(key) if isinstance(key, str) else int(key)


def _unsupported(space: spaces.Space[Any]) -> InvalidOption:
    return InvalidOption(
        f"a space of type {type(space).__name__} cannot be served: wrap the environment so that it"
        " uses Box, Discrete, MultiDiscrete, MultiBinary, Text, Tuple, Dict, Sequence, Graph or"
        " OneOf"
    )


# -- the space itself ---------------------------------------------------------------------------


def _about(space: spaces.Space[Any]) -> dict[str, Any]:
    """All that a space is made of, as JSON has it."""
    match space:
        case spaces.Discrete():
            start, size = int(space.start), int(space.n)
            return {"kind": "Discrete", "n": size, "start": start, "dtype": space.dtype.str}
        case spaces.Box():
            return {
                "kind": "Box",
                "dtype": space.dtype.str,
                "shape": list(space.shape),
                "low": _box_bound(space.low, space.bounded_below),
                "high": _box_bound(space.high, space.bounded_above),
            }
        case spaces.MultiDiscrete():
            return {
                "kind": "MultiDiscrete",
                "nvec": space.nvec.tolist(),
                "start": space.start.tolist(),
                "dtype": space.dtype.str,
            }
        case spaces.MultiBinary():
            shape = [int(size) for size in np.atleast_1d(space.n)]
            return {"kind": "MultiBinary", "n": shape if np.ndim(space.n) else shape[0]}
        case spaces.Text():
            return {
                "kind": "Text",
                "min_length": int(space.min_length),
                "max_length": int(space.max_length),
                "charset": "".join(space.character_list),
            }
        case spaces.Tuple():
            return {"kind": "Tuple", "spaces": [_about(part) for part in space.spaces]}
        case spaces.Dict():
            names = [_name(key, space) for key in space.spaces]
            if len({*names}) < len(names):
                raise InvalidOption(
                    f"the space {space} cannot be served: two of its keys are written alike"
                )
            pairs = [[_plain_key(key), _about(part)] for key, part in space.spaces.items()]
            return {"kind": "Dict", "spaces": pairs}
        case spaces.Sequence():
            inner = _about(space.feature_space)
            return {"kind": "Sequence", "space": inner, "stack": bool(space.stack)}
        case spaces.Graph():
            edges = space.edge_space
            return {
                "kind": "Graph",
                "nodes": _about(space.node_space),
                "edges": None if edges is None else _about(edges),
            }
        case spaces.OneOf():
            return {"kind": "OneOf", "spaces": [_about(part) for part in space.spaces]}
        case _:
            raise _unsupported(space)


def _box_bound(values: np.ndarray[Any, Any], bounded: np.ndarray[Any, Any]) -> Any:
    """A bound of a Box; ``null`` where there is none."""
    if not values.size:
        return None
    if np.all(values == values.flat[0]) and np.all(bounded == bounded.flat[0]):
        return _finite(values.flat[0].item()) if bounded.flat[0] else None
    return _plain_bound(values.tolist(), bounded.tolist())


def _plain_bound(value: Any, has: Any) -> Any:
    if isinstance(value, list):
        return [_plain_bound(*each) for each in zip(value, has, strict=True)]
    return _finite(value) if has else None


def rebuilt(about: Mapping[str, Any]) -> Any:
    """Make the space that an ``x-space`` says.

    Raises:
        ValueError: it is malformed.
    """
    match about.get("kind"):
        case "Discrete":
            dtype = np.dtype(about["dtype"])
            return spaces.Discrete(about["n"], start=about["start"], dtype=dtype)
        case "Box":
            return _rebuilt_box(about)
        case "MultiDiscrete":
            dtype = np.dtype(about["dtype"])
            nvec, start = np.array(about["nvec"], dtype), np.array(about["start"], dtype)
            return spaces.MultiDiscrete(nvec, dtype=dtype, start=start)
        case "MultiBinary":
            return spaces.MultiBinary(about["n"])
        case "Text":
            return spaces.Text(
                about["max_length"], min_length=about["min_length"], charset=about["charset"]
            )
        case "Tuple":
            return spaces.Tuple([rebuilt(part) for part in about["spaces"]])
        case "Dict":
            return spaces.Dict([(key, rebuilt(part)) for key, part in about["spaces"]])
        case "Sequence":
            return spaces.Sequence(rebuilt(about["space"]), stack=about["stack"])
        case "Graph":
            edges = about["edges"]
            return spaces.Graph(rebuilt(about["nodes"]), None if edges is None else rebuilt(edges))
        case "OneOf":
            return spaces.OneOf([rebuilt(part) for part in about["spaces"]])
        case kind:
            raise ValueError(f"there is no space of kind {kind!r}: update openenv-async")


def _rebuilt_box(about: Mapping[str, Any]) -> spaces.Box:
    dtype, shape = np.dtype(about["dtype"]), tuple(about["shape"])
    if dtype.kind == "f":
        least, most = -np.inf, np.inf
    else:
        range_ = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        least, most = range_

    def bound(given: Any, otherwise: Any) -> Any:
        return np.broadcast_to(np.array(_number(given, otherwise), dtype), shape).copy()

    box = spaces.Box(bound(about["low"], least), bound(about["high"], most), shape, dtype)
    # An unbounded side is drawn from another distribution than one that ends with its type.
    box.bounded_below = np.broadcast_to(np.array(_is_given(about["low"]), bool), shape).copy()
    box.bounded_above = np.broadcast_to(np.array(_is_given(about["high"]), bool), shape).copy()
    return box


def _number(value: Any, otherwise: Any) -> Any:
    if isinstance(value, list):
        return [_number(item, otherwise) for item in value]
    return otherwise if value is None else value


def _is_given(value: Any) -> Any:
    return [_is_given(item) for item in value] if isinstance(value, list) else value is not None


# -- elements -----------------------------------------------------------------------------------


def writer(space: spaces.Space[Any]) -> _Convert:
    """Return what turns an environment's observation into what travels; arrays are not copied.

    The returned function raises ``InvalidObservation``, with the place and what is wanted there.
    """
    return _Forms(InvalidObservation, "integers").outward(space, "observation")


def reader(space: spaces.Space[Any]) -> _Convert:
    """Return what turns what came in into an element of ``space``.

    The returned function raises ``InvalidAction``, with the place and what is wanted there.
    """
    return _Forms(InvalidAction, "all").inward(space, "action")


def sender(space: spaces.Space[Any]) -> _Convert:
    """Return what turns a caller's action into what travels; the server looks at the bounds.

    The returned function raises ``InvalidAction``.
    """
    return _Forms(InvalidAction, "none").outward(space, "action")


def opener(space: spaces.Space[Any]) -> _Convert:
    """Return what turns an observation that came into an element of ``space``.

    The returned function raises ``InvalidObservation``.
    """
    return _Forms(InvalidObservation, "none").inward(space, "observation")


class _Forms:
    """Functions between elements and what travels.

    Args:
        error: what the functions raise.
        bounds: which numbers must lie within the bounds of the space.
    """

    def __init__(self, error: _Error, bounds: Literal["none", "integers", "all"]) -> None:
        self._error = error
        self._bounds = bounds
        self._is_action = error is InvalidAction

    def _refused(self, where: str, value: Any, wanted: str) -> OpenEnvError:
        if isinstance(value, np.ndarray):
            shown = f"an array of {value.dtype} of shape {value.shape}: {value.tolist()!r}"
        else:
            shown = f"{value!r}"
        if len(shown) > _SHOWN:
            shown = shown[: _SHOWN - 3] + "..."
        kind = "action" if self._is_action else "observation"
        return self._error(f"invalid {kind}: {where} must be {wanted}, got {shown}")

    # -- leaves ---------------------------------------------------------------------------------

    def _integer(self, space: spaces.Discrete[Any], where: str) -> Callable[[Any], int]:
        first = int(space.start)
        last = first + int(space.n) - 1
        wanted = f"an integer from {first} to {last}"
        is_action = self._is_action

        def convert(value: Any) -> int:
            number: int | None = value
            if type(value) is not int:
                number = _as_integer(value, is_action)
            if number is None or not first <= number <= last:
                raise self._refused(where, value, wanted)
            return number

        return convert

    def _integer_in(self, space: spaces.Discrete[Any], where: str) -> _Convert:
        integer, make = self._integer(space, where), space.dtype.type
        first, last = int(space.start), int(space.start) + int(space.n) - 1

        def convert(value: Any) -> Any:
            if type(value) is int and first <= value <= last:  # as nearly all are
                return make(value)
            return make(integer(value))

        return convert

    def _array(self, space: spaces.Space[Any], where: str, *, stacked: bool = False) -> _Convert:
        """Any numbers as an array of the dtype and shape of ``space``."""
        dtype, low, high = _limits(space)
        shape = tuple(space.shape or ())
        sizes = f"(n, {', '.join(map(str, shape))})".replace(", )", ",)") if stacked else f"{shape}"
        wanted = f"an array of {dtype} of shape {sizes} within {space}"
        check = self._bounds_check(space, dtype, low, high, stacked)
        is_action, array_type = self._is_action, np.ndarray
        plain = check is None and not stacked

        def convert(value: Any) -> Any:
            if (
                plain
                and type(value) is array_type
                and value.dtype is dtype
                and value.shape == shape
            ):
                return value  # as nearly all are
            array = value if type(value) is np.ndarray else _as_array(value)
            if array is None:
                raise self._refused(where, value, wanted)
            if array.dtype != dtype:
                array = _cast(array, dtype)
                if array is None:
                    raise self._refused(where, value, wanted)
            if (array.shape[1:] if stacked else array.shape) != shape or (
                stacked and not array.ndim
            ):
                # One number is one number, however many axes it came in.
                if not is_action or stacked or array.size != 1 or math.prod(shape) != 1:
                    raise self._refused(where, value, wanted)
                array = array.reshape(shape)
            if check is not None and array.size and not check(array):
                raise self._refused(where, value, wanted)
            return array

        return convert

    def _bounds_check(
        self, space: spaces.Space[Any], dtype: np.dtype[Any], low: Any, high: Any, stacked: bool
    ) -> Callable[[Any], bool] | None:
        if self._bounds == "none" or (self._bounds == "integers" and dtype.kind == "f"):
            return None
        own = type(space) in (spaces.Box, spaces.MultiDiscrete, spaces.MultiBinary)
        if self._bounds == "all" and not stacked and not own:
            return space.contains  # of a subclass, which may want more
        if dtype.kind != "f" and low.size:
            kinds = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
            least, most = int(low.min()), int(high.max())
            if (least, most) == kinds and low.min() == low.max() and high.min() == high.max():
                return None  # whatever the type can hold
        # Gymnasium's own says the same in 20 µs.
        return lambda array: bool((array >= low).all() and (array <= high).all())

    def _text(self, space: spaces.Text, where: str) -> _Convert:
        wanted = f"within {space}"
        every = self._bounds == "all"

        def convert(value: Any) -> str:
            if not isinstance(value, str) or (every and not space.contains(value)):
                raise self._refused(where, value, wanted)
            return value if type(value) is str else str(value)

        return convert

    # -- containers -----------------------------------------------------------------------------

    def outward(self, space: spaces.Space[Any], where: str) -> _Convert:
        """Elements as what travels."""
        match space:
            case spaces.Discrete():
                return self._integer(space, where)
            case spaces.Box() | spaces.MultiDiscrete() | spaces.MultiBinary():
                return self._array(space, where)
            case spaces.Text():
                return self._text(space, where)
            case spaces.Tuple():
                parts = [self.outward(part, f"{where}[{i}]") for i, part in enumerate(space.spaces)]
                return self._items(parts, where, list)
            case spaces.Dict():
                return self._keys_out(
                    {
                        key: self.outward(part, f"{where}[{key!r}]")
                        for key, part in space.spaces.items()
                    },
                    space,
                    where,
                )
            case spaces.Sequence() if space.stack:
                return self._even(space.feature_space, self._stack_out, where)
            case spaces.Sequence():
                return self._all(self.outward(space.feature_space, f"{where}[...]"), where, list)
            case spaces.Graph():
                return self._graph_out(space, where)
            case spaces.OneOf():
                parts = [self.outward(part, f"{where}[1]") for part in space.spaces]
                return self._one_of(parts, where, lambda number, item: [number, item])
            case _:
                raise _unsupported(space)

    def inward(self, space: spaces.Space[Any], where: str) -> _Convert:
        """Return what travels as elements."""
        match space:
            case spaces.Discrete():
                return self._integer_in(space, where)
            case spaces.Box() | spaces.MultiDiscrete() | spaces.MultiBinary():
                return self._array(space, where)
            case spaces.Text():
                return self._text(space, where)
            case spaces.Tuple():
                parts = [self.inward(part, f"{where}[{i}]") for i, part in enumerate(space.spaces)]
                return self._items(parts, where, tuple)
            case spaces.Dict():
                return self._keys_in(
                    {
                        key: self.inward(part, f"{where}[{str(_plain_key(key))!r}]")
                        for key, part in space.spaces.items()
                    },
                    where,
                )
            case spaces.Sequence() if space.stack:
                return self._even(space.feature_space, self._stack_in, where)
            case spaces.Sequence():
                return self._all(self.inward(space.feature_space, f"{where}[...]"), where, tuple)
            case spaces.Graph():
                return self._graph_in(space, where)
            case spaces.OneOf():
                parts = [self.inward(part, f"{where}[1]") for part in space.spaces]
                return self._one_of(parts, where, lambda number, item: (np.int64(number), item))
            case _:
                raise _unsupported(space)

    def _items(self, parts: list[_Convert], where: str, make: type) -> _Convert:
        wanted = f"a list of {len(parts)}"

        def convert(value: Any) -> Any:
            if not isinstance(value, list | tuple | np.ndarray) or len(value) != len(parts):
                raise self._refused(where, value, wanted)
            return make([part(item) for part, item in zip(parts, value, strict=True)])

        return convert

    def _one_of(
        self, parts: list[_Convert], where: str, make: Callable[[int, Any], Any]
    ) -> _Convert:
        wanted = f"a pair of a number from 0 to {len(parts) - 1} and an element of that space"

        def convert(value: Any) -> Any:
            if not isinstance(value, list | tuple) or len(value) != 2:
                raise self._refused(where, value, wanted)
            number = _as_integer(value[0], self._is_action)
            if number is None or not 0 <= number < len(parts):
                raise self._refused(where, value, wanted)
            return make(number, parts[number](value[1]))

        return convert

    def _all(self, item: _Convert, where: str, make: type) -> _Convert:
        def convert(value: Any) -> Any:
            is_list = isinstance(value, list | tuple)
            if not is_list and not (isinstance(value, np.ndarray) and value.ndim):
                raise self._refused(where, value, "a list")
            return make([item(each) for each in value])

        return convert

    def _keys_out(self, parts: dict[Any, _Convert], space: spaces.Dict, where: str) -> _Convert:
        named = [(key, str(_plain_key(key)), part) for key, part in parts.items()]
        wanted = f"a dict with the keys {list(parts)}"

        def convert(value: Any) -> Any:
            if not isinstance(value, Mapping) or len(value) != len(named):
                raise self._refused(where, value, wanted)
            try:
                return {name: part(value[key]) for key, name, part in named}
            except KeyError:
                raise self._refused(where, value, wanted) from None

        return convert

    def _keys_in(self, parts: dict[Any, _Convert], where: str) -> _Convert:
        names = {str(_plain_key(key)) for key in parts}
        named = [(key, str(_plain_key(key)), part) for key, part in parts.items()]
        wanted = f"an object with the keys {sorted(names)}"

        def convert(value: Any) -> Any:
            if not isinstance(value, dict) or value.keys() != names:
                raise self._refused(where, value, wanted)
            return {key: part(value[name]) for key, name, part in named}

        return convert

    # -- stacks and graphs ----------------------------------------------------------------------

    def _even(
        self, feature: spaces.Space[Any], stack: Callable[..., _Convert], where: str
    ) -> _Convert:
        """Stacked features, of which every part has as many."""
        convert_parts = stack(feature, where)
        if not isinstance(feature, spaces.Tuple | spaces.Dict):
            return convert_parts

        def convert(value: Any) -> Any:
            made = convert_parts(value)
            if len(_lengths(feature, made)) > 1:
                raise self._refused(where, value, "stacked features with parts of one length")
            return made

        return convert

    def _stack_out(self, feature: spaces.Space[Any], where: str) -> _Convert:
        """Stacked features as what travels."""
        match feature:
            case spaces.Discrete() | spaces.Box() | spaces.MultiDiscrete() | spaces.MultiBinary():
                return self._array(feature, where, stacked=True)
            case spaces.Tuple():
                parts = [
                    self._stack_out(part, f"{where}[{i}]") for i, part in enumerate(feature.spaces)
                ]
                return self._items(parts, where, list)
            case spaces.Dict():
                return self._keys_out(
                    {
                        key: self._stack_out(part, f"{where}[{key!r}]")
                        for key, part in feature.spaces.items()
                    },
                    feature,
                    where,
                )
            case _:
                return self._all(self.outward(feature, f"{where}[...]"), where, list)

    def _stack_in(self, feature: spaces.Space[Any], where: str) -> _Convert:
        """Return what travels as stacked features."""
        match feature:
            case spaces.Discrete() | spaces.Box() | spaces.MultiDiscrete() | spaces.MultiBinary():
                return self._array(feature, where, stacked=True)
            case spaces.Tuple():
                parts = [
                    self._stack_in(part, f"{where}[{i}]") for i, part in enumerate(feature.spaces)
                ]
                return self._items(parts, where, tuple)
            case spaces.Dict():
                return self._keys_in(
                    {
                        key: self._stack_in(part, f"{where}[{str(_plain_key(key))!r}]")
                        for key, part in feature.spaces.items()
                    },
                    where,
                )
            case _:
                return self._all(self.inward(feature, f"{where}[...]"), where, tuple)

    def _graph_out(self, space: spaces.Graph, where: str) -> _Convert:
        nodes, edges, links = self._graph_parts(space, where, self._stack_out)

        def convert(value: Any) -> Any:
            try:
                parts = value.nodes, value.edges, value.edge_links
            except AttributeError:
                raise self._refused(where, value, "a GraphInstance") from None
            made = (
                nodes(parts[0]),
                parts[1] if edges is None or parts[1] is None else edges(parts[1]),
                None if parts[2] is None else links(parts[2]),
            )
            self._check_links(made, edges, where)
            return dict(zip(_GRAPH, made, strict=True))

        return convert

    def _graph_in(self, space: spaces.Graph, where: str) -> _Convert:
        nodes, edges, links = self._graph_parts(space, where, self._stack_in)

        def convert(value: Any) -> Any:
            if not isinstance(value, dict) or value.keys() != {*_GRAPH}:
                raise self._refused(where, value, f"an object with the keys {list(_GRAPH)}")
            parts = [value[key] for key in _GRAPH]
            made = spaces.GraphInstance(
                nodes(parts[0]),
                parts[1] if edges is None or parts[1] is None else edges(parts[1]),
                None if parts[2] is None else links(parts[2]),
            )
            self._check_links(made, edges, where)
            if self._bounds == "all" and not space.contains(made):
                raise self._refused(where, value, f"within {space}")
            return made

        return convert

    def _graph_parts(
        self, space: spaces.Graph, where: str, stack: Callable[..., _Convert]
    ) -> tuple[_Convert, _Convert | None, _Convert]:
        nodes = stack(space.node_space, f"{where}.nodes")
        edges = None if space.edge_space is None else stack(space.edge_space, f"{where}.edges")

        def links(value: Any) -> Any:
            array = value if type(value) is np.ndarray else _as_array(value)
            if array is not None and type(value) is not np.ndarray and array.dtype.kind in "iu":
                array = array.astype(np.int32)
            if array is None or array.dtype.kind not in "iu" or array.shape[1:] != (2,):
                raise self._refused(f"{where}.edge_links", value, "integers of shape (n, 2)")
            return array

        return nodes, edges, links

    def _check_links(self, graph: tuple[Any, Any, Any], edges: _Convert | None, where: str) -> None:
        """Edges and their links come together, one pair of nodes for each edge."""
        nodes, given, links = graph
        if (given is None) is not (links is None) or (edges is None and given is not None):
            wanted = "None" if edges is None else "given with edge_links, one pair for each"
            raise self._refused(f"{where}.edges", given, wanted)
        if links is None:
            return
        if isinstance(given, np.ndarray) and len(given) != len(links):
            raise self._refused(f"{where}.edge_links", links, f"{len(given)} pairs of nodes")
        if isinstance(nodes, np.ndarray) and links.size:
            most = len(nodes) - 1
            if int(links.min()) < 0 or int(links.max()) > most:
                raise self._refused(f"{where}.edge_links", links, f"indices from 0 to {most}")


# -- numbers ------------------------------------------------------------------------------------


def _lengths(feature: spaces.Space[Any], stacked: Any) -> set[int]:
    """Return how many features the parts of a stack have."""
    match feature:
        case spaces.Tuple():
            pairs = list(zip(feature.spaces, stacked, strict=True))
        case spaces.Dict():
            pairs = list(zip(feature.spaces.values(), stacked.values(), strict=True))
        case _:
            return {len(stacked)}
    return {length for part, value in pairs for length in _lengths(part, value)}


def _as_integer(value: Any, is_action: bool) -> int | None:
    """An integer of another type; ``None`` when it is none.

    An action may be an array of one integer, as a vector's row is; an observation may be a bool.
    """
    if isinstance(value, bool | np.bool_):
        return None if is_action else int(value)
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "iu" or value.size != 1 or (value.ndim and not is_action):
            return None
        return int(value.reshape(-1)[0])
    try:
        return operator.index(value)
    except TypeError:
        return None


def _as_array(value: Any) -> np.ndarray[Any, Any] | None:
    """Numbers as an array; ``None`` when they are none."""
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        return None
    try:
        return np.asarray(value)
    except (TypeError, ValueError):  # a ragged list
        return None


def _cast(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> np.ndarray[Any, Any] | None:
    """The array in another dtype of the same kind; ``None`` where something would be lost."""
    if not array.size:
        return array.astype(dtype) if array.dtype.kind in "biuf" else None
    if array.dtype.kind not in ("biu" if dtype.kind in "biu" else "biuf"):
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        cast = array.astype(dtype)
    if dtype.kind in "biu":
        return cast if np.array_equal(cast, array) else None
    if dtype.itemsize < array.dtype.itemsize and not np.array_equal(
        np.isfinite(cast), np.isfinite(array)
    ):
        return None
    return cast
