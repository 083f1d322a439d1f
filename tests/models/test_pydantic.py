"""Pydantic models: all that an object holds arrives, or its sender is told which would not."""

from __future__ import annotations

import collections
import datetime
import enum
import ipaddress
import pathlib
import re
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

import msgspec
import numpy as np
import pydantic
import pytest
from pydantic import AliasChoices, AliasPath, Field, PrivateAttr

from openenv_async.errors import InvalidModel
from openenv_async.models import FORMATS, Format, PayloadCodec, to_builtins

T = TypeVar("T")
pytestmark = pytest.mark.parametrize("name", FORMATS)


def trip(model: Any, value: Any, name: Format) -> Any:
    codec = PayloadCodec[Any](model, name)
    return codec.decode(codec.encode(value))


def refusal(model: Any, value: Any, name: Format) -> str:
    with pytest.raises(InvalidModel) as caught:
        PayloadCodec[Any](model, name).encode(value)
    return str(caught.value)


class Item(pydantic.BaseModel):
    id: int = 1


class Sword(Item):
    damage: int = 7


class Renamed(Item):
    """A subclass that holds nothing more."""


class Bag(pydantic.BaseModel):
    one: Item = Item()
    many: list[Item] = []
    by_name: dict[str, Item] = {}
    maybe: Item | None = None
    either: Item | int = 3
    nested: dict[str, list[tuple[int, Item]]] = {}
    anything: Any = None
    base: pydantic.BaseModel | None = None
    chosen: Annotated[Item, Field(description="one")] = Item()


@pytest.mark.parametrize(
    ("field", "held"),
    [
        ("one", Sword()),
        ("many", [Item(), Sword()]),
        ("by_name", {"a": Sword()}),
        ("maybe", Sword()),
        ("either", Sword()),
        ("nested", {"a": [(1, Sword())]}),
        ("chosen", Sword()),
    ],
)
def test_a_subclass_where_its_base_is_declared_is_refused(
    field: str, held: Any, name: Format
) -> None:
    message = refusal(Bag, Bag(**{field: held}), name)
    assert f"Bag.{field}" in message
    assert "subclass" in message
    assert "damage" in message or "Sword" in message


def test_a_subclass_with_nothing_more_travels(name: Format) -> None:
    value = Bag(one=Renamed(id=4), many=[Renamed(id=5)])
    back = trip(Bag, value, name)
    assert (back.one.id, back.many[0].id) == (4, 5)


def test_a_subclass_in_an_open_place_arrives_with_every_field(name: Format) -> None:
    for declared in (Any, dict, Bag):
        back = to_builtins(trip(declared, Bag(anything=Sword(id=2)), name))
        assert back["anything"] == {"id": 2, "damage": 7}
    assert to_builtins(Bag(base=Sword()))["base"] == {"id": 1, "damage": 7}


def test_a_base_that_makes_its_subclasses_takes_them(name: Format) -> None:
    class Shape(pydantic.BaseModel):
        kind: str = "shape"

        @pydantic.model_validator(mode="wrap")
        @classmethod
        def by_kind(cls, data: Any, handler: Any) -> Any:
            if cls is Shape and isinstance(data, dict) and data.get("kind") == "circle":
                return Circle(**data)
            return handler(data)

    class Circle(Shape):
        kind: str = "circle"
        radius: int = 1

    class Drawing(pydantic.BaseModel):
        shapes: list[Shape] = []

    value = Drawing(shapes=[Circle(radius=3), Shape()])
    assert trip(Drawing, value, name) == value


class Loose(pydantic.BaseModel, extra="ignore"):
    x: int = 1


class Tight(Loose):
    y: int = 2


@dataclass
class Held:
    many: list[Loose]


class LooseHolder(pydantic.BaseModel):
    held: Loose


def test_a_base_that_ignores_what_it_does_not_know_swallows_nothing(name: Format) -> None:
    for model, value in (
        (Loose, Tight()),
        (Held, Held([Loose(), Tight()])),
        (dict[str, Loose], {"a": Tight()}),
        (LooseHolder, LooseHolder(held=Tight())),
    ):
        message = refusal(model, value, name)
        assert "Tight.y" in message or "LooseHolder.held" in message
    assert trip(Held, Held([Loose(x=3)]), name) == Held([Loose(x=3)])


