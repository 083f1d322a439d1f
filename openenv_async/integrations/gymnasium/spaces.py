"""Gymnasium spaces of what an environment's JSON Schema describes, and elements both ways.

    schema                                      space           element on the wire
    x-space                                     the space that it says, exactly
    x-ndarray with a shape                      Box             array
      int64 with bounds, one axis               MultiDiscrete   array
      int8 from 0 to 1                          MultiBinary     array
    integer with minimum and maximum            Discrete        integer
    integer, number                             Box of shape () number
    boolean                                     Discrete(2)     true or false
    enum, const                                 Discrete        one of the values
    string                                      Text            string
    object                                      Dict            object
    object of one property                      that property's space
    array with prefixItems                      Tuple           list
    array of as many numbers as it must have    Box             list
    array                                       Sequence        list

Properties that are not required and fit none of these are left out of an action. Anything else in a
schema has no space: the adapters take one of the caller's own.

``x-space`` comes from Gymnasium's own environments (``openenv_async.hosts``); the rest is a guess.
Values are never bent to fit: what is not of the space's kind, such as 1.5 or ``"1"`` for an
integer, is ``InvalidAction`` or ``InvalidObservation``.
"""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from gymnasium import spaces

from openenv_async.errors import InvalidAction, InvalidObservation, OperationUnsupported
from openenv_async.hosts.spaces import SPACE_KEY, opener, rebuilt, sender
from openenv_async.integrations.gymnasium.columns import shape_of
from openenv_async.schemas.refs import resolved

__all__ = ["SpaceCodec", "codec_of", "exact_codec"]

_MOST_TEXT: Final = 4096
"""Characters of a Text whose schema gives no bound; Gymnasium wants one."""


@dataclass(frozen=True, slots=True)
class SpaceCodec:
    """A space and its elements on the wire.

    Attributes:
        space: the space.
        to_wire: an element as what travels.
        from_wire: what came as an element, with the space's dtypes.
        shape: how elements that are as they travel lie in a column (``columns``); ``None``: they
            travel row by row.
    """

    space: spaces.Space[Any]
    to_wire: Callable[[Any], Any]
    from_wire: Callable[[Any], Any]
    shape: Any = None


def codec_of(
    schema: Mapping[str, Any], *, optional: bool = False, field: str | None = None
) -> SpaceCodec:
    """The space that a JSON Schema describes.

    Args:
        schema: of an action or an observation, as a server's ``/schema`` gives it.
        optional: leave out properties that are not required and have no space.
        field: of an object only this property.

    Raises:
        OperationUnsupported: a part of it has no space; the message names the part.
        InvalidModel: a reference of it leads to nothing.
    """
    reader = _Reader(schema, optional)
    if field is None:
        return reader.read(schema, "")
    whole = resolved(schema, schema)
    properties = whole.get("properties", {})
    if field not in properties:
        raise OperationUnsupported(f"there is no field {field!r}, only {', '.join(properties)}")
    only = reader.read(properties[field], repr(field))
    return SpaceCodec(
        only.space,
        lambda value: {field: only.to_wire(value)},
        lambda value: only.from_wire(_part(value, field)),
        _field(field, only),
    )


def _field(name: str, codec: SpaceCodec) -> Any:
    """The shape of objects with one field that counts."""
    return None if codec.shape is None else {name: codec.shape}


