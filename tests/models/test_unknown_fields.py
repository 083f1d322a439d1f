"""Unknown fields are refused, by the mirror of a model and by a look through a decoded tree."""

from __future__ import annotations

from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, Literal, NamedTuple, TypedDict

import msgspec
import pytest
from msgspec import inspect

from openenv_async.errors import InvalidModel
from openenv_async.models import PayloadCodec
from openenv_async.models.unknown_fields import (
    Whole,
    is_open,
    mirror,
    refuse_unknown,
    whole_map,
)


@dataclass
class Leaf:
    x: int = 0


class Pair(NamedTuple):
    left: Leaf
    right: int


class Note(TypedDict, total=False):
    leaf: Leaf


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    x: int = 0


class Renamed(msgspec.Struct, rename="camel"):
    long_name: int = 0
    leaf: Leaf = field(default_factory=Leaf)


class Cat(msgspec.Struct, tag="cat"):
    leaf: Leaf


class Dog(msgspec.Struct, tag="dog"):
    name: str = ""


class Row(msgspec.Struct, tag="row", array_like=True):
    leaf: Leaf
    y: int = 0


@dataclass
class Node:
    leaf: Leaf = field(default_factory=Leaf)
    next: Node | None = None


def info_of(model: Any) -> inspect.Type:
    return inspect.type_info(model)


# -- what is open -------------------------------------------------------------------------


@pytest.mark.parametrize("model", [Leaf, Note, Cat, Pair, list[Leaf], dict[str, Leaf], Leaf | None])
def test_a_model_that_drops_fields_is_open(model: Any) -> None:
    assert is_open(info_of(model))


@pytest.mark.parametrize("model", [int, Any, dict[str, int], Closed, list[Closed]])
def test_what_drops_nothing_is_not(model: Any) -> None:
    assert not is_open(info_of(model))
    assert mirror(info_of(model), {}) is msgspec.Raw


# -- both ways say the same ---------------------------------------------------------------

GOOD: list[tuple[Any, Any]] = [
    (Leaf, {"x": 1}),
    (Leaf, {}),
    (Closed, {"x": 1}),
    (Note, {"leaf": {"x": 1}}),
    (Pair, [{"x": 1}, 2]),
    (list[Leaf], [{}, {"x": 1}]),
    (set[int], [1]),
    (tuple[Leaf, int], [{}, 1]),
    (tuple[Leaf, ...], [{}, {}]),
    (dict[str, Leaf], {"a": {"x": 1}, "b": {}}),
    (Leaf | None, None),
    (Leaf | int | list[int], [1]),
    (Leaf | Literal["a"], "a"),
    (Leaf | bytes | bool | float, 1.5),
    (Renamed, {"longName": 1, "leaf": {}}),
    (Cat | Dog, {"type": "cat", "leaf": {"x": 1}}),
    (Cat | Dog, {"type": "dog", "name": "rex"}),
    (Row, ["row", {"x": 1}, 2]),
    (Annotated[Leaf, msgspec.Meta(title="t")], {"x": 1}),
    (Node, {"next": {"next": {"leaf": {"x": 1}}}}),
]
BAD: list[tuple[Any, Any, str]] = [
    (Leaf, {"y": 1}, "$"),
    (Note, {"leaf": {"y": 1}}, "$.leaf"),
    (Pair, [{"y": 1}, 2], "$[0]"),
    (list[Leaf], [{}, {"y": 1}], "$[1]"),
    (tuple[Leaf, int], [{"y": 1}, 1], "$[0]"),
    (dict[str, Leaf], {"a": {"y": 1}}, "$['a']"),
    (Leaf | None, {"y": 1}, "$"),
    (Renamed, {"long_name": 1}, "$"),
    (Renamed, {"leaf": {"y": 1}}, "$.leaf"),
    (Cat | Dog, {"type": "cat", "leaf": {"y": 1}}, "$.leaf"),
    (Cat | Dog, {"type": "dog", "leaf": {}}, "$"),
    (Row, ["row", {"y": 1}], "$[1]"),
    (Row, ["row", {}, 2, 3], "$"),
    (Annotated[Leaf, msgspec.Meta(title="t")], {"y": 1}, "$"),
    (Node, {"next": {"next": {"leaf": {"y": 1}}}}, "$.next.next.leaf"),
]


@pytest.mark.parametrize(("model", "tree"), GOOD)
def test_known_fields_pass(model: Any, tree: Any) -> None:
    info = info_of(model)
    refuse_unknown(info, tree)
    msgspec.json.decode(msgspec.json.encode(tree), type=mirror(info, {}))


