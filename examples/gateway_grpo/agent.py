"""An agent of somebody else: the Runner of openai-agents, as its package has it.

    pip install openai-agents==0.24.0       # in any interpreter; nothing of openenv-async is needed

It reads a line of JSON for each episode (base URL and key of a model, URL and token of an MCP
server, and what to do), plays all at once, and writes a line when one is over.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from agents import (
    Agent,
    AgentsException,
    ModelSettings,
    OpenAIChatCompletionsModel,
    RunConfig,
    Runner,
)
from agents.mcp import MCPServerStreamableHttp
from openai import AsyncOpenAI

INSTRUCTIONS = "Call one tool at a time."
MAX_TURNS = 3
MAX_TOKENS = 12
"""Tokens of one answer: a call is eight to ten."""


def example(number: int, item: str, shelf: int) -> list[dict[str, Any]]:
    """Return an order that was carried out, as the items of a conversation."""
    calls: list[dict[str, Any]] = [{"role": "user", "content": f"Take the {item}."}]
    for name, arguments, output in (
        ("find", {"item": item}, {"observation": f"shelf {shelf}", "done": False}),
        ("pick", {"shelf": shelf}, {"observation": "taken", "done": True}),
    ):
        about = {"call_id": f"example-{number}-{name}"}
        call = {"type": "function_call", "name": name, "arguments": json.dumps(arguments)}
        shown = json.dumps(output, separators=(",", ":"))  # as the server spells it
        result = {"type": "function_call_output", "output": shown}
        calls += [{**call, **about}, {**result, **about}]
    return calls


EXAMPLES = example(1, "beans", 9) + example(2, "sugar", 0)
"""Orders that were carried out, for items and shelves that no episode has."""


async def play(told: dict[str, Any]) -> str:
    """Play one episode; return how the agent ended."""
    tools = MCPServerStreamableHttp(
        {"url": told["mcp_url"], "headers": {"Authorization": f"Bearer {told['mcp_token']}"}},
        client_session_timeout_seconds=300,
    )
    async with (
        AsyncOpenAI(base_url=told["base_url"], api_key=told["key"], timeout=300.0) as client,
        tools,
    ):
        agent = Agent(
            name="picker",
            instructions=INSTRUCTIONS,
            model=OpenAIChatCompletionsModel("session", client),
            model_settings=ModelSettings(max_tokens=MAX_TOKENS),
            mcp_servers=[tools],
            tool_use_behavior={"stop_at_tool_names": ["pick"]},
        )
        order = {"role": "user", "content": told["order"]}
        try:
            result = await Runner.run(
                agent,
                [*EXAMPLES, order],
                max_turns=MAX_TURNS,
                run_config=RunConfig(tracing_disabled=True),
            )
        except AgentsException as exc:  # too many turns, a tool that there is not
            return type(exc).__name__
        return str(result.final_output)


async def main() -> None:
    lines = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)

    async def answer(line: bytes) -> None:
        told = json.loads(line)
        try:
            said = {"end": await play(told)}
        except Exception as exc:  # whatever it is, the episode's holder is told
            said = {"error": f"{type(exc).__name__}: {exc}"}
        print(json.dumps({"id": told["id"], **said}), flush=True)

    async with asyncio.TaskGroup() as playing:
        while line := await lines.readline():
            playing.create_task(answer(line))


if __name__ == "__main__":
    asyncio.run(main())