class Secretive(pydantic.BaseModel):
    shown: int = 1
    answer: int = Field(default=0, exclude=True)
    _cache: int = PrivateAttr(0)
    _lock: Any = PrivateAttr(default_factory=threading.Lock)


def test_what_is_excluded_or_private_is_refused_once_it_holds_something(name: Format) -> None:
    assert trip(Secretive, Secretive(shown=5), name).shown == 5
    message = refusal(Secretive, Secretive(answer=42), name)
    assert "Secretive.answer" in message
    assert "exclude" in message
    value = Secretive()
    value._cache = 3
    message = refusal(Any, {"a": [value]}, name)
    assert "$['a'][0]" in message
    assert "Secretive._cache" in message


def test_a_private_attribute_that_is_made_again_is_no_loss(name: Format) -> None:
    class Counted(pydantic.BaseModel):
        words: list[str] = []
        _count: int = PrivateAttr(0)

        def model_post_init(self, context: Any) -> None:
            self._count = len(self.words)

    value = Counted(words=["a", "b"])
    assert trip(Counted, value, name) == value


class Aliased(pydantic.BaseModel):
    a: int = Field(1, validation_alias="va", serialization_alias="sa")
    b: int = Field(2, alias="bb")
    c: int = Field(3, validation_alias=AliasChoices("c1", "c2"))
    d: int = Field(4, serialization_alias="dd")


class ByName(pydantic.BaseModel, populate_by_name=True):
    b: int = Field(2, alias="bb")


class Deep(pydantic.BaseModel):
    a: int = Field(1, validation_alias=AliasPath("p", "q"))


def test_every_alias_is_read_again(name: Format) -> None:
    value = Aliased(va=9, bb=8, c2=7, d=6)  # type: ignore[call-arg] # mypy knows no aliases
    assert trip(Aliased, value, name) == value
    assert to_builtins(value) == {"va": 9, "bb": 8, "c1": 7, "d": 6}
    assert trip(ByName, ByName(b=5), name) == ByName(b=5)  # type: ignore[call-arg] # likewise
    deep = Deep()  # type: ignore[call-arg] # likewise
    assert trip(Deep, deep, name) == deep
    assert "Deep.a" in refusal(Deep, Deep(p={"q": 5}), name)  # type: ignore[call-arg] # likewise


def test_a_field_by_a_name_that_is_not_read_is_refused(name: Format) -> None:
    encode = msgspec.msgpack.encode if name == "msgpack" else msgspec.json.encode
    with pytest.raises(InvalidModel, match="unknown field `b`"):
        PayloadCodec[Any](Aliased, name).decode(encode({"b": 5}))
    assert PayloadCodec[Any](ByName, name).decode(encode({"b": 5})).b == 5


class Rounded(pydantic.BaseModel):
    ratio: float = 0.5
    other: int = 1

    @pydantic.field_serializer("ratio")
    def short(self, value: float) -> float:
        return round(value, 1)


class Partial(pydantic.BaseModel):
    x: int = 1
    y: int = 2

    @pydantic.model_serializer
    def only_x(self) -> dict[str, int]:
        return {"x": self.x}


class Hex(pydantic.BaseModel):
    code: Annotated[
        int,
        pydantic.PlainSerializer(hex),
        pydantic.BeforeValidator(lambda v: int(v, 16) if isinstance(v, str) else v),
    ] = 255
    zeros: list[Annotated[int, pydantic.PlainSerializer(lambda v: 0)]] = []


class Overridden(pydantic.BaseModel):
    x: int = 1
    y: int = 2

    def model_dump(self, **options: Any) -> dict[str, Any]:
        return {"x": 1}


def test_serializers_are_obeyed_and_lose_nothing(name: Format) -> None:
    assert trip(Rounded, Rounded(ratio=0.5), name) == Rounded(ratio=0.5)
    assert "Rounded.ratio" in refusal(Rounded, Rounded(ratio=0.123), name)
    assert trip(Partial, Partial(x=5), name) == Partial(x=5)
    assert "Partial.y" in refusal(Partial, Partial(y=5), name)
    assert to_builtins(Hex()) == {"code": "0xff", "zeros": []}
    assert trip(Hex, Hex(), name) == Hex()
    assert "Hex.zeros" in refusal(Hex, Hex(zeros=[1]), name)
    assert trip(Overridden, Overridden(x=3, y=4), name) == Overridden(x=3, y=4)


