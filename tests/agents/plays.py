"""Tasks that agents play in a process alone with their model; each returns what a test looks at."""

from __future__ import annotations

import re
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import msgspec

from openenv_async import EnvClient, Environment, StepResult, serve
from openenv_async.gateway.agent_settings import AgentAddresses
from openenv_async.gateway.gateway import Gateway
from openenv_async.gateway.rows import training_rows
from openenv_async.gateway.sessions import ModelSession
from tests.agents.clients import AGENTS, run_agent
from tests.agents.proxy import AnswerProxy
from tests.engine_stub import EngineStub
from tests.model_server import called

__all__ = ["LAST", "TASK", "ask_helper", "count_far", "play_game", "write_note"]

TASK: Final = "Write the word hello to note.txt, then show it."
STEPS: Final = ("printf hello > note.txt", "cat note.txt")
HELPED: Final = "Have a helper write the word hello to note.txt."
HELP: Final = "Write the word hello to note.txt for somebody else."
SUMMARY: Final = "<state_snapshot>The count goes on behind this line of a summary.</state_snapshot>"
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


def steps_of(agent: str, messages: Messages) -> int:
    """Return how many steps there are in a history."""
    role = "assistant" if agent == "smolagents" else "tool"  # it has results as user's words
    return sum(message["role"] == role for message in messages)


def note_script(agent: str, mode: str) -> Script:
    """Have an agent write a note and show it by two commands, then say a last word."""

    def script(messages: Messages, body: Mapping[str, Any]) -> Any:
        done = steps_of(agent, messages)
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


def helper_script(agent: str) -> Script:
    """Have an agent give the note to a helper of its own, which writes it by one command."""

    def script(messages: Messages, body: Mapping[str, Any]) -> Any:
        names = [tool["function"]["name"] for tool in body.get("tools") or ()]
        if not names:
            return says("A note")
        done = steps_of(agent, messages)
        asked = "".join(str(each["content"]) for each in messages if each["role"] == "user")
        if HELPED not in asked:
            return LAST if done else says("I help.", AGENTS[agent].run(STEPS[0]))
        if done == 0:
            return says("A helper does it.", _ask_helper(agent, names))
        if agent == "codex" and done == 1:
            [told] = [each["content"] for each in messages if each["role"] == "tool"]
            [waits] = [name for name in names if name.endswith("wait_agent")]
            [helper] = re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", str(told))[:1]
            return says("", (waits, {"targets": [helper], "timeout_ms": 20_000}))
        return says(LAST)

    return script


def _ask_helper(agent: str, names: Sequence[str]) -> tuple[str, dict[str, Any]]:
    task = {"description": "Write a note", "prompt": HELP}
    match agent:
        case "codex":
            [spawns] = [name for name in names if name.endswith("spawn_agent")]
            return spawns, {"message": HELP}
        case "claude":
            return "Agent", {**task, "run_in_background": False}
        case "opencode":
            return "task", {**task, "subagent_type": "general"}
        case _:
            return "agent", {**task, "run_in_background": False}


def count_script(agent: str, most: int) -> Script:
    """Have an agent print until it compacts its history, go on for one step and end.

    Args:
        agent: of ``AGENTS``.
        most: steps after which it ends all the same.
    """
    given = 0
    left: int | None = None

    def script(messages: Messages, body: Mapping[str, Any]) -> Any:
        nonlocal given, left
        last = str(messages[-1]["content"])
        asks = (
            messages[-1]["role"] == "user"
            and re.search(r"summary|summarize", last)
            and SUMMARY not in last
        )
        if given and (asks or not body.get("tools")):
            left = 1
            return says(f"<analysis>-</analysis>\n<summary>\n{SUMMARY}\n</summary>")
        if not body.get("tools"):
            return says("A count")
        if given == most or left == 0:
            return says(LAST)
        left = None if left is None else left - 1
        given += 1
        return says(f"Part {given}.", AGENTS[agent].run(f"seq {given}000 {given}999"))

    return script


