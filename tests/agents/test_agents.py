"""Agents that nobody here wrote do a task through the gateway."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.alone import run_alone
from tests.agents.clients import program
from tests.agents.plays import LAST, TASK
from tests.engine_stub import decode, sampled_text

HEAVY = pytest.mark.heavy
"""Packages of hundreds of megabytes, or what others show already."""

ONE_ROW = [("main", None)]
RESPELLED = [
    ("main", None),
    ("continuation", "arguments_respelled"),
    ("continuation", "arguments_respelled"),
]
"""Rows of agents that parse the arguments of calls and write them anew."""


PROBES = {"claude": {"/api/hello"}}
"""Paths that are asked for beside calls of the model, by agent."""


def case(agent: str, mode: str = "", *, rows: Any, is_heavy: bool = False) -> Any:
    marks = [HEAVY] if is_heavy else []
    return pytest.param(agent, mode, rows, marks=marks, id=f"{agent} {mode}".strip())


def play(name: str, agent: str, **arguments: Any) -> Any:
    return run_alone(
        f"tests.agents.plays:{name}",
        agent=agent,
        program=program(agent),
        seconds=120,
        **arguments,
    )


def sampled(told: dict[str, Any]) -> str:
    """Return the text of the tokens by which the engine said what an agent was told."""
    calls = [{"function": {"name": name, "arguments": given}} for name, given in told["calls"]]
    return sampled_text({"content": told["text"], "tool_calls": calls}) + "<|im_end|>"


def assert_kept_as_told(found: dict[str, Any]) -> None:
    """Each record has what its agent was told, and its tokens decode to it; so do the rows."""
    said = []
    for record, told in zip(found["records"], found["answers"], strict=True):
        answer = record["answer"]
        assert record["error"] is None
        assert record["deliveries"] == ["whole"]
        assert told["text"] == answer["text"]
        calls = [[call["name"], call["arguments"]] for call in answer["tool_calls"]]
        assert told["calls"] == calls
        said.append(sampled(told))
        assert decode(answer["tokens"]["completion_ids"]) == said[-1]
    spans = []
    for row in found["rows"]:
        assert row["level"] == "tokens"
        for span in row["spans"]:
            part = slice(span["start"], span["stop"])
            assert decode(row["completion_ids"][part]) == said[span["call"]]
            assert set(row["mask"][part]) == {1}
            spans.append(span["call"])
        assert sum(row["mask"]) == sum(each["stop"] - each["start"] for each in row["spans"])
    assert sorted(spans) == list(range(len(said)))  # each sample is in one row


def relations(found: dict[str, Any]) -> list[tuple[str, str | None]]:
    """Return relation and difference of each row."""
    return [
        (row["relation"], row["difference"]["kind"] if row["difference"] else None)
        for row in found["rows"]
    ]


@pytest.mark.parametrize(
    ("agent", "mode", "rows"),
    [
        case("anthropic", "messages", rows=ONE_ROW, is_heavy=True),
        case("anthropic", "messages-streamed", rows=ONE_ROW),
        case("claude", rows=ONE_ROW, is_heavy=True),
        case("codex", rows=ONE_ROW, is_heavy=True),
        case("mini", rows=ONE_ROW, is_heavy=True),
        case("openai", "chat", rows=ONE_ROW, is_heavy=True),
        case("openai", "chat-streamed", rows=ONE_ROW),
        case("openai", "responses", rows=ONE_ROW, is_heavy=True),
        case("openai", "responses-streamed", rows=ONE_ROW, is_heavy=True),
        case("openai-agents", "chat", rows=ONE_ROW, is_heavy=True),
        case("openai-agents", "chat-streamed", rows=ONE_ROW, is_heavy=True),
        case("openai-agents", "responses", rows=ONE_ROW, is_heavy=True),
        case("openai-agents", "responses-streamed", rows=ONE_ROW),
        case("opencode", rows=[("title", None), *RESPELLED], is_heavy=True),
        case("pi", "chat", rows=RESPELLED),
        case("pi", "messages", rows=ONE_ROW, is_heavy=True),
        case("pi", "responses", rows=RESPELLED, is_heavy=True),
        case("qwen", rows=RESPELLED, is_heavy=True),
        case(
            "smolagents",
            "calls",
            rows=[("main", None), *[("continuation", "tool_calls_changed")] * 2],
            is_heavy=True,
        ),
        case(
            "smolagents",
            "code",
            rows=[("main", None), *[("continuation", "text_joined")] * 2],
            is_heavy=True,
        ),
    ],
)
def test_a_task(agent: str, mode: str, rows: list[tuple[str, str | None]]) -> None:
    found = play("write_note", agent, mode=mode)
    assert (found["ended"]["status"], found["note"]) == (0, "hello"), found["ended"]
    assert LAST in found["ended"]["output"] or agent == "mini"
    assert_kept_as_told(found)
    assert relations(found) == rows
    assert TASK in str(found["records"][0]["messages"])
    assert set(found["others"]) <= PROBES.get(agent, set())
