"""Tasks that agents play in a process alone with their model; each returns what a test looks at."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import msgspec

from openenv_async.gateway.agent_settings import AgentAddresses
from openenv_async.gateway.gateway import Gateway
from openenv_async.gateway.rows import training_rows
from openenv_async.gateway.sessions import ModelSession
from tests.agents.clients import AGENTS, run_agent
from tests.agents.proxy import AnswerProxy
from tests.engine_stub import EngineStub
from tests.model_server import called

__all__ = ["TASK", "write_note"]

TASK: Final = "Write the word hello to note.txt, then show it."
STEPS: Final = ("printf hello > note.txt", "cat note.txt")
LAST: Final = "The note says hello."

_SUBMIT: Final = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"
"""A command that ends with this word ends mini-swe-agent."""

Messages = Sequence[Mapping[str, Any]]
Script = Callable[[Messages, Mapping[str, Any]], Any]
"""An answer of the engine, of the messages and the whole body."""


def says(text: str = "", *calls: tuple[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return an assistant's message."""
    made = [called(name, **arguments)["tool_calls"][0] for name, arguments in calls]
    return {"role": "assistant", "content": text or None, "tool_calls": made}


def answers(messages: Messages) -> int:
    """Return how many answers there are in a history."""
    return sum(message["role"] == "assistant" for message in messages)


def note_script(agent: str, mode: str) -> Script:
    """Have an agent write a note and show it by two commands, then say a last word."""

    def script(messages: Messages, body: Mapping[str, Any]) -> Any:
        done = answers(messages)
        if mode == "code":  # commands are lines of Python in the text, and so is the last word
            lines = [f"print(bash({step!r}))" for step in STEPS]
            line = [*lines, f"final_answer({LAST!r})"][done]
            return says(f"Thoughts: the next line.\n<code>\n{line}\n")  # </code> stops it
        if not body.get("tools"):
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
    script: Script, mode: str, cut: Callable[[int, Any], int | None] | None = None
) -> AsyncIterator[tuple[ModelSession, AnswerProxy, AgentAddresses]]:
    """Open a gateway with a scripted engine, a session of it and a proxy before it."""
    with tempfile.TemporaryDirectory() as journal:
        async with (
            EngineStub(script) as stub,
            Gateway(stub.url, journal=journal) as gateway,
        ):
            session = await gateway.open()
            async with AnswerProxy(gateway.url, cut) as proxy:
                addresses = AgentAddresses(
                    openai_base_url=f"{proxy.url}/v1",
                    anthropic_base_url=proxy.url,
                    key=session.key,
                    dialect=mode.partition("-")[0] or "chat",
                )
                yield session, proxy, addresses


async def write_note(
    agent: str,
    program: str,
    mode: str = "",
    cut: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Have an agent do ``TASK``.

    Args:
        agent: of ``AGENTS``.
        program: what runs it.
        mode: how it asks, if it knows several ways; it begins with the dialect.
        cut: number of a request -> bytes of the answer after which its connection is ended.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        bytes_of = {int(number): size for number, size in (cut or {}).items()}
        async with _playing(
            note_script(agent, mode), mode, lambda number, asked: bytes_of.get(number)
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
