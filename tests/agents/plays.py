"""Tasks that agents play in a process alone with their model; each returns what a test looks at."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import msgspec

from openenv_async.gateway.agent_settings import AgentAddresses
from openenv_async.gateway.calls import (
    Answer,
    Call,
    Message,
    Piece,
    SampledTokens,
    ToolCall,
    ToolDelta,
)
from openenv_async.gateway.dialects import ROUTES
from openenv_async.gateway.gateway import Gateway
from openenv_async.gateway.rows import training_rows
from openenv_async.gateway.sessions import ModelSession
from tests.agents.clients import AGENTS, run_agent
from tests.agents.proxy import AnswerProxy

__all__ = ["TASK", "write_note"]

TASK: Final = "Write the word hello to note.txt, then show it."
STEPS: Final = ("printf hello > note.txt", "cat note.txt")
LAST: Final = "The note says hello."

_SUBMIT: Final = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
"""A command that ends with this word ends mini-swe-agent."""

Script = Callable[[Call], Answer]


class ScriptedModel:
    """An engine that plays a script; a token is a byte, or a mark of the chat template."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._asked = 0

    async def sample(
        self, call: Call, *, session: str, attempt: int = 0
    ) -> AsyncIterator[Piece | Answer]:
        answer = self._script(call)
        self._asked += 1
        for index, tool_call in enumerate(answer.tool_calls):
            tool_call.id = f"call_{self._asked}_{index}"
        prompt = [*_tokens(call.messages), _BEGIN, *b"assistant\n"]
        completion = [*_said(answer.message), _END]
        answer.tokens = SampledTokens(
            prompt_ids=prompt,
            completion_ids=completion,
            logprobs=[-0.5] * len(completion),
        )
        answer.prompt_tokens, answer.completion_tokens = len(prompt) // 4, len(completion)
        for at in range(0, len(answer.text), 5):
            yield Piece(text=answer.text[at : at + 5])
        for index, tool_call in enumerate(answer.tool_calls):
            delta = ToolDelta(index=index, id=tool_call.id, name=tool_call.name)
            yield Piece(tool_calls=[delta])
            for at in range(0, len(tool_call.arguments), 7):
                part = ToolDelta(index=index, arguments=tool_call.arguments[at : at + 7])
                yield Piece(tool_calls=[part])
        yield answer


_BEGIN: Final = 256
_END: Final = 257


def _said(message: Message) -> bytes:
    content = message.get("content") or ""
    text = content if isinstance(content, str) else "".join(each["text"] for each in content)
    calls = [call["function"] for call in message.get("tool_calls") or ()]
    return (text + "".join(f"<{each['name']} {each['arguments']}>" for each in calls)).encode()


def _tokens(messages: Sequence[Message]) -> list[int]:
    ids: list[int] = []
    for message in messages:
        ids += [_BEGIN, *f"{message['role']}\n".encode(), *_said(message), _END]
    return ids


def decoded(ids: Sequence[int]) -> str:
    """Return the text of tokens, without marks."""
    return bytes(each for each in ids if each < _BEGIN).decode()


def says(text: str = "", *calls: tuple[str, Mapping[str, Any]]) -> Answer:
    """Return an answer of a script."""
    return Answer(
        text=text,
        tool_calls=[
            ToolCall(id="", name=name, arguments=json.dumps(arguments)) for name, arguments in calls
        ],
        finish_reason="tool_calls" if calls else "stop",
    )


def answers(call: Call) -> int:
    """Return how many answers there are in a history."""
    return sum(message["role"] == "assistant" for message in call.messages)


def note_script(agent: str, mode: str) -> Script:
    """Have an agent write a note and show it by two commands, then say a last word."""

    def script(call: Call) -> Answer:
        done = answers(call)
        if mode == "code":  # commands are lines of Python in the text, and so is the last word
            lines = [f"print(bash({step!r}))" for step in STEPS]
            line = [*lines, f"final_answer({LAST!r})"][done]
            return says(f"Thoughts: the next line.\n<code>\n{line}\n")  # </code> stops it
        if not call.tools:
            return says("A note")
        if done < len(STEPS):
            return says("I write it." if done == 0 else "", AGENTS[agent].run(STEPS[done]))
        if agent == "mini":
            return says("", AGENTS[agent].run(f"echo {_SUBMIT}"))
        if agent == "smolagents":
            return says("", ("final_answer", {"answer": LAST}))
        return says(LAST)

    return script


@asynccontextmanager
async def _playing(
    script: Script, dialect: str, cut: Callable[[int, Any], int | None] | None = None
) -> AsyncIterator[tuple[ModelSession, AnswerProxy, AgentAddresses]]:
    """Open a gateway with a scripted engine, a session of it and a proxy before it."""
    async with Gateway(ScriptedModel(script), routes=ROUTES) as gateway:
        session = await gateway.open()
        async with AnswerProxy(gateway.url, cut) as proxy:
            addresses = AgentAddresses(
                openai_base_url=f"{proxy.url}/v1",
                anthropic_base_url=proxy.url,
                key=session.key,
                dialect=dialect,
            )
            yield session, proxy, addresses


async def write_note(
    agent: str,
    program: str,
    dialect: str = "chat",
    mode: str = "",
    cut: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Have an agent do ``TASK``.

    Args:
        agent: of ``AGENTS``.
        program: what runs it.
        dialect: in which it asks, if it knows several and reads it from its settings.
        mode: among its arguments.
        cut: number of a request -> bytes of the answer after which its connection is ended.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        bytes_of = {int(number): size for number, size in (cut or {}).items()}
        async with _playing(
            note_script(agent, mode), dialect, lambda number, asked: bytes_of.get(number)
        ) as (session, proxy, addresses):
            ended = await run_agent(agent, TASK, folder, addresses, program=program, mode=mode)
            note = folder / "work" / "note.txt"
            return {
                "ended": asdict(ended),
                "note": note.read_text() if note.exists() else None,
                **_kept(session, proxy),
            }


def _kept(session: ModelSession, proxy: AnswerProxy) -> dict[str, Any]:
    """Return what the gateway kept of a session, and what its agent was told."""
    return {
        "records": msgspec.to_builtins(session.records),
        "rows": msgspec.to_builtins(training_rows(session.records)),
        "others": [each.path for each in proxy.exchanges if each not in proxy.calls],
        "answers": [
            {
                "status": each.status,
                "cut": each.is_cut,
                **({} if each.is_cut or each.status != 200 else asdict(each.said())),
            }
            for each in proxy.calls
        ],
    }
