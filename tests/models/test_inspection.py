"""A type either has every codec and a schema, or is refused when they are made, with the remedy."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import decimal
import enum
import fractions
import ipaddress
import pathlib
import re
import typing
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import Any, Literal, NamedTuple

import attrs
import msgspec
import numpy as np
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openenv_async.errors import InvalidModel, ProtocolError
from openenv_async.models import FORMATS, PayloadCodec, check_model, json_schema


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    ONE = 1


class Sized(enum.Enum):
    BIG = (1, 2)


class Switch(enum.Flag):
    A = 1
    B = 2


Pair = collections.namedtuple("Pair", "x y")  # as authors write it


class Spot(NamedTuple):
    x: int
    pair: Pair


class Lost(NamedTuple):
    x: Nowhere  # type: ignore[name-defined] # noqa: F821 # the point


@dataclass
class Initial:
    x: int
    seed: InitVar[int] = 3


@dataclass
class Picked:
    color: Literal[Color.RED]


@dataclass
class ListedFields(list):  # type: ignore[type-arg] # as authors write it
    x: int = 1


@dataclass
class DictFields(dict):  # type: ignore[type-arg] # likewise
    x: int = 1


@dataclass(frozen=True)
class Frozen:
    x: int = 1


class Broken(pydantic.BaseModel):
    x: int

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> Any:
        raise KeyError("no schema")


class Unfinished(pydantic.BaseModel):
    x: Nowhere  # type: ignore[name-defined] # noqa: F821 # the point


@attrs.define
class Underscored:
    _x: int = 1


TRAVELLING = [
    *(Pair, Spot, list[Pair], Color, Level, Switch, Literal["a", 1, None]),
    *(pathlib.Path, pathlib.PurePosixPath, ipaddress.IPv4Address, ipaddress.IPv6Network),
    *(re.Pattern, re.Pattern[str], uuid.UUID, decimal.Decimal, datetime.timedelta),
    *(bytes, bytearray, Sequence[int], Mapping[str, int], tuple[int, ...], frozenset[int]),
    *(dict[int, str], dict[tuple[int, int], int], dict[Any, Any], dict[int | str, int]),
    *(Any, None, dict, list, np.ndarray, np.float32, typing.Final[int]),
]
REFUSED = [
    *(Lost, Initial, Picked, ListedFields, DictFields, Broken, Unfinished, Underscored, Sized),
    *(Literal[Color.RED], Literal[b"x"], complex, type, type[Picked], object, range, slice),
    *(Callable[[int], int], Iterator[int], Iterable[int], Generator[int, None, None]),
    *(collections.deque[int], collections.Counter[str], fractions.Fraction, Exception),
    *(typing.Self, typing.Never, typing.LiteralString, 3, "Nowhere", int | str | bytes),
    *(list[int] | set[int], np.ndarray | int),
    *(dict[Frozen, int], dict[np.ndarray, int], dict[tuple[Frozen, int], int]),
]


class Small(msgspec.Struct):
    x: int = 1
    color: Color | None = None


class Open(pydantic.BaseModel, extra="allow"):
    x: int = 1


@dataclass
class Node:
    child: Node | Small | None = None


def made_class(kinds: list[Any]) -> Any:
    fields: list[Any] = [(f"f{i}", kind) for i, kind in enumerate(kinds)]
    return dataclasses.make_dataclass("Made", fields)


def holder(kind: Any) -> Any:
    return dataclasses.make_dataclass("Holder", [("field", kind)])


@pytest.mark.parametrize("kind", TRAVELLING, ids=str)
def test_what_has_a_codec_has_a_schema(kind: Any) -> None:
    for model in (kind, holder(kind), holder(list[kind])):
        schema = check_model(model)
        assert schema == json_schema(model)
        assert isinstance(schema, dict)


@pytest.mark.parametrize("kind", REFUSED, ids=str)
def test_what_cannot_travel_is_refused_at_once_and_by_name(kind: Any) -> None:
    for model in (kind, holder(kind)):
        with pytest.raises(InvalidModel, match="cannot be a model") as caught:
            check_model(model)
        name = getattr(model, "__qualname__", None) or str(model)
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [
        (Initial, "make it a field"),
        (Picked, "write the values themselves"),
        (Lost, "TYPE_CHECKING"),
        (Underscored, "rename it"),
        (ListedFields, "is a list too.*hold one in a field"),
        (complex, "use plain types"),
    ],
)
def test_the_remedy_is_told(kind: Any, remedy: str) -> None:
    with pytest.raises(InvalidModel, match=remedy):
        check_model(kind)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "value",
    [
        *(pathlib.PurePosixPath("/a/b"), ipaddress.ip_address("::1"), re.compile("a+")),
        *(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_interface("10.0.0.1/8")),
    ],
)
def test_types_that_are_written_as_text_come_back(value: Any, name: Any) -> None:
    cls: Any = re.Pattern if isinstance(value, re.Pattern) else type(value)
    for model, whole in (
        (cls, value),
        (holder(cls), holder(cls)(value)),
        (list[cls], [value]),
        (cls | None, value),
    ):
        codec = PayloadCodec[Any](model, name)
        assert repr(codec.decode(codec.encode(whole))) == repr(whole)
    anything = PayloadCodec[Any](Any, name)
    text = value.pattern if cls is re.Pattern else str(value)
    assert anything.decode(anything.encode({"a": value})) == {"a": text}
    with pytest.raises(InvalidModel):
        PayloadCodec[Any](cls, name).decode(anything.encode(5))
    if cls is not pathlib.PurePosixPath:
        with pytest.raises(InvalidModel):
            PayloadCodec[Any](cls, name).decode(anything.encode("(/"))


@pytest.mark.parametrize("pattern", [re.compile(b"a"), re.compile("a", re.IGNORECASE)])
def test_a_pattern_that_is_more_than_its_text_is_refused(pattern: Any) -> None:
    with pytest.raises(InvalidModel, match="flags"):
        PayloadCodec[Any](re.Pattern, "json").encode(pattern)


def test_a_default_that_json_cannot_say_keeps_the_schema() -> None:
    class Odd(msgspec.Struct):
        x: Any = dataclasses.MISSING

    assert check_model(Odd)


LEAVES = st.sampled_from(
    [
        *(int, float, str, bytes, bool, None, Any, dict, list, Color, Level, Pair, Spot, Frozen),
        *(pathlib.Path, uuid.UUID, datetime.datetime, np.float32, np.ndarray, Small, Open, Node),
        *(Literal["a"], Literal[1, "b"], complex, object, type, Initial, Lost, Sized),
    ]
)
EXPRESSIONS = st.recursive(
    LEAVES,
    lambda inner: (
        inner.map(lambda t: list[t])  # type: ignore[valid-type] # made at run time
        | st.tuples(inner, inner).map(lambda t: dict[t[0], t[1]])  # type: ignore[valid-type] # likewise
        | st.tuples(inner, inner).map(lambda t: typing.Union[t])  # noqa: UP007 # likewise
        | st.tuples(inner, inner).map(lambda t: tuple[t])  # type: ignore[valid-type] # likewise
        | inner.map(lambda t: tuple[t, ...])  # type: ignore[valid-type] # likewise
        | inner.map(lambda t: set[t])  # type: ignore[valid-type] # likewise
        | inner.map(lambda t: typing.Annotated[t, "said"])
        | st.lists(inner, min_size=1, max_size=3).map(made_class)
    ),
    max_leaves=5,
)


@given(expression=EXPRESSIONS)
@settings(max_examples=200, deadline=None)
def test_any_expression_has_everything_or_is_invalid(expression: Any) -> None:
    try:
        codecs = [PayloadCodec[Any](expression, name) for name in FORMATS]
    except InvalidModel:
        with pytest.raises(InvalidModel):
            check_model(expression)
        return
    for codec in codecs:  # a model that was taken reads, or says what does not fit
        with contextlib.suppress(InvalidModel, ProtocolError):
            codec.decode(codec.encode({"a": 1}))
    assert isinstance(check_model(expression), dict)