class _Reader:
    def __init__(self, root: Mapping[str, Any], optional: bool) -> None:
        self._root = root
        self._optional = optional
        self._open: list[str] = []

    def read(self, schema: Mapping[str, Any], where: str) -> SpaceCodec:
        if "$ref" in schema:
            return self._referred(schema, where)
        if SPACE_KEY in schema:
            return self._said(schema[SPACE_KEY], where)
        if "enum" in schema:
            return _choice(list(schema["enum"]))
        if "const" in schema:
            return _choice([schema["const"]])
        if "x-ndarray" in schema:
            return self._array(schema["x-ndarray"], where)
        match schema.get("type"):
            case "boolean":
                return _truth()
            case "integer":
                return self._integer(schema)
            case "number":
                low, high = _bounds(schema)
                return _scalar(spaces.Box(low, high, (), np.float64), float)
            case "string":
                return self._text(schema)
            case "object" if schema.get("properties"):
                return self._object(schema, where)
            case "array" if "prefixItems" in schema:
                return self._tuple(schema["prefixItems"], where)
            case "array" if isinstance(schema.get("items"), dict):
                return self._list(schema, where)
            case kind:
                several = schema.get("anyOf") or schema.get("oneOf")
                kinds = [str(each.get("type", "object")) for each in several or ()]
                what = f"of type {kind!r}" if kind else "without a type"
                raise self._unsupported(where, f"({' or '.join(kinds)})" if kinds else what)

    def _said(self, about: Mapping[str, Any], where: str) -> SpaceCodec:
        try:
            space = rebuilt(about)
        except (ValueError, TypeError, KeyError, AssertionError) as exc:
            raise self._unsupported(where, f"whose {SPACE_KEY} cannot be read ({exc})") from exc
        return exact_codec(space)

    def _unsupported(self, where: str, what: str) -> OperationUnsupported:
        return OperationUnsupported(
            f"{where or 'the whole value'} {what} has no Gymnasium space: pass action_space= with"
            " encode_action=, or observation_space= with decode_observation=; observation_field="
            " takes one field of an observation"
        )

    def _referred(self, schema: Mapping[str, Any], where: str) -> SpaceCodec:
        ref = schema["$ref"]
        if ref in self._open:
            raise self._unsupported(where, "that contains itself")
        self._open.append(ref)
        try:
            return self.read(resolved(schema, self._root), where)
        finally:
            self._open.pop()

    def _array(self, array: Mapping[str, Any], where: str) -> SpaceCodec:
        if "dtype" not in array or "shape" not in array or None in array["shape"]:
            raise self._unsupported(where, "that is an array of unknown dtype or shape")
        dtype, shape = np.dtype(array["dtype"]), tuple(array["shape"])
        low, high = _bound(array.get("low"), -math.inf), _bound(array.get("high"), math.inf)
        if dtype.kind not in "iufb":
            raise self._unsupported(where, f"that is an array of {dtype}")
        integral = dtype.kind in "iub"
        whole = bool(np.all(np.isfinite(low)) and np.all(np.isfinite(high)))
        space: spaces.Space[Any]
        if dtype == np.int8 and np.all(low == 0) and np.all(high == 1):
            space = spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
        elif dtype == np.int64 and whole and len(shape) == 1:
            start = np.broadcast_to(low, shape).astype(np.int64)
            space = spaces.MultiDiscrete(
                np.broadcast_to(high, shape).astype(np.int64) - start + 1, start=start
            )
        else:
            if integral:
                least, most = (0, 1) if dtype.kind == "b" else _range(dtype)
                low, high = np.maximum(low, least), np.minimum(high, most)
            # Through the array's own dtype: 64-bit integers do not fit a float.
            space = spaces.Box(_as(low, dtype, shape), _as(high, dtype, shape), shape, dtype.type)
        send = sender(space)
        return SpaceCodec(
            space, lambda value: np.ascontiguousarray(send(value)), opener(space), shape_of(space)
        )

    def _integer(self, schema: Mapping[str, Any]) -> SpaceCodec:
        low, high = _bounds(schema)
        if math.isfinite(low) and math.isfinite(high):
            return exact_codec(spaces.Discrete(int(high) - int(low) + 1, start=int(low)))
        least, most = np.iinfo(np.int64).min, np.iinfo(np.int64).max
        box = spaces.Box(
            np.int64(low) if math.isfinite(low) else np.int64(least),
            np.int64(high) if math.isfinite(high) else np.int64(most),
            (),
            np.int64,
        )
        return _scalar(box, int)

    def _text(self, schema: Mapping[str, Any]) -> SpaceCodec:
        space = spaces.Text(
            int(schema.get("maxLength", _MOST_TEXT)),
            min_length=int(schema.get("minLength", 0)),
            charset=schema.get("x-charset", string.printable),
        )
        return exact_codec(space)

    def _object(self, schema: Mapping[str, Any], where: str) -> SpaceCodec:
        required = schema.get("required", ())
        parts: dict[str, SpaceCodec] = {}
        for key, part in schema["properties"].items():
            place = f"{where}.{key}" if where else f"{key!r}"
            try:
                parts[key] = self.read(part, place)
            except OperationUnsupported:
                if key in required or not self._optional:
                    raise
        if not parts:
            raise self._unsupported(where, "without a property that has one")
        if len(parts) == 1:
            ((key, only),) = parts.items()
            to_wire, from_wire = only.to_wire, only.from_wire
            return SpaceCodec(
                only.space,
                lambda value: {key: to_wire(value)},
                lambda value: from_wire(_part(value, key)),
                _field(key, only),
            )
        names = parts.keys()

        def to_wire_each(value: Any) -> Any:
            if not isinstance(value, Mapping) or value.keys() != names:
                raise InvalidAction(
                    f"invalid action: {where or 'it'} must be a dict with the keys {list(names)},"
                    f" got {value!r:.80}"
                )
            return {key: codec.to_wire(value[key]) for key, codec in parts.items()}

        # Gymnasium sorts the keys of a plain dict; the schema's order is as good as any.
        return SpaceCodec(
            spaces.Dict({key: codec.space for key, codec in parts.items()}),
            to_wire_each,
            lambda value: {key: c.from_wire(_part(value, key)) for key, c in parts.items()},
            None
            if any(c.shape is None for c in parts.values())
            else {k: c.shape for k, c in parts.items()},
        )

    def _tuple(self, items: list[Any], where: str) -> SpaceCodec:
        parts = [self.read(part, f"{where}[{i}]") for i, part in enumerate(items)]
        size = len(parts)

        def checked(value: Any, error: type[InvalidAction | InvalidObservation]) -> Any:
            if not isinstance(value, list | tuple | np.ndarray) or len(value) != size:
                raise error(f"{where or 'the value'} must be a list of {size}, got {value!r:.80}")
            return zip(parts, value, strict=True)

        return SpaceCodec(
            spaces.Tuple(codec.space for codec in parts),
            lambda value: [c.to_wire(v) for c, v in checked(value, InvalidAction)],
            lambda value: tuple(c.from_wire(v) for c, v in checked(value, InvalidObservation)),
        )

    def _list(self, schema: Mapping[str, Any], where: str) -> SpaceCodec:
        items = schema["items"]
        size = schema.get("minItems")
        if items.get("type") in ("number", "integer") and size == schema.get("maxItems", math.nan):
            dtype = np.dtype(np.float64 if items["type"] == "number" else np.int64)
            low, high = _bounds(items)
            if dtype.kind == "i":
                least, most = _range(dtype)
                low, high = max(low, least), min(high, most)
            shape = (int(size),)
            box: Any = spaces.Box(_as(low, dtype, shape), _as(high, dtype, shape), shape, dtype)
            send = sender(box)
            return SpaceCodec(box, lambda value: send(value).tolist(), opener(box))
        part = self.read(items, f"{where}[…]")
        return SpaceCodec(
            spaces.Sequence(part.space),
            lambda value: [part.to_wire(item) for item in value],
            lambda value: tuple(part.from_wire(item) for item in value),
        )


