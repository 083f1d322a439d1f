"""Codecs, schemas and field names of every kind of model."""

from __future__ import annotations

import collections
import contextlib
import datetime
import enum
import math
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass, field
from typing import (
    Annotated,  # noqa: F401 # cases name it in text
    Any,
    Generic,
    Literal,
    NamedTuple,
    TypedDict,
    TypeVar,
)

import attrs
import msgspec
import numpy as np
import numpy.typing as npt
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openenv_async.errors import InvalidModel, ProtocolError
from openenv_async.models import Format, PayloadCodec, encoding, field_names, to_builtins

FORMATS: list[Format] = ["msgpack", "json", "plain"]
T = TypeVar("T")


@dataclass
class Point:
    x: int
    label: str = ""
    weight: float | None = None


class StructPoint(msgspec.Struct):
    x: int
    label: str = ""
    weight: float | None = None


@attrs.define
class AttrsPoint:
    x: int
    label: str = ""
    weight: float | None = None


class _Required(TypedDict):
    x: int


class DictPoint(_Required, total=False):
    label: str
    weight: float | None


class PydanticPoint(pydantic.BaseModel):
    x: int
    label: str = ""
    weight: float | None = None


class TuplePoint(NamedTuple):
    x: int
    label: str = ""
    weight: float | None = None


KINDS: list[Any] = [Point, StructPoint, AttrsPoint, DictPoint, PydanticPoint]


@dataclass
class Node:
    value: int
    children: list[Node] = field(default_factory=list)
    next: Node | None = None


class Cat(msgspec.Struct, tag=7):
    name: str


class Dog(msgspec.Struct, tag=3, tag_field="type"):
    age: int = 0


class Row(msgspec.Struct, tag=True, array_like=True):
    point: Point


class Cell(msgspec.Struct, tag=True, array_like=True):
    point: Point


@dataclass
class Box(Generic[T]):
    content: T


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    x: int


class Color(enum.Enum):
    RED = "red"


@dataclass
class Rich:
    at: datetime.datetime
    id: uuid.UUID
    color: Color
    raw: bytes
    tags: set[int]
    pair: tuple[int, str]
    table: dict[int, Point]
    point: TuplePoint


@dataclass
class Sight:
    image: np.ndarray[Any, Any]
    state: npt.NDArray[np.float32]
    score: np.float32
    reward: float | None = None


