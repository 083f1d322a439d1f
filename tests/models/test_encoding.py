"""Values of other kinds than those declared: taken as what they are, or refused by name."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import enum
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import attrs
import msgspec
import numpy as np
import pydantic
import pytest

from openenv_async.errors import InvalidModel
from openenv_async.models import FORMATS, Format, PayloadCodec, to_builtins

pytestmark = pytest.mark.parametrize("name", FORMATS)


def trip(model: Any, value: Any, name: Format) -> Any:
    codec = PayloadCodec[Any](model, name)
    return codec.decode(codec.encode(value))


def refusal(model: Any, value: Any, name: Format) -> str:
    with pytest.raises(InvalidModel) as caught:
        PayloadCodec[Any](model, name).encode(value)
    return str(caught.value)


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "never this"


class Whole(int):
    def __int__(self) -> int:
        return -1


class Part(float):
    pass


class Octets(bytes):
    pass


class Moment(datetime.datetime):
    pass


class Day(datetime.date):
    pass


class Money(decimal.Decimal):
    pass


class Span(datetime.timedelta):
    pass


class Nanoseconds(datetime.datetime):
    """More than a datetime, as pandas' timestamps are."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Nanoseconds) and super().__eq__(other)

    __hash__ = datetime.datetime.__hash__


class Names(Sequence[str]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: Any) -> Any:
        return ["a", "b"][index]


class Settings(Mapping[str, int]):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, key: str) -> int:
        return {"a": 1}[key]

    def __iter__(self) -> Iterator[str]:
        return iter(["a"])


class Level(enum.IntEnum):
    ONE = 1


class Color(enum.StrEnum):
    RED = "red"


class Mark(str, enum.Enum):  # noqa: UP042 # another kind of class than StrEnum
    A = "a"


TAKEN: list[tuple[Any, Any, Any]] = [
    (Text("a"), str, "a"),
    (Whole(3), int, 3),
    (Part(1.5), float, 1.5),
    (Level.ONE, int, 1),
    (Color.RED, str, "red"),
    (Mark.A, str, "a"),
    (Moment(2024, 1, 2, 3, tzinfo=datetime.UTC), datetime.datetime, None),
    (Day(2024, 1, 2), datetime.date, None),
    (Money("1.10"), decimal.Decimal, None),
    (Span(days=1, microseconds=2), datetime.timedelta, None),
    (collections.deque([1, 2]), list[int], [1, 2]),
    (range(3), list[int], [0, 1, 2]),
    ({1: 2}.values(), list[int], [2]),
    ({1: 2}.keys(), list[int], [1]),
    ({"a": 2}.items(), list[list[Any]], [["a", 2]]),
    ((1, 2), list[int], [1, 2]),
    (frozenset([1]), list[int], [1]),
    (collections.UserList([1]), list[int], [1]),
    (array.array("d", [1.5]), list[float], [1.5]),
    (Names(), list[str], ["a", "b"]),
    (collections.OrderedDict(b=1, a=2), dict[str, int], {"b": 1, "a": 2}),
    (collections.defaultdict(int, a=1), dict[str, int], {"a": 1}),
    (collections.Counter("aab"), dict[str, int], {"a": 2, "b": 1}),
    (collections.ChainMap({"a": 1}, {"b": 2}), dict[str, int], {"a": 1, "b": 2}),
    (collections.UserDict(a=1), dict[str, int], {"a": 1}),
    (types.MappingProxyType({"a": 1}), dict[str, int], {"a": 1}),
    (Settings(), dict[str, int], {"a": 1}),
    (collections.UserString("a"), str, "a"),
]


@dataclass
class Held:
    value: Any