@pytest.mark.parametrize(("model", "tree", "place"), BAD)
def test_an_unknown_field_is_refused_with_its_place(model: Any, tree: Any, place: str) -> None:
    info = info_of(model)
    with pytest.raises(msgspec.ValidationError) as caught:
        refuse_unknown(info, tree)
    assert str(caught.value).endswith(f"at `{place}`")
    made = mirror(info, {})
    with pytest.raises(msgspec.ValidationError, match=r"unknown field|Array|length"):
        msgspec.json.decode(msgspec.json.encode(tree), type=made)


def test_the_field_is_named() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `colour`"):
        refuse_unknown(info_of(Leaf), {"x": 1, "colour": 2})


def test_a_tag_is_a_known_field() -> None:
    refuse_unknown(info_of(Cat), {"type": "cat", "leaf": {}})
    with pytest.raises(msgspec.ValidationError, match="unknown field `type`"):
        refuse_unknown(info_of(Leaf), {"type": "leaf"})


def test_a_type_that_names_itself_has_one_mirror() -> None:
    made: dict[Any, Any] = {}
    first = mirror(info_of(Node), made)
    assert made[Node] is first
    assert mirror(info_of(Node), made) is first


def test_a_union_that_no_mirror_tells_apart_is_read_the_slow_way() -> None:
    from datetime import datetime

    with pytest.raises(TypeError, match="no mirror for this union"):
        mirror(info_of(Leaf | datetime), {})


@dataclass
class Action:
    message: str
    times: int


class Closing(msgspec.Struct):
    """A model without a field."""


class Judged(msgspec.Struct):
    """A model with fields that may be missing."""

    text: str
    reward: float | None = None
    note: str = "none"


@dataclass(slots=True)
class Filling:
    """A model that changes what was decoded."""

    text: str
    reward: float | None = None

    def __post_init__(self) -> None:
        if self.reward is None:
            self.reward = 0.0


@dataclass
class Seeming:
    """A model whose fields are not read as they are set."""

    text: str
    reward: float | None = None

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        return 0.0 if name == "reward" and found is None else found


WHOLE: list[tuple[Any, Whole | None]] = [
    (Action, Whole(0x82, ())),
    (Closing, Whole(0x80, ())),
    (Leaf, Whole(0x81, (("x", 0),))),
    (Judged, Whole(0x83, (("reward", None), ("note", "none")))),
    (Filling, None),
    (Seeming, None),
    (make_dataclass("Listed", [("a", list, field(default_factory=list))]), None),
    (Cat, None),  # a tag takes an entry
    (Row, None),
    (Note, None),
    (list[Action], None),
    (msgspec.defstruct("Nested", [("leaf", Leaf)]), None),  # the leaf may have an unknown field
    (msgspec.defstruct("Wide", [(f"f{n}", int) for n in range(15)]), Whole(0x8F, ())),
    (msgspec.defstruct("Wider", [(f"f{n}", int) for n in range(16)]), None),
]


@pytest.mark.parametrize(("model", "whole"), WHOLE)
def test_maps_with_room_for_the_fields_alone(model: Any, whole: Whole | None) -> None:
    assert whole_map(info_of(model)) == whole


JUDGED: list[tuple[Any, dict[str, Any]]] = [
    (model, {"text": "a", "reward": reward, **more})
    for model, more in (
        *((Judged, {"note": note}) for note in ("none", "some")),
        (Filling, {}),
        (Seeming, {}),
    )
    for reward in (None, 1.5)
]


@pytest.mark.parametrize(("model", "tree"), JUDGED)
def test_an_unknown_field_in_the_place_of_one_that_may_be_missing(
    model: Any, tree: dict[str, Any]
) -> None:
    codec: PayloadCodec[Any] = PayloadCodec(model, "msgpack")
    encode = msgspec.msgpack.encode
    assert codec.decode(encode(tree)) == model(**tree)
    for name in tree:
        other = {"more" if key == name else key: value for key, value in tree.items()}
        with pytest.raises(InvalidModel, match="unknown field `more`"):
            codec.decode(encode(other))
        with pytest.raises(InvalidModel, match="unknown field `more`"):
            codec.decode(encode({**other, "text": 1}))
        with pytest.raises(InvalidModel, match="unknown field `more`"):
            codec.decode(encode({**tree, "more": 1}))


@pytest.mark.parametrize(
    "tree",
    [
        {"message": "a", "times": 1, "more": 2},
        {"message": "a", "more": 2},
        {"more": 2, "less": 1},
        {"message": "a"},
        {},
    ],
)
def test_what_is_not_just_its_fields_is_still_refused(tree: Any) -> None:
    codec: PayloadCodec[Action] = PayloadCodec(Action, "msgpack")
    assert codec.decode(b"\x82\xa7message\xa1a\xa5times\x01") == Action("a", 1)
    with pytest.raises(InvalidModel):
        codec.decode(msgspec.msgpack.encode(tree))
