"""The values of a payload that msgspec does not know: arrays, NumPy scalars, pydantic models."""

from __future__ import annotations

import functools
from typing import Any, Final, Never

import msgspec
from msgspec import inspect

from openenv_async import arrays
from openenv_async.models.choices import Choice, Field, Member
from openenv_async.models.foreign import from_text
from openenv_async.models.inspection import (
    choice_of,
    custom_kind,
    holder_of,
    may_have_tag,
    type_name,
    typed_items,
)
from openenv_async.models.pydantic import validate
from openenv_async.models.unknown_fields import refuse_unknown

__all__ = ["dec_hook", "ext_hook", "has_large_int", "with_floats", "without_scalars"]


def ext_hook(code: int, payload: memoryview) -> Any:
    """An Ext of msgpack as the array, scalar or large integer that it is."""
    if code == arrays.EXT_NDARRAY or code == arrays.EXT_NPSCALAR:
        return arrays.from_ext(code, payload)
    if code == arrays.EXT_INT:
        return arrays.int_from_bytes(payload)
    return msgspec.msgpack.Ext(code, bytes(payload))


def dec_hook(annotation: Any, value: Any) -> Any:
    """A decoded value as the type that the model declares there."""
    if annotation is type(value):  # an array, mostly; of numbers, as all that come in an Ext
        return value
    kind = custom_kind(annotation)
    if kind == "array":
        return arrays.as_array(annotation, value)
    if kind == "scalar":
        return arrays.as_scalar(annotation, value)
    if kind == "pydantic":
        return validate(annotation, value)
    if kind == "text":
        return from_text(getattr(annotation, "__origin__", annotation), value)
    if kind == "choice":
        return annotation.read(value, functools.partial(_as_member, annotation))
    if kind == "holder":
        return annotation.read(value, _converted)
    raise ValueError(f"{type_name(annotation)} is not a type that travels")


def _as_member(choice: type[Choice], tree: Any, member: Member | None) -> Any:
    if member is not None:
        return _converted(tree, member)
    if choice.others is Never:
        raise ValueError(f"Expected `object`, got `{type(tree).__name__}`")
    return msgspec.convert(tree, choice.others, dec_hook=dec_hook, str_keys=True)


def _converted(tree: Any, part: Member | Field) -> Any:
    refuse_unknown(part.info, tree)
    try:
        return msgspec.convert(tree, part.type, dec_hook=dec_hook, str_keys=True)
    except msgspec.ValidationError:
        plain = without_scalars(tree)
        if plain is tree:
            raise
    return msgspec.convert(plain, part.type, dec_hook=dec_hook, str_keys=True)


def with_floats(info: inspect.Type, tree: Any) -> Any:
    """``tree`` with plain JSON's words for NaN and infinity as floats, where one is declared."""
    if isinstance(info, inspect.FloatType):
        return arrays.NONFINITE.get(tree, tree) if isinstance(tree, str) else tree
    if isinstance(info, inspect.Metadata):
        return with_floats(info.type, tree)
    if (choice := choice_of(info)) is not None:
        fitting = [m for m in choice.members if isinstance(tree, dict) and m.may_be(tree)]
        return with_floats(fitting[0].info, tree) if len(fitting) == 1 else tree
    if isinstance(info, inspect.UnionType):
        if not any(isinstance(member, _TEXT_TYPES) for member in info.types):
            for member in info.types:
                if may_have_tag(member, tree):
                    tree = with_floats(member, tree)
        return tree
    if (holder := holder_of(info)) is not None:
        if not isinstance(tree, dict):
            return tree
        kinds = holder.fields
        return {**tree, **{k: with_floats(f.info, tree[k]) for k, f in kinds.items() if k in tree}}
    changed = {key: with_floats(kind, item) for key, kind, item in typed_items(info, tree)}
    if isinstance(tree, dict):
        return {**tree, **changed}
    return [changed.get(i, item) for i, item in enumerate(tree)] if changed else tree


_TEXT_TYPES: Final = (inspect.StrType, inspect.LiteralType, inspect.EnumType)


def has_large_int(tree: Any) -> bool:
    """Return whether a decoded tree has an integer of more than 64 bits."""
    if isinstance(tree, dict):
        return any(has_large_int(key) or has_large_int(item) for key, item in tree.items())
    if isinstance(tree, list | tuple):
        return any(map(has_large_int, tree))
    return type(tree) is int and not -(1 << 63) <= tree < 1 << 64


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
