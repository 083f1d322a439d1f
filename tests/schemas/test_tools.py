"""Tools of an environment: those that it declares, and those made of its actions."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import pytest

from openenv_async import Environment, Tool
from openenv_async.errors import InvalidModel, UnreadableReply
from openenv_async.models import json_schema
from openenv_async.schemas.tools import called_by_name, declared_tools, tool_name, tools_of
from openenv_async.spec import EnvironmentSpec


class Point(msgspec.Struct):
    x: int


class Look(msgspec.Struct, tag="look", tag_field="kind"):
    """Look at a thing."""

    what: str


class Go(msgspec.Struct, tag="go to", tag_field="kind"):
    to: Point


@dataclass
class Say:
    """Say it."""

    text: str
    loud: bool = False


class CallTool(msgspec.Struct, tag="call_tool", tag_field="type"):
    tool_name: str
    arguments: dict[str, Any]


class ListTools(msgspec.Struct, tag="list_tools", tag_field="type"):
    pass


def test_the_tools_of_a_union_are_its_members_and_make_them() -> None:
    look, go = sorted(tools_of(json_schema(Look | Go), "step"), key=lambda t: -len(t.name))
    assert (look.name, go.name) == ("look", "go_to") or (look.name, go.name) == ("go_to", "look")
    by_name = {tool.name: tool for tool in (look, go)}
    assert by_name["look"].description == "Look at a thing."
    assert list(by_name["look"].parameters["properties"]) == ["what"]
    assert set(by_name["go_to"].parameters["$defs"]) == {"Point"}
    made = by_name["go_to"].action({"kind": "look", "to": {"x": 3}})
    assert msgspec.convert(made, Look | Go) == Go(Point(3))


@pytest.mark.parametrize(
    ("action", "arguments", "made"),
    [
        (Say, {"text": "a"}, {"text": "a"}),
        (int, {"action": 3}, 3),
        (Literal["up", "down"], {"action": "up"}, "up"),
        (list[int], {"action": [1]}, [1]),
    ],
)
def test_any_other_action_makes_one_tool(action: Any, arguments: Any, made: Any) -> None:
    [tool] = tools_of(json_schema(action), "step")
    assert tool.name == "step"
    assert tool.parameters["type"] == "object"
    assert set(arguments) <= set(tool.parameters["properties"])
    assert tool.action(arguments) == made


def test_an_unknown_action_is_whatever_a_call_has() -> None:
    [tool] = tools_of(None, "act")
    assert tool.action({"a": [1]}) == {"a": [1]}


def test_a_whole_action_is_one_argument_and_no_other() -> None:
    [tool] = tools_of(json_schema(int), "step")
    with pytest.raises(UnreadableReply, match="takes one argument, action"):
        tool.action({"action": 1, "more": 2})


def test_a_tool_without_more_is_called_by_name() -> None:
    add = Tool("add", parameters={"type": "object", "properties": {"a": {"type": "integer"}}})
    union = json_schema(CallTool | ListTools)
    [made] = declared_tools([add], union, "Sums")
    action = made.action({"a": 1})
    assert action == {"type": "call_tool", "tool_name": "add", "arguments": {"a": 1}}
    assert msgspec.convert(action, CallTool | ListTools) == CallTool("add", {"a": 1})
    assert called_by_name(add, None).action({"a": 1}) == {"name": "add", "arguments": {"a": 1}}


def test_a_tool_of_an_actions_fields_is_the_action() -> None:
    says = {"type": "object", "properties": {"text": {"type": "string"}}}
    [plain, loud] = declared_tools(
        [Tool("say", parameters=says), Tool("shout", parameters=says, constants={"loud": True})],
        json_schema(Say),
        "Room",
    )
    assert plain.action({"text": "a"}) == {"text": "a"}
    assert loud.action({"text": "a", "loud": False}) == {"text": "a", "loud": True}


def test_what_a_call_gives_is_the_observation_or_one_field_of_it() -> None:
    assert Tool("a").told({"text": "x", "n": 1}) == {"text": "x", "n": 1}
    assert Tool("a", result_field="text").told({"text": "x", "n": 1}) == "x"
    assert Tool("a", result_field="text").told("bare") == "bare"


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ("say", "must be a list of Tool"),
        ([{"name": "say"}], "must be a list of Tool"),
        ([Tool("say it")], "needs another name"),
        ([Tool("")], "needs another name"),
        ([Tool("reset")], "is reserved"),
        ([Tool("a"), Tool("a")], "is there twice"),
    ],
)
def test_tools_that_cannot_be_are_refused(declared: Any, says: str) -> None:
    with pytest.raises(InvalidModel, match=says):
        declared_tools(declared, None, "Room")


def test_names_are_what_model_apis_take() -> None:
    assert tool_name("go to (there)") == "go_to_there_"
    assert len(tool_name("x" * 100)) == 64


class Room(Environment[Say, dict[str, Any], dict[str, Any]]):
    tools = (Tool("say", "Say it.", {"type": "object", "properties": {"text": {}}}),)

    def reset(self) -> dict[str, Any]:
        return {}

    def step(self, action: Say) -> dict[str, Any]:
        return {"text": action.text}


class Built(Room):
    @classmethod
    def tools_for(cls, names: str = "a", **params: Any) -> list[Tool]:
        if not names:
            raise LookupError("no names")
        return [Tool(name) for name in names]

    def __init__(self, names: str = "a") -> None:
        pass


class Bare(Room):
    tools = None  # type: ignore[assignment]  # as in a class above it


class Busy(Room):
    tools = property(lambda self: 3)  # the author's own


def test_an_environment_declares_its_tools_or_they_are_made_of_its_action() -> None:
    assert [tool.name for tool in EnvironmentSpec(Room).tools("step")] == ["say"]
    assert [t.name for t in EnvironmentSpec(Built, params={"names": "bc"}).tools("step")] == [
        "b",
        "c",
    ]
    for cls in (Bare, Busy):
        [tool] = EnvironmentSpec(cls).tools("step")
        assert (tool.name, tool.description) == ("step", "Say it.")
        json.dumps(tool.parameters)


def test_tools_that_cannot_be_made_say_why() -> None:
    with pytest.raises(InvalidModel, match="its tools: LookupError: no names"):
        EnvironmentSpec(Built, params={"names": ""}).tools("step")
