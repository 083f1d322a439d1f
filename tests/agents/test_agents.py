"""Agents that nobody here wrote do a task through the gateway."""

from __future__ import annotations

from typing import Any

import pytest

from tests.agents.alone import run_alone
from tests.agents.clients import program
from tests.agents.plays import HELP, LAST, TASK
from tests.engine_stub import decode, sampled_text

HEAVY = pytest.mark.heavy
"""Packages of hundreds of megabytes, or what others show already."""

EXTRA = [("continuation", "extra_turn")]
"""The row after the part of a text that opencode had read before the connection broke, if any."""
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
    said, kept = [], []
    for record in found["records"]:
        answer = record["answer"]
        assert record["error"] is None
        assert record["deliveries"] == ["whole"]
        calls = [[call["name"], call["arguments"]] for call in answer["tool_calls"]]
        kept.append({"text": answer["text"], "calls": calls})
        said.append(sampled(kept[-1]))
        assert decode(answer["tokens"]["completion_ids"]) == said[-1]
    told = [{"text": each["text"], "calls": each["calls"]} for each in found["answers"]]
    assert sorted(told, key=str) == sorted(kept, key=str)  # those at the same time in any order
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
    assert sorted(relations(found), key=str) == sorted(rows, key=str)
    assert TASK in str(found["records"][0]["messages"])
    assert set(found["others"]) <= PROBES.get(agent, set())


@pytest.mark.parametrize(
    ("agent", "rows"),
    [
        pytest.param("claude", ONE_ROW, marks=HEAVY, id="claude"),
        pytest.param("codex", ONE_ROW, marks=HEAVY, id="codex"),
        pytest.param(
            "opencode",
            [
                ("main", None),
                *EXTRA,
                ("continuation", "arguments_respelled"),
                ("title", None),
            ],
            marks=HEAVY,
            id="opencode",
        ),
        pytest.param("pi", RESPELLED, id="pi"),
    ],
)
def test_an_answer_that_is_cut_is_not_sampled_again(
    agent: str, rows: list[tuple[str, str | None]]
) -> None:
    found = play("write_note", agent, cut=900)
    assert (found["ended"]["status"], found["note"]) == (0, "hello"), found["ended"]
    seen = sorted(relations(found), key=str)
    unread = [("continuation", "arguments_respelled") if row in EXTRA else row for row in rows]
    assert seen in (sorted(rows, key=str), sorted(unread, key=str))
    [again] = [each for each in found["records"] if each["deliveries"] != ["whole"]]
    assert again["deliveries"] == ["broken", "whole"]
    told = found["answers"]
    assert len(told) == len(found["records"]) + 1
    whole = [each["text"] for each in told if not each["cut"]]
    assert sorted(whole) == sorted(each["answer"]["text"] for each in found["records"])


@HEAVY
def test_an_agent_that_resumes_a_cut_answer_has_another_one() -> None:
    """qwen-code asks to go on behind the part that it read, so its request is another one."""
    found = play("write_note", "qwen", cut=900)
    assert (found["ended"]["status"], found["note"]) == (0, "hello"), found["ended"]
    first, second, *rest = found["records"]
    assert first["deliveries"] == ["broken"]
    assert second["messages"][-1]["role"] == "user"
    assert second["messages"][-2]["content"] in first["answer"]["text"]
    assert len(rest) == 2
    assert [relation for relation, _ in relations(found)] == ["main", *["continuation"] * 3]


@HEAVY
@pytest.mark.parametrize(
    ("agent", "rows"),
    [
        ("claude", [("main", None), ("subagent", None)]),
        ("codex", [("main", None), ("subagent", None)]),
        (
            "opencode",
            [
                ("continuation", "arguments_respelled"),
                ("main", None),
                ("subagent", "arguments_respelled"),
                ("subagent", None),
                ("title", None),
            ],
        ),
        (
            "qwen",
            [
                ("continuation", "arguments_respelled"),
                ("main", None),
                ("subagent", "arguments_respelled"),
                ("subagent", None),
            ],
        ),
    ],
)
def test_a_sub_agent(agent: str, rows: list[tuple[str, str | None]]) -> None:
    found = play("ask_helper", agent)
    assert (found["ended"]["status"], found["note"]) == (0, "hello"), found["ended"]
    assert_kept_as_told(found)
    assert sorted(relations(found), key=str) == sorted(rows, key=str)
    [helper] = [row for row in found["rows"] if row["relation"] == "subagent"][:1]
    asks = found["records"][helper["parent"]]["answer"]
    assert HELP in asks["tool_calls"][0]["arguments"]


@HEAVY
@pytest.mark.parametrize(
    ("agent", "context_tokens"),
    [("claude", 100_000), ("codex", 24_000), ("opencode", 24_000), ("qwen", 72_000)],
)
def test_a_history_that_is_compacted(agent: str, context_tokens: int) -> None:
    found = play("count_far", agent, context_tokens=context_tokens)
    assert found["ended"]["status"] == 0, found["ended"]
    assert_kept_as_told(found)
    rows = found["rows"]
    summaries = [row["spans"][-1]["call"] for row in rows if row["relation"] == "summary"]
    compacted = [
        row["parent"]
        for row in rows
        if row["difference"] is not None and row["difference"]["kind"] == "compacted"
    ]
    assert summaries
    assert compacted == summaries
    others = {row["relation"] for row in rows} - {"summary"}
    assert others == {"main", "continuation"} | ({"title"} if agent == "opencode" else set())


@HEAVY
def test_pi_compacts_when_it_has_ended() -> None:
    found = play("count_far", "pi", context_tokens=20_000, most=6)
    assert found["ended"]["status"] == 0, found["ended"]
    assert_kept_as_told(found)
    kinds = [relation for relation, _ in relations(found)]
    assert kinds == ["main", *["continuation"] * 6, "summary"]
    assert found["records"][-1]["tools"] == []


@HEAVY
@pytest.mark.parametrize("agent", ["claude", "codex", "opencode", "qwen"])
def test_an_environment_is_played_over_mcp(agent: str) -> None:
    found = play("play_game", agent)
    assert found["ended"]["status"] == 0, found["ended"]
    assert found["steps"] == [[0.0, False], [1.0, True]]
    assert_kept_as_told(found)
    [first, *_] = [each for each in found["records"] if each["tools"]]
    names = [tool["function"]["name"] for tool in first["tools"]]
    assert len([name for name in names if name.endswith("step")]) == 1