def game_script(agent: str) -> Script:
    """Have an agent guess twice by the tools of its environment."""

    def script(messages: Messages, body: Mapping[str, Any]) -> Any:
        names = [tool["function"]["name"] for tool in body.get("tools") or ()]
        if not names:
            return says("A game")
        done = steps_of(agent, messages)
        if done == 2:
            return says(LAST)
        [step] = [name for name in names if name.endswith("step")]
        return says("", (step, {"number": (3, 7)[done]}))

    return script


@asynccontextmanager
async def _playing(
    script: Script, mode: str, cut: int | None = None
) -> AsyncIterator[tuple[ModelSession, AnswerProxy, AgentAddresses]]:
    """Open a gateway with a scripted engine, a session of it and a proxy before it."""
    with tempfile.TemporaryDirectory() as journal:
        async with (
            # An answer that is cut has not left the gateway whole then.
            EngineStub(script, token_delay=0.02 if cut else 0.0) as stub,
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
    cut: int | None = None,
) -> dict[str, Any]:
    """Have an agent do ``TASK``.

    Args:
        agent: of ``AGENTS``.
        program: what runs it.
        mode: how it asks, if it knows several ways; it begins with the dialect.
        cut: bytes of the first answer to a request with tools, after which its connection is
            ended.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        async with _playing(note_script(agent, mode), mode, cut) as (
            session,
            proxy,
            addresses,
        ):
            ended = await run_agent(agent, TASK, folder, addresses, program=program, mode=mode)
            note = folder / "work" / "note.txt"
            return {
                "ended": asdict(ended),
                "note": note.read_text() if note.exists() else None,
                **_kept(session, proxy),
            }


async def ask_helper(agent: str, program: str) -> dict[str, Any]:
    """Have an agent give its task to a sub-agent."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        async with _playing(helper_script(agent), "") as (session, proxy, addresses):
            ended = await run_agent(agent, HELPED, folder, addresses, program=program)
            note = (folder / "work" / "note.txt").read_text()
            return {"ended": asdict(ended), "note": note, **_kept(session, proxy)}


async def count_far(
    agent: str, program: str, context_tokens: int, most: int = 30
) -> dict[str, Any]:
    """Have an agent fill its context.

    Args:
        agent: of ``AGENTS``.
        program: what runs it.
        context_tokens: size of the context that it is told.
        most: steps after which it ends all the same.
    """
    with tempfile.TemporaryDirectory() as made:
        async with _playing(count_script(agent, most), "") as (session, proxy, addresses):
            ended = await run_agent(
                agent,
                "Count to the end in many steps.",
                Path(made),
                replace(addresses, context_tokens=context_tokens),
                program=program,
            )
            return {"ended": asdict(ended), **_kept(session, proxy)}


async def play_game(agent: str, program: str) -> dict[str, Any]:
    """Have an agent play a session of an environment over MCP."""
    with tempfile.TemporaryDirectory() as made:
        async with (
            _playing(game_script(agent), "") as (session, proxy, addresses),
            serve(GuessEnvironment, token="of-the-server") as url,
            GuessEnv(url, token="of-the-server") as env,
        ):
            await env.reset(seed=7)
            async with await env.share() as shared:
                ended = await run_agent(
                    agent,
                    "Guess by the tools of the game until it is right.",
                    Path(made),
                    replace(addresses, mcp_url=shared.url, mcp_token=shared.token),
                    program=program,
                )
                steps = [(step.reward, step.done) for step in await shared.results()]
            return {"ended": asdict(ended), "steps": steps, **_kept(session, proxy)}


@dataclass
class Guess:
    """A number from 0 to 9."""

    number: int


@dataclass
class Hint:
    """The word that a guess is given."""

    text: str


class GuessEnvironment(Environment[Guess, Hint, dict[str, Any]]):
    """A number to be guessed: the last digit of the seed."""

    isolation = "inline"

    def reset(self, seed: int = 0) -> Hint:
        self._number = seed % 10
        return Hint("guess")

    def step(self, action: Guess) -> StepResult[Hint]:
        is_right = action.number == self._number
        hint = Hint("right" if is_right else "wrong")
        return StepResult(observation=hint, reward=float(is_right), terminated=is_right)


class GuessEnv(EnvClient[Guess, Hint, dict[str, Any]]):
    """Its client."""


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
