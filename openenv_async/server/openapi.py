"""The OpenAPI description of the HTTP routes, made from the environment's schemas."""

from __future__ import annotations

import html
import re
from typing import Any, Final

import msgspec

from openenv_async.spec import EnvironmentSpec

__all__ = ["describe", "page"]

_NOT_A_NAME: Final = re.compile(r"[^A-Za-z0-9._-]")
_ANYTHING: Final = {"type": "object"}
_TOLD: Final = ("parameters", "requestBody", "responses")
"""Parts of an operation that its page shows."""
_OF_A_SESSION: Final = ("/reset", "/step", "/close", "/open", "/state", "/render")


def describe(spec: EnvironmentSpec) -> dict[str, Any]:
    """An OpenAPI 3.1 document of exactly the routes that ``http_routes`` makes."""
    paths: dict[str, Any] = {"/share": _sharing()}
    for part in (_posts(), _gets(), _sessions(), _tasks()):
        for path, operations in part.items():
            for method, operation in operations.items():
                if path in paths:  # with another method
                    operation["operationId"] += f"_{method}"
                paths.setdefault(path, {})[method] = operation
    for path in _OF_A_SESSION:
        (operation,) = paths[path].values()
        operation["parameters"] = _parameters()
    return {
        "openapi": "3.1.0",
        "info": {"title": spec.name, "version": spec.version, "description": spec.description},
        "paths": paths,
        "components": {"schemas": _schemas(spec)},
    }


def page(spec: EnvironmentSpec) -> str:
    """The same as a page for people, which loads nothing from elsewhere."""
    document = describe(spec)
    parts = []
    for path, item in document["paths"].items():
        for method, operation in item.items():
            told = {name: operation[name] for name in _TOLD if name in operation}
            parts.append(
                f"<details><summary><b>{method.upper()}</b> <code>{html.escape(path)}</code>"
                f" {html.escape(operation['summary'])}</summary>{_listing(told)}</details>"
            )
    schemas = document["components"]["schemas"]
    parts += [
        f"<details><summary><code>{html.escape(name)}</code></summary>{_listing(schema)}</details>"
        for name, schema in schemas.items()
    ]
    title = html.escape(f"{spec.name} {spec.version}")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<h1>{title}</h1><p>{html.escape(spec.description)}</p>"
        f'<p>The <a href="openapi.json">OpenAPI document</a>.</p>{"".join(parts)}</html>'
    )


def _listing(value: Any) -> str:
    encoded = msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2)
    return f"<pre>{html.escape(encoded.decode())}</pre>"


def _schemas(spec: EnvironmentSpec) -> dict[str, Any]:
    """The schemas that operations refer to: the environment's models, a result, an error."""
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
    error = {
        "code": {"type": "string"},
        "message": {"type": "string"},
        "retryable": {"type": "boolean"},
        "detail": {"type": "object"},
    }
    components["error"] = _object({"detail": {}, "error": _object(error)})
    return components


def _posts() -> dict[str, Any]:
    """The routes that take a body."""
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
    drain = {
        "type": "object",
        "properties": {"seconds": {"type": "number", "minimum": 0}},
        "additionalProperties": False,
    }
    result = _ref("result")
    table: tuple[tuple[str, str, dict[str, Any], dict[str, Any]], ...] = (
        ("/open", "Open a session without beginning an episode", options, _ANYTHING),
        ("/reset", "Begin an episode; opens a session if none is named", _ref("reset"), result),
        ("/step", "Take one action", step, result),
        ("/close", "Close the session and its environment", {"type": "object"}, _ANYTHING),
        ("/drain", "Let episodes end within a time, and begin none", drain, _ANYTHING),
        ("/reload", "Read again what is served, and to whom", {"type": "object"}, _ANYTHING),
    )
    paths: dict[str, Any] = {}
    for path, summary, body, answer in table:
        operation = _operation(path, summary, answer)
        content = {"application/json": {"schema": body}}
        operation["requestBody"] = {"content": content, "required": path == "/step"}
        paths[path] = {"post": operation}
    return paths


def _gets() -> dict[str, Any]:
    """The routes that take none."""
    table: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("/state", "The environment's state", _ref("state")),
        ("/render", "The environment's picture; as PNG where that is accepted", _ANYTHING),
        ("/schema", "JSON Schemas of the models", _ANYTHING),
        ("/metadata", "The environment's name and version", _ANYTHING),
        ("/health", "The server's health", _ANYTHING),
        ("/ready", "Tell whether new sessions may come: 200, or 503 with the reason", _ANYTHING),
        ("/drain", "Tell whether the server drains, and how far", _ANYTHING),
        ("/stats", "Counters of the server", _ANYTHING),
        ("/metrics.json", "The same", _ANYTHING),
        ("/metrics", "The same, in Prometheus' text format", {"type": "string"}),
        ("/openapi.json", "This document", _ANYTHING),
        ("/docs", "The same as a page", {"type": "string"}),
        ("/redoc", "The same page", {"type": "string"}),
    )
    return {path: {"get": _operation(path, summary, answer)} for path, summary, answer in table}


