"""Arguments of tools, judged by their schemas, and results as observations."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from openenv_async.hosts.mcp_tools import McpMedia, McpObservation, misfit_of, observation_of
from openenv_async.hosts.tools import HostedTool


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
    assert (
        misfit_of(HostedTool("t", parameters={"type": "object", **parameters}), {"a": "x"}) is None
    )


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
