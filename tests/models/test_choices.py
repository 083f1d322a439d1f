"""Unions of models without tags are read by their fields, or refused when the codec is made."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Annotated, Any, Generic, Literal, TypedDict, TypeVar, Union

import attrs
import msgspec
import numpy as np
import numpy.typing as npt
import pydantic
import pytest

from openenv_async import EnvClient, Environment, connect
from openenv_async.errors import InvalidModel
from openenv_async.models import FORMATS, Format, PayloadCodec, check_model, field_names, fit_test

T = TypeVar("T")


@dataclass
class Move:
    x: int = 1


@dataclass
class Say:
    text: str = ""
    raw: bytes = b""


@dataclass
class Jump(Move):
    height: float = 0.0


@dataclass
class Left:
    kind: Literal["left"] = "left"
    by: int = 0


@dataclass
class Right:
    kind: Literal["right"] = "right"
    by: int = 0


class Table(msgspec.Struct):
    rows: dict[int, float]
    image: npt.NDArray[np.float32] | None = None


class Tagged(msgspec.Struct, tag="tagged"):
    x: int


@attrs.define
class Wait:
    seconds: float = 1.0


class Note(TypedDict):
    words: list[str]


class Look(pydantic.BaseModel):
    at: int = 1


class Page(pydantic.BaseModel):
    url: pydantic.HttpUrl | None = None


class Red(pydantic.BaseModel):
    kind: Literal["red"] = "red"


class Blue(pydantic.BaseModel):
    kind: Literal["blue"] = "blue"


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class Turn:
    action: Move | Say
    count: int = 3
    more: list[Move | Say] = field(default_factory=list)


class StructTurn(msgspec.Struct, rename="camel"):
    last_action: Move | Table | None = None
    inner: Turn | None = None


@attrs.define
class AttrsTurn:
    action: Move | Say
    turns: dict[str, list[Turn]] = attrs.field(factory=dict)


class DictTurn(TypedDict):
    action: Move | Say


@dataclass
class Leaf:
    z: int = 0


@dataclass
class Branch:
    child: Branch | Leaf | None = None
    children: list[Branch | Leaf] = field(default_factory=list)
    any: Any = None


@dataclass
class Late:
    action: Move | Say
    made: int = field(init=False, default=7)


VALUES: list[tuple[Any, list[Any]]] = [
    (Move | Say, [Move(2), Say("a", b"\xff"), Move(), Say()]),
    (Union[Move, Say, None], [None, Move()]),  # noqa: UP007 # another form of union
    (list[Move | Say | None], [[Move(2), None, Say("x")]]),
    (dict[str, Move | Say | int], [{"a": Move(), "b": 3}]),
    (tuple[int, Move | Say], [(1, Say("a"))]),
    (Annotated[Move | Say, "what to do"], [Say("a")]),
    (Move | Jump, [Move(3), Jump(3, math.inf)]),
    (Left | Right, [Left(by=3), Right(by=4)]),
    (Move | Table, [Move(), Table({1: 2.5})]),
    (Move | Tagged, [Tagged(3), Move(3)]),
    (Move | Wait | Note | Look | Page, [Wait(0.5), {"words": ["a"]}, Look(at=3), Page()]),
    (Page | Look, [Page(url="http://a.b/c"), Look()]),  # type: ignore[arg-type] # read so
    (Red | Blue, [Red(), Blue()]),
    (Move | Say | str | list[int], [Move(), "text", [1, 2]]),
    (Box[Move | Say], [Box(Say("a"))]),
    (Turn, [Turn(Move()), Turn(Say(raw=b"\0"), 4, [Move(3), Say()])]),
    (StructTurn, [StructTurn(Table({1: math.inf})), StructTurn(inner=Turn(Move()))]),
    (AttrsTurn, [AttrsTurn(Move(), {"a": [Turn(Say("b"))]})]),
    (DictTurn, [{"action": Say("a")}]),
    (Branch, [Branch(Branch(Leaf(1)), [Leaf(2), Branch()])]),
    (Turn | Leaf | int, [Turn(Move()), Leaf(4), 5]),
    (Late, [Late(Move(4))]),
]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("model", "values"), VALUES, ids=[str(each[0]) for each in VALUES])
def test_each_member_comes_back(model: Any, values: list[Any], name: Format) -> None:
    codec = PayloadCodec[Any](model, name)
    for value in values:
        back = codec.decode(codec.encode(value))
        assert back == value
        assert type(back) is type(value)


@pytest.mark.parametrize("name", FORMATS)
def test_arrays_and_numpy_scalars_in_members(name: Format) -> None:
    codec = PayloadCodec[Any](Move | Table, name)
    back = codec.decode(codec.encode(Table({1: 0.5}, np.ones(2, np.float32))))
    np.testing.assert_array_equal(back.image, np.ones(2, np.float32))
    assert codec.decode(codec.encode(Move(np.int64(3)))) == Move(3)  # type: ignore[arg-type] # the point


@pytest.mark.parametrize("model", [each[0] for each in VALUES], ids=[str(v[0]) for v in VALUES])
def test_a_schema_can_be_made(model: Any) -> None:
    schema = check_model(model)
    definitions = schema.get("$defs", {})

    def references(part: Any) -> set[str]:
        if isinstance(part, dict):
            own = {part["$ref"].removeprefix("#/$defs/")} if "$ref" in part else set()
            return own.union(*(references(item) for item in part.values()))
        if isinstance(part, list):
            return set().union(*(references(item) for item in part))
        return set()

    assert references(schema) <= definitions.keys()
    assert msgspec.json.decode(msgspec.json.encode(schema))


def test_the_schema_of_a_union_says_each() -> None:
    schema = check_model(Move | Say | None)
    kinds = [each.get("$ref", each.get("type")) for each in schema["anyOf"]]
    assert kinds == ["#/$defs/Move", "#/$defs/Say", "null"]
    turn = check_model(Turn)
    made = turn["$defs"][turn["$ref"].removeprefix("#/$defs/")]
    assert made["required"] == ["action"]
    assert made["properties"]["count"] == {"type": "integer", "default": 3}
    assert made["additionalProperties"] is False
    assert field_names(Turn) == frozenset({"action", "count", "more"})


@pytest.mark.parametrize("name", ["msgpack", "json"])
@pytest.mark.parametrize(
    ("model", "payload", "words"),
    [
        (Move | Say, {"x": 1, "text": "a"}, r"fields x, text is none of Move \(x\); Say"),
        (Move | Say, {"z": 1}, "none of Move"),
        (Move | Say, {}, "more than one of Move"),
        (Move | Say, {"x": "a"}, r"Expected `int`.*x"),
        (Move | Say, [1], "Expected `object`"),
        (Left | Right, {"kind": "up", "by": 1}, "none of Left"),
        (Left | Right, {"kind": ["left"]}, "none of Left"),
        (Turn, {"action": {"x": 1}, "oops": 1}, "unknown field `oops`"),
        (Turn, {"action": {"x": 1, "oops": 1}}, "oops.*in the field `action`"),
        (Turn, {"count": 1}, "required field `action`"),
        (Turn, 5, "Expected `object`"),
        (Branch, {"children": [{"z": 1}, {"z": "a"}]}, r"Expected `int`"),
    ],
)
def test_what_fits_no_member_is_refused(model: Any, payload: Any, words: str, name: Format) -> None:
    encode = msgspec.msgpack.encode if name == "msgpack" else msgspec.json.encode
    with pytest.raises(InvalidModel, match=words):
        PayloadCodec[Any](model, name).decode(encode(payload))


def test_part_of_the_fields_is_enough_where_it_tells() -> None:
    codec = PayloadCodec[Any](Move | Say, "json")
    assert codec.decode(b'{"text":"a"}') == Say("a")
    assert PayloadCodec[Any](Left | Right, "json").decode(b'{"kind":"right"}') == Right()


@dataclass
class Stay:
    x: int = 5


@dataclass
class HoldsEqual:
    action: Move | Stay


class Open(pydantic.BaseModel, extra="allow"):
    at: int = 1


@pytest.mark.parametrize("model", [Move | Stay, list[Move | Stay], HoldsEqual, Box[Stay | Move]])
def test_members_with_the_same_fields_are_refused_with_the_remedy(model: Any) -> None:
    with pytest.raises(InvalidModel, match=r"cannot be told apart: give each a field such as kind"):
        check_model(model)


@pytest.mark.parametrize("model", [Move | Say | dict, Move | Say | Any, Look | Open, Move | Open])
def test_a_union_with_what_takes_anything_is_refused(model: Any) -> None:
    with pytest.raises(InvalidModel, match=r"cannot be (told|a model)"):
        check_model(model)


class Game(Environment[Move | Say, Turn | Leaf, dict[str, Any]]):
    isolation = "inline"

    def reset(self) -> Turn | Leaf:
        return Leaf(1)

    def step(self, action: Move | Say) -> Turn | Leaf:
        return Turn(action)


async def test_an_environment_plays_with_unions() -> None:
    for format in ("msgpack", "json"):
        env: EnvClient[Any, Any, Any]
        async with connect(Game, Move | Say, Turn | Leaf, dict, format=format) as env:
            assert (await env.reset()).observation == Leaf(1)
            for action in (Move(3), Say("hi")):
                assert (await env.step(action)).observation == Turn(action)


def test_what_surely_fits_needs_no_decoding() -> None:
    for model, values in (
        (Move | Say | None | int, [Move(2), Say("a"), None, 3]),
        (list[Move | Say], [[Move(), Say()]]),
        (Move | Wait | Note | Look, [Wait(0.5), {"words": ["a"]}, Look(at=3)]),
        (Turn, [Turn(Move()), Turn(Move(), 3, [Say()])]),
        (AttrsTurn, [AttrsTurn(Move(), {"a": [Turn(Say("b"))]})]),
        (Branch, [Branch(Branch(Leaf(1)), [Leaf(2), Branch()])]),
    ):
        fits: Any = fit_test(model)
        assert all(map(fits, values))
        assert not fits(object())
        assert not fits("text")
    wrong: Any = [Turn(3), Turn(Move(), "x"), Turn(Move(), 3, [Move(), 3]), Move(), None]  # type: ignore[arg-type, list-item] # the point
    fits = fit_test(Turn)
    assert not any(map(fits, wrong))
