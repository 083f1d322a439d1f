"""Tools of hosted systems as actions: one schema for all, and what an action calls."""

from __future__ import annotations

import random
from typing import Any

import pytest

from openenv_async.errors import InvalidAction
from openenv_async.hosts.tools import HostedTool, action_schema, declared, read_action
from openenv_async.schemas.fit import misfit
from openenv_async.schemas.sample import sample
from openenv_async.schemas.tools import declared_tools, tools_of

POINT = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
MOVE = HostedTool(
    "move",
    "Go there.",
    {
        "type": "object",
        "properties": {"to": {"$ref": "#/$defs/Point"}, "by": {"type": "array", "items": POINT}},
        "required": ["to"],
        "$defs": {"Point": POINT},
    },
)
STAY = HostedTool("stay")
SHOOT = HostedTool(
    "shoot/far",
    parameters={
        "type": "object",
        "properties": {"at": {"$ref": "#/$defs/Point"}, "again": {"$ref": "#/properties/at"}},
        "$defs": {"Point": {"type": "string"}},
    },
)


TREE = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "root": {"$ref": "#/definitions/Node"},
        "whole": {"$ref": "#"},
        "same": {"$ref": "#/properties/root"},
    },
    "definitions": {
        "Node": {"type": "object", "properties": {"left": {"$ref": "#/definitions/Node"}}},
    },
}


def test_references_of_a_tool_lead_where_they_led() -> None:
    schema = action_schema([HostedTool("a/tree", parameters=TREE), HostedTool("other")])
    good = {"root": {"left": {"left": {}}}, "whole": {"root": {}}, "same": {}}
    assert misfit({"tool_name": "a/tree", "arguments": good}, schema) is None
    assert misfit({"tool_name": "other", "arguments": {"anything": 1}}, schema) is None
    for bad in ({"root": {"left": 1}}, {"whole": {"root": 1}}, {"same": 1}, {"whole": {"same": 1}}):
        assert misfit(bad, TREE) is not None
        assert misfit({"tool_name": "a/tree", "arguments": bad}, schema) is not None
    assert misfit({"tool_name": "tree", "arguments": {}}, schema) is not None
    assert "$schema" not in str(schema)
    tree, other = tools_of(schema, "act")
    assert (tree.name, tree.constants, tree.arguments_in) == (
        *("a_tree", {"tool_name": "a/tree"}),
        "arguments",
    )
    assert misfit(good, {**tree.parameters}) is None
    assert other.parameters == {"type": "object"}


def test_definitions_of_one_name_stay_apart() -> None:
    schema = action_schema([MOVE, SHOOT])
    assert not misfit({"tool_name": "move", "arguments": {"to": {"x": 1}}}, schema)
    assert misfit({"tool_name": "move", "arguments": {"to": "there"}}, schema)
    assert not misfit({"tool_name": "shoot/far", "arguments": {"at": "there"}}, schema)
    assert misfit({"tool_name": "shoot/far", "arguments": {"again": 3}}, schema)
    assert misfit({"tool_name": "stay", "arguments": {}}, schema)


def test_random_actions_are_calls_of_the_tools() -> None:
    schema = action_schema([MOVE, STAY, SHOOT])
    draw = random.Random(1)
    names = {read_action(sample(schema, draw))[0] for _ in range(40)}
    assert names == {"move", "stay", "shoot/far"}


def test_a_tool_is_declared_by_a_name_that_models_may_write() -> None:
    tools = declared([MOVE, SHOOT, HostedTool("shoot.far"), HostedTool("reset"), HostedTool("§")])
    assert [tool.name for tool in tools] == ["move", "shoot_far", "shoot_far_2", "tool_reset", "_"]
    assert declared_tools(tools, action_schema([MOVE]), "it") == tools
    assert tools[1].action({"at": "x"}) == {"tool_name": "shoot/far", "arguments": {"at": "x"}}


def test_one_tool_is_offered_by_its_name() -> None:
    (tool,) = tools_of(action_schema([HostedTool("only", "Do it.")]), "act")
    assert (tool.name, tool.description) == ("only", "Do it.")
    assert tool.action({"a": 1}) == {"tool_name": "only", "arguments": {"a": 1}}


def test_names_that_models_cannot_write_are_written_otherwise() -> None:
    names = ["a.b", "a/b", "reset", "ü", "x" * 80, "a_b"]
    tools = declared([HostedTool(name) for name in names])
    assert [tool.name for tool in tools] == [
        *("a_b", "a_b_2", "tool_reset", "_", "x" * 64, "a_b_3"),
    ]
    assert [tool.constants["tool_name"] for tool in tools] == names


def test_no_tools_make_no_actions() -> None:
    assert action_schema([]) == {"not": {}}


def test_a_name_that_is_not_listed_is_left_to_whom_it_is_sent_to() -> None:
    assert read_action({"tool_name": "dance"}) == ("dance", {})
    call = {"type": "call_tool", "tool_name": "dance", "arguments": {"n": 1}}
    assert read_action(call) == ("dance", {"n": 1})


@pytest.mark.parametrize(
    "action",
    [
        *(3, None, ["stay"], {}, {"tool_name": 3}, {"tool_name": "a", "arguments": []}),
        *({"tool_name": "a", "n": 1}, {"tool_name": "a", "type": "list_tools"}),
    ],
)
def test_what_calls_no_tool_is_refused_with_the_form(action: Any) -> None:
    with pytest.raises(InvalidAction, match=r'an action is \{"tool_name": …'):
        read_action(action)
