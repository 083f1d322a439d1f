"""Values as text, so that a result can be compared without being rebuilt.

The server makes the text of what it expects and compares it with the text that a worker gives:
what untrusted code returned is never parsed, and what is expected is never shown to it.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

__all__ = ["canonical"]

_LONGEST: Final = 2000
_DEEPEST: Final = 50


def canonical(value: Any) -> str:
    """The text of a value; of a long one the start and a digest.

    Tuples are as lists. Floats count to nine significant digits, and ``1.0`` is not ``1``.

    Raises:
        TypeError: the value is not made of None, bool, int, float, str, list, tuple, dict, set.
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
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return repr(value)
    if kind is float:
        return f"{value:.9g}f"
    if isinstance(value, list | tuple):
        return f"[{','.join(_text(item, depth + 1) for item in value)}]"
    if isinstance(value, set | frozenset):
        return f"{{{','.join(sorted(_text(item, depth + 1) for item in value))}}}"
    if isinstance(value, dict):
        items = sorted((_text(k, depth + 1), _text(v, depth + 1)) for k, v in value.items())
        return "{" + ",".join(f"{k}:{v}" for k, v in items) + "}"
    raise TypeError(f"the result is a {kind.__name__}")
