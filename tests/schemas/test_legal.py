"""Legal actions by an info: what a mask counts, what is drawn, and what is refused."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from openenv_async.errors import InvalidObservation
from openenv_async.schemas.legal import (
    checked_mask,
    choices_of,
    flat_mask,
    legal_actions,
    sample_legal,
    tells_legal,
)

NUMBER = {"type": "integer", "minimum": 3, "maximum": 6}
ROW = {"x-ndarray": {"dtype": "<i8", "shape": [2], "low": [0, 1], "high": [2, 2]}}
BITS = {"x-ndarray": {"dtype": "|i1", "shape": [3], "low": 0, "high": 1}}
MOVE = {
    "$ref": "#/$defs/Move",
    "$defs": {
        "Move": {
            "type": "object",
            "properties": {"cell": NUMBER, "note": {"type": "string", "default": ""}},
            "required": ["cell"],
        }
    },
}


@pytest.mark.parametrize(
    ("schema", "width", "legal", "mask"),
    [
        (NUMBER, 4, [3, 6], [1, 0, 0, 1]),
        ({"enum": ["up", "down", None]}, 3, ["down", None], [0, 1, 1]),
        ({"const": 7}, 1, [7], [1]),
        ({"type": "boolean"}, 2, [True], [0, 1]),
        (MOVE, 4, [{"cell": 4}, {"cell": 5}], [0, 1, 1, 0]),
    ],
)
def test_a_mask_counts_values_in_the_order_of_the_schema(
    schema: Any, width: int, legal: list[Any], mask: list[int]
) -> None:
    choices = choices_of(schema)
    assert choices is not None
    assert choices.width == width
    assert choices.mask_of(legal) == mask
    assert legal_actions({"action_mask": np.array(mask, np.int8)}, choices) == legal
    assert legal_actions({"action_mask": [bool(entry) for entry in mask]}, choices) == legal
    drawn = [sample_legal(schema, {"action_mask": mask}, random.Random(i)) for i in range(60)]
    assert all(any(each == action for action in legal) for each in drawn)
    assert all(any(each == action for each in drawn) for action in legal)


def test_a_row_has_the_masks_of_its_components_one_after_the_other() -> None:
    choices = choices_of(ROW)
    assert choices is not None
    info = {"action_mask": np.array([1, 0, 1, 0, 1], np.int8)}
    found = legal_actions(info, choices)
    assert found is not None
    assert [each.tolist() for each in found] == [[0, 2], [2, 2]]
    assert found[0].dtype == np.int64
    # Gymnasium's way: a mask for each component.
    parts = (np.array([1, 0, 1], np.int8), np.array([0, 1], np.int8))
    assert [e.tolist() for e in legal_actions({"action_mask": parts}, choices) or ()] == [
        [0, 2],
        [2, 2],
    ]
    assert choices.mask_of([np.array([0, 2]), np.array([2, 2])]) == [1, 0, 1, 0, 1]
    for seed in range(30):
        assert sample_legal(ROW, info, random.Random(seed)).tolist() in ([0, 2], [2, 2])


def test_bits_have_two_entries_each_or_gymnasiums_three_numbers() -> None:
    choices = choices_of(BITS)
    assert choices is not None
    assert choices.width == 6
    assert checked_mask(np.array([0, 1, 2], np.int8), choices, "it") == [1, 0, 0, 1, 1, 1]
    assert checked_mask(np.array([1, 0, 0, 1, 1, 1], bool), choices, "it") == [1, 0, 0, 1, 1, 1]
    found = legal_actions({"action_mask": [0, 1, 2]}, choices)
    assert sorted(each.tolist() for each in found or ()) == [[0, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize(
    ("mask", "told"),
    [
        ([1, 1, 1], "3 entries for 4 actions"),
        ([1] * 5, "5 entries for 4 actions"),
        ([0, 0, 0, 0], "nothing is legal"),
        ([0, 2, 0, 0], "the entry 2"),
        (np.array([0.0, 1.0, 0.0, 0.0]), "float64"),
        ("0100", "str"),
        ([None, 1, 1, 1], "list"),
        (3, "int"),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_with_what_is_wrong(mask: Any, told: str) -> None:
    choices = choices_of(NUMBER)
    assert choices is not None
    with pytest.raises(InvalidObservation, match=f"corridor gave .*{told}"):
        checked_mask(mask, choices, "corridor")
    with pytest.raises(InvalidObservation, match=told):
        sample_legal(NUMBER, {"action_mask": mask}, random.Random(0))


def test_a_component_without_a_legal_value_is_named() -> None:
    choices = choices_of(ROW)
    assert choices is not None
    with pytest.raises(InvalidObservation, match="component 1"):
        checked_mask([1, 1, 1, 0, 0], choices, "it")


def test_a_list_of_actions_is_drawn_from_as_it_is() -> None:
    listed = [{"fold": True}, {"raise": 20}]
    open_schema = {"x-legal-actions": True}
    info = {"legal_actions": listed}
    drawn = [sample_legal(open_schema, info, random.Random(seed)) for seed in range(30)]
    assert {str(each) for each in drawn} == {str(each) for each in listed}
    with pytest.raises(InvalidObservation, match="empty list"):
        sample_legal(open_schema, {"legal_actions": []}, random.Random(0))


@pytest.mark.parametrize("info", [None, {}, {"lives": 3}])
def test_an_info_that_says_nothing_leaves_the_schema_to_draw_from(info: Any) -> None:
    drawn = {sample_legal(NUMBER, info, random.Random(seed)) for seed in range(60)}
    assert drawn == {3, 4, 5, 6}
    assert legal_actions(info, choices_of(NUMBER)) is None


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "integer", "minimum": 0},
        {"type": "integer", "minimum": -(1 << 62), "maximum": 1 << 62},
        {"type": "string"},
        {"type": "object", "properties": {"a": NUMBER, "b": NUMBER}, "required": ["a", "b"]},
        {"x-ndarray": {"dtype": "<f4", "shape": [2], "low": 0, "high": 1}},
        {"x-ndarray": {"dtype": "<i8", "shape": [2, 2], "low": 0, "high": 1}},
        {"x-ndarray": {"dtype": "<i8", "shape": [2]}},
    ],
)
def test_open_actions_have_no_choices_and_a_mask_of_them_says_nothing(schema: Any) -> None:
    assert choices_of(schema) is None
    assert legal_actions({"action_mask": [1]}, None) is None


def test_too_many_combinations_are_drawn_from_and_not_listed() -> None:
    schema = {"x-ndarray": {"dtype": "<i8", "shape": [8], "low": 0, "high": 9}}
    choices = choices_of(schema)
    assert choices is not None
    info = {"action_mask": [1] * 80}
    assert legal_actions(info, choices) is None
    assert sample_legal(schema, info, random.Random(0)).shape == (8,)


def test_what_is_not_among_the_choices_makes_no_mask() -> None:
    choices = choices_of(MOVE)
    assert choices is not None
    for wrong in (4, {"cell": 9}, {"row": 3}, {"cell": [3]}):
        assert choices.mask_of([wrong]) is None


def test_a_list_that_nobody_announced_counts_only_if_it_is_one_of_actions() -> None:
    choices = choices_of(MOVE)
    for listed, found in (
        ([{"cell": 3}, {"cell": 6}], [{"cell": 3}, {"cell": 6}]),
        ([3, 6], [{"cell": 3}, {"cell": 6}]),  # of the only field
        (["e2e4", "d2d4"], None),
        ([], None),
        ([9], None),
    ):
        info = {"legal_actions": listed}
        assert legal_actions(info, choices, declared=False) == found
        drawn = [sample_legal(MOVE, info, random.Random(seed)) for seed in range(40)]
        cells = {action["cell"] for action in drawn}
        assert cells == ({3, 6} if found else {3, 4, 5, 6})
    # One that was announced is taken at its word, such as that of a larger game.
    announced = {**MOVE, "x-legal-actions": True}
    info = {"legal_actions": [{"cell": 40}]}
    assert sample_legal(announced, info, random.Random(0)) == {"cell": 40}


def test_masks_of_masks_are_laid_out_in_a_row() -> None:
    assert flat_mask([np.array([1, 0], np.int8), [True]]) == [1, 0, 1]
    assert flat_mask([["a"]]) is None
    assert flat_mask({"a": 1}) is None


def test_the_schema_says_whether_legal_actions_are_told() -> None:
    assert tells_legal({"type": "integer", "x-legal-actions": True})
    assert tells_legal({**MOVE, "x-legal-actions": True})
    assert not tells_legal(NUMBER)
    assert not tells_legal({"$ref": "#/$defs/none"})
