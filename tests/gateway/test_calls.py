"""The terms of the gateway's calls."""

from __future__ import annotations

from openenv_async.gateway.calls import Answer, CallRecord, SampledTokens, ToolCall


def test_the_level_is_what_the_engine_told() -> None:
    assert SampledTokens().level == "text"
    assert SampledTokens(completion_ids=[1]).level == "text"
    assert SampledTokens(completion_ids=[1], logprobs=[-0.1]).level == "logprobs"
    assert SampledTokens(prompt_ids=[2], completion_ids=[1], logprobs=[-0.1]).level == "tokens"


def test_the_message_of_an_answer_is_what_the_next_call_repeats() -> None:
    assert Answer(text="hello").message == {"role": "assistant", "content": "hello"}
    assert Answer().message == {"role": "assistant", "content": ""}
    call = ToolCall(id="c1", name="bash", arguments='{"command": ')
    message = Answer(reasoning="hm", tool_calls=[call]).message
    assert message == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "hm",
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "bash", "arguments": '{"command": '},
            }
        ],
    }


def test_ids_of_a_record_stay_the_same() -> None:
    record = CallRecord(session="s7", number=3, dialect="chat", messages=[])
    assert record.call_id == "s7-3"