class Shade(enum.Enum):
    DARK = "dark"


class Pair(enum.Enum):
    ONE = (1, 2)


class Page(pydantic.BaseModel):
    url: pydantic.HttpUrl = pydantic.HttpUrl("http://example.com/x")
    any_url: pydantic.AnyUrl = pydantic.AnyUrl("redis://host/1")
    dsn: pydantic.PostgresDsn = pydantic.PostgresDsn("postgres://user@localhost:5432/app")
    path: pathlib.Path = pathlib.Path("/x/y")
    four: ipaddress.IPv4Address = ipaddress.IPv4Address("127.0.0.1")
    six: ipaddress.IPv6Network = ipaddress.IPv6Network("2001:db8::/32")
    pattern: re.Pattern[str] = re.compile("a+")
    number: complex = 1 + 2j
    size: pydantic.ByteSize = pydantic.ByteSize(3)
    paths: dict[str, list[pathlib.Path]] = {"a": [pathlib.Path("b")]}
    queue: collections.deque[int] = collections.deque([1, 2])
    counts: collections.Counter[str] = collections.Counter("ab")
    ordered: collections.OrderedDict[str, int] = collections.OrderedDict(b=1, a=2)
    span: datetime.timedelta = datetime.timedelta(days=1, microseconds=3)
    parsed: pydantic.Json[list[int]] = [1, 2]
    coded: pydantic.Base64Bytes = b"abc"


def test_types_that_pydantic_says_in_json_travel(name: Format) -> None:
    value = Page(parsed="[3]", coded=b"YWJj")  # type: ignore[arg-type] # read so
    assert trip(Page, value, name) == value
    assert to_builtins(value)["url"] == "http://example.com/x"


class Hidden(pydantic.BaseModel):
    token: pydantic.SecretStr = pydantic.SecretStr("")


class Paired(pydantic.BaseModel):
    pair: Pair = Pair.ONE


def test_types_that_pydantic_does_not_say_are_refused(name: Format) -> None:
    message = refusal(Hidden, Hidden(token=pydantic.SecretStr("s")), name)
    assert "Hidden.token" in message
    assert "get_secret_value" in message
    assert "Paired.pair" in refusal(Paired, Paired(), name)


class Extra(pydantic.BaseModel, extra="allow"):
    x: int = 1


class Root(pydantic.RootModel[list[Item]]):
    pass


class Cat(pydantic.BaseModel):
    kind: Literal["cat"] = "cat"
    age: int = 1


class Dog(pydantic.BaseModel):
    kind: Literal["dog"] = "dog"
    age: int = 1


class Home(pydantic.BaseModel, Generic[T]):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    also: Cat | Dog = Cat()
    content: T


class Strict(pydantic.BaseModel, strict=True):
    pair: tuple[int, ...] = (1, 2)
    day: datetime.datetime = datetime.datetime(2024, 1, 2)
    path: pathlib.Path = pathlib.Path("x")
    tags: set[int] = {1}
    id: uuid.UUID = uuid.UUID(int=3)


class Inner:
    pass


class Custom(pydantic.BaseModel, arbitrary_types_allowed=True):
    array: np.ndarray[Any, Any]
    foreign: Inner | None = None

    @pydantic.field_serializer("array")
    def as_list(self, value: np.ndarray[Any, Any]) -> Any:
        return value.tolist()

    @pydantic.field_validator("array", mode="before")
    @classmethod
    def as_array(cls, value: Any) -> Any:
        return np.asarray(value)


class Tree(pydantic.BaseModel):
    value: int
    children: list[Self] = []


def test_other_forms_of_models(name: Format) -> None:
    for value in (
        Extra(x=2, more=[1, {"a": 2}]),  # type: ignore[call-arg] # the point
        Root([Item(id=4)]),
        Home[Item](pet=Dog(age=4), also=Dog(age=5), content=Item(id=3)),
        Home[int](pet=Cat(), content=3),
        Strict(),
        Tree(value=1, children=[Tree(value=2)]),
    ):
        assert trip(type(value), value, name) == value
    assert "Root.root" in refusal(Root, Root([Sword()]), name)
    assert "content" in refusal(Home[Item], Home[Item](pet=Cat(), content=Sword()), name)
    back = trip(Custom, Custom(array=np.arange(3)), name)
    np.testing.assert_array_equal(back.array, np.arange(3))
    assert "$.foreign (Inner)" in refusal(Custom, Custom(array=[1], foreign=Inner()), name)  # type: ignore[arg-type] # read so


