"""Any value in any kind of model: it arrives equal, or is refused; never as less.

The classes are made by hypothesis: six kinds of models, with fields that nest, hold subclasses of
what they declare, are renamed, excluded, private, serialized by the author or never set.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import math
import pathlib
import string
import typing
import uuid
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openenv_async.errors import InvalidModel
from openenv_async.models import FORMATS, Format, PayloadCodec

TYPED_DICT: Any = TypedDict
NAMED_TUPLE: Any = NamedTuple
CREATE_MODEL: Any = pydantic.create_model
KINDS = ["dataclass", "struct", "attrs", "typed dict", "named tuple", "pydantic"]
WORDS = {repr(math.nan): "NaN", repr(math.inf): "Infinity", repr(-math.inf): "-Infinity"}
SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Word(str):
    __slots__ = ()


@dataclasses.dataclass
class Item:
    id: int = 1


@dataclasses.dataclass
class BigItem(Item):
    size: float = 2.5


class Thing(pydantic.BaseModel):
    id: int = 1


class BigThing(Thing):
    size: float = 2.5


class LooseThing(pydantic.BaseModel, extra="ignore"):
    id: int = 1


class BigLooseThing(LooseThing):
    size: float = 2.5


class OpenThing(pydantic.BaseModel, extra="allow"):
    id: int = 1


TEXT = st.text(string.printable, max_size=4)
NUMBERS = st.integers(-(2**63), 2**64 - 1)
FLOATS = st.floats()
THINGS = st.sampled_from([Thing(), BigThing(size=0.5), Thing(id=7)])
ANY: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | FLOATS | TEXT,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(TEXT | st.integers(0, 3) | st.tuples(TEXT, TEXT), inner, max_size=2)
        | inner.map(Item)
        | st.lists(inner, max_size=2).map(collections.deque)
    ),
    max_leaves=4,
)
FIELDS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, NUMBERS),
    (float, FLOATS),
    (str, TEXT | TEXT.map(Word)),
    (bool, st.booleans()),
    (bytes, st.binary(max_size=4)),
    (float | None, st.none() | FLOATS),
    (list[int], st.lists(NUMBERS, max_size=3) | st.just(collections.deque([1]))),
    (dict[str, float], st.dictionaries(TEXT, FLOATS, max_size=2)),
    (dict[int, str], st.dictionaries(NUMBERS, TEXT, max_size=2)),
    (tuple[int, str], st.tuples(NUMBERS, TEXT)),
    (set[int], st.sets(st.integers(0, 9), max_size=3)),
    (datetime.datetime, st.datetimes()),
    (uuid.UUID, st.uuids()),
    (Color, st.sampled_from(Color)),
    (pathlib.Path, st.sampled_from([pathlib.Path("a/b"), pathlib.Path("/")])),
    (Item, st.sampled_from([Item(), BigItem(3), Item(5)])),
    (list[Item], st.lists(st.sampled_from([Item(), BigItem(3)]), max_size=2)),
    (Thing, THINGS),
    (list[Thing], st.lists(THINGS, max_size=2)),
    (dict[str, Thing], st.dictionaries(TEXT, THINGS, max_size=2)),
    (Thing | None, st.none() | THINGS),
    (LooseThing, st.sampled_from([LooseThing(), BigLooseThing(size=0.5)])),
    (list[LooseThing], st.just([LooseThing(), BigLooseThing()])),
    (OpenThing, st.sampled_from([OpenThing(), OpenThing(more=[1, {"a": 2}])])),  # type: ignore[call-arg] # the point
    (Any, ANY),
    (Any, THINGS),
]


class Made(NamedTuple):
    """A model and a value of it."""

    model: Any
    value: Any


@st.composite
def made(draw: Callable[[Any], Any], kind: str) -> Made:
    count = draw(st.integers(1, 3))
    chosen = [draw(st.sampled_from(FIELDS)) for _ in range(count)]
    hints = {f"f{i}": hint for i, (hint, _) in enumerate(chosen)}
    values = {f"f{i}": draw(strategy) for i, (_, strategy) in enumerate(chosen)}
    match kind:
        case "dataclass":
            model: Any = dataclasses.make_dataclass("Made", list(hints.items()))
            value = model(**values)
            if draw(st.booleans()):
                late = dataclasses.field(init=False, default=3)
                model = dataclasses.make_dataclass("Late", [("late", int, late)], bases=(model,))
                value = model(**values)
        case "struct":
            rename = draw(st.sampled_from([None, "camel", "upper"]))
            model = msgspec.defstruct("Made", list(hints.items()), rename=rename)
            value = model(**values)
        case "attrs":
            model = attrs.make_class(
                "Made", {name: attrs.field(type=hint) for name, hint in hints.items()}
            )
            value = model(**values)
        case "typed dict":
            model, value = TYPED_DICT("Made", hints), values
        case "named tuple":
            model = NAMED_TUPLE("Made", list(hints.items()))
            value = model(**values)
        case _:
            model, value = draw(made_pydantic(hints, values))
    if kind not in ("typed dict", "named tuple") and draw(st.booleans()):
        value = _of_subclass(model, value, values)
    return Made(model, value)


@st.composite
def made_pydantic(draw: Callable[[Any], Any], hints: Any, values: Any) -> Made:
    fields: dict[str, Any] = {}
    for name, hint in hints.items():
        options = draw(
            st.sampled_from(
                [
                    {},
                    {},
                    {"alias": f"a_{name}"},
                    {"exclude": True},
                    {"validation_alias": "v" + name},
                    {"serialization_alias": "s" + name},
                ]
            )
        )
        if draw(st.integers(0, 9)) == 0:  # a serializer that forgets all but the type
            hint = typing.Annotated[hint, pydantic.PlainSerializer(lambda v: type(v)())]
        fields[name] = (hint, pydantic.Field(default=values[name], **options))
    config: Any = draw(st.sampled_from([{}, {"extra": "allow"}, {"populate_by_name": True}]))
    base = CREATE_MODEL("Base", __config__=config, **fields)

    class Private(base):  # type: ignore[misc, valid-type] # made at run time
        _secret: int = pydantic.PrivateAttr(0)

    value = Private.model_construct(**values)
    value._secret = draw(st.sampled_from([0, 0, 5]))
    if config.get("extra") == "allow" and draw(st.booleans()):
        value.more = [1, None]
    return Made(Private, value)


def _of_subclass(model: Any, value: Any, values: Any) -> Any:
    """A value of a subclass of the model, with one field more."""
    if issubclass(model, pydantic.BaseModel):
        kind: Any = type("Sub", (model,), {"__annotations__": {"sub": int}, "sub": 9})
        return kind.model_construct(**values)
    if issubclass(model, msgspec.Struct):
        return msgspec.defstruct("Sub", [("sub", int, 9)], bases=(model,))(**values)
    if hasattr(model, "__attrs_attrs__"):
        sub = attrs.make_class("Sub", {"sub": attrs.field(type=int, default=9)}, bases=(model,))
        return sub(**values)
    return dataclasses.make_dataclass("Sub", [("sub", int, 9)], bases=(model,))(**values)


def held(value: Any, name: Format) -> Any:
    """All that a value holds, whatever kind of object or container holds it."""
    if isinstance(value, pydantic.BaseModel):
        kind = type(value)
        fields = {
            (field.validation_alias or key): (getattr(value, key, None), field)
            for key, field in kind.model_fields.items()
        }
        found = {
            str(key): held(item, name)
            for key, (item, field) in fields.items()
            if not (field.exclude and same(item, field.default, name))
        }
        private = {
            key: held(item, name)
            for key, item in (value.__pydantic_private__ or {}).items()
            if item != kind.__private_attributes__[key].default
        }
        return found | private | held(value.model_extra or {}, name)
    if isinstance(value, msgspec.Struct):
        names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
        return {wire: held(getattr(value, key), name) for key, wire in names}
    if hasattr(value, "__attrs_attrs__"):
        return {
            each.name: held(getattr(value, each.name), name) for each in attrs.fields(type(value))
        }
    if dataclasses.is_dataclass(value):
        return {f.name: held(getattr(value, f.name), name) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_key(key, name): held(item, name) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(repr(held(item, name)) for item in value)
    if isinstance(value, list | tuple | collections.deque):
        return [held(item, name) for item in value]
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float):
        return WORDS.get(repr(value), repr(value))
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return str(value) if isinstance(value, pathlib.Path | uuid.UUID | str) else value


def _key(key: Any, name: Format) -> Any:
    if isinstance(key, tuple):
        return tuple(_key(part, name) for part in key)
    return str(key) if name == "plain" or isinstance(key, str) else key


def same(one: Any, other: Any, name: Format) -> bool:
    return bool(held(one, name) == held(other, name))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
@SETTINGS
@given(data=st.data())
def test_a_value_arrives_whole_or_not_at_all(kind: str, name: Format, data: Any) -> None:
    model, value = data.draw(made(kind))
    codec = PayloadCodec[Any](model, name)
    try:
        arrived = codec.decode(codec.encode(value))
    except InvalidModel:
        return
    assert held(arrived, name) == held(value, name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
@SETTINGS
@given(data=st.data())
def test_where_nothing_is_declared_as_well(kind: str, name: Format, data: Any) -> None:
    _, value = data.draw(made(kind))
    codec = PayloadCodec[Any](Any, name)
    try:
        arrived = codec.decode(codec.encode({"a": [value]}))
    except InvalidModel:
        return
    expected = held(value, name)
    got = held(arrived["a"][0], name)
    if isinstance(expected, list):
        expected, got = dict(enumerate(expected)), dict(enumerate(got))
    raw = value if isinstance(value, tuple) else None
    for key, item in expected.items():
        original = raw[key] if raw is not None else _find(value, key)
        if isinstance(original, set):
            assert sorted(map(repr, got[key])) == item
        elif isinstance(original, bytes) and name == "plain":
            assert isinstance(got[key], str)
        else:
            assert got[key] == item


def _find(value: Any, key: str) -> Any:
    """The field of a value by the name that it has on the wire."""
    plain = "f" + key.lower().removeprefix("a_").lstrip("vs").removeprefix("f")
    return value.get(plain) if isinstance(value, dict) else getattr(value, plain, None)


@pytest.mark.parametrize("kind", KINDS)
@SETTINGS
@given(data=st.data())
def test_a_plain_value_is_not_refused(kind: str, data: Any) -> None:
    """The nets above would hold for a codec that refuses everything."""
    hints = {"number": int, "text": str, "many": list[float]}
    values = {
        "number": data.draw(NUMBERS),
        "text": data.draw(TEXT),
        "many": data.draw(st.lists(FLOATS, max_size=2)),
    }
    makers: dict[str, Callable[[], Any]] = {
        "dataclass": lambda: dataclasses.make_dataclass("Plain", list(hints.items())),
        "struct": lambda: msgspec.defstruct("Plain", list(hints.items())),
        "attrs": lambda: attrs.make_class(
            "Plain", {key: attrs.field(type=hint) for key, hint in hints.items()}
        ),
        "typed dict": lambda: TYPED_DICT("Plain", hints),
        "named tuple": lambda: NAMED_TUPLE("Plain", list(hints.items())),
        "pydantic": lambda: CREATE_MODEL(
            "Plain", **{key: (hint, ...) for key, hint in hints.items()}
        ),
    }
    model = makers[kind]()
    value = model(**values)
    for name in FORMATS:
        codec = PayloadCodec[Any](model, name)
        assert held(codec.decode(codec.encode(value)), name) == held(value, name)
