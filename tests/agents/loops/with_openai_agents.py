"""An agent of ``openai-agents``: ``with_openai_agents.py MODE TASK``; runs in its peer."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from agents import (
    Agent,
    Runner,
    function_tool,
    set_default_openai_api,
    set_tracing_disabled,
)


@function_tool  # type: ignore[untyped-decorator]  # of a peer
def bash(command: str) -> str:
    """Run a line of shell."""
    return subprocess.run(command, shell=True, capture_output=True, text=True, check=False).stdout


async def play(task: str, *, is_streamed: bool) -> str:
    agent = Agent(name="writer", instructions="Do the task.", model="gpt", tools=[bash])
    if is_streamed:
        run = Runner.run_streamed(agent, task)
        async for _ in run.stream_events():
            pass
        return str(run.final_output)
    return str((await Runner.run(agent, task)).final_output)


if __name__ == "__main__":
    mode, task = sys.argv[1:]
    dialect, _, streamed = mode.partition("-")
    set_tracing_disabled(True)  # or it is sent to the vendor
    set_default_openai_api("chat_completions" if dialect == "chat" else "responses")
    print(asyncio.run(play(task, is_streamed=bool(streamed))))  # noqa: T201