def test_a_field_that_was_never_set_is_named(name: Format) -> None:
    class Needy(pydantic.BaseModel):
        item: int

    assert "Needy.item was never set" in refusal(Needy, Needy.model_construct(), name)


def test_a_model_in_itself_is_named(name: Format) -> None:
    tree = Tree(value=1)
    tree.children.append(tree)
    assert "$.children[0] (Tree): it contains itself" in refusal(Tree, tree, name)


class Called(pydantic.BaseModel):
    call: Callable[[int], int]


class HoldsCalled(pydantic.BaseModel):
    many: dict[str, list[Called]] = {}


class HoldsType(pydantic.BaseModel):
    kind: type[Item] | None = None


class HidesCall(pydantic.BaseModel):
    call: Callable[[int], int] | None = Field(default=None, exclude=True)
    anything: object = None


@pytest.mark.parametrize("model", [Called, HoldsCalled, HoldsType])
def test_a_field_that_can_never_travel_is_refused_when_the_codec_is_made(
    model: Any, name: Format
) -> None:
    with pytest.raises(InvalidModel, match=r"the field .*(call|kind) holds a (Callable|type)"):
        PayloadCodec[Any](model, name)


def test_a_field_that_is_excluded_may_hold_it(name: Format) -> None:
    assert trip(HidesCall, HidesCall(anything=[1]), name) == HidesCall(anything=[1])
    assert "HidesCall.call" in refusal(HidesCall, HidesCall(call=abs), name)


class Deprecated(pydantic.BaseModel):
    x: int = Field(default=1, deprecated=True)


class DeprecatedSecret(Deprecated):
    token: pydantic.SecretStr = Field(default=pydantic.SecretStr("s"), deprecated=True)


def test_a_deprecated_field_warns_nobody(name: Format) -> None:
    assert trip(Deprecated, Deprecated(x=3), name) == Deprecated(x=3)
    assert trip(Any, [{"a": Deprecated(x=3)}], name) == [{"a": {"x": 3}}]
    assert "DeprecatedSecret.token" in refusal(DeprecatedSecret, DeprecatedSecret(x=4), name)


class OneColor(pydantic.BaseModel):
    color: Literal[Shade.DARK]


class OfText(str, enum.Enum):  # noqa: UP042  # as many write it
    DARK = "dark"


class Chosen(pydantic.BaseModel):
    color: Literal[OfText.DARK] = OfText.DARK


def test_a_literal_of_an_enum_is_refused_when_the_codec_is_made(name: Format) -> None:
    for kind in (OneColor, pydantic.RootModel[list[OneColor]]):
        with pytest.raises(InvalidModel, match=r"OneColor\.color is a Literal of .*DARK"):
            PayloadCodec[Any](kind, name)
    assert trip(Chosen, Chosen(), name) == Chosen()  # which pydantic reads from its text


class First(pydantic.BaseModel):
    x: int = 1


class Second(pydantic.BaseModel):
    x: int = 1
    y: int = 2


class Named(pydantic.BaseModel):
    kind: Literal["named"] = "named"
    x: int = 1


class Other(pydantic.BaseModel):
    kind: Literal["other"] = "other"
    x: int = 1


@dataclass
class Plainly:
    x: int = 1


class Unions(pydantic.BaseModel):
    one: Second | First | None = None
    many: list[Second | First] = []
    keyed: dict[str, tuple[Second | Plainly, int]] = {}
    told: Annotated[Named | Other, Field(discriminator="kind")] = Named()
    each: list[Annotated[Named | Other, Field(discriminator="kind")]] = []


@pytest.mark.parametrize(
    ("field", "held"),
    [
        ("one", First()),
        ("many", [Second(), First(x=4)]),
        ("keyed", {"a": (Plainly(3), 1)}),
    ],
)
def test_a_member_of_a_union_that_would_be_another_is_refused(
    field: str, held: Any, name: Format
) -> None:
    assert f"Unions.{field}" in refusal(Unions, Unions(**{field: held}), name)


@pytest.mark.parametrize(
    ("field", "held"),
    [
        ("one", Second(y=5)),
        ("many", [Second(x=4, y=5)]),
        ("keyed", {"a": (Second(y=3), 1)}),
        ("told", Other()),
        ("each", [Other(), Named(x=3)]),
    ],
)
def test_a_member_of_a_union_that_is_told_travels(field: str, held: Any, name: Format) -> None:
    value = Unions(**{field: held})
    assert trip(Unions, value, name) == value