@pytest.mark.parametrize(("value", "declared", "plain"), TAKEN, ids=lambda v: type(v).__name__)
def test_subclasses_and_other_containers_are_taken(
    value: Any, declared: Any, plain: Any, name: Format
) -> None:
    expected = value if plain is None else plain
    back = trip(declared, value, name)
    assert back == expected
    assert type(back) in (int, float, str, list, dict) or type(back) is declared
    if plain is not None:
        for anywhere, told in (
            (value, expected),
            ({"a": [value]}, {"a": [expected]}),
            (Held(value), {"value": expected}),
        ):
            assert trip(Any, anywhere, name) == told
        assert PayloadCodec[Any](Any, name).encode(to_builtins(value)) == (
            PayloadCodec[Any](Any, name).encode(value)
        )


def test_a_subclass_that_is_more_than_its_base_is_refused(name: Format) -> None:
    message = refusal(Any, {"at": Nanoseconds(2024, 1, 2)}, name)
    assert "$['at'] (Nanoseconds)" in message
    assert "would lose a part as datetime" in message


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ((i for i in [1]), r"give list\(…\) of it"),
        (iter([1]), r"give list\(…\) of it"),
        (map(str, [1]), r"give list\(…\) of it"),
        (len, "call it"),
        (Held, "use plain types"),
        (1j, "use plain types"),
        (types.SimpleNamespace(a=1), "use plain types"),
        (pydantic.SecretStr("x"), "get_secret_value"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_travel_is_refused_with_the_place_and_remedy(
    value: Any, words: str, name: Format
) -> None:
    codec = PayloadCodec[Any](Any, name)
    for whole, place in (
        ({"a": [0, value]}, r"\$\['a'\]\[1\]"),
        (Held(value), r"\$\.value"),
        ({"a": collections.deque([value])}, r"\$\['a'\]\[0\]"),
    ):
        with pytest.raises(InvalidModel, match=f"{place}.*{words}"):
            codec.encode(whole)


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": ["ok", "\ud800"]}, r"\$\['a'\]\[1\] \(str\)"),
        ({"a": {"\ud800": 1}}, r"the key '\\ud800' of \$\['a'\] \(str\)"),
        ({"a": {1: {object(): 1}}}, r"the key <object.*> of \$\['a'\]\[1\]"),
    ],
    ids=["text", "key", "object"],
)
def test_a_bad_text_or_key_is_named(value: Any, place: str, name: Format) -> None:
    with pytest.raises(InvalidModel, match=place):
        PayloadCodec[Any](Any, name).encode(value)


def test_a_value_in_itself_and_one_too_deep_are_named(name: Format) -> None:
    loop: dict[str, Any] = {"a": [1]}
    loop["a"].append(loop)
    assert "$['a'][1] (dict): it contains itself" in refusal(Any, loop, name)
    assert "contains itself" in refusal(Any, [collections.deque([loop])], name)
    deep: Any = []
    for _ in range(sys.getrecursionlimit() * 2):
        deep = [deep]
    message = refusal(Any, deep, name)
    assert "nested deeper" in message
    assert len(message) < 300


@dataclass
class Unset:
    x: int
    y: int = field(init=False)


@dataclass(slots=True)
class UnsetSlots:
    x: int
    y: int = field(init=False)


@attrs.define
class UnsetAttrs:
    x: int
    y: int = attrs.field(init=False)


@dataclass
class Defaulted:
    x: int
    y: int = field(init=False, default=7)


@pytest.mark.parametrize("kind", [Unset, UnsetSlots, UnsetAttrs])
def test_a_field_that_was_never_set_is_refused_where_it_is_sent(kind: Any, name: Format) -> None:
    for model, value in ((kind, kind(1)), (list[kind], [kind(1)]), (Any, kind(1))):
        assert f"{kind.__name__}.y was never set" in refusal(model, value, name)
    value = kind(1)
    value.y = 5
    assert trip(kind, value, name) == value


def test_a_default_that_only_the_class_has_travels_too(name: Format) -> None:
    for declared in (Any, dict):
        assert trip(declared, Defaulted(1), name) == {"x": 1, "y": 7}
    changed = Defaulted(1)
    changed.y = 8
    assert trip(list[Defaulted], [Defaulted(1), changed], name) == [Defaulted(1), changed]


class Lines(list[int]):
    pass


