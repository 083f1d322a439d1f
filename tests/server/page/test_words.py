"""Schemas in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import pytest

from openenv_async import Environment
from openenv_async.server.page.words import about_of, fields_of
from openenv_async.spec import EnvironmentSpec


@dataclass
class Place:
    x: Annotated[int, msgspec.Meta(ge=0, lt=8)]


@dataclass
class Move:
    """A move.

    Attributes:
        to: the place that it
            leads to.
        kind: its kind.
    """

    to: Place
    kind: Literal["walk", "jump"] = "walk"
    weights: list[float] | None = None
    note: Annotated[str, msgspec.Meta(max_length=9, description="anything")] = ""


class Board(Environment[Move, int, int]):
    isolation = "inline"

    def reset(self, seed: int | None = None) -> int:
        return 0

    def step(self, action: Move) -> Any:
        raise NotImplementedError


def test_a_model_in_words() -> None:
    schema = EnvironmentSpec(Board).schema["action"]
    assert about_of(schema) == "A move."
    assert fields_of(schema) == [
        ("to.x", "integer", "at least 0, less than 8", "", ""),
        ("kind", "choice", '"jump", "walk"', '"walk"', "its kind."),
        ("weights", "list of number or none", "", "null", ""),
        ("note", "text", "at most 9 characters", '""', "anything"),
    ]


def test_a_value_without_fields_is_one_row() -> None:
    assert fields_of({"type": "integer", "minimum": 0, "maximum": 3}) == [
        ("", "integer", "0 to 3", "", "")
    ]
    assert fields_of({"type": "object"}) == [("", "object", "", "", "")]


@pytest.mark.parametrize(
    ("array", "kind", "range"),
    [
        (
            {"dtype": "|u1", "shape": [210, 160, 3], "low": 0, "high": 255},
            "uint8 array 210×160×3",
            "0 to 255",
        ),
        ({"dtype": "<f4"}, "float32 array", ""),
        (
            {"dtype": "<f4", "shape": [2], "low": [-4.80001, None], "high": [4.80001, None]},
            "float32 array 2",
            "[-4.8, -∞] to [4.8, ∞]",
        ),
        (
            {"dtype": "|b1", "shape": [None], "low": [0] * 9, "high": [1, 2, 3] * 3},
            "bool array any",
            "0 to 3, by element",
        ),
    ],
)
def test_arrays(array: dict[str, Any], kind: str, range: str) -> None:
    assert fields_of({"type": "array", "x-ndarray": array}) == [("", kind, range, "", "")]


def test_what_a_schema_refers_to_in_vain_is_anything() -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/Gone"}}}
    assert fields_of(schema) == [("a", "anything", "", "", "")]


def test_a_schema_within_itself_ends() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/N"}, "v": {"type": "null"}}}
    fields = fields_of({"$ref": "#/$defs/N", "$defs": {"N": node}})
    assert fields[0].name == "next.next.next.next"
    assert len(fields) == 5


def test_a_hundred_fields_at_most() -> None:
    fields = fields_of({"properties": {f"f{n}": {"type": "number"} for n in range(300)}})
    assert len(fields) == 101
    assert fields[-1].kind == "more fields"