class PydanticOuter(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    points: list[PydanticPoint] = []
    array: npt.NDArray[np.float32] | None = None
    raw: bytes = b""
    by_alias: int = pydantic.Field(default=0, alias="byAlias")
    plain: Point | None = None

    @pydantic.computed_field  # type: ignore[prop-decorator] # pydantic documents this order
    @property
    def total(self) -> int:
        return len(self.points)


def trip(model: Any, value: Any, name: Format) -> Any:
    codec = PayloadCodec[Any](model, name)
    data = codec.encode(value)
    assert type(data) is bytes
    assert repr(codec.decode(memoryview(data))) == repr(codec.decode(data))
    return codec.decode(data)


def wire(name: Format, value: Any) -> bytes:
    return msgspec.msgpack.encode(value) if name == "msgpack" else msgspec.json.encode(value)


@pytest.mark.parametrize("name", FORMATS)
class TestEveryFormat:
    @pytest.mark.parametrize("kind", [*KINDS, TuplePoint])
    def test_round_trip(self, kind: Any, name: Format) -> None:
        for value in (kind(x=1, label="a", weight=0.5), kind(x=-1, label="é\0", weight=None)):
            back = trip(kind, value, name)
            assert back == value
            assert type(back) is type(value)

    @pytest.mark.parametrize("kind", KINDS)
    def test_none_is_not_zero(self, kind: Any, name: Format) -> None:
        for weight in (None, 0.0, -0.0):
            back = to_builtins(trip(kind, kind(x=1, weight=weight), name))["weight"]
            assert repr(back) == repr(weight)

    @pytest.mark.parametrize("kind", KINDS)
    def test_bad_payloads(self, kind: Any, name: Format) -> None:
        codec = PayloadCodec[Any](kind, name)
        for payload, words in (
            ({"x": 1, "extra": 2}, "unknown field `extra`"),
            ({"label": "a"}, "x"),
            ({"x": "one"}, r"x.*|.*x"),
            ({"x": None}, "x"),
            ([1], r"(?i)expected|valid dictionary"),
            (None, r"(?i)expected|valid dictionary"),
        ):
            with pytest.raises(InvalidModel, match=words) as caught:
                codec.decode(wire(name, payload))
            assert kind.__name__ in str(caught.value)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize(
        ("shape", "make"),
        [
            ("list[K]", lambda p: [p]),
            ("dict[str, K]", lambda p: {"a": p}),
            ("tuple[int, K]", lambda p: [1, p]),
            ("tuple[K, ...]", lambda p: [p, p]),
            ("K | None", lambda p: p),
            ("dict[str, list[K | None]]", lambda p: {"a": [None, p]}),
            ("Annotated[list[K], msgspec.Meta(min_length=1)]", lambda p: [p]),
            ("Box[K]", lambda p: {"content": p}),
            ("Box[list[K]]", lambda p: {"content": [p]}),
        ],
    )
    def test_nested_unknown_fields(self, kind: Any, shape: str, make: Any, name: Format) -> None:
        codec = PayloadCodec[Any](eval(shape, globals(), {"K": kind}), name)
        codec.decode(wire(name, make({"x": 1})))
        with pytest.raises(InvalidModel, match="unknown field `extra`"):
            codec.decode(wire(name, make({"x": 1, "extra": 2})))

    def test_recursive_types(self, name: Format) -> None:
        tree = Node(1, [Node(2, [Node(3)])], Node(4))
        assert trip(Node, tree, name) == tree
        codec = PayloadCodec[Node](Node, name)
        inner = {"value": 1, "children": [{"value": 2, "next": {"value": 3, "oops": 1}}]}
        with pytest.raises(InvalidModel, match="oops"):
            codec.decode(wire(name, inner))

    def test_tagged_structs(self, name: Format) -> None:
        kind = list[Cat | Dog | int | None]
        value = [Cat("a"), Dog(5), 3, None]
        assert trip(kind, value, name) == value
        codec = PayloadCodec[Any](kind, name)
        for bad in ({"type": 7, "name": "a", "oops": 1}, {"type": 7, "name": "a", "age": 1}):
            with pytest.raises(InvalidModel, match=r"oops|age"):
                codec.decode(wire(name, [bad]))
        assert codec.decode(codec.encode([{"type": 3, "age": np.int8(1)}])) == [Dog(1)]

    def test_array_like_structs(self, name: Format) -> None:
        kind = list[Row | Cell | datetime.date | None]
        value = [Row(Point(1)), Cell(Point(2)), None, datetime.date(2024, 1, 2)]
        assert trip(kind, value, name) == value
        codec = PayloadCodec[Any](kind, name)
        for bad in (["Row", {"x": 1}, "more"], ["Cell", {"x": 1, "oops": 1}]):
            with pytest.raises(InvalidModel):
                codec.decode(wire(name, [bad]))
        assert codec.decode(codec.encode([["Cell", {"x": np.int8(1)}]])) == [Cell(Point(1))]
        with pytest.raises(InvalidModel):
            codec.decode(codec.encode([["Cell", {"x": np.int8(1)}, 3]]))

    def test_a_union_is_looked_through_by_the_shape_of_the_value(self, name: Format) -> None:
        codec = PayloadCodec[Any](list[Point | list[Any]], name)
        values: list[Any] = [{"x": np.int8(1)}, [1, 2, 3, {"any": 4}]]
        assert codec.decode(codec.encode(values)) == [Point(1), [1, 2, 3, {"any": 4}]]

    @pytest.mark.parametrize("other", [datetime.datetime, uuid.UUID, Literal["a"], Color, bytes])
    def test_unions_with_scalars(self, other: Any, name: Format) -> None:
        codec = PayloadCodec[Any](list[Point | other | int | list[int] | None], name)
        values = [Point(1), 3, [4], None]
        assert codec.decode(codec.encode(values)) == values
        with pytest.raises(InvalidModel, match="oops"):
            codec.decode(wire(name, [{"x": 1, "oops": 1}]))

    def test_a_field_name_without_a_mirror(self, name: Format) -> None:
        odd = TypedDict("odd", {'a"b': int, "point": Point})
        try:
            codec = PayloadCodec[Any](odd, name)
        except InvalidModel:
            return  # msgspec itself refuses the name
        value = {'a"b': 1, "point": {"x": 1}}
        assert codec.decode(wire(name, value)) == {'a"b': 1, "point": Point(1)}
        for bad in ({**value, "c": 1}, {**value, "point": {"x": 1, "c": 1}}):
            with pytest.raises(InvalidModel, match="unknown field `c`"):
                codec.decode(wire(name, bad))

    def test_rich_types(self, name: Format) -> None:
        value = Rich(
            at=datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC),
            id=uuid.UUID(int=5),
            color=Color.RED,
            raw=b"\x00\xff",
            tags={1, 2},
            pair=(1, "a"),
            table={3: Point(1)},
            point=TuplePoint(1),
        )
        assert trip(Rich, value, name) == value

    def test_pydantic_inside_and_out(self, name: Format) -> None:
        value = PydanticOuter(points=[PydanticPoint(x=1)], raw=b"abc", byAlias=3, plain=Point(2))
        assert trip(PydanticOuter, value, name) == value
        assert trip(Box[PydanticOuter], Box(value), name) == Box(value)
        codec = PayloadCodec[Any](PydanticOuter, name)
        for bad in ({"points": [{"x": 1, "oops": 1}]}, {"plain": {"x": 1, "oops": 1}}):
            with pytest.raises(InvalidModel, match="oops"):
                codec.decode(wire(name, bad))
        with pytest.raises(InvalidModel, match=r"points.0.x: Input should be a valid integer"):
            codec.decode(wire(name, {"points": [{"x": "no"}]}))

    def test_pydantic_extra_is_respected(self, name: Format) -> None:
        class Loose(pydantic.BaseModel, extra="ignore"):
            x: int = 0

        class Open(pydantic.BaseModel, extra="allow"):
            x: int = 0

        class Shut(pydantic.BaseModel, extra="forbid"):
            x: int = 0

        data = wire(name, {"x": 1, "y": 2})
        assert PayloadCodec[Any](Loose, name).decode(data) == Loose(x=1)
        assert PayloadCodec[Any](Open, name).decode(data).y == 2
        with pytest.raises(InvalidModel, match="y"):
            PayloadCodec[Any](Shut, name).decode(data)

    def test_untyped(self, name: Format) -> None:
        for kind in (dict, dict[str, Any], Any):
            value = {"a": [1, None, 2.5, {"b": "c"}]}
            assert trip(kind, value, name) == value
        with pytest.raises(InvalidModel):
            PayloadCodec[Any](dict, name).decode(wire(name, [1]))

    def test_other_values_are_encoded_as_they_are(self, name: Format) -> None:
        codec = PayloadCodec[Any](Point, name)
        for kind in KINDS:
            assert codec.decode(codec.encode(kind(x=1, label="a"))) == Point(1, "a")
        assert trip(Any, Point(1), name) == {"x": 1, "label": "", "weight": None}

    def test_numpy_scalars_in_plain_fields(self, name: Format) -> None:
        value = Point(np.int64(3), np.str_("a"), np.float32(0.5))  # type: ignore[arg-type] # the point
        assert repr(trip(Point, value, name)) == "Point(x=3, label='a', weight=0.5)"
        codec = PayloadCodec[Any](Point, name)
        with pytest.raises(InvalidModel, match="oops"):
            codec.decode(codec.encode({"x": np.int64(1), "oops": 1}))

    def test_arrays_in_fields(self, name: Format) -> None:
        value = Sight(np.eye(2), np.array([1, 2], np.float32), np.float32(0.5), 1.0)
        back = trip(Sight, value, name)
        np.testing.assert_array_equal(back.image, value.image)
        assert back.state.dtype == np.float32
        assert type(back.score) is np.float32
        codec = PayloadCodec[Any](Sight, name)
        back = codec.decode(wire(name, {"image": [[1]], "state": [1, 2.5], "score": 1}))
        assert (back.image.dtype.kind, back.state.dtype) == ("i", np.dtype(np.float32))
        for bad, words in (
            ({"image": "x", "state": [], "score": 1}, r"Expected an array.*image"),
            ({"image": [], "state": [None], "score": 1}, r"null.*state"),
            ({"image": [], "state": [[1], [1, 2]], "score": 1}, "state"),
            ({"image": [], "state": [], "score": "a"}, "score"),
        ):
            with pytest.raises(InvalidModel, match=words):
                codec.decode(wire(name, bad))

    @given(data=st.binary())
    def test_garbage(self, name: Format, data: bytes) -> None:
        for kind in (Any, dict, Point, Sight, PydanticPoint, list[Node]):
            codec = PayloadCodec[Any](kind, name)
            for view in (data, memoryview(data)):
                with contextlib.suppress(InvalidModel, ProtocolError):
                    codec.decode(view)

    def test_truncated(self, name: Format) -> None:
        codec = PayloadCodec[Any](Node, name)
        data = codec.encode(Node(1, [Node(2), Node(300)], Node(4)))
        for end in range(len(data)):
            with pytest.raises(ProtocolError):
                codec.decode(data[:end])
        with pytest.raises(ProtocolError):
            codec.decode(data + b"\x01")

    @pytest.mark.parametrize(
        ("value", "words"),
        [
            ({"a": [1, object()]}, r"\$\['a'\]\[1\] \(object\).*builtins.object cannot travel"),
            (Box(Box({"k": 1j})), r"\$.content.content\['k'\] \(complex\)"),
            ({"a": 2**16384}, r"\$\['a'\] \(int\)"),
            ("\ud800", r"\$ \(str\)"),
            (Strict(x=print), r"\$.x"),  # type: ignore[arg-type] # the point
        ],
    )
    def test_what_cannot_be_encoded_is_named(self, value: Any, words: str, name: Format) -> None:
        with pytest.raises(InvalidModel, match=words):
            PayloadCodec[Any](Any, name).encode(value)

    def test_cycles(self, name: Format) -> None:
        value: list[Any] = []
        value.append(value)
        with pytest.raises(InvalidModel):
            PayloadCodec[Any](Any, name).encode(value)

    def test_a_model_that_raises(self, name: Format) -> None:
        @dataclass
        class Picky:
            x: int

            def __post_init__(self) -> None:
                if self.x > 1:
                    raise KeyError("no such level")

        with pytest.raises(InvalidModel, match="no such level"):
            PayloadCodec[Any](Picky, name).decode(wire(name, {"x": 2}))

    def test_threads_share_a_codec(self, name: Format) -> None:
        codec = PayloadCodec[Node](Node, name)
        value = Node(1, [Node(i) for i in range(50)])
        wrong: list[Any] = []

        def work() -> None:
            wrong.extend(1 for _ in range(200) if codec.decode(codec.encode(value)) != value)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong


