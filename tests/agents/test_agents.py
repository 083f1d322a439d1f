"""Agents that nobody here wrote do a task."""

from __future__ import annotations

from tests.agents.alone import run_alone
from tests.agents.clients import programs
from tests.agents.plays import TASK


def test_an_agent_does_a_task_with_its_model_alone() -> None:
    found = run_alone(
        "tests.agents.plays:write_note", agent="pi", programs=programs("pi"), seconds=90
    )
    assert (found["status"], found["note"]) == (0, "hello"), found["output"]
    assert "The note says hello." in found["output"]
    first, second, third = found["calls"]
    assert TASK in str(first[-1]["content"])
    assert second[: len(first)] == first
    assert third[: len(second)] == second
