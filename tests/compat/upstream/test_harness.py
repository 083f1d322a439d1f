"""Upstream's resource sessions: an episode as tools."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.compat.upstream.client_types import StepResult
from openenv_async.compat.upstream.harness import (
    ResourceSessionFactory,
    StepEnvSessionAdapter,
    ToolResult,
    VerifyResult,
)
from openenv_async.compat.upstream.mcp_types import Tool
from openenv_async.compat.upstream.types import State

MOVE = Tool(name="move", description="Move", input_schema={"type": "object"})


class Client:
    """A blocking client of a walk of two steps."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.steps = 0
        self.closed = 0

    def sync(self) -> Client:
        return self

    def reset(self, **options: Any) -> StepResult[str]:
        if options.get("level") == "none":
            raise ValueError("no such level")
        self.options = options
        return StepResult("start")

    def step(self, action: str) -> StepResult[str]:
        self.steps += 1
        return StepResult(action, float(self.steps), self.steps == 2)

    def state(self) -> State:
        return State(step_count=self.steps)

    def close(self) -> None:
        self.closed += 1


def adapter(client: Client, **options: Any) -> StepEnvSessionAdapter:
    return StepEnvSessionAdapter(
        client,
        task="walk",
        tool_specs=options.pop("tool_specs", [MOVE]),
        action_builder=lambda name, arguments: f"{name} {arguments['to']}",
        initial_messages_builder=lambda result, task: [
            {"role": "user", "content": f"{task} from {result.observation}"}
        ],
        **options,
    )


class Factory(ResourceSessionFactory[StepEnvSessionAdapter]):
    def create(
        self, task: Any, seed: int | None = None, episode_id: str | None = None
    ) -> StepEnvSessionAdapter:
        return adapter(Client(), seed=seed, episode_id=episode_id)


def test_an_episode() -> None:
    session = Factory().create("walk", 3, "e")
    client = session._client
    assert client.options == {"seed": 3, "episode_id": "e"}
    assert session.initial_messages() == [{"role": "user", "content": "walk from start"}]
    assert session.list_tools() == [MOVE]
    assert session.verify([]).env_reward is None
    first = session.call_tool("move", {"to": "a"})
    assert (first.done, first.metadata["reward"]) == (False, 1.0)
    assert first.data["observation"] == "move a"
    assert session.call_tool("move", {"to": "b"}).done
    outcome = session.verify([{"role": "user"}])
    assert (outcome.env_reward, outcome.done, outcome.metrics) == (2.0, True, {"step_count": 2})
    assert outcome.artifacts["transcript_length"] == 1
    with pytest.raises(KeyError, match="Unknown tool: jump"):
        session.call_tool("jump", {})
    with pytest.raises(KeyError, match="Reserved orchestration tool: reset"):
        session.call_tool("reset", {})
    session.close()
    session.close()
    assert client.closed == 1


def test_results_may_be_the_callers() -> None:
    session = adapter(
        Client(),
        reset_kwargs={"seed": 9},
        seed=3,
        tool_result_builder=lambda name, arguments, result, state: ToolResult(result.reward),
        verify_builder=lambda transcript, final, last, state: VerifyResult(
            metrics={"final": final}
        ),
    )
    assert session._client.options == {"seed": 9}
    assert session.call_tool("move", {"to": "a"}).data == 1.0
    assert session.verify([], "end").metrics == {"final": "end"}


def test_a_session_that_cannot_begin_is_closed() -> None:
    client = Client()
    with pytest.raises(ValueError, match="no such level"):
        adapter(client, reset_kwargs={"level": "none"})
    assert client.closed == 1
    reset = Tool(name="reset", description="", input_schema={})
    with pytest.raises(ValueError, match="reserved for orchestration controls: reset"):
        adapter(client, tool_specs=[reset])
