"""Tagged objects of native JSON, for what JSON has no word for."""

from __future__ import annotations

import binascii
import math
from typing import Any, Final

from openenv_async.arrays.ext import MAX_NDIM, assemble, numpy_types, parts, wire_dtype

__all__ = ["OCTETS", "tag", "untag"]

_TAGS: Final = frozenset(
    {"__ndarray__", "__npscalar__", "__float__", "__bytes__", "__items__", "__escaped__"}
)
_TEXT: Final = frozenset({str})
_NUMBERS: Final = "biuf"
OCTETS: Final = (bytes, bytearray, memoryview)
_FLOATS: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def tag(tree: Any) -> Any:
    """Plain JSON for a tree of builtins, bytes, arrays and NumPy scalars; keys may be any of them.

    Raises:
        TypeError, ValueError: a part of ``tree`` is something else; the message names it.
    """
    kind = type(tree)
    if kind is dict:
        if not _TEXT.issuperset(map(type, tree)):
            return {"__items__": [[tag(key), tag(value)] for key, value in tree.items()]}
        result = {key: tag(value) for key, value in tree.items()}
        if len(result) == 1 and not _TAGS.isdisjoint(result):
            return {"__escaped__": result}
        return result
    if kind is list or kind is tuple or kind is set or kind is frozenset:
        return [tag(value) for value in tree]
    if kind is float:
        return tree if math.isfinite(tree) else {"__float__": str(tree)}
    if kind in OCTETS:
        return {"__bytes__": _base64(tree)}
    if kind in numpy_types():
        plain = tree.dtype
        if plain.kind in _NUMBERS and plain.itemsize <= 8 and 0 < tree.ndim <= MAX_NDIM:
            elements = _base64(tree.tobytes())  # which needs no further look
            return {"__ndarray__": [plain.str, list(tree.shape), elements]}
        dtype, shape, data = parts(tree)
        text = _base64(data)
        if kind is numpy_types()[0]:
            return {"__ndarray__": [dtype.decode(), list(shape), text]}
        return {"__npscalar__": [dtype.decode(), text]}
    return tree


def _base64(data: Any) -> str:
    return binascii.b2a_base64(data, newline=False).decode()


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


def _untag_items(pairs: Any) -> dict[Any, Any]:
    if not isinstance(pairs, list) or any(type(p) is not list or len(p) != 2 for p in pairs):
        raise ValueError("expected a list of [key, value]")
    result = {_as_key(untag(key)): untag(value) for key, value in pairs}
    if len(result) != len(pairs):
        raise ValueError("a key is there twice")
    return result


def _as_key(key: Any) -> Any:
    """A decoded key, a list as the tuple that it was."""
    return tuple(map(_as_key, key)) if type(key) is list else key


def _untag_one(key: str, value: Any) -> Any:
    if key == "__escaped__":
        if not isinstance(value, dict) or len(value) != 1 or _TAGS.isdisjoint(value):
            raise ValueError("expected an object whose only key is a tag")
        return {inner: untag(item) for inner, item in value.items()}
    if key == "__items__":
        return _untag_items(value)
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
        or len(shape) > MAX_NDIM
        or any(type(size) is not int or not 0 <= size < 1 << 64 for size in shape)
    ):
        raise ValueError("the shape is not a list of sizes")
    data = binascii.a2b_base64(text, strict_mode=True)
    return assemble(wire_dtype(name.encode()), tuple(shape), data, scalar=not middle)