def test_typed_arrays_share_the_message() -> None:
    codec = PayloadCodec[Sight](Sight, "msgpack")
    data = codec.encode(Sight(np.zeros(100), np.zeros(100, np.float32), np.float32(0)))
    back = codec.decode(data)
    whole = np.frombuffer(data, np.uint8)
    assert np.shares_memory(back.image, whole)
    assert np.shares_memory(back.state, whole)


def test_nan_and_infinity() -> None:
    for value in (math.nan, math.inf, -math.inf):
        for name in ("msgpack", "json"):
            assert repr(trip(Point, Point(1, "null", value), name)) == repr(Point(1, "null", value))
        back = trip(Point, Point(1, "null", value), "plain")
        assert repr(back) == repr(Point(1, "null", value))


def test_pydantic_binary_bytes_survive_native_formats() -> None:
    value = PydanticOuter(raw=b"\x00\xff")
    assert trip(PydanticOuter, value, "msgpack") == value
    assert trip(PydanticOuter, value, "json") == value
    assert trip(PydanticOuter, PydanticOuter(raw=b"__bytes__"), "json").raw == b"__bytes__"
    with pytest.raises(InvalidModel):
        PayloadCodec[Any](PydanticOuter, "plain").encode(value)


@dataclass
class Parcel:
    raw: bytes
    extra: Any = None
    many: dict[str, list[bytes | None]] = field(default_factory=dict)
    pair: tuple[int, bytes] = (0, b"")
    buffer: bytearray = field(default_factory=bytearray)