def exact_codec(space: spaces.Space[Any]) -> SpaceCodec:
    """The codec of a space whose elements travel as Gymnasium's environments send them."""
    return SpaceCodec(space, sender(space), opener(space), shape_of(space))


def _scalar(box: spaces.Box, plain: type) -> SpaceCodec:
    """The codec of numbers that travel as plain ones."""
    send = sender(box)
    return SpaceCodec(box, lambda value: plain(send(value)), opener(box))


def _truth() -> SpaceCodec:
    space = spaces.Discrete(2)
    send, receive = sender(space), opener(space)

    def from_wire(value: Any) -> Any:
        return receive(int(value) if isinstance(value, bool) else value)

    # True and False are the words of the schema, though not of the space.
    return SpaceCodec(
        space,
        lambda value: value if isinstance(value, bool) else bool(send(value)),
        from_wire,
    )


def _choice(values: list[Any]) -> SpaceCodec:
    space = spaces.Discrete(len(values))
    send = sender(space)

    def from_wire(value: Any) -> Any:
        try:
            return np.int64(values.index(value))
        except ValueError:
            raise InvalidObservation(
                f"invalid observation: {value!r:.80} is none of {values!r:.120}"
            ) from None

    return SpaceCodec(space, lambda value: values[send(value)], from_wire)


def _part(value: Any, key: str) -> Any:
    """A property of an observation."""
    try:
        return value[key]
    except (KeyError, TypeError, IndexError):
        raise InvalidObservation(
            f"invalid observation: it has no {key!r}, which its schema declares: {value!r:.80}"
        ) from None


def _bounds(schema: Mapping[str, Any]) -> tuple[float, float]:
    low = schema.get("minimum", -math.inf)
    high = schema.get("maximum", math.inf)
    whole = schema.get("type") == "integer"
    if "exclusiveMinimum" in schema:
        least = schema["exclusiveMinimum"]
        low = max(low, math.floor(least) + 1 if whole else math.nextafter(least, math.inf))
    if "exclusiveMaximum" in schema:
        most = schema["exclusiveMaximum"]
        high = min(high, math.ceil(most) - 1 if whole else math.nextafter(most, -math.inf))
    return low, high


def _bound(given: Any, otherwise: float) -> Any:
    """A bound as numbers: nested lists with ``null`` where there is none."""

    def number(value: Any) -> Any:
        if isinstance(value, list):
            return [number(item) for item in value]
        return otherwise if value is None else value

    return np.asarray(number(given))


def _range(dtype: np.dtype[Any]) -> tuple[int, int]:
    limits = np.iinfo(dtype)
    return int(limits.min), int(limits.max)


def _as(bound: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
    """A bound as an array of the dtype; the largest integers are kept from wrapping."""
    if dtype.kind in "iu" and np.asarray(bound).dtype.kind == "f":
        least, most = _range(dtype)
        flat = [
            min(max(int(value), least), most) for value in np.asarray(bound).reshape(-1).tolist()
        ]
        bound = np.array(flat, dtype).reshape(np.asarray(bound).shape)
    return np.broadcast_to(np.asarray(bound).astype(dtype), shape)