def _sessions() -> dict[str, Any]:
    """The routes that show live sessions and act on them."""
    number, text = {"type": ["number", "null"]}, {"type": ["string", "null"]}
    count = {"type": "integer", "minimum": 0}
    row = _object(
        {
            **dict.fromkeys(("id", "state", "running", "episode_id"), text),
            **dict.fromkeys(("age", "idle", "seed", "steps", "reward", "total"), number),
            "requests": count,
            "error": {"type": ["array", "null"], "items": {"type": "string"}},
        }
    )
    listed = _object(
        {
            "count": count,
            "sessions": {"type": "array", "items": row},
            "waiting": count,
            "longest_wait": {"type": "number"},
            "max_sessions": count,
            "draining": text,
        }
    )
    listing = _operation("/sessions", "Live sessions, two hundred at most, oldest first", listed)
    listing["parameters"] = [{"name": "start", "in": "query", "schema": count}]
    one = "/sessions/{session}"
    follow = _operation("/sessions/follow", "The steps of a session as they happen", _ANYTHING)
    schema = {"schema": {"type": "string"}}
    follow["responses"]["200"]["content"] = {"text/event-stream": schema}
    paths = {
        "/sessions": {"get": listing},
        f"{one}/follow": {"get": follow},
        f"{one}/cancel": {
            "post": _operation("/sessions/cancel", "Cancel what a session runs", _ANYTHING)
        },
        f"{one}/close": {"post": _operation("/sessions/close", "Close a session", _ANYTHING)},
        "/history": {"get": _operation("/history", "The last five minutes", _ANYTHING)},
    }
    name = {"name": "session", "in": "path", "required": True, "schema": {"type": "string"}}
    for path, operations in paths.items():
        if path.startswith(one):
            next(iter(operations.values()))["parameters"] = [name]
    return paths


def _sharing() -> dict[str, Any]:
    """The route by which a session is lent to agents."""
    text, count = {"type": "string"}, {"type": "integer", "minimum": 0}
    lent = _object({"handle": text, "path": text, "token": text})
    results = {"type": "array", "items": _ref("result")}
    told = _object(
        {
            "first": count,
            "results": results,
            "actions": {"type": "array", "items": _ref("action")},
            "ages": {"type": "array", "items": {"type": "number", "minimum": 0}},
            "mistakes": count,
            "unreadable": count,
            "failure": _ANYTHING,
            "is_over": {"type": "boolean"},
        }
    )
    operations = {
        "post": _operation("/share", "Lend the session to agents, which play it over MCP", lent),
        "get": _operation("/shared", "Read the results of steps that agents made", told),
        "delete": _operation("/unshare", "Take the session back", _ANYTHING),
    }
    for operation in operations.values():
        operation["parameters"] = _parameters()[:1]
    operations["get"]["parameters"] += [
        {"name": name, "in": "query", "schema": {"type": "number", "minimum": 0}}
        for name in ("after", "wait")
    ]
    return operations


def _tasks() -> dict[str, Any]:
    """The routes of tasks: the server's own, then upstream's."""
    count: dict[str, Any] = {"type": "integer", "minimum": 0}
    text: dict[str, Any] = {"type": "string"}
    row = _object({"id": text, "index": count, "data": _ANYTHING})
    page = _object({"count": count, "tasks": {"type": "array", "items": row}})
    splits = _object({"splits": {"type": "object", "additionalProperties": count}})
    listed = _operation("/tasks/split", "Tasks of a split, their public part, in pages", page)
    listed["parameters"] = [
        {"name": "split", "in": "path", "required": True, "schema": text},
        {"name": "start", "in": "query", "schema": count},
        {"name": "stop", "in": "query", "schema": count},
    ]
    names = {"type": "array", "items": text}
    paths = {
        "/tasks": {"get": _operation("/tasks", "Splits of the environment's tasks", splits)},
        "/tasks/{split}": {"get": listed},
        "/list_environments": {"get": _operation("/list_environments", "Its name", names)},
    }
    integer = {"type": ["integer", "null"]}
    table: tuple[tuple[str, dict[str, Any], str], ...] = (
        ("splits", {}, "Splits, for upstream's callers"),
        ("tasks", {}, "Tasks of a split, the first thousand, for upstream's callers"),
        ("num_tasks", {}, "The number of tasks of a split, for upstream's callers"),
        ("task", {"index": count}, "One task, for upstream's callers"),
        ("task_range", {"start": integer, "stop": integer}, "Some tasks, for upstream's callers"),
    )
    name = {"name": "env", "in": "path", "required": True, "schema": text}
    for each, more, summary in table:
        operation = _operation(f"/upstream_{each}", summary, _ANYTHING)
        operation["parameters"] = [name]
        if each != "splits":
            body = {"type": "object", "properties": {"split": text, **more}}
            body["required"] = ["split", *(["index"] if each == "task" else [])]
            content = {"application/json": {"schema": body}}
            operation["requestBody"] = {"content": content, "required": True}
        paths[f"/{{env}}/{each}"] = {"get" if each == "splits" else "post": operation}
    return paths


def _operation(path: str, summary: str, result: dict[str, Any]) -> dict[str, Any]:
    failure = {"application/json": {"schema": _ref("error")}}
    return {
        "operationId": path[1:].replace(".", "_").replace("/", "_"),
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