@dataclass
class Extended(dict):  # type: ignore[type-arg] # as authors write it
    x: int = 1


def test_the_fields_of_a_dict_are_not_lost(name: Format) -> None:
    assert "hold one in a field" in refusal(Any, Extended(3), name)
    assert trip(Any, Lines([1]), name) == [1]


def test_nan_is_not_none(name: Format) -> None:
    @dataclass
    class Sight:
        at: float
        more: list[float | None]
        near: dict[str, float]
        word: str = "NaN"
        pair: tuple[float, str] = (0.0, "Infinity")

    nan, inf = float("nan"), float("inf")
    value = Sight(nan, [None, -inf, 1.5], {"a": inf}, "NaN", (nan, "NaN"))
    assert repr(trip(Sight, value, name)) == repr(value)

    class Seen(pydantic.BaseModel):
        at: float
        maybe: float | None = None

    seen = trip(Seen, Seen(at=nan, maybe=inf), name)
    assert (repr(seen.at), seen.maybe) == ("nan", inf)
    image = np.array([[1.0, nan], [-inf, 0.0]])
    np.testing.assert_array_equal(trip(list[np.ndarray[Any, Any]], [image], name)[0], image)
    assert repr(trip(list[np.float32], [np.float32(nan)], name)) == "[np.float32(nan)]"


def test_keys_that_json_would_make_one_are_told_apart(name: Format) -> None:
    value = {"a": [{1: "number", "1": "text"}]}
    if name == "plain":
        assert "the same in JSON" in refusal(Any, value, name)
        assert trip(Any, {1: "a", "2": "b"}, name) == {"1": "a", "2": "b"}
    else:
        assert trip(Any, value, name) == value
        assert trip(dict[int | str, str], {1: "a", "1": "b"}, name) == {1: "a", "1": "b"}


def test_declared_keys_keep_their_kind(name: Format) -> None:
    for model, value in (
        (dict[int, str], {1: "a"}),
        (dict[Level, int], {Level.ONE: 1}),
        (dict[str, dict[float, int]], {"a": {1.5: 1}}),
    ):
        back = trip(model, value, name)
        assert back == value
        assert list(map(type, back)) == list(map(type, value))
    if name != "plain":
        pairs = {(0, 1): 1.5, (2, 3): float("inf")}
        assert trip(dict[tuple[int, int], float], pairs, name) == pairs
        assert trip(dict[str | None, bool], {None: True, "a": False}, name) == {
            None: True,
            "a": False,
        }


def test_struct_with_an_unset_field(name: Format) -> None:
    class Sparse(msgspec.Struct):
        x: int = 1
        y: int | msgspec.UnsetType = msgspec.UNSET

    assert trip(Sparse, Sparse(2), name) == Sparse(2)
    assert trip(Sparse, Sparse(2, 3), name) == Sparse(2, 3)


@dataclass
class Scaled:
    pixel: float
    rows: list[int] = field(default_factory=list)
    made: float = 0.0

    def __post_init__(self) -> None:
        self.pixel /= 255


class ScaledStruct(msgspec.Struct):
    pixel: float

    def __post_init__(self) -> None:
        self.pixel /= 255


@attrs.define
class ScaledAttrs:
    pixel: float

    def __attrs_post_init__(self) -> None:
        self.pixel /= 255


class ScaledModel(pydantic.BaseModel):
    pixel: float

    @pydantic.field_validator("pixel")
    @classmethod
    def scale(cls, value: float) -> float:
        return value / 255


class ScaledLate(pydantic.BaseModel):
    pixel: float

    def model_post_init(self, context: Any) -> None:
        self.pixel /= 255


@dataclass
class Steady:
    text: str
    size: int = 0
    tags: set[int] = field(default_factory=set)
    number: int = 3

    def __post_init__(self) -> None:
        self.text = self.text.lower()
        self.size = self.size or len(self.text)


