"""Random values that fit a JSON Schema, for policies that know nothing else.

Covers what ``models.json_schema`` writes: ``$ref``, ``enum``, ``const``, ``anyOf``, ``oneOf``,
``allOf``, bounded numbers and strings, objects, arrays, tuples and ``x-ndarray``. A ``pattern``
or ``format`` of a string is not followed. ``x-sample`` is a schema to draw from instead, where not
everything that the schema allows makes sense at every moment.
"""

from __future__ import annotations

import math
import random
import string
from collections.abc import Mapping
from typing import Any, Final

from openenv_async.schemas.refs import resolved

__all__ = ["sample"]

_DEEP: Final = 8
"""Levels after which optional parts are left out, so that a recursive schema ends."""
_TOO_DEEP: Final = 64
_LETTERS: Final = string.ascii_letters + string.digits + " .,-_"
_KINDS: Final = ("null", "boolean", "integer", "number", "string")


def sample(schema: Mapping[str, Any], rng: random.Random) -> Any:
    """Return a random value that fits ``schema``; arrays marked ``x-ndarray`` are ``np.ndarray``.

    Properties with a default are given half of the time.

    Raises:
        ValueError: no value fits, such as an empty enum or a schema that requires itself.
        InvalidModel: a reference of the schema leads to nothing, or to itself.
    """
    return _sample(schema, rng, schema, 0)


