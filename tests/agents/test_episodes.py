"""Agents that nobody here wrote play an episode of the ``repl`` environment over MCP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from openenv_async.gateway import CommandAgent, Gateway
from openenv_async.rollouts import collect_all
from tests.agents.clients import AGENTS, program
from tests.agents.test_agents import HEAVY
from tests.engine_stub import EngineStub, decode, sampled_text
from tests.gateway.test_agent_sandbox import needs_namespaces
from tests.model_server import called

pytest.importorskip("repl_env", reason="the repl environment is not installed")

LOOP = Path(__file__).parent / "loops" / "with_openai_agents_mcp.py"
ACTIONS = (
    {"code": "found = len(context.splitlines()); print(found)"},
    {"is_final": True, "final_answer": "3"},
)
TASK = {"context": "a\nb\nc", "task_prompt": "Count the lines.", "expected_answer": "3"}


def plays(messages: Sequence[Mapping[str, Any]], body: Mapping[str, Any]) -> Any:
    """Call the environment's tool once for each action, then say that it is done."""
    names = [tool["function"]["name"] for tool in body.get("tools") or ()]
    own = [name for name in names if name == "step" or name.endswith(("_step", ".step"))]
    taken = sum(message["role"] == "tool" for message in messages)
    if not own or taken >= len(ACTIONS):
        return "Done." if own else "A title"
    return called(own[0], **ACTIONS[taken])


def command_of(agent: str) -> list[str]:
    if agent == "openai-agents":
        return [program(agent), str(LOOP), "{prompt}"]
    return [program(agent), *AGENTS[agent].arguments, "{prompt}"]


@needs_namespaces
@pytest.mark.parametrize(
    "agent",
    [
        "openai-agents",
        pytest.param("codex", marks=HEAVY),
        pytest.param("claude", marks=HEAVY),
        pytest.param("opencode", marks=HEAVY),
        pytest.param("qwen", marks=HEAVY),
    ],
)
async def test_an_agent_plays_the_environment_and_is_rewarded(agent: str) -> None:
    async with EngineStub(plays) as engine, Gateway(engine.url) as gateway:
        player = CommandAgent(
            command_of(agent),
            gateway=gateway,
            place="sandbox",
            dialect="chat",
            environ=AGENTS[agent].environment,
        )
        [outcome] = await collect_all(
            "repl", agent=player, episodes=1, reset_options=TASK, timeout=100.0
        )
    assert outcome.error is None
    assert (outcome.status, outcome.episode_return, outcome.steps) == ("completed", 1.0, 2)
    trajectory: Any = outcome.trajectory
    first, last = trajectory.transitions
    assert first.action.code == ACTIONS[0]["code"]
    assert last.action.final_answer == "3"
    assert first.observation.task_prompt == "Count the lines."
    sampled = [call for each in trajectory.transitions for call in each.model_calls]
    for call in sampled:
        assert call.error is None
        assert decode(call.completion_ids).removesuffix("<|im_end|>") == sampled_text(call.reply)
    assert outcome.model_calls == len(sampled) >= len(ACTIONS)
    rows = player.rows(outcome)
    [main] = [row for row in rows if row.relation == "main"]
    assert main.reward == 1.0
    assert sum(len(row.calls) for row in rows) >= len(ACTIONS)
