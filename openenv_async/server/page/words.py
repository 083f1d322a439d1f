"""JSON Schemas in words: the rows of a table that says what an action or an observation has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from openenv_async.errors import InvalidModel
from openenv_async.schemas.refs import resolved

__all__ = ["FieldInWords", "about_of", "fields_of"]

_MOST_FIELDS: Final = 100
_DEEP: Final = 4
_MOST_CHOICES: Final = 24
_MOST_ELEMENTS: Final = 8
_MOST_TEXT: Final = 160
_SIMPLE: Final = {
    "integer": "integer",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "object": "object",
    "array": "list",
    "null": "none",
}
_KINDS: Final = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex"}
_ATTRIBUTE: Final = re.compile(r"^ {4}(\w+): (.*)$")
_INFINITE: Final = "unbounded"


class FieldInWords(NamedTuple):
    """A field as people read it; texts, not HTML.

    Attributes:
        name: with those of the objects that it is in, joined by dots; empty for the whole.
        kind: its type.
        range: the values that it may have, empty where any of the type.
        default: as JSON, empty where it must be given.
        about: a description, empty where there is none.
    """

    name: str
    kind: str
    range: str
    default: str
    about: str


def about_of(schema: Any) -> str:
    """Return the description of a model without the part on its fields."""
    description = _resolved(schema, schema).get("description", "")
    return str(description).partition("\nAttributes:")[0].strip()


def fields_of(schema: Any) -> list[FieldInWords]:
    """Return the fields of a schema, those of objects within it too, a hundred at most.

    A schema without fields, such as a number's, gives one row without a name.
    """
    found: list[FieldInWords] = []
    for field in _fields("", schema, schema, {}, 0):
        if len(found) == _MOST_FIELDS:
            found.append(FieldInWords("…", "more fields", "", "", "see the JSON Schema"))
            break
        found.append(field)
    return found


def _fields(
    name: str, schema: Any, root: Any, told: Mapping[str, str], depth: int
) -> Iterator[FieldInWords]:
    about = _resolved(schema, root)
    properties = about.get("properties")
    if not isinstance(properties, Mapping) or not properties or depth == _DEEP:
        text = str(about.get("description", "")) if name else ""
        last = name.rpartition(".")[2]
        text = told.get(last, "") or text.partition("\nAttributes:")[0].strip()
        default = _short(about["default"]) if "default" in about else ""
        yield FieldInWords(name, _kind(about, root, 0), _range(about, root), default, text)
        return
    told = _attributes(str(about.get("description", "")))
    for key, each in properties.items():
        yield from _fields(f"{name}.{key}" if name else str(key), each, root, told, depth + 1)


def _resolved(schema: Any, root: Any) -> Mapping[str, Any]:
    """Return a schema without reference; nothing of one that is broken or says nothing."""
    try:
        found = resolved(schema, root)
    except InvalidModel:
        return {}
    return found if isinstance(found, Mapping) else {}


def _attributes(description: str) -> dict[str, str]:
    """Return what the section ``Attributes:`` of a docstring says of each field."""
    told: dict[str, str] = {}
    name = ""
    for line in description.partition("\nAttributes:")[2].splitlines():
        match = _ATTRIBUTE.match(line)
        if match is not None:
            name = match[1]
            told[name] = match[2].strip()
        elif name and line.startswith(" " * 8):
            told[name] += f" {line.strip()}"
        elif line.strip():
            name = ""
    return told


def _members(about: Mapping[str, Any], root: Any) -> list[Mapping[str, Any]]:
    for key in ("anyOf", "oneOf"):
        if isinstance(about.get(key), list):
            return [_resolved(each, root) for each in about[key]]
    return []


def _kind(about: Mapping[str, Any], root: Any, depth: int) -> str:
    members = _members(about, root)
    if depth > _DEEP:
        return "…"
    if members:
        kinds = dict.fromkeys(_kind(each, root, depth + 1) for each in members)
        return " or ".join(sorted(kinds, key="none".__eq__))
    array = about.get("x-ndarray")
    if isinstance(array, Mapping):
        return _array(array)
    if "const" in about and "type" not in about:
        return "constant"
    if "enum" in about:
        return "choice"
    kind = about.get("type")
    if isinstance(kind, list):
        return " or ".join(_SIMPLE.get(str(each), str(each)) for each in kind)
    if kind == "array" and "items" in about:
        return f"list of {_kind(_resolved(about['items'], root), root, depth + 1)}"
    if kind == "array" and isinstance(about.get("prefixItems"), list):
        each = (_kind(_resolved(item, root), root, depth + 1) for item in about["prefixItems"])
        return f"({', '.join(each)})"
    return _SIMPLE.get(str(kind), "anything")


def _array(array: Mapping[str, Any]) -> str:
    """Return the words for an array: its type and, where known, its shape."""
    dtype = str(array.get("dtype", "")).lstrip("<>=|")
    kind = _KINDS.get(dtype[:1], "")
    bits = dtype[1:]
    word = f"{kind}{int(bits) * 8}" if kind and bits.isdigit() and kind != "bool" else kind or dtype
    shape = array.get("shape")
    size = (
        ""
        if not isinstance(shape, list)
        else "×".join("any" if n is None else str(n) for n in shape)
    )
    return " ".join(part for part in (word, "array", size) if part)


def _range(about: Mapping[str, Any], root: Any) -> str:
    members = [each for each in _members(about, root) if each.get("type") != "null"]
    if len(members) == 1:
        return _range(members[0], root)
    if "enum" in about and isinstance(about["enum"], list):
        shown = ", ".join(_short(value) for value in about["enum"][:_MOST_CHOICES])
        return shown + (", …" if len(about["enum"]) > _MOST_CHOICES else "")
    if "const" in about:
        return _short(about["const"])
    array = about.get("x-ndarray")
    if isinstance(array, Mapping):
        return _between(array.get("low"), array.get("high"))
    parts = [_between(about.get("minimum"), about.get("maximum"))]
    if "exclusiveMinimum" in about:
        parts.append(f"more than {_short(about['exclusiveMinimum'])}")
    if "exclusiveMaximum" in about:
        parts.append(f"less than {_short(about['exclusiveMaximum'])}")
    for least, most, unit in (
        ("minLength", "maxLength", "characters"),
        ("minItems", "maxItems", "items"),
    ):
        if least in about or most in about:
            parts.append(f"{_between(about.get(least), about.get(most))} {unit}")
    return ", ".join(part for part in parts if part)


def _between(low: Any, high: Any) -> str:
    """Return the words for two limits, each a number, a list of them, or nothing."""
    if isinstance(low, list) or isinstance(high, list):
        each = [list(_flat(limits)) for limits in (low, high)]
        if len(each[0]) == len(each[1]) <= _MOST_ELEMENTS:
            return " to ".join(
                f"[{', '.join(sign if one is None else _short(one) for one in limits)}]"
                for limits, sign in zip(each, ("-∞", "∞"), strict=True)
            )
        lows, highs = _extreme(low, min), _extreme(high, max)
        return f"{lows} to {highs}, by element"
    if low is None and high is None:
        return ""
    if high is None:
        return f"at least {_short(low)}"
    if low is None:
        return f"at most {_short(high)}"
    return f"{_short(low)} to {_short(high)}"


def _extreme(limits: Any, choose: Any) -> str:
    flat = list(_flat(limits))
    if any(limit is None for limit in flat) or not flat:
        return _INFINITE
    return _short(choose(flat))


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for each in value:
            yield from _flat(each)
    else:
        yield value


def _short(value: Any) -> str:
    """Return a value as JSON, or its beginning."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 1]}…"
