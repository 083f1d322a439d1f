"""The OpenAPI document has the environment's schemas, and references that lead somewhere."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import pytest

from openenv_async import Environment
from openenv_async.server.openapi import describe, page
from openenv_async.spec import EnvironmentSpec


@dataclass
class Part:
    weight: int = 1
    parts: list[Part] = field(default_factory=list)


@dataclass
class Order:
    part: Part
    count: int = 0


@dataclass
class Answer:
    text: str


class Shop(Environment[Order, Answer, dict[str, Any]]):
    """Takes orders."""

    version = "3.1"

    def reset(self, level: int = 1) -> Answer:
        return Answer("")

    def step(self, action: Order) -> Answer:
        return Answer(str(action.count))


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return describe(EnvironmentSpec(Shop))


def test_it_is_of_the_environment(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert document["info"] == {"title": "Shop", "version": "3.1", "description": "Takes orders."}


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    schemas = document["components"]["schemas"]
    references = set(re.findall(r'"\$ref": "([^"]+)"', text))
    assert len(references) >= 6
    for reference in references:
        assert reference.removeprefix("#/components/schemas/") in schemas
    assert '"$defs"' not in text


def test_definitions_of_a_model_are_named_after_it(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    assert {"action", "observation", "state", "reset", "result", "error"} <= set(schemas)
    [part] = [name for name in schemas if re.fullmatch(r"action\.\w*Part\w*", name)]
    recursive = schemas[part]["properties"]["parts"]["items"]
    assert recursive == {"$ref": f"#/components/schemas/{part}"}
    action = schemas["action"]["$ref"].removeprefix("#/components/schemas/")
    assert schemas[action]["properties"]["part"] == recursive


def test_the_body_of_each_route(document: dict[str, Any]) -> None:
    posts = {path: item["post"] for path, item in document["paths"].items() if "post" in item}
    upstreams = [f"/{{env}}/{each}" for each in ("tasks", "num_tasks", "task", "task_range")]
    acts = [f"/sessions/{{session}}/{each}" for each in ("cancel", "close")]
    assert set(posts) == {
        "/open",
        "/reset",
        "/step",
        "/close",
        "/share",
        "/drain",
        "/reload",
        *upstreams,
        *acts,
    }
    for path in ("/share", *acts):
        assert "requestBody" not in posts.pop(path)
    needed = [path for path, item in posts.items() if item["requestBody"]["required"]]
    assert needed == ["/step", *upstreams]
    step = posts["/step"]["requestBody"]["content"]["application/json"]["schema"]
    assert step["required"] == ["action"]
    assert step["additionalProperties"] is False
    assert step["properties"]["timeout_s"]["exclusiveMinimum"] == 0
    reset = document["components"]["schemas"]["reset"]
    assert "level" in reset["properties"]


def test_routes_of_a_session_take_its_name(document: dict[str, Any]) -> None:
    shares = document["paths"]["/share"]
    assert set(shares) == {"post", "get", "delete"}
    for operation in shares.values():
        assert operation["parameters"][0]["name"] == "X-OpenEnv-Session"
    for path, item in document["paths"].items():
        if path == "/share":
            continue
        if path == "/drain":
            assert set(item) == {"post", "get"}
            continue
        (operation,) = item.values()
        names = [parameter["name"] for parameter in operation.get("parameters", ())]
        of_a_session = path in ("/open", "/reset", "/step", "/state", "/render", "/close")
        wanted = ["X-OpenEnv-Session", "X-OpenEnv-Seq", "X-OpenEnv-Timeout"]
        if path == "/tasks/{split}":
            assert names == ["split", "start", "stop"]
        elif path.startswith("/sessions"):
            assert names == (["start"] if path == "/sessions" else ["session"])
        elif path.startswith("/{env}/"):
            assert names == ["env"]
        else:
            assert names == (wanted if of_a_session else [])


def test_operations_are_told_apart_and_may_fail(document: dict[str, Any]) -> None:
    operations = [each for item in document["paths"].values() for each in item.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        failure = operation["responses"]["default"]["content"]["application/json"]["schema"]
        assert failure == {"$ref": "#/components/schemas/error"}
    state = document["paths"]["/state"]["get"]["responses"]["200"]["content"]["application/json"]
    assert state["schema"] == {"$ref": "#/components/schemas/state"}


def test_the_page_shows_every_route_and_loads_nothing() -> None:
    class Marked(Environment[dict[str, Any], dict[str, Any], dict[str, Any]]):
        """An environment with <script>alert(1)</script> in its description."""

        def reset(self) -> dict[str, Any]:
            return {}

        def step(self, action: dict[str, Any]) -> dict[str, Any]:
            return {}

    text = page(EnvironmentSpec(Marked))
    for path in describe(EnvironmentSpec(Marked))["paths"]:
        assert f"<code>{path}</code>" in text
    assert "<script" not in text
    assert "src=" not in text
    assert re.findall(r'href="([^"]*)"', text) == ["openapi.json"]
