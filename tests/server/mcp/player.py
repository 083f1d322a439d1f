"""Plays episodes with an MCP client of others: run by an interpreter that has mcp and fastmcp.

``player.py URL --client mcp|fastmcp --mode auto|legacy``: prints one line of JSON that says what
happened. It knows nothing of the environment but what the server tells every client.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import time
from typing import Any

MAX_STEPS = 8


class AgentClient:
    """One session over one client."""

    def __init__(
        self, client: Any, kind: str, seed: int, max_steps: int, keeps: bool = False
    ) -> None:
        self.keeps = keeps
        self.client = client
        self.kind = kind
        self.random = random.Random(seed)
        self.max_steps = max_steps
        self.steps = self.mistakes = self.pictures = 0
        self.handle: str | None = None
        self.tools: list[Any] = []
        self.done = False

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Call a tool; the handle goes along where there is one."""
        if self.handle is not None:
            arguments = {"session": self.handle, **arguments}
        if self.kind == "mcp":
            result = await self.client.call_tool(name, arguments)
            failed, told = result.is_error, result.structured_content
        else:
            result = await self.client.call_tool(name, arguments, raise_on_error=False)
            failed, told = result.is_error, result.structured_content
        self.pictures += sum(block.type == "image" for block in result.content)
        assert result.content, "a result has content"
        return None if failed else told

    async def episode(self) -> None:
        """Play one episode, or as much of it as is wanted."""
        listed = await self.client.list_tools()
        self.tools = list(listed.tools if self.kind == "mcp" else listed)
        begun = await self.call("reset", {})
        assert begun is not None, "reset works"
        self.handle = begun.get("session", self.handle)
        told = begun
        choices = [t for t in self.tools if t.name not in ("reset", "state", "close")]
        assert choices, "there is something to do"
        self.done = told["done"]
        for _ in range(self.max_steps):
            if self.done:
                break
            tool = self.random.choice(choices)
            schema = input_schema(tool)
            legal = told.get("legal_actions")
            arguments = sample(schema, schema, self.random)
            if legal:
                arguments = as_arguments(self.random.choice(legal), schema)
            arguments.pop("session", None)
            self.steps += 1
            answer = await self.call(tool.name, arguments)
            if answer is None:
                self.mistakes += 1
            else:
                told = answer
                self.done = told["done"]
        if self.handle is not None and not self.keeps:
            await self.call("close", {})


def input_schema(tool: Any) -> Any:
    """The schema of a tool's arguments, in either SDK."""
    return getattr(tool, "input_schema", None) or tool.inputSchema


def as_arguments(action: Any, schema: Any) -> dict[str, Any]:
    """The arguments that a legal action is."""
    fields = [name for name in schema["properties"] if name != "session"]
    return action if isinstance(action, dict) else {fields[0]: action}


def sample(schema: Any, root: Any, rng: random.Random) -> Any:
    """Any value of a schema, as far as the environments of this project need."""
    if not isinstance(schema, dict) or not schema:
        return "x"
    if "$ref" in schema:
        found = root
        for key in schema["$ref"].lstrip("#/").split("/"):
            found = found[key]
        return sample(found, root, rng)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    for key in ("anyOf", "oneOf"):
        if key in schema and "properties" not in schema:
            return sample(schema[key][0], root, rng)
    kind = schema.get("type", "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        one = schema.get("anyOf") or schema.get("oneOf") or [{}]
        required = [*schema.get("required", []), *one[-1].get("required", [])]
        return {
            name: sample(field, root, rng)
            for name, field in schema.get("properties", {}).items()
            if name in required
        }
    if kind == "array":
        count = max(schema.get("minItems", 1), 1)
        if "prefixItems" in schema:
            return [sample(item, root, rng) for item in schema["prefixItems"]]
        return [sample(schema.get("items", {}), root, rng) for _ in range(count)]
    if kind in ("integer", "number"):
        low: Any = schema.get("minimum", schema.get("exclusiveMinimum", 0))
        high: Any = schema.get("maximum", schema.get("exclusiveMaximum", low + 3) - 1)
        value = rng.randint(int(low), max(int(low), int(high)))
        return float(max(value, 1)) if kind == "number" and "exclusiveMinimum" in schema else value
    if kind == "boolean":
        return False
    return "1 + 1"[: schema.get("maxLength", 10)].ljust(schema.get("minLength", 1), "x")


@contextlib.asynccontextmanager
async def opened(args: argparse.Namespace) -> Any:
    """A client that is connected."""
    if args.client == "mcp":
        from mcp import Client

        async with Client(args.url, mode=args.mode) as client:
            yield client
    else:
        from fastmcp import Client as FastClient

        async with FastClient(args.url, mode=args.mode) as client:
            yield client


async def one(args: argparse.Namespace, number: int, players: list[AgentClient]) -> None:
    async with opened(args) as client:
        for episode in range(args.episodes):
            seed = args.seed + number * 1000 + episode
            player = AgentClient(client, args.client, seed, args.steps, args.keep)
            players.append(player)
            await player.episode()
        if args.hold:
            say("holding")
            await asyncio.sleep(args.hold)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--client", choices=("mcp", "fastmcp"), default="mcp")
    parser.add_argument("--mode", default="auto")
    parser.add_argument("--episodes", type=int, default=1)
    parser.add_argument("--sessions", type=int, default=1)
    parser.add_argument("--steps", type=int, default=MAX_STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="close no session")
    parser.add_argument("--hold", type=float, default=0.0, help="seconds to stay connected")
    args = parser.parse_args()
    players: list[AgentClient] = []
    began = time.perf_counter()
    await asyncio.gather(*(one(args, number, players) for number in range(args.sessions)))
    told = {
        "episodes": len(players),
        "steps": sum(p.steps for p in players),
        "mistakes": sum(p.mistakes for p in players),
        "pictures": sum(p.pictures for p in players),
        "done": sum(p.done for p in players),
        "handles": sum(p.handle is not None for p in players),
        "tools": sorted({t.name for p in players for t in p.tools}),
        "seconds": round(time.perf_counter() - began, 2),
    }
    say(json.dumps(told))


def say(line: str) -> None:
    """Write a line for the parent process."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