class Crate(msgspec.Struct, tag="crate", array_like=True):
    raw: bytes
    extra: dict[str, Any]


class TestBytesInJson:
    @pytest.mark.parametrize("kind", [Any, dict, dict[str, Any], Box[Any], dict[str, Any] | None])
    @pytest.mark.parametrize("octets", [b"", b"\0", b"\xff" * 300, b"a" * 70_000])
    def test_untyped_bytes_come_back(self, kind: Any, octets: bytes) -> None:
        value = {"a": octets, "b": [1.5, None, {"c": [octets, "text"]}], "n": math.inf}
        for native in ("msgpack", "json"):
            made = Box(value) if kind == Box[Any] else value
            assert trip(kind, made, native) == made

    def test_wire(self) -> None:
        encode = PayloadCodec[Any](Any, "json").encode
        assert encode(b"a") == b'{"__bytes__":"YQ=="}'
        assert encode({"a": [memoryview(b"a"), bytearray(b"a")]}) == (
            b'{"a":[{"__bytes__":"YQ=="},{"__bytes__":"YQ=="}]}'
        )
        # each has a byte that in MessagePack would begin bytes
        assert encode([0xC4, "\u0100", 196.5, 2**70]) == b'[196,"\xc4\x80",196.5,%d]' % 2**70

    def test_inside_models_in_untyped_places(self) -> None:
        assert trip(Any, [Box(b"a"), Crate(b"b", {"c": b"d"})], "json") == [
            {"content": b"a"},
            ["crate", b"b", {"c": b"d"}],
        ]

    @pytest.mark.parametrize("extra", [None, 1, b"\0", {"__bytes__": b"x"}, [math.nan, b"y"]])
    def test_declared_bytes_stay_base64_text(self, extra: Any) -> None:
        value = Parcel(b"\0", extra, {"a": [b"\1", None]}, (1, b"\2"), bytearray(b"\3"))
        codec = PayloadCodec[Parcel](Parcel, "json")
        wired = msgspec.json.decode(codec.encode(value))
        assert (wired["raw"], wired["many"]) == ("AA==", {"a": ["AQ==", None]})
        assert (wired["pair"], wired["buffer"]) == ([1, "Ag=="], "Aw==")
        assert repr(codec.decode(codec.encode(value))) == repr(value)

    def test_declared_bytes_in_arrays_and_unions(self) -> None:
        kind = list[Crate | dict[str, bytes] | None]
        value = [Crate(b"\0", {"a": b"\1"}), {"b": b"\2"}, None]
        codec = PayloadCodec[Any](kind, "json")
        assert codec.encode(value) == (
            b'[["crate","AA==",{"a":{"__bytes__":"AQ=="}}],{"b":"Ag=="},null]'
        )
        assert codec.decode(codec.encode(value)) == value

    def test_declared_bytes_may_come_tagged(self) -> None:
        data = b'{"raw":{"__bytes__":"AA=="},"buffer":{"__bytes__":"AQ=="},"extra":"AA=="}'
        assert PayloadCodec[Any](Parcel, "json").decode(data) == Parcel(
            b"\0", "AA==", buffer=bytearray(b"\1")
        )

    def test_a_text_field_takes_no_bytes(self) -> None:
        with pytest.raises(InvalidModel, match="str"):
            PayloadCodec[Any](Point, "json").decode(b'{"x":1,"label":{"__bytes__":"AA=="}}')


