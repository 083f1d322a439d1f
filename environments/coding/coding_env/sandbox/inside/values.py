"""Values as JSON, between the process of a solution and the process of its tests.

Builtin values are copied and arrive as builtin values, so that tests compare them by Python's own
``==``. Anything else stays where it is and is sent as a reference; what arrives in the process of
the tests is then a stand-in for it. Nothing that is unpacked runs code of the other side.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import math
import re
import sys
from collections.abc import Callable
from typing import Any, Final

__all__ = ["pack", "plain", "unpack"]

_DEEPEST: Final = 60
_SMALL: Final = 1 << 53
_DTYPE: Final = re.compile(r"[<>|=][biufcU]\d{1,6}\Z")
_FIELD: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,60}\Z")
_DICTS: Final = (dict, collections.Counter, collections.OrderedDict, collections.defaultdict)
_TIMES: Final = {cls.__name__: cls for cls in (datetime.date, datetime.datetime, datetime.time)}


def pack(value: Any, keep: Callable[[Any], Any], depth: int = 0) -> Any:
    """A value as JSON; ``keep`` gives the JSON of what is not copied."""
    kind = type(value)
    if value is None or kind in (bool, str):
        return value
    if kind is int:
        return value if -_SMALL < value < _SMALL else {"int": hex(value)}
    if kind is float:
        return value if math.isfinite(value) else {"float": str(value)}
    if depth > _DEEPEST:
        return keep(value)

    def items(values: Any) -> list[Any]:
        return [pack(each, keep, depth + 1) for each in values]

    if kind is list:
        return items(value)
    if kind in (tuple, set, frozenset, collections.deque):
        return {kind.__name__: items(value)}
    if kind in _DICTS:
        return {"dict": [items(pair) for pair in value.items()]}
    if kind in (bytes, bytearray):
        return {kind.__name__: value.hex()}
    if kind is complex:
        return {"complex": items([value.real, value.imag])}
    if kind is range:
        return {"range": [value.start, value.stop, value.step]}
    if kind is decimal.Decimal:
        return {"Decimal": str(value)}
    if kind is fractions.Fraction:
        return {"Fraction": str(value)}
    if kind is datetime.timedelta:
        return {"timedelta": [value.days, value.seconds, value.microseconds]}
    if kind in _TIMES.values():
        return {kind.__name__: value.isoformat()}
    if isinstance(value, tuple) and isinstance(fields := getattr(kind, "_fields", None), tuple):
        return {"namedtuple": [kind.__name__, list(fields), items(tuple(value))]}
    if kind.__module__ == "numpy" and hasattr(value, "dtype") and hasattr(value, "tolist"):
        if not _DTYPE.match(str(getattr(value.dtype, "str", ""))):
            return keep(value)
        if value.shape == ():
            return pack(value.item(), keep, depth + 1)
        listed = pack(value.ravel().tolist(), keep, depth + 1)
        return {"array": [value.dtype.str, list(value.shape), listed]}
    return keep(value)


def plain(value: Any) -> Any:
    """The builtin value that an instance of a subclass is; NotImplemented if there is none."""
    bases: tuple[Any, ...] = (bool, int, float, complex, str, bytes, bytearray)
    bases += (list, tuple, set, frozenset, dict, collections.deque)
    for base in bases:
        if isinstance(value, base):
            return base(value)
    return NotImplemented


def unpack(data: Any, find: Callable[[str, Any], Any]) -> Any:
    """The value of JSON; ``find`` gives that of a reference, by its kind.

    Raises:
        ValueError, TypeError: nothing is written like that.
    """
    if isinstance(data, list):
        return [unpack(each, find) for each in data]
    if not isinstance(data, dict):
        return data
    [(kind, body)] = data.items()
    if kind in ("tuple", "set", "frozenset", "deque"):
        made: Any = {"tuple": tuple, "set": set, "frozenset": frozenset}.get(
            kind, collections.deque
        )
        return made([unpack(each, find) for each in body])
    if kind == "dict":
        return {unpack(key, find): unpack(value, find) for key, value in body}
    if kind in ("bytes", "bytearray"):
        return bytes.fromhex(body) if kind == "bytes" else bytearray.fromhex(body)
    if kind == "int":
        return int(body, 16)
    if kind == "float":
        return float(body)
    if kind == "complex":
        real, imaginary = (unpack(each, find) for each in body)
        return complex(real, imaginary)
    if kind == "range":
        return range(*body)
    if kind == "Decimal":
        return decimal.Decimal(body)
    if kind == "Fraction":
        return fractions.Fraction(body)
    if kind == "timedelta":
        return datetime.timedelta(*body)
    if kind in _TIMES:
        return _TIMES[kind].fromisoformat(body)
    if kind == "namedtuple":
        name, fields, values = body
        if not all(_FIELD.match(each) for each in (name, *fields)):
            raise ValueError(f"a tuple has the names {name!r}, {fields!r}")
        return collections.namedtuple(name, fields)(*(unpack(each, find) for each in values))
    if kind == "array":
        dtype, shape, listed = body
        return _array(dtype, shape, unpack(listed, find))
    return find(kind, body)


def _array(dtype: str, shape: list[int], values: Any) -> Any:
    numpy = sys.modules.get("numpy")
    if numpy is None or not _DTYPE.match(dtype):
        return values
    return numpy.array(values, dtype=dtype).reshape(shape)
