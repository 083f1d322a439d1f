"""Values judged by a JSON Schema, as far as ``models.json_schema`` and pydantic write one."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from openenv_async.schemas.refs import pointed_to

__all__ = ["misfit"]

_DEEPEST: Final = 64
_TYPES: Final[dict[str, Any]] = {
    "null": type(None),
    "boolean": bool,
    "integer": int,
    "number": (int, float),
    "string": (str, bytes, bytearray, memoryview),  # binary text is bytes in MessagePack
    "object": dict,
    "array": (list, tuple),
}


_BOUNDS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "minimum": operator.ge,
    "maximum": operator.le,
    "exclusiveMinimum": operator.gt,
    "exclusiveMaximum": operator.lt,
}


def misfit(value: Any, schema: Any, root: Any = None) -> str | None:
    """Return the place and the reason why a value does not fit; ``None`` when it does.

    Arrays and NumPy scalars fit as what ``x-ndarray`` says, or as numbers and lists.

    Args:
        value: plain data.
        schema: a schema, or a part of one.
        root: the whole, in which references are looked up; ``schema`` by default.

    Raises:
        InvalidModel: a reference of the schema leads to nothing.
    """
    return next(_problems(value, schema, schema if root is None else root, "$", 0), None)


def _problems(value: Any, schema: Any, root: Any, path: str, depth: int) -> Iterator[str]:
    if schema is False:
        yield f"{path} must not be there"
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return
    if "$ref" in schema:
        # Both count: a bound that is wider beside the reference takes none of its own away.
        yield from _problems(value, pointed_to(schema["$ref"], root), root, path, depth + 1)
        schema = {key: part for key, part in schema.items() if key != "$ref"}
    for part in schema.get("allOf", ()):
        yield from _problems(value, part, root, path, depth + 1)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            tried = [next(_problems(value, m, root, path, depth + 1), None) for m in schema[key]]
            why = [each for each in tried if each is not None]
            if len(why) == len(tried):
                yield f"{path} fits none of its alternatives: {'; '.join(why)}"
                return
    if "x-ndarray" in schema:
        yield from _of_array(value, schema["x-ndarray"], path)
        return
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        value = value.tolist()
    yield from _of_type(value, schema, path)
    if "const" in schema and value != schema["const"]:
        yield f"{path} is {value!r:.80}, not {schema['const']!r:.80}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path} is {value!r:.80}, none of {schema['enum']!r:.120}"
    if isinstance(value, dict):
        yield from _of_object(value, schema, root, path, depth)
    elif isinstance(value, list | tuple):
        yield from _of_list(value, schema, root, path, depth)
    elif isinstance(value, str):
        yield from _of_text(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _of_number(value, schema, path)


def _of_type(value: Any, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    kinds = schema.get("type")
    if kinds is None:
        return
    kinds = kinds if isinstance(kinds, list) else [kinds]
    for kind in kinds:
        wanted = _TYPES.get(kind, object)
        is_number = kind in ("integer", "number")
        if isinstance(value, wanted) and not (is_number and isinstance(value, bool)):
            return
        if kind == "integer" and isinstance(value, float) and value.is_integer():
            return
    yield f"{path} is {_shown(value)}, not {' or '.join(kinds)}"


def _shown(value: Any) -> str:
    name = "null" if value is None else type(value).__name__
    return f"{name} {value!r:.60}" if value is not None else name


def _of_object(
    value: dict[Any, Any], schema: Mapping[str, Any], root: Any, path: str, depth: int
) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{path} lacks {name!r}"
    rest = schema.get("additionalProperties", True)
    patterns = schema.get("patternProperties", {})
    for key, item in value.items():
        below = f"{path}.{key}"
        by_pattern = [part for each, part in patterns.items() if re.search(each, str(key))]
        for part in by_pattern:
            yield from _problems(item, part, root, below, depth + 1)
        if key in properties:
            yield from _problems(item, properties[key], root, below, depth + 1)
        elif by_pattern:
            continue
        elif rest is False:
            yield f"{path} has {key!r}, which is not declared"
        else:
            yield from _problems(item, rest, root, below, depth + 1)


def _of_list(
    value: Any, schema: Mapping[str, Any], root: Any, path: str, depth: int
) -> Iterator[str]:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        yield f"{path} has {len(value)} items, which is not allowed"
    fixed = schema.get("prefixItems", [])
    items = schema.get("items", True)
    for index, item in enumerate(value):
        part = fixed[index] if index < len(fixed) else items
        yield from _problems(item, part, root, f"{path}[{index}]", depth + 1)


def _of_text(value: str, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
        yield f"{path} has {len(value)} characters, which is not allowed"
    if "pattern" in schema and re.search(schema["pattern"], value) is None:
        yield f"{path} is {value!r:.60}, which is not like {schema['pattern']}"


def _of_number(value: float, schema: Mapping[str, Any], path: str) -> Iterator[str]:
    for key, good in _BOUNDS.items():
        bound = schema.get(key)
        # Drafts before 6 have True or False here, which is about the bound beside it.
        if bound is not None and not isinstance(bound, bool) and not good(value, bound):
            yield f"{path} is {value!r}, beyond the {key} {schema[key]!r}"


def _of_array(value: Any, spec: Mapping[str, Any], path: str) -> Iterator[str]:
    if not hasattr(value, "dtype"):
        if not isinstance(value, int | float | list):  # JSON may carry it as plain numbers
            yield f"{path} is {_shown(value)}, not an array"
        return
    if "dtype" in spec and value.dtype.str != spec["dtype"]:
        yield f"{path} has the dtype {value.dtype.str}, not {spec['dtype']}"
    sizes = spec.get("shape")
    if sizes is not None:
        fits = len(sizes) == value.ndim and all(
            size is None or size < 0 or size == own
            for size, own in zip(sizes, value.shape, strict=False)
        )
        if not fits:
            yield f"{path} has the shape {tuple(value.shape)}, not {tuple(sizes)}"
            return
    for key, beyond in (("low", "__lt__"), ("high", "__gt__")):
        bound = spec.get(key)
        if isinstance(bound, int | float) and bool(getattr(value, beyond)(bound).any()):
            yield f"{path} has elements beyond {key} = {bound!r}"