def test_pydantic_arrays() -> None:
    value = PydanticOuter(array=np.ones(2, np.float32))
    for name in ("msgpack", "json"):
        np.testing.assert_array_equal(trip(PydanticOuter, value, name).array, value.array)


@attrs.define
class Hidden:
    x: int
    _secret: int = 0


class PydanticHolder(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)

    held: Hidden


@dataclass
class Alien:
    x: collections.Counter[str]
    y: threading.Thread


@pytest.mark.parametrize(
    "model", [Hidden, list[Hidden], Alien, threading.Thread, int | Point | dict[str, Any]]
)
def test_types_that_cannot_be_models(model: Any) -> None:
    for name in FORMATS:
        with pytest.raises(InvalidModel, match="cannot be a model"):
            PayloadCodec[Any](model, name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", [Any, dict, Box[Any], list[Any]])
def test_private_attrs_fields_are_refused_in_untyped_places(kind: Any, name: Format) -> None:
    codec = PayloadCodec[Any](kind, name)
    for value in (
        {"a": [1, Hidden(1)]},
        Box({"b": (Point(1), Hidden(1))}),
        [AttrsPoint(Box(Hidden(1)))],  # type: ignore[arg-type] # the point
        [PydanticHolder(held=Hidden(1))],
    ):
        with pytest.raises(InvalidModel, match=r"Hidden._secret would not travel; rename it"):
            codec.encode(value)
    with pytest.raises(InvalidModel, match=r"\$\['a'\]\[1\] \(Hidden\)"):
        codec.encode({"a": [1, Hidden(1)]})
    codec.encode([AttrsPoint(1), Point(1), TuplePoint(1), {"_a": StructPoint(1)}])


def test_private_attrs_fields_are_refused_inside_pydantic_and_by_to_builtins() -> None:
    for name in FORMATS:
        with pytest.raises(InvalidModel, match=r"Hidden\._secret"):
            PayloadCodec[Any](PydanticHolder, name).encode(PydanticHolder(held=Hidden(1)))
    with pytest.raises(InvalidModel, match=r"Hidden\._secret"):
        to_builtins([Hidden(1)])


def test_field_names() -> None:
    for kind in [*KINDS, TuplePoint]:
        assert field_names(kind) == frozenset({"x", "label", "weight"})
    assert field_names(PydanticOuter) == frozenset({"points", "array", "raw", "byAlias", "plain"})
    for other in (dict, dict[str, Any], Any, int):
        assert field_names(other) is None


def test_to_builtins() -> None:
    image = np.zeros(3)
    tree = to_builtins(
        {
            "s": Sight(image, np.zeros(1, np.float32), np.float32(1)),
            "p": PydanticPoint(x=1),
            "b": b"a",
        }
    )
    assert tree["s"]["image"] is image
    assert type(tree["s"]["score"]) is np.float32
    assert tree["p"] == {"x": 1, "label": "", "weight": None}
    assert tree["b"] == b"a"
    with pytest.raises(InvalidModel, match="object"):
        to_builtins([object()])


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, openenv_async.models as m, openenv_async.schemas.sample\n"
        "for f in ('msgpack', 'json', 'plain'):\n"
        "    c = m.PayloadCodec(dict, f); assert c.decode(c.encode({'a': None})) == {'a': None}\n"
        "assert not {'numpy', 'pydantic', 'attrs', 'attr', 'asyncio'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@dataclass
class Words:
    """A model that can hold no array."""

    text: str
    numbers: list[float]


def test_only_a_model_that_may_hold_arrays_asks_for_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def place(size: int, before: int) -> None:
        asked.append(size)

    made: list[int] = []
    placing = encoding._placing

    def noted(place: encoding.Place, least: int) -> encoding.Encode:
        made.append(least)
        return placing(place, least)

    monkeypatch.setattr(encoding, "_placing", noted)
    words = PayloadCodec[Words](Words, "msgpack")
    value = Words("a", [1.0])
    assert words.placed(place, 16)(value) == words.encode(value)
    assert (made, asked) == ([], [])
    anything = PayloadCodec[Any](list[Any], "msgpack")
    tree = [np.zeros(100)]
    (back,) = anything.decode(anything.placed(place, 16)(tree))
    assert back.shape == (100,)
    assert made == [16]
    assert set(asked) == {820}  # the elements, and what is said of them
