"""Tools made of actions, and actions made of what models say."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
import pydantic
import pytest

from openenv_async.errors import UnreadableReply
from openenv_async.models import json_schema
from openenv_async.rollouts.tools import ActionTools


class Look(msgspec.Struct, tag="look", tag_field="kind"):
    """Look at a thing."""

    what: str


class Point(msgspec.Struct):
    x: int


class Go(msgspec.Struct, tag="go to", tag_field="kind"):
    """Go somewhere."""

    to: Point
    n: int = 1


class Bid(pydantic.BaseModel):
    type: Literal["bid"] = "bid"
    price: float


class Wait(pydantic.BaseModel):
    """Wait a while."""

    type: Literal["wait"] = "wait"


@dataclass
class Move:
    """Move a piece."""

    start: str
    via: list[Point] = field(default_factory=list)


class Colour(enum.Enum):
    RED = "red"


def call(name: str, arguments: Any) -> dict[str, Any]:
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"id": "c", "type": "function", "function": {"name": name, "arguments": text}}


def test_a_union_is_one_tool_for_each_member() -> None:
    tools = ActionTools(json_schema(Look | Go))
    look, go = (tool["function"] for tool in sorted(tools.schemas, key=str, reverse=True))
    assert look == {
        "name": "look",
        "description": "Look at a thing.",
        "parameters": {
            "type": "object",
            "properties": {"what": {"type": "string"}},
            "required": ["what"],
            "additionalProperties": False,
        },
    }
    assert go["name"] == "go_to"
    assert set(go["parameters"]["$defs"]) == {"Point"}  # and no other member's
    assert tools.of_call(call("look", {"what": "up"})) == {"kind": "look", "what": "up"}
    made = tools.of_call(call("go_to", {"to": {"x": 3}, "kind": "look"}))
    assert made == {"kind": "go to", "to": {"x": 3}}
    assert msgspec.convert(made, Look | Go) == Go(Point(3))


def test_a_union_of_pydantic_models_too() -> None:
    union = Annotated[Bid | Wait, pydantic.Field(discriminator="type")]
    tools = ActionTools(json_schema(union))
    assert sorted(tools.names) == ["bid", "wait"]
    assert tools.of_call(call("wait", "")) == {"type": "wait"}
    assert tools.of_text('{"type": "bid", "price": 3}') == {"type": "bid", "price": 3}


@pytest.mark.parametrize(
    ("action", "arguments", "made"),
    [
        (Move, {"start": "e2"}, {"start": "e2"}),
        (dict[str, int], {"action": {"a": 1}}, {"a": 1}),
        (int, {"action": 3}, 3),
        (Literal["up", "down"], {"action": "up"}, "up"),
        (Colour, {"action": "red"}, "red"),
        (list[int], {"action": [1]}, [1]),
        (Point | None, {"action": {"x": 1}}, {"x": 1}),
    ],
)
def test_any_other_action_is_one_tool(action: Any, arguments: Any, made: Any) -> None:
    tools = ActionTools(json_schema(action))
    [schema] = tools.schemas
    assert schema["function"]["name"] == "act"
    parameters = schema["function"]["parameters"]
    assert parameters["type"] == "object"
    assert set(arguments) <= set(parameters["properties"])
    assert tools.of_call(call("act", arguments)) == made


def test_tools_that_are_given_are_offered_as_they_are() -> None:
    given = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    schema = {
        "type": "object",
        "properties": {"tool_name": {"type": "string"}, "arguments": {"type": "object"}},
    }
    tools = ActionTools(schema, given)
    assert tools.schemas == given
    assert tools.of_call(call("add", {"a": 1})) == {"tool_name": "add", "arguments": {"a": 1}}
    text = '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>'
    assert tools.of_text(text) == {"tool_name": "add", "arguments": {"a": 1}}
    with pytest.raises(UnreadableReply, match="call one of the tools add"):
        tools.of_text('{"a": 1}')
    assert ActionTools(None, given).of_call(call("add", {}))["name"] == "add"
    with pytest.raises(ValueError, match="a tool is"):
        ActionTools(None, [{"name": "add"}])


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ('{"start": "e2"}', {"start": "e2"}),
        ('I think.\n```json\n{"start": "e2"}\n```\nThat is it.', {"start": "e2"}),
        ('```\n{"start": "a1"}\n```\nor better\n```json\n{"start": "e2"}\n```', {"start": "e2"}),
        ('Either {"start": "a1"} or, better, {"start": "e2"}.', {"start": "e2"}),
        ('a set {1, 2} and {"start": {"deep": [1]}}', {"start": {"deep": [1]}}),
        ('{"name": "act", "arguments": {"start": "e2"}}', {"start": "e2"}),
        ('{"name": "act", "parameters": "{\\"start\\": \\"e2\\"}"}', {"start": "e2"}),
        ('{"name": "other", "arguments": {}}', {"name": "other", "arguments": {}}),
    ],
)
def test_an_action_may_be_written_as_json(text: str, made: Any) -> None:
    assert ActionTools(json_schema(Move)).of_text(text) == made
    assert ActionTools(None).of_text(text) is not None


def test_actions_that_are_no_objects_may_be_written_too() -> None:
    assert ActionTools(json_schema(int)).of_text("I play 3 [4]") == [4]  # the environment judges
    assert ActionTools(json_schema(int)).of_text(" 3 ") == 3
    assert ActionTools(json_schema(str)).of_text("north, please") == "north, please"
    assert ActionTools(json_schema(str)).of_text('"north"') == "north"


@pytest.mark.parametrize(
    ("action", "text", "made"),
    [
        (str, 'Say "hi"', 'Say "hi"'),  # a text is the action, whatever JSON stands in it
        (str, "42", "42"),
        (str, "I go [1] now", "I go [1] now"),
        (str, 'So:\n```json\n"ls"\n```', "ls"),
        (str, '{"name": "act", "arguments": {"action": "ls"}}', "ls"),
        (bool, "true", True),
        (bool, "```json\nfalse\n```", False),
        (Literal["up", "down"], " up\n", "up"),
        (Literal["up"], "up", "up"),
        (Colour, "red", "red"),
        (dict[str, int], 'I say {"a": 1}.', {"a": 1}),
    ],
)
def test_plain_values_are_read_as_models_write_them(action: Any, text: str, made: Any) -> None:
    assert ActionTools(json_schema(action)).of_text(text) == made


@pytest.mark.parametrize("constant", ["NaN", "-Infinity"])
def test_numbers_that_json_has_not_are_no_action(constant: str) -> None:
    tools = ActionTools(json_schema(Bid))
    for said in (f'{{"type": "bid", "price": {constant}}}', constant):
        with pytest.raises(UnreadableReply):
            tools.of_text(said)
    with pytest.raises(UnreadableReply, match=f"JSON has no {constant}"):
        tools.of_call(call("act", f'{{"price": {constant}}}'))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (call("fly", {}), "there is no tool 'fly'; call one of the tools"),
        (call("look", "{"), "the arguments of look are not valid JSON"),
        (call("look", [1]), "the arguments of look must be a JSON object"),
        (call("", {}), "there is no tool ''"),
        ("Let me think.", "call one of the tools"),
        ("", "call one of the tools"),
        ("[" * 100_000, "call one of the tools"),
        ("```" * 10_000 + "{" * 1000, "call one of the tools"),
    ],
)
def test_a_reply_without_an_action_says_what_to_do(said: Any, why: str) -> None:
    tools = ActionTools(json_schema(Look | Go))
    with pytest.raises(UnreadableReply, match=why):
        tools.of_text(said) if isinstance(said, str) else tools.of_call(said)


def test_one_tool_is_asked_for_by_its_name() -> None:
    with pytest.raises(UnreadableReply, match="call the tool act, or write one action as JSON"):
        ActionTools(json_schema(Move)).of_text("hm")
    with pytest.raises(UnreadableReply, match="takes one argument, action"):
        ActionTools(json_schema(int)).of_call(call("act", {"value": 3}))
    with pytest.raises(UnreadableReply, match="write one action as JSON"):
        ActionTools(None).of_text("hm")
