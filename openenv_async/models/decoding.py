"""What msgspec meets in a payload and does not know: arrays, NumPy scalars, pydantic models."""

from __future__ import annotations

from typing import Any

import msgspec

from openenv_async import arrays
from openenv_async.models.foreign import from_text
from openenv_async.models.inspection import custom_kind, type_name
from openenv_async.models.pydantic import validate

__all__ = ["dec_hook", "ext_hook", "without_scalars"]


def ext_hook(code: int, payload: memoryview) -> Any:
    """An Ext of msgpack as the array or scalar that it is."""
    if code == arrays.EXT_NDARRAY or code == arrays.EXT_NPSCALAR:
        return arrays.from_ext(code, payload)
    return msgspec.msgpack.Ext(code, bytes(payload))


def dec_hook(annotation: Any, value: Any) -> Any:
    """A decoded value as the type that the model declares there."""
    kind = custom_kind(annotation)
    if kind == "array":
        return arrays.as_array(annotation, value)
    if kind == "scalar":
        return arrays.as_scalar(annotation, value)
    if kind == "pydantic":
        return validate(annotation, value)
    if kind == "text":
        return from_text(getattr(annotation, "__origin__", annotation), value)
    raise ValueError(f"{type_name(annotation)} is not a type that travels")


def without_scalars(tree: Any) -> Any:
    """``tree`` with NumPy scalars as Python's; the same object when there are none."""
    if isinstance(tree, dict):
        items = {key: without_scalars(value) for key, value in tree.items()}
        return items if any(items[key] is not tree[key] for key in tree) else tree
    if isinstance(tree, list):
        values = [without_scalars(value) for value in tree]
        same = all(new is old for new, old in zip(values, tree, strict=True))
        return tree if same else values
    types = arrays.numpy_types()
    if types and isinstance(tree, types[1:]):
        scalar: Any = tree
        return scalar.item()
    return tree
