"""Engines that think, call two tools at once, cut arguments off, and write code."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec

from openenv_async.gateway.agent_settings import AgentAddresses
from openenv_async.gateway.calls import Answer, Call, Piece, ToolCall, ToolDelta
from openenv_async.gateway.gateway import Gateway
from tests.agents.clients import AGENTS, run_agent

__all__ = ["CODE", "CUT", "think", "write_code"]

TASK: Final = "Write the word hello to note.txt, then show it."
CUT: Final = '{"command": "cat no'
"""Arguments that are not JSON."""
CODE: Final = (
    'const done = await tools.exec_command({cmd: "printf héllo > note.txt"});\ntext("ok");\n'
)
"""The input of codex's tool for code, which is not JSON."""
_SAYS: Final = "I write it.\n\nBoth at once."


class Thinker:
    """A sampler whose answer depends on how many answers the history has.

    Args:
        agent: of ``AGENTS``, whose tools it calls.
    """

    def __init__(self, agent: str) -> None:
        self._run = AGENTS[agent].run

    async def sample(
        self, call: Call, *, session: str, attempt: int = 0
    ) -> AsyncIterator[Piece | Answer]:
        """Yield an answer by pieces of some characters."""
        answer = self._answer(call)
        for at in range(0, len(answer.reasoning), 6):
            yield Piece(reasoning=answer.reasoning[at : at + 6])
        for at in range(0, len(answer.text), 6):
            yield Piece(text=answer.text[at : at + 6])
        for index, made in enumerate(answer.tool_calls):
            yield Piece(tool_calls=[ToolDelta(index=index, id=made.id, name=made.name)])
            for at in range(0, len(made.arguments), 6):
                part = made.arguments[at : at + 6]
                yield Piece(tool_calls=[ToolDelta(index=index, arguments=part)])
        yield answer

    def _answer(self, call: Call) -> Answer:
        if not call.tools:
            return Answer(text="A note")
        done = sum(message["role"] == "assistant" for message in call.messages)
        lines: tuple[str, ...] = ()
        if done == 0:
            lines = ("printf hello > note.txt", "echo 'é \"q\"'")
        elif done < 3:
            lines = ("cat note.txt",)
        calls = [self._call(f"call_{done}_{at}", line) for at, line in enumerate(lines)]
        if done == 1:
            calls[0].arguments = CUT
        return Answer(
            text=_SAYS if done == 0 else "" if lines else "The note says hello.",
            reasoning=f"Thought {done}: é\n\nand more",
            tool_calls=calls,
            finish_reason="tool_calls" if calls else "stop",
            prompt_tokens=10,
            completion_tokens=5,
        )

    def _call(self, call_id: str, line: str) -> ToolCall:
        name, arguments = self._run(line)
        return ToolCall(id=call_id, name=name, arguments=json.dumps(arguments, ensure_ascii=False))


class Coder:
    """A sampler that writes code, and then a last word."""

    async def sample(
        self, call: Call, *, session: str, attempt: int = 0
    ) -> AsyncIterator[Piece | Answer]:
        """Yield an answer in one piece."""
        if any(message["role"] == "assistant" for message in call.messages):
            yield Answer(text="Done.")
            return
        arguments = json.dumps({"input": CODE}, ensure_ascii=False)
        made = ToolCall(id="call_1", name="functions__exec", arguments=arguments)
        yield Answer(tool_calls=[made], finish_reason="tool_calls")


async def write_code(program: str, model: str) -> dict[str, Any]:
    """Have codex write a note by code, as it does with models that it knows."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        async with Gateway(Coder()) as gateway:
            session = await gateway.open()
            addresses = AgentAddresses(
                openai_base_url=session.openai_base_url,
                anthropic_base_url=session.anthropic_base_url,
                key=session.key,
                model=model,
            )
            ended = await run_agent("codex", TASK, folder, addresses, program=program)
        note = folder / "work" / "note.txt"
        return {
            "status": ended.status,
            "output": ended.output + ended.errors,
            "note": note.read_text() if note.exists() else None,
            "records": msgspec.to_builtins(session.records),
        }


async def think(agent: str, program: str, mode: str) -> dict[str, Any]:
    """Have an agent do ``TASK`` with a thinking model; return its end and the records."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        async with Gateway(Thinker(agent)) as gateway:
            session = await gateway.open()
            addresses = AgentAddresses(
                openai_base_url=session.openai_base_url,
                anthropic_base_url=session.anthropic_base_url,
                key=session.key,
                dialect=mode.partition("-")[0],
            )
            ended = await run_agent(agent, TASK, folder, addresses, program=program, mode=mode)
        return {
            "status": ended.status,
            "output": ended.output + ended.errors,
            "records": msgspec.to_builtins(session.records),
        }