@pytest.mark.parametrize(
    "kind", [Scaled, ScaledStruct, ScaledAttrs, ScaledModel, ScaledLate], ids=lambda k: k.__name__
)
def test_what_would_be_made_into_another_value_is_refused(kind: Any, name: Format) -> None:
    for model, value in ((kind, kind(pixel=255.0)), (list[kind], [kind(pixel=255.0)])):
        message = refusal(model, value, name)
        assert "pixel" in message
        assert "each time" in message
    zero = kind(pixel=0.0)
    assert trip(kind, zero, name) == zero


def test_what_makes_the_same_again_travels(name: Format) -> None:
    value = Steady("ABC", tags={5, 1, 3}, number=np.int64(3))  # type: ignore[arg-type] # as from NumPy
    assert trip(Steady, value, name) == value
    codec = PayloadCodec[Any](Steady, name)
    assert codec.decode(codec.encode({"text": "RAW"})) == Steady("raw")

    class Clean(pydantic.BaseModel):
        text: str
        words: list[str] = []

        @pydantic.model_validator(mode="after")
        def split(self) -> Any:
            self.words = self.words or self.text.split()
            return self

    clean = Clean(text="a b")
    assert trip(Clean, clean, name) == clean


@pytest.mark.parametrize("number", [2**64, 2**70, -(2**63) - 1, -(2**200), 2**8000, 2**8191 - 1])
def test_integers_of_more_than_64_bits_travel(number: int, name: Format) -> None:
    @dataclass
    class Sum:
        total: int
        parts: list[int]
        maybe: int | None = None

    value = Sum(number, [1, number], number)
    assert trip(Sum, value, name) == value
    assert trip(Any, {"a": [number, (number,)]}, name) == {"a": [number, [number]]}
    array = np.zeros(100_000)
    back = trip(Any, {"big": number, "image": array}, name)
    assert back["big"] == number
    np.testing.assert_array_equal(back["image"], array)

    class Total(pydantic.BaseModel):
        total: int

    assert trip(Total, Total(total=number), name) == Total(total=number)
    if name != "plain":
        assert trip(Any, {number: 1, (1, number): 2}, name) == {number: 1, (1, number): 2}
    with pytest.raises(InvalidModel):
        PayloadCodec[Any](Point32, name).decode(PayloadCodec[Any](Any, name).encode({"x": number}))


@dataclass
class Point32:
    x: np.int32


def test_an_integer_that_is_too_large_is_named(name: Format) -> None:
    assert "$['a'][0] (int)" in refusal(Any, {"a": [1 << 20_000]}, name)
    if name == "msgpack":
        payload = msgspec.msgpack.encode(msgspec.msgpack.Ext(3, b"\x01" * 1025))
        with pytest.raises(InvalidModel, match="1,025 bytes"):
            PayloadCodec[Any](Any, name).decode(payload)


@dataclass
class Texts:
    text: str = ""
    named: dict[str, int] = field(default_factory=dict)
    octets: bytes = b""


@pytest.mark.parametrize(
    ("declared", "value"),
    [
        (str, b"a"),
        (list[str], ["a", b"b"]),
        (dict[str, int], {1: 1}),
        (Texts, Texts(text=b"a")),  # type: ignore[arg-type]  # the point
        (Texts, Texts(named={2: 1})),  # type: ignore[dict-item]  # the point
        (Texts, {"text": b"a"}),
        (str | None, b"a"),
    ],
)
def test_bytes_and_keys_where_text_is_declared_are_refused_in_both_formats(
    declared: Any, value: Any, name: Format
) -> None:
    if name == "plain":
        return  # which has no other form for them
    codec = PayloadCodec[Any](declared, name, unchecked=True)
    with pytest.raises(InvalidModel, match=r"Expected `str"):
        codec.decode(codec.encode(value))


def test_bytes_beside_what_does_not_surely_fit_travel(name: Format) -> None:
    codec = PayloadCodec[Any](Texts, name, unchecked=True)
    value = Texts(text=np.str_("a"), named=collections.OrderedDict(a=1), octets=b"\xff")
    assert codec.decode(codec.encode(value)) == Texts("a", {"a": 1}, b"\xff")
