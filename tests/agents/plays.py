"""Tasks that agents play in a process alone with their model; each returns what a test looks at."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from openenv_async.gateway.agent_settings import AgentAddresses
from tests.agents.clients import AGENTS, run_agent
from tests.model_server import ModelServer, called

__all__ = ["TASK", "write_note"]

TASK: Final = "Write the word hello to note.txt, then show it."
STEPS: Final = ("printf hello > note.txt", "cat note.txt")


async def write_note(agent: str, programs: str) -> dict[str, Any]:
    """Have an agent do ``TASK`` by two commands and a last word."""

    def answer(messages: Sequence[Mapping[str, Any]], body: Mapping[str, Any]) -> Any:
        done = sum(message["role"] == "tool" for message in messages)
        if done == len(STEPS):
            return "The note says hello."
        name, arguments = AGENTS[agent].run(STEPS[done])
        return called(name, **arguments)

    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        async with ModelServer(answer) as server:
            addresses = AgentAddresses(
                openai_base_url=server.url,
                anthropic_base_url=server.url.removesuffix("/v1"),
                key="made-up",
            )
            ended = await run_agent(agent, TASK, folder, addresses, programs=programs)
            return {
                "status": ended.status,
                "output": ended.output,
                "note": (folder / "work" / "note.txt").read_text(),
                "calls": [call.messages for call in server.calls],
            }
