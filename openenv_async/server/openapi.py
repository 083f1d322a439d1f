"""The OpenAPI description of the HTTP door, made from the environment's schemas."""

from __future__ import annotations

import re
from typing import Any

from openenv_async.spec import EnvironmentSpec

__all__ = ["describe"]

_NOT_A_NAME = re.compile(r"[^A-Za-z0-9._-]")


def describe(spec: EnvironmentSpec) -> dict[str, Any]:
    """An OpenAPI 3.1 document of exactly the routes that ``http_routes`` makes."""
    components: dict[str, Any] = {}
    for kind, schema in spec.schema.items():
        components[kind] = _hoisted(schema, kind, components)
    components["result"] = {
        "type": "object",
        "properties": {
            "observation": _ref("observation"),
            "reward": {"type": ["number", "null"]},
            "done": {"type": "boolean"},
            "terminated": {"type": "boolean"},
            "truncated": {"type": "boolean"},
            "info": {"type": "object"},
            "metadata": {"type": "object"},
            "episode_id": {"type": "string"},
            "seed": {"type": "integer"},
        },
        "required": ["observation", "reward", "done", "terminated", "truncated"],
    }
    components["error"] = _object(
        {
            "detail": {},
            "error": _object(
                {
                    "code": {"type": "string"},
                    "message": {"type": "string"},
                    "retryable": {"type": "boolean"},
                    "detail": {"type": "object"},
                }
            ),
        }
    )
    step = _object({"action": _ref("action")})
    step["properties"] |= {
        "timeout_s": {"type": ["number", "null"], "exclusiveMinimum": 0},
        "request_id": {"type": ["string", "null"], "maxLength": 255},
    }
    options = {
        "type": "object",
        "properties": {"options": {"type": "object"}, "resume": {"type": "boolean"}},
        "additionalProperties": False,
    }
    anything = {"type": "object"}
    posts = {
        "/open": ("Open a session without beginning an episode", options, anything),
        "/reset": ("Begin an episode; opens a session if none is named", _ref("reset"), None),
        "/step": ("Take one action", step, None),
        "/close": ("Close the session and its environment", {"type": "object"}, anything),
    }
    gets = {
        "/state": ("The environment's state", _ref("state")),
        "/schema": ("JSON Schemas of the models", anything),
        "/metadata": ("What environment this is", anything),
        "/health": ("Whether the server answers", anything),
        "/stats": ("Counters of the server", anything),
        "/metrics.json": ("The same", anything),
        "/metrics": ("The same, in Prometheus' text format", {"type": "string"}),
        "/openapi.json": ("This document", anything),
    }
    paths: dict[str, Any] = {}
    for path, (summary, body, result) in posts.items():
        paths[path] = {"post": _operation(path, summary, result or _ref("result"))}
        content = {"application/json": {"schema": body}}
        paths[path]["post"]["requestBody"] = {"content": content, "required": path == "/step"}
    for path, (summary, result) in gets.items():
        paths[path] = {"get": _operation(path, summary, result)}
    for path in ("/reset", "/step", "/close", "/open", "/state"):
        (operation,) = paths[path].values()
        operation["parameters"] = _parameters()
    return {
        "openapi": "3.1.0",
        "info": {"title": spec.name, "version": spec.version, "description": spec.description},
        "paths": paths,
        "components": {"schemas": components},
    }


def _operation(path: str, summary: str, result: dict[str, Any]) -> dict[str, Any]:
    failure = {"application/json": {"schema": _ref("error")}}
    return {
        "operationId": path[1:].partition(".")[0],
        "summary": summary,
        "responses": {
            "200": {"description": "Done", "content": {"application/json": {"schema": result}}},
            "default": {"description": "A typed error", "content": failure},
        },
    }


def _parameters() -> list[dict[str, Any]]:
    return [
        {
            "name": "X-OpenEnv-Session",
            "in": "header",
            "description": "the session, as /reset returned it; the cookie does as well",
            "schema": {"type": "string", "pattern": "^[0-9a-f]{32}\\.[0-9a-f]{32}$"},
        },
        {
            "name": "X-OpenEnv-Seq",
            "in": "header",
            "description": "number of the request in its session, for exactly-once",
            "schema": {"type": "integer", "minimum": 1},
        },
        {
            "name": "X-OpenEnv-Timeout",
            "in": "header",
            "description": "deadline in seconds, 0 for none",
            "schema": {"type": "number", "minimum": 0},
        },
    ]


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _hoisted(schema: Any, kind: str, components: dict[str, Any]) -> Any:
    """``schema`` with its ``$defs`` moved to ``components`` and its references following them."""

    def name(definition: str) -> str:
        return _NOT_A_NAME.sub("_", f"{kind}.{definition}")

    def rewritten(tree: Any) -> Any:
        if isinstance(tree, list):
            return [rewritten(item) for item in tree]
        if not isinstance(tree, dict):
            return tree
        result = {key: rewritten(value) for key, value in tree.items() if key != "$defs"}
        reference = tree.get("$ref")
        if isinstance(reference, str) and reference.startswith("#/$defs/"):
            result["$ref"] = f"#/components/schemas/{name(reference.removeprefix('#/$defs/'))}"
        for key, definition in tree.get("$defs", {}).items():
            components[name(key)] = rewritten(definition)
        return result

    return rewritten(schema)
