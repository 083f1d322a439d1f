"""Tools of hosted systems as actions: one schema for all, and what an action calls."""

from __future__ import annotations

import random
from typing import Any

import pytest

from openenv_async.errors import InvalidAction
from openenv_async.hosts.tools import HostedTool, action_schema, declared, read_action
from openenv_async.schemas.fit import misfit
from openenv_async.schemas.sample import sample
from openenv_async.schemas.tools import declared_tools

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
