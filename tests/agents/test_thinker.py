"""Agents give back what a model thought, said and called at once, and arguments that are cut off.

Their answers went out in their own dialect, so that this shows both ways of each dialect.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from openenv_async.gateway.calls import CallRecord
from tests.agents.alone import run_alone
from tests.agents.clients import program
from tests.agents.thinker import CODE, CUT

HEAVY = pytest.mark.heavy


def case(agent: str, mode: str, *, is_heavy: bool = True, **gives: bool) -> Any:
    marks = [HEAVY] if is_heavy else []
    return pytest.param(agent, mode, gives, marks=marks, id=f"{agent} {mode}")


@pytest.mark.parametrize(
    ("agent", "mode", "gives"),
    [
        case("claude", "messages", thoughts=True, cut=True),
        case("codex", "responses", thoughts=True, cut=True),
        case("openai-agents", "chat-streamed", thoughts=False, cut=True),
        case("openai-agents", "responses-streamed", thoughts=True, cut=True, is_heavy=False),
        case("opencode", "chat", thoughts=True, cut=False),
        case("pi", "chat", thoughts=True, cut=False),
        case("pi", "messages", thoughts=True, cut=False),
        case("pi", "responses", thoughts=True, cut=False),
    ],
)
def test_an_answer_comes_back_as_it_was_sampled(
    agent: str, mode: str, gives: dict[str, bool]
) -> None:
    found = run_alone(
        "tests.agents.thinker:think", agent=agent, program=program(agent), mode=mode, seconds=120
    )
    assert found["status"] == 0, found["output"]
    records = [record for record in found["records"] if record["tools"]]
    assert [record["deliveries"] for record in records] == [["whole"]] * len(records)
    samples = [answered(record) for record in records]
    history = [m for m in records[-1]["messages"] if m["role"] == "assistant"]
    assert len(history) == len(records) - 1 == 3
    for at, (given, sampled) in enumerate(zip(history, samples, strict=False)):
        assert (given["content"] or None) == sampled["content"]
        thoughts = sampled["reasoning_content"] if gives["thoughts"] else None
        assert given.get("reasoning_content") == thoughts
        if at == 1 and not gives["cut"]:
            assert given["tool_calls"] != sampled["tool_calls"]
        else:
            assert [as_words(call) for call in given["tool_calls"]] == [
                as_words(call) for call in sampled["tool_calls"]
            ]
    assert samples[1]["tool_calls"][0]["function"]["arguments"] == CUT


@HEAVY
def test_a_custom_tool_of_a_namespace_has_its_input_without_json() -> None:
    """With a name of a model that it knows, codex offers one that runs code."""
    found = run_alone(
        "tests.agents.thinker:write_code", program=program("codex"), model="gpt-6-sol", seconds=120
    )
    assert (found["status"], found["note"]) == (0, "héllo"), found["output"]
    first, last = found["records"]
    [tool] = [each for each in first["tools"] if each["function"]["name"] == "functions__exec"]
    assert "grammar" in tool["function"]["parameters"]["properties"]["input"]["description"]
    assert "tools[].format" in first["left_out"]
    [turn] = [each for each in last["messages"] if each["role"] == "assistant"]
    assert turn == answered(first)
    assert msgspec.json.decode(turn["tool_calls"][0]["function"]["arguments"]) == {"input": CODE}


def answered(record: dict[str, Any]) -> dict[str, Any]:
    """Return the message of a record's answer."""
    answer = msgspec.convert(record, CallRecord).answer
    assert answer is not None
    return answer.message


def as_words(call: dict[str, Any]) -> Any:
    """Return a call but for the blanks of its arguments, which some agents write anew."""
    function = call["function"]
    return call["id"], function["name"], function["arguments"].replace(" ", "")
