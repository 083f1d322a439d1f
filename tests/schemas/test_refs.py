"""References of JSON Schemas: chains, escapes, what stands beside them, and dangling ones."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from openenv_async.cli.forms import ask, kind_of
from openenv_async.cli.info import field_rows
from openenv_async.errors import InvalidModel
from openenv_async.integrations.trl.action_tool import action_function
from openenv_async.schemas.classes import model_from_schema
from openenv_async.schemas.fit import misfit
from openenv_async.schemas.refs import pointed_to, resolved
from openenv_async.schemas.sample import sample

INTEGER = {"type": "integer", "minimum": 3, "maximum": 3}


@pytest.mark.parametrize(
    ("ref", "target"),
    [
        ("#", None),
        ("#/$defs/Move", INTEGER),
        ("#/$defs/a~1b", {"const": 1}),
        ("#/$defs/a~0b", {"const": 2}),
        ("#/$defs/a~01b", {"const": 3}),
        ("#/$defs/50%25", {"const": 4}),
        ("#/$defs/two%20words", {"const": 5}),
        ("#/$defs/", {"const": 6}),
        ("#/prefixItems/1", {"const": 7}),
        ("#/$defs/anything", True),
    ],
)
def test_a_reference_is_a_pointer_into_the_schema(ref: str, target: Any) -> None:
    root = {
        "$defs": {
            "Move": INTEGER,
            "a/b": {"const": 1},
            "a~b": {"const": 2},
            "a~1b": {"const": 3},
            "50%": {"const": 4},
            "two words": {"const": 5},
            "": {"const": 6},
            "anything": True,
        },
        "prefixItems": [{"const": 0}, {"const": 7}],
    }
    assert pointed_to(ref, root) == (root if target is None else target)


@pytest.mark.parametrize(
    "ref",
    [
        "#/$defs/Gone",
        "#/$defs/Move/minimum/deeper",
        "#/prefixItems/2",
        "#/prefixItems/-1",
        "#/prefixItems/first",
        "#/$defs/Move/minimum",
        "https://example.org/schema.json",
        "Move",
        "#anchor",
        "",
        5,
        None,
        ["#"],
    ],
)
def test_a_reference_to_nothing_is_a_typed_error(ref: Any) -> None:
    root = {"$defs": {"Move": INTEGER}, "prefixItems": [True, True]}
    with pytest.raises(InvalidModel, match="the schema refers to"):
        pointed_to(ref, root)
    with pytest.raises(InvalidModel, match="the schema refers to"):
        resolved({"$ref": ref}, root)


def test_a_schema_without_a_reference_stays_the_same_object() -> None:
    assert resolved(INTEGER, {}) is INTEGER
    assert resolved(True, {}) is True


def test_chains_are_followed_to_their_end() -> None:
    root = {"$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/C"}, "C": INTEGER}}
    assert resolved({"$ref": "#/$defs/A"}, root) == INTEGER


def test_what_stands_beside_a_reference_is_laid_over_it() -> None:
    root = {
        "$defs": {
            "A": {"$ref": "#/$defs/B", "title": "A", "description": "of A"},
            "B": {"type": "string", "title": "B", "maxLength": 3},
        }
    }
    found = resolved({"$ref": "#/$defs/A", "description": "here"}, root)
    assert found == {"type": "string", "title": "A", "maxLength": 3, "description": "here"}
    assert root["$defs"]["B"] == {"type": "string", "title": "B", "maxLength": 3}


def test_true_and_false_are_schemas_to_refer_to() -> None:
    root = {"$defs": {"any": True, "none": False}}
    assert resolved({"$ref": "#/$defs/any"}, root) is True
    assert resolved({"$ref": "#/$defs/none"}, root) is False
    assert resolved({"$ref": "#/$defs/any", "type": "string"}, root) == {"type": "string"}
    assert resolved({"$ref": "#/$defs/none", "type": "string"}, root) is False


@pytest.mark.parametrize(
    "root",
    [
        {"$ref": "#"},
        {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}},
        {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/B"}, "B": {"$ref": "#/$defs/A"}}},
    ],
)
def test_a_reference_to_itself_is_a_typed_error(root: Any) -> None:
    with pytest.raises(InvalidModel, match="leads back to itself"):
        resolved(root, root)


# -- those that read schemas all read references alike -------------------------------------------

MOVE = {
    "$ref": "#/$defs/of~1move",
    "$defs": {
        "of/move": {"$ref": "#/$defs/Move"},
        "Move": {
            "type": "object",
            "title": "Move",
            "properties": {"cell": {"$ref": "#/$defs/Cell", "description": "where", "maximum": 5}},
            "required": ["cell"],
        },
        "Cell": {"type": "integer", "minimum": 4, "maximum": 9},
    },
}


def test_values_are_drawn_through_references() -> None:
    rng = random.Random(0)
    assert {sample(MOVE, rng)["cell"] for _ in range(50)} == {4, 5}
    both = {**MOVE, "$ref": "#/$defs/Cell", "allOf": [{"$ref": "#/$defs/Cell", "maximum": 4}]}
    assert sample(both, rng) == 4


def test_values_are_judged_through_references() -> None:
    assert misfit({"cell": 5}, MOVE) is None
    assert "beyond the maximum 5" in str(misfit({"cell": 6}, MOVE))
    assert "beyond the minimum 4" in str(misfit({"cell": 3}, MOVE))
    assert misfit({}, MOVE) == "$ lacks 'cell'"


def test_a_bound_beside_a_reference_takes_none_away() -> None:
    schema = {"$ref": "#/$defs/Cell", "minimum": 0, "$defs": MOVE["$defs"]}
    assert "beyond the minimum 4" in str(misfit(3, schema))
    assert misfit(4, schema) is None


def test_a_part_is_judged_within_its_whole() -> None:
    part = MOVE["$defs"]["Move"]["properties"]["cell"]  # type: ignore[index]  # a plain schema
    assert misfit(5, part, MOVE) is None
    assert "beyond" in str(misfit(6, part, MOVE))


def test_classes_are_made_through_references() -> None:
    made = model_from_schema(MOVE, "Other").type
    assert made.__name__ == "Move"
    assert made(cell=5).cell == 5


def test_forms_ask_through_references() -> None:
    assert kind_of(MOVE["$defs"]["Cell"], MOVE) == "integer 4 to 9"  # type: ignore[index]
    assert field_rows(MOVE) == [("cell", "integer 4 to 5", "where")]
    lines = iter(["6", "5"])
    said: list[str] = []
    assert ask(MOVE, lambda prompt: next(lines), said.append) == {"cell": 5}
    assert said == ["cell: $ is 6, beyond the maximum 5".replace("$ ", "")]


def test_tools_are_made_through_references() -> None:
    tool = action_function("move", MOVE)
    assert tool(cell=5) == {"cell": 5}
    assert "cell: where" in str(tool.__doc__)


def test_spaces_are_made_through_references() -> None:
    spaces = pytest.importorskip("openenv_async.integrations.gymnasium.spaces")
    codec = spaces.codec_of(MOVE)
    assert (codec.space.start, codec.space.n) == (4, 2)
    assert codec.to_wire(np.int64(5)) == {"cell": 5}
    assert spaces.codec_of(MOVE, field="cell").space == codec.space


NESTED = {
    "$ref": "#/$defs/Node",
    "$defs": {
        "Node": {
            "type": "object",
            "properties": {
                "value": {"type": "integer"},
                "next": {"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]},
                "children": {"type": "array", "items": {"$ref": "#/$defs/Node"}},
            },
            "required": ["value"],
        }
    },
}


def test_a_schema_may_contain_itself() -> None:
    value = {"value": 1, "next": {"value": 2, "children": [{"value": 3}]}}
    assert misfit(value, NESTED) is None
    assert "$.next.children[0].value is str" in str(
        misfit({"value": 1, "next": {"value": 2, "children": [{"value": "3"}]}}, NESTED)
    )
    rng = random.Random(1)
    for _ in range(50):
        assert misfit(sample(NESTED, rng), NESTED) is None
    assert model_from_schema(NESTED, "Node").type(value=1).value == 1
    assert ("value", "integer", "") in field_rows(NESTED)
    assert action_function("grow", NESTED)(value=1) == {"value": 1}


def test_a_schema_that_contains_itself_has_no_space() -> None:
    spaces = pytest.importorskip("openenv_async.integrations.gymnasium.spaces")
    from openenv_async.errors import OperationUnsupported

    endless = {"type": "object", "properties": {"a": {"$ref": "#"}}}
    with pytest.raises(OperationUnsupported, match="contains itself"):
        spaces.codec_of(endless)
    assert "value" not in str(spaces.codec_of(NESTED, field="value").space)


DANGLING = {"type": "object", "properties": {"a": {"$ref": "#/$defs/Gone"}}, "required": ["a"]}


def test_a_dangling_reference_is_a_typed_error_to_all_that_read_it() -> None:
    with pytest.raises(InvalidModel, match="Gone"):
        sample(DANGLING, random.Random(0))
    with pytest.raises(InvalidModel, match="Gone"):
        misfit({"a": 1}, DANGLING)
    with pytest.raises(InvalidModel, match="Gone"):
        field_rows(DANGLING)
    with pytest.raises(InvalidModel, match="Gone"):
        action_function("move", DANGLING)
    spaces = pytest.importorskip("openenv_async.integrations.gymnasium.spaces")
    with pytest.raises(InvalidModel, match="Gone"):
        spaces.codec_of(DANGLING)


def test_a_class_takes_a_dangling_reference_for_anything() -> None:
    assert model_from_schema(DANGLING, "Odd").type(a=5).a == 5