def _sample(schema: Any, rng: random.Random, root: Mapping[str, Any], depth: int) -> Any:
    if depth > _TOO_DEEP:
        raise ValueError("no value fits the schema: it requires itself without end")
    if schema is True:
        schema = {}
    if schema is False:
        raise ValueError("no value fits the schema false")
    if "$ref" in schema:
        return _sample(resolved(schema, root), rng, root, depth + 1)
    if "x-sample" in schema:
        return _sample(schema["x-sample"], rng, root, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return _choice(schema["enum"], rng)
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return _sample(_member(schema[key], rng, root, depth), rng, root, depth + 1)
    if "allOf" in schema:
        merged: dict[str, Any] = {key: schema[key] for key in schema if key != "allOf"}
        for part in schema["allOf"]:
            merged |= resolved(part, root)
        return _sample(merged, rng, root, depth + 1)
    if "x-ndarray" in schema:
        return _array(schema["x-ndarray"], rng)
    kind = schema.get("type") or _implied_kind(schema)
    if isinstance(kind, list):
        kind = _choice(kind, rng)
    match kind:
        case "null" | None:
            return None
        case "boolean":
            return rng.random() < 0.5
        case "integer":
            return _integer(schema, rng)
        case "number":
            return _number(schema, rng)
        case "string":
            return _text(schema, rng)
        case "object":
            return _object(schema, rng, root, depth)
        case "array":
            return _list(schema, rng, root, depth)
        case other:
            raise ValueError(f"no value fits the unknown type {other!r}")


def _implied_kind(schema: Mapping[str, Any]) -> str | None:
    if "properties" in schema:
        return "object"
    if "items" in schema or "prefixItems" in schema:
        return "array"
    return None  # the empty schema: null fits it


def _choice(values: list[Any], rng: random.Random) -> Any:
    if not values:
        raise ValueError("no value fits an empty list of choices")
    return rng.choice(values)


def _member(members: list[Any], rng: random.Random, root: Mapping[str, Any], depth: int) -> Any:
    """Return one alternative; deep down one that ends, when there is one."""
    if depth > _DEEP:
        simple = [m for m in members if isinstance(m, dict) and m.get("type") in _KINDS]
        members = simple or members
    return _choice(members, rng)


def _bounds(schema: Mapping[str, Any], step: float) -> tuple[float | None, float | None]:
    """Return inclusive bounds; ``step`` is the distance that an exclusive one keeps."""
    lows = [schema["minimum"]] if "minimum" in schema else []
    highs = [schema["maximum"]] if "maximum" in schema else []
    if "exclusiveMinimum" in schema:
        low = schema["exclusiveMinimum"]
        lows.append(math.floor(low) + 1 if step else math.nextafter(low, math.inf))
    if "exclusiveMaximum" in schema:
        high = schema["exclusiveMaximum"]
        highs.append(math.ceil(high) - 1 if step else math.nextafter(high, -math.inf))
    return max(lows, default=None), min(highs, default=None)


def _integer(schema: Mapping[str, Any], rng: random.Random) -> int:
    low, high = _bounds(schema, 1)
    first = math.ceil(low) if low is not None else None
    last = math.floor(high) if high is not None else None
    if first is None:
        first = last - 100 if last is not None else -100
    if last is None:
        last = first + 200
    multiple = schema.get("multipleOf", 1)
    least, most = -(-first // multiple), last // multiple
    if least > most:
        raise ValueError(f"no integer fits between {first} and {last}")
    return int(rng.randint(int(least), int(most)) * multiple)


def _number(schema: Mapping[str, Any], rng: random.Random) -> float:
    low, high = _bounds(schema, 0)
    if low is None:
        low = high - 2.0 if high is not None else -1.0
    if high is None:
        high = low + 2.0
    if low > high:
        raise ValueError(f"no number fits between {low} and {high}")
    if multiple := schema.get("multipleOf"):
        return float(rng.randint(math.ceil(low / multiple), math.floor(high / multiple)) * multiple)
    # weighed apart, because the distance between the largest floats is infinite
    share = rng.random()
    return float(min(max(low * (1 - share) + high * share, low), high))


def _text(schema: Mapping[str, Any], rng: random.Random) -> str:
    least = schema.get("minLength", 0)
    most = min(schema.get("maxLength", least + 12), least + 12)
    if most < least:
        raise ValueError(f"no string fits lengths from {least} to {most}")
    letters = schema.get("x-charset", _LETTERS)
    return "".join(rng.choices(letters, k=rng.randint(least, most)))


def _object(
    schema: Mapping[str, Any], rng: random.Random, root: Mapping[str, Any], depth: int
) -> dict[str, Any]:
    required = set(schema.get("required", ()))
    properties = schema.get("properties", {})
    result = {
        name: _sample(part, rng, root, depth + 1)
        for name, part in properties.items()
        if name in required or (depth <= _DEEP and rng.random() < 0.5)
    }
    extra = schema.get("additionalProperties")
    missing = sorted(required - set(properties))
    wanted = max(0, schema.get("minProperties", 0) - len(result) - len(missing))
    if extra is False and (missing or wanted):
        raise ValueError(f"no object fits: required properties {missing} are not described")
    names = missing + [f"key{i}" for i in range(wanted)]
    if isinstance(extra, dict) and not names and depth <= _DEEP and "maxProperties" not in schema:
        names = [f"key{i}" for i in range(rng.randint(0, 2))]
    for name in names:
        result.setdefault(name, _sample(extra if extra is not None else {}, rng, root, depth + 1))
    return result


def _list(
    schema: Mapping[str, Any], rng: random.Random, root: Mapping[str, Any], depth: int
) -> list[Any]:
    fixed = schema.get("prefixItems", [])
    items = schema.get("items", not fixed)
    least = schema.get("minItems", len(fixed))
    most = schema.get("maxItems", max(least, len(fixed)) + (3 if depth <= _DEEP else 0))
    if items is False:
        most = min(most, len(fixed))
    elif items is True and "items" not in schema:
        most = min(most, least)  # nothing is said about the items: give no more than asked for
    if most < least:
        raise ValueError(f"no array fits lengths from {least} to {most}")
    size = rng.randint(least, min(most, least + 3))
    size = max(size, min(len(fixed), most))
    result: list[Any] = []
    for i in range(size):
        value = _sample(fixed[i] if i < len(fixed) else items, rng, root, depth + 1)
        for _ in range(100 if schema.get("uniqueItems") else 0):
            if value not in result:
                break
            value = _sample(fixed[i] if i < len(fixed) else items, rng, root, depth + 1)
        result.append(value)
    return result


def _array(spec: Mapping[str, Any], rng: random.Random) -> Any:
    """Return an array: ``dtype`` (default float32), ``shape`` (default [1]), ``low`` and ``high``.

    Bounds are inclusive for integers, and may be arrays themselves. Without them integers span
    their type up to 16 bits (0 to 100 beyond), floats lie in -1 to 1. A size of null or a
    negative size is drawn from 1 to 4.
    """
    import numpy as np

    dtype: np.dtype[Any] = np.dtype(spec.get("dtype", "<f4"))
    sizes = spec.get("shape") or [] if "shape" in spec else [1]
    shape = tuple(rng.randint(1, 4) if size is None or size < 0 else size for size in sizes)
    generator = np.random.default_rng(rng.getrandbits(64))
    low, high = spec.get("low"), spec.get("high")
    match dtype.kind:
        case "b":
            first, last = (
                np.asarray(otherwise if bound is None else bound, "i8")
                for bound, otherwise in ((low, 0), (high, 1))
            )
            values = generator.integers(first, last, shape, endpoint=True)
        case "i" | "u":
            bounds = np.iinfo(dtype)
            wide = dtype.itemsize > 2
            least = low if low is not None else (0 if wide else bounds.min)
            most = high if high is not None else (np.add(least, 100) if wide else bounds.max)
            kind = np.dtype("u8") if dtype.kind == "u" else np.dtype("i8")
            values = generator.integers(
                np.asarray(least, kind), np.asarray(most, kind), shape, kind.type, endpoint=True
            )
        case "f" | "c":
            # null stands for no bound, also within a list of bounds
            least, most = (np.asarray(np.nan if b is None else b, "f8") for b in (low, high))
            least = np.where(np.isnan(least), np.where(most < -1.0, most - 2.0, -1.0), least)
            most = np.where(np.isnan(most), np.maximum(least + 2.0, 1.0), most)
            share = generator.random(shape)
            values = np.clip(least * (1 - share) + most * share, least, most)
        case _:
            values = np.zeros(shape, dtype)
    return np.asarray(values).astype(dtype)
