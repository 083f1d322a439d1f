"""The tools that agents are offered."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
import pytest

from openenv_async import Environment, Tool
from openenv_async.server.mcp.offer import Naming, Offer, checked_access
from openenv_async.spec import EnvironmentSpec
from tests.server.mcp.agent import Maze

NOBODY: frozenset[str] = frozenset()


def listed(cls: Any, naming: Naming = Naming.BY_REQUEST, *access: str) -> dict[str, Any]:
    offer = Offer(EnvironmentSpec(cls), frozenset(access))
    tools = [msgspec.json.decode(tool) for tool in offer.listed(naming)]
    return {tool["name"]: tool for tool in tools}


def test_who_names_the_session_otherwise_gives_no_handle() -> None:
    assert list(listed(Maze)) == ["reset", "step"]
    by_handle = listed(Maze, Naming.BY_HANDLE)
    assert list(by_handle) == ["reset", "step", "close"]
    assert by_handle["step"]["inputSchema"]["required"] == ["session", "to"]
    assert "session" not in by_handle["reset"]["inputSchema"].get("required", [])
    assert "session" in by_handle["reset"]["outputSchema"]["required"]
    assert "session" not in listed(Maze)["step"]["inputSchema"]["properties"]


def test_who_holds_a_session_resets_it() -> None:
    assert list(listed(Maze, Naming.HELD, "state")) == ["observe", "step", "state"]


def test_an_argument_is_offered_only_where_it_may_be_given() -> None:
    assert listed(Maze)["reset"]["inputSchema"]["properties"] == {}
    seeded = listed(Maze, Naming.BY_REQUEST, "seed")["reset"]["inputSchema"]["properties"]
    assert list(seeded) == ["seed"]
    assert "x-used" not in seeded["seed"]
    options = listed(Maze, Naming.BY_REQUEST, "options")["reset"]["inputSchema"]["properties"]
    assert list(options) == ["level"]
    offer = Offer(EnvironmentSpec(Maze), NOBODY)
    assert offer.refused({"level": 1}) == "level"
    assert Offer(EnvironmentSpec(Maze), frozenset({"options"})).refused({"level": 1}) is None
    assert Offer(EnvironmentSpec(Maze), frozenset({"options"})).refused({"other": 1}) == "other"


def test_the_schema_of_what_is_seen_has_no_reward() -> None:
    gives = listed(Maze)["step"]["outputSchema"]
    seen = gives["$defs"]["observation"]
    assert set(seen["properties"]) == {"place", "picture", "field_of", "done"}
    assert seen["required"] == ["place"]
    assert "reward" not in gives["properties"]
    with_reward = listed(Maze, Naming.BY_REQUEST, "reward", "info")["step"]["outputSchema"]
    assert {"reward", "metadata"} <= set(with_reward["$defs"]["observation"]["properties"])
    assert {"reward", "info"} <= set(with_reward["properties"])


@dataclass
class Tree:
    value: float
    children: list[Tree] = field(default_factory=list)


class Wood(Environment[Tree, Tree, dict[str, Any]]):
    def reset(self) -> Tree:
        return Tree(0.0)

    def step(self, action: Tree) -> Tree:
        return action


@dataclass
class Near:
    """A view of what is near."""

    near: int
    reward: float | None
    done: bool
    metadata: dict[str, Any]
    kind: Literal["near"] = "near"


@dataclass
class Far:
    """A view of what is far."""

    far: int
    reward: float | None
    kind: Literal["far"] = "far"


def test_each_kind_of_what_is_seen_has_no_reward() -> None:
    class Varied(Environment[Any, Near | Far, Any]):
        def reset(self) -> Near | Far:
            return Far(1, None)

        def step(self, action: Any) -> Near | Far:
            return Far(1, None)

    gives = listed(Varied)["step"]["outputSchema"]
    near, far = gives["$defs"]["observation"]["anyOf"]
    assert set(near["properties"]) == {"near", "done", "kind"}
    assert set(far["properties"]) == {"far", "kind"}
    assert "reward" not in far["required"]
    assert "metadata" not in near["required"]


def test_an_argument_of_the_environment_keeps_its_name() -> None:
    @dataclass
    class Join:
        session: str

    class Meetings(Environment[Join, dict[str, Any], Any]):
        def reset(self) -> dict[str, Any]:
            return {}

        def step(self, action: Join) -> dict[str, Any]:
            return {"joined": action.session}

    tools = listed(Meetings, Naming.BY_HANDLE)
    assert tools["step"]["inputSchema"]["required"] == ["openenv_session", "session"]
    assert "openenv_session" in tools["reset"]["outputSchema"]["required"]
    assert "openenv_session" in tools["reset"]["description"]


def test_references_lead_to_what_is_there() -> None:
    tool = listed(Wood)["step"]
    for schema in (tool["inputSchema"], tool["outputSchema"]):
        text = json.dumps(schema)
        for part in text.split('"$ref": "')[1:]:
            path = part.partition('"')[0].removeprefix("#/").split("/")
            found = schema
            for key in path:
                found = found[key]
            assert found
    assert tool["outputSchema"]["$defs"]["observation"]["properties"]["value"]["type"] == [
        "number",
        "string",
    ]


class Named(Wood):
    tools = (
        Tool("plant", "Plant it.", {"properties": {"value": {"type": "number"}}}),
        Tool("look", parameters={}, constants={"value": 0.0}, result_field="value"),
    )


def test_declared_tools_are_the_environments_own() -> None:
    tools = listed(Named)
    assert list(tools) == ["reset", "plant", "look"]
    assert tools["plant"]["inputSchema"]["type"] == "object"
    assert tools["look"]["description"]
    assert tools["look"]["outputSchema"]["required"] == ["result", "done"]


class Reset(msgspec.Struct, tag="reset", tag_field="kind"):
    hard: bool


class Go(msgspec.Struct, tag="go", tag_field="kind"):
    to: int


class Machine(Environment[Reset | Go, Tree, dict[str, Any]]):
    def reset(self) -> Tree:
        return Tree(0.0)

    def step(self, action: Reset | Go) -> Tree:
        return Tree(1.0)


def test_a_tool_of_the_environment_keeps_its_name() -> None:
    assert sorted(listed(Machine)) == ["go", "openenv_reset", "reset"]


def test_access_is_one_of_the_names() -> None:
    assert checked_access(["state", "reward"]) == {"state", "reward"}
    with pytest.raises(ValueError, match="must be a list"):
        checked_access("state")
    with pytest.raises(ValueError, match="access to 'all'"):
        checked_access(["all"])
