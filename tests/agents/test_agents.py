"""Agents that nobody here wrote do a task through the gateway."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.alone import run_alone
from tests.agents.clients import programs
from tests.agents.plays import LAST, STEPS, TASK, decoded

HEAVY = pytest.mark.heavy
"""Packages of hundreds of megabytes."""


def play(name: str, agent: str, **arguments: Any) -> Any:
    return run_alone(
        f"tests.agents.plays:{name}",
        agent=agent,
        programs=programs(agent),
        seconds=120,
        **arguments,
    )


def assert_kept_as_told(found: dict[str, Any]) -> None:
    """Each record has what its agent was told, and its tokens decode to it."""
    for record, told in zip(found["records"], found["answers"], strict=True):
        answer = record["answer"]
        assert record["deliveries"] == ["whole"]
        assert told["text"] == answer["text"]
        calls = [[call["name"], call["arguments"]] for call in answer["tool_calls"]]
        assert told["calls"] == calls
        said = told["text"] + "".join(f"<{name} {arguments}>" for name, arguments in told["calls"])
        assert decoded(answer["tokens"]["completion_ids"]) == said


@pytest.mark.parametrize(
    ("agent", "side"),
    [
        pytest.param("opencode", 1, marks=HEAVY, id="opencode"),
        pytest.param("pi", 0, id="pi"),
        pytest.param("qwen", 0, marks=HEAVY, id="qwen"),
    ],
)
def test_a_task(agent: str, side: int) -> None:
    found = play("write_note", agent)
    assert (found["ended"]["status"], found["note"]) == (0, "hello"), found["ended"]
    assert LAST in found["ended"]["output"]
    assert_kept_as_told(found)
    records = found["records"]
    assert [record["error"] for record in records] == [None] * (side + len(STEPS) + 1)
    assert [bool(record["tools"]) for record in records] == [False] * side + [True] * 3
    assert TASK in str(records[side]["messages"][-1]["content"])
    assert found["others"] == []