class Assigned(pydantic.BaseModel):
    number: int = 1
    ratio: float = 1.0
    maybe: str | None = None
    late: str = None  # type: ignore[assignment]  # as many write it
    octets: bytes = b""


@pytest.mark.parametrize(
    ("field", "held"),
    [("number", "5"), ("number", 1.5), ("ratio", "0.5"), ("maybe", 3), ("number", None)],
)
def test_what_was_assigned_without_validation_is_refused_by_the_sender(
    field: str, held: Any, name: Format
) -> None:
    value = Assigned(late="")
    setattr(value, field, held)
    assert f"Assigned.{field} would not arrive whole" in refusal(Assigned, value, name)


def test_what_was_assigned_and_is_the_same_number_travels(name: Format) -> None:
    value = Assigned(late="")
    value.number, value.ratio = np.int64(7), np.float32(0.5)  # type: ignore[assignment]  # the point
    back = trip(Assigned, value, name)
    assert (back.number, back.ratio, type(back.number)) == (7, 0.5, int)
    value.number, value.ratio = True, 2
    value.octets = bytearray(b"a")  # type: ignore[assignment]  # the point
    assert trip(Assigned, value, name) == Assigned(number=1, ratio=2.0, late="", octets=b"a")
    value.ratio = np.float32("nan")  # type: ignore[assignment]  # the point
    assert np.isnan(trip(Assigned, value, name).ratio)


def test_a_default_that_was_never_validated_is_sent_as_it_is(name: Format) -> None:
    codec = PayloadCodec[Any](Any, name)
    assert codec.decode(codec.encode(Assigned()))["late"] is None


class Stripped(pydantic.BaseModel, str_strip_whitespace=True):
    text: str = ""


class Lowered(pydantic.BaseModel):
    texts: list[Annotated[str, pydantic.StringConstraints(to_lower=True)]] = []


def test_text_that_a_setting_would_change_is_refused(name: Format) -> None:
    value = Stripped(text=" a ")
    assert trip(Stripped, value, name) == value
    value.text = " a "
    assert "Stripped.text" in refusal(Stripped, value, name)
    lowered = Lowered()
    lowered.texts.append("A")
    assert "Lowered.texts" in refusal(Lowered, lowered, name)


class StrictOctets(pydantic.BaseModel, strict=True):
    at: datetime.datetime = datetime.datetime(2026, 1, 1)
    octets: bytes = b"\xff\x00"
    pair: tuple[bytes, ...] = (b"\x80",)


def test_bytes_and_dates_of_a_strict_model_travel(name: Format) -> None:
    value = StrictOctets() if name != "plain" else StrictOctets(octets=b"a", pair=(b"b",))
    assert trip(StrictOctets, value, name) == value


class Address(msgspec.Struct):
    url: pydantic.HttpUrl
    more: list[pydantic.AnyUrl] = []


def test_urls_in_other_models(name: Format) -> None:
    value = Address(pydantic.HttpUrl("http://a/b"), [pydantic.AnyUrl("x://y")])
    assert trip(Address, value, name) == value
    codec = PayloadCodec[Any](Address, name)
    with pytest.raises(InvalidModel, match="url"):
        codec.decode(PayloadCodec[Any](Any, name).encode({"url": "no url"}))


def test_a_model_that_names_a_missing_type_is_refused_when_the_codec_is_made(
    name: Format,
) -> None:
    class Unfinished(pydantic.BaseModel):
        x: Nowhere  # type: ignore[name-defined] # noqa: F821 # the point

    with pytest.raises(InvalidModel, match=r"Unfinished cannot be a model.*Nowhere"):
        PayloadCodec[Any](Unfinished, name)


def test_bytes_of_a_dataclass_inside(name: Format) -> None:
    @dataclass
    class Raw:
        octets: bytes
        numbers: list[int]

    class Holder(pydantic.BaseModel):
        raw: Raw
        octets: bytes = b"abc"

    value = Holder.model_construct(raw=Raw(b"abc", [1]))
    Holder.model_rebuild(_types_namespace={"Raw": Raw})
    assert trip(Holder, value, name).raw == Raw(b"abc", [1])
