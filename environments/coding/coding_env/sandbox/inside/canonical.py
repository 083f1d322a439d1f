"""Values as text, so that a result can be compared without being rebuilt.

The server makes the text of what it expects and compares it with the text that a worker gives:
what untrusted code returned is never parsed, no ``__eq__`` of it is ever asked, and what is
expected is never shown to it.

Rules: two values have one text where Python's ``==`` says that they are equal: ``2.0`` and ``2``,
``True`` and ``1``, a set and a frozenset, dicts in any order of keys; not a tuple and a list. There
are two exceptions, in favour of the result: what has a fraction counts to nine significant digits,
since no two ways to add floats agree on the last ones, and NaN is as NaN.
"""

from __future__ import annotations

import hashlib
import math
import numbers
from collections.abc import ItemsView, KeysView
from types import MappingProxyType
from typing import Any, Final

__all__ = ["canonical"]

_LONGEST: Final = 2000
_DEEPEST: Final = 50


def canonical(value: Any) -> str:
    """The text of a value; of a long one the start and a digest.

    Raises:
        TypeError: the value is not made of None, numbers, str, bytes, list, tuple, dict, set.
        ValueError: it is nested too deeply.
    """
    text = _text(value, 0)
    if len(text) <= _LONGEST:
        return text
    return (
        f"{text[:_LONGEST]}…{hashlib.sha256(text.encode('utf-8', 'backslashreplace')).hexdigest()}"
    )


def _text(value: Any, depth: int) -> str:
    if depth > _DEEPEST:
        raise ValueError("the result is nested too deeply")
    if value is None:
        return "None"
    if isinstance(value, str):
        return repr("".join(value))  # as plain text, whatever its class
    if isinstance(value, numbers.Number):
        return _number(value)
    if isinstance(value, bytes | bytearray):
        return repr(bytes(value))
    if isinstance(value, list | tuple):
        text = ",".join(_text(item, depth + 1) for item in value)
        return f"[{text}]" if isinstance(value, list) else f"({text},)"
    if isinstance(value, set | frozenset | KeysView | ItemsView):
        return f"{{{','.join(sorted(_text(item, depth + 1) for item in value))}}}"
    if isinstance(value, dict | MappingProxyType):
        items = sorted((_text(k, depth + 1), _text(v, depth + 1)) for k, v in value.items())
        return "dict(" + ",".join(f"{k}:{v}" for k, v in items) + ")"
    if type(value).__module__ == "numpy" and value.shape == ():
        return _text(value.item(), depth + 1)  # numpy.bool is not one of Python's numbers
    raise TypeError(f"the result is a {type(value).__name__}")


def _number(value: Any) -> str:
    if isinstance(value, numbers.Integral):
        return str(int(value))
    if isinstance(value, numbers.Complex) and not isinstance(value, numbers.Real):
        if value.imag != 0:
            return f"complex({_number(value.real)},{_number(value.imag)})"
        value = value.real
    if not math.isfinite(value):
        return f"{float(value)}"
    if value == (whole := int(value)):
        return str(whole)
    rounded = f"{float(value):.9g}"
    return str(int(float(rounded))) if float(rounded).is_integer() else rounded
