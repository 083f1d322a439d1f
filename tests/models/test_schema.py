"""JSON Schema of every kind of model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from openenv_async.errors import InvalidModel
from openenv_async.models import (
    check_model,
    json_schema,
    schema,
)
from tests.models.test_codec import (
    KINDS,
    Box,
    Cat,
    Dog,
    Node,
    PydanticOuter,
    PydanticPoint,
    Rich,
    Sight,
    TuplePoint,
)


@dataclass
class Scene:
    bare: np.ndarray[Any, Any]
    typed: npt.NDArray[np.float32]
    maybe: npt.NDArray[np.int64] | None
    many: list[npt.NDArray[np.uint8]]
    named: dict[str, list[npt.NDArray[np.int8]]] | None
    pair: tuple[int, npt.NDArray[np.bool_]]
    shaped: Annotated[
        npt.NDArray[np.uint8],
        msgspec.Meta(extra_json_schema={"x-ndarray": {"shape": [2], "low": 0, "high": 9}}),
    ]
    inner: PydanticOuter
    again: Scene | None = None


class SceneTuple(NamedTuple):
    a: npt.NDArray[np.float64]


def test_json_schema_of_arrays() -> None:
    schema = json_schema(SceneTuple)
    [item] = schema["$defs"]["SceneTuple"]["prefixItems"]
    assert item == {"type": "array", "x-ndarray": {"dtype": "<f8"}}

    @dataclass
    class Local:
        x: int = 0

    assert json_schema(Local)["$defs"]["Local"]["additionalProperties"] is False
    assert json_schema(npt.NDArray[np.float32])["x-ndarray"] == {"dtype": "<f4"}
    assert json_schema(np.float32) == {"type": "number"}


def test_json_schema_of_nested_arrays() -> None:
    fields = json_schema(Scene)["$defs"]["Scene"]["properties"]

    def array(dtype: str) -> dict[str, Any]:
        return {"type": "array", "x-ndarray": {"dtype": dtype}}

    assert fields["bare"] == {"type": "array", "x-ndarray": {}}
    assert fields["typed"] == array("<f4")
    assert array("<i8") in fields["maybe"]["anyOf"]
    assert fields["many"]["items"] == array("|u1")
    assert fields["named"]["anyOf"][0]["additionalProperties"]["items"] == array("|i1")
    assert fields["pair"]["prefixItems"][1] == array("|b1")
    assert fields["shaped"]["x-ndarray"] == {"shape": [2], "low": 0, "high": 9, "dtype": "|u1"}


def refs(tree: Any) -> list[str]:
    if isinstance(tree, dict):
        own = [tree["$ref"]] if isinstance(tree.get("$ref"), str) else []
        return own + [ref for value in tree.values() for ref in refs(value)]
    return [ref for value in tree for ref in refs(value)] if isinstance(tree, list) else []


@pytest.mark.parametrize(
    "model",
    [
        *(*KINDS, TuplePoint, Node, Scene, Rich, PydanticOuter, Box[PydanticOuter]),
        *(list[Cat | Dog], Any, dict, dict[str, Any], int, Box[int], Sight),
        dict[str, list[PydanticOuter]],
    ],
)
def test_json_schema_is_json_and_its_references_resolve(model: Any) -> None:
    schema = json_schema(model)
    msgspec.json.encode(schema)
    for ref in refs(schema):
        assert ref.removeprefix("#/$defs/") in schema["$defs"]


def test_json_schema_of_untyped() -> None:
    assert json_schema(Any) == {}
    assert json_schema(dict) == {"type": "object"}
    assert json_schema(PydanticPoint)["properties"]["x"]["type"] == "integer"


# -- what the schema says ------------------------------------------------------------------


def test_a_type_without_a_schema_is_an_invalid_model() -> None:
    class Odd:
        pass

    with pytest.raises(InvalidModel, match="Odd"):
        json_schema(Odd)


def test_scalars_of_numpy() -> None:
    kinds = {
        np.bool_: {"type": "boolean"},
        np.int8: {"type": "integer"},
        np.float16: {"type": "number"},
        np.str_: {"type": "string"},
        np.complex64: {},
    }
    assert {kind: json_schema(kind) for kind in kinds} == kinds


def test_types_that_travel_as_text() -> None:
    assert json_schema(PurePosixPath) == {"type": "string"}


def test_unknown_fields_are_told_to_be_refused() -> None:
    for model, name in ((Sight, "Sight"), (Cat, "Cat")):
        assert json_schema(model)["$defs"][name]["additionalProperties"] is False


def test_check_model_makes_every_codec(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(schema, "PayloadCodec", lambda model, format: made.append((model, format)))
    assert check_model(Sight) == json_schema(Sight)
    assert made == [(Sight, format) for format in ("msgpack", "json", "plain")]


@dataclass
class Move:
    kind: Literal["move"]
    to: int = 3


@dataclass
class Say:
    kind: Literal["say"]
    text: str


@dataclass
class Turn:
    action: Move | Say
    other: Move | Say | None = None


def test_unions_of_objects_say_each_member() -> None:
    found = json_schema(Turn)
    text = msgspec.json.encode(found).decode()
    for word in ("Move", "Say", '"to"', '"text"'):
        assert word in text
    for ref in refs(found):
        assert ref.removeprefix("#/$defs/") in found["$defs"]


def test_the_default_of_a_field_is_told() -> None:
    found = json_schema(Turn)
    move = next(d for d in found["$defs"].values() if d.get("title") == "Move")
    assert move["properties"]["to"]["default"] == 3
    assert move["required"] == ["kind"]


@dataclass
class Holds:
    when: Any = math.inf
    what: Any = Ellipsis


def test_a_default_that_json_cannot_say_keeps_the_type() -> None:
    assert json_schema(Holds) == {"type": "object"}
