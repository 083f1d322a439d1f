"""Schemas of tools as parts of an action's, and results as observations."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from openenv_async.errors import InvalidAction
from openenv_async.hosts.mcp_client import McpTool
from openenv_async.hosts.mcp_tools import (
    McpMedia,
    McpObservation,
    action_schema,
    declared,
    misfit_of,
    observation_of,
    read_action,
)
from openenv_async.schemas.fit import misfit
from openenv_async.schemas.tools import tools_of

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
    schema = action_schema([McpTool("a/tree", parameters=TREE), McpTool("other")])
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


def test_a_server_without_tools_has_no_action() -> None:
    assert action_schema([]) == {"not": {}}


def test_one_tool_is_offered_by_its_name() -> None:
    (tool,) = tools_of(action_schema([McpTool("only", "Do it.")]), "act")
    assert (tool.name, tool.description) == ("only", "Do it.")
    assert tool.action({"a": 1}) == {"tool_name": "only", "arguments": {"a": 1}}


def test_names_that_models_cannot_write_are_written_otherwise() -> None:
    names = ["a.b", "a/b", "reset", "ü", "x" * 80, "a_b"]
    tools = declared([McpTool(name) for name in names])
    assert [tool.name for tool in tools] == [
        *("a_b", "a_b_2", "tool_reset", "_", "x" * 64, "a_b_3"),
    ]
    assert [tool.constants["tool_name"] for tool in tools] == names


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": {"a": {"$ref": "https://elsewhere.example/schema"}}},
        {"properties": {"a": {"type": "string", "pattern": "(?<name>x)\\p{L}"}}},
        {"properties": {"a": {"minimum": "none"}}},
        {"required": 3},
    ],
)
def test_a_schema_that_is_not_understood_is_left_to_the_server(parameters: dict[str, Any]) -> None:
    assert misfit_of(McpTool("t", parameters={"type": "object", **parameters}), {"a": "x"}) is None


def test_an_action_is_read() -> None:
    assert read_action({"tool_name": "t"}) == ("t", {})
    assert read_action({"type": "call_tool", "tool_name": "t", "arguments": {"a": 1}}) == (
        *("t", {"a": 1}),
    )
    for bad in (3, {}, {"tool_name": 3}, {"tool_name": "t", "arguments": None}):
        with pytest.raises(InvalidAction):
            read_action(bad)


@pytest.mark.parametrize(
    ("result", "observation"),
    [
        ({}, McpObservation("")),
        ({"content": "odd"}, McpObservation("")),
        ({"content": [3, {"type": "text"}, {"type": "new"}]}, McpObservation("")),
        ({"content": [{"type": "text", "text": t} for t in "ab"]}, McpObservation("a\nb")),
        ({"structuredContent": {"a": 1}}, McpObservation('{"a": 1}')),
        (
            {"content": [{"type": "text", "text": "7"}], "structuredContent": {"result": "7"}},
            McpObservation("7"),
        ),
        (
            {"content": [{"type": "text", "text": '{"a":1}'}], "structuredContent": {"a": 1}},
            McpObservation('{"a":1}'),
        ),
        (
            {"content": [{"type": "text", "text": "one"}], "structuredContent": {"a": 1}},
            McpObservation("one", structured={"a": 1}),
        ),
        (
            {"content": [{"type": "resource", "resource": {"uri": "file:///a", "text": "A"}}]},
            McpObservation("A"),
        ),
        (
            {"content": [{"type": "resource_link", "name": "a", "uri": "file:///a"}]},
            McpObservation("a file:///a"),
        ),
        (
            {"content": [{"type": "audio", "data": "%%%", "mimeType": "audio/wav"}]},
            McpObservation("", media=[McpMedia("audio/wav", b"")]),
        ),
        (
            {"content": [{"type": "image", "data": "a", "mimeType": "image/png"}]},
            McpObservation("(image that is not Base64)"),
        ),
        ({"isError": True}, McpObservation("", is_error=True)),
        ({"isError": "no"}, McpObservation("")),
    ],
)
def test_results_are_observations(result: dict[str, Any], observation: McpObservation) -> None:
    assert observation_of(result) == observation


def test_octets_of_a_resource() -> None:
    blob = {"uri": "file:///a", "blob": base64.b64encode(b"abc").decode(), "mimeType": "a/b"}
    told = observation_of({"content": [{"type": "resource", "resource": blob}]})
    assert told.media == [McpMedia("a/b", b"abc")]
