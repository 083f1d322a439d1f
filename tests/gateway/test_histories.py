"""Tests of records that share messages, tools and token ids."""

from __future__ import annotations

import copy
import gc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openenv_async.gateway.calls import Answer, CallRecord, SampledTokens, ToolCall
from openenv_async.gateway.histories import Histories, Shared

TOOLS = [{"type": "function", "function": {"name": "run", "parameters": {"strict": True}}}]


def message(content: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": content}


def test_a_history_that_goes_on_holds_each_message_once() -> None:
    histories = Histories()
    first = [message("system"), message("one")]
    second = [*copy.deepcopy(first), message("answer", "assistant"), message("two")]
    before, after = histories.read(first), histories.read(second)
    assert before.messages == first
    assert after.messages == second
    assert after.parent is not None
    assert after.parent.parent is before
    assert after.messages[0] is before.messages[0]
    assert histories.read(copy.deepcopy(second)) is after
    assert histories.read(copy.deepcopy(first)) is before


def test_histories_that_part_share_what_comes_after_as_well() -> None:
    shared = Shared()
    histories, other = Histories(shared), Histories(shared)
    one = histories.read([message("system"), message("ghost"), message("a long text")])
    two = histories.read([message("system"), message("a long text")])
    three = other.read([message("a long text")])
    assert one.messages[2] is two.messages[1] is three.messages[0]
    assert len({one.digest, two.digest, three.digest}) == 3


def test_what_python_takes_for_equal_and_json_does_not_are_two() -> None:
    histories = Histories()
    values = [1, True, 1.0, 0, False, -0.0, "1", None]
    read = [histories.read([message("system"), message([each])]) for each in values]
    assert len({id(each) for each in read}) == len(values)
    assert len({each.digest for each in read}) == len(values)
    assert [repr(each.messages[1]["content"][0]) for each in read] == list(map(repr, values))


def test_the_digest_is_of_the_content_and_the_record_of_what_was_sent() -> None:
    histories = Histories()
    plain = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    turned = {"content": [{"text": "a", "type": "text"}], "role": "user"}
    marked = copy.deepcopy(plain)
    marked["content"][0]["cache_control"] = {"type": "ephemeral"}  # type: ignore[index]
    digests = {histories.read([each]).digest for each in (plain, turned, marked)}
    assert len(digests) == 1
    assert histories.read([marked]).messages == [marked]
    assert histories.read([plain]).messages == [plain]


def test_messages_leave_with_the_last_session_that_has_them() -> None:
    shared = Shared()
    one, two = Histories(shared), Histories(shared)
    gc.disable()  # what is left is freed by counts of references alone
    try:
        history = one.read([message("both"), message("own")])
        two.read([message("both")])
        held = len(shared)
        one.clear()
        del one, history
        assert len(shared) == held - 1
        two.clear()
        del two
        assert len(shared) == 0
    finally:
        gc.enable()


def record(number: int, messages: list[dict[str, Any]], tokens: SampledTokens) -> CallRecord:
    calls = [ToolCall(id="c", name="run", arguments='{"x" :1}')] if number % 2 else []
    answer = Answer(text="text", tool_calls=calls, tokens=tokens, prompt_tokens=3)
    return CallRecord(
        session="s",
        number=number,
        dialect="chat",
        messages=messages,
        tools=TOOLS if number % 3 else [],
        sampling={"temperature": 1.0, "seed": 10**30, "stop": ["x"]},
        thread={"thread-id": "t"},
        answer=answer,
        deliveries=["broken", "whole"],
    )


IDS = st.lists(st.integers(0, 3) | st.integers(0, 200_000), max_size=6)
CONTENT = st.sampled_from(["a", "b", "c"]) | st.sampled_from([["a"], [1], [True], [1.5], None])


@given(
    turns=st.lists(
        st.tuples(
            st.integers(0, 5),  # the call that it goes on from
            st.integers(0, 3),  # how many of its last messages are left out
            st.lists(CONTENT, max_size=3),
            st.integers(0, 3),  # how many of its last ids are left out
            IDS,
            st.none() | IDS,
        ),
        min_size=1,
        max_size=8,
    ),
    told=st.sampled_from(["all", "no prompt", "nothing"]),
)
@settings(max_examples=150, deadline=None)
def test_what_is_unpacked_is_what_was_packed(turns: list[Any], told: str) -> None:
    histories = Histories()
    records: list[CallRecord] = []
    packed = []
    for number, (base, less, contents, fewer_ids, ids, completion) in enumerate(turns):
        messages: list[dict[str, Any]] = [message("system")]
        prompt: list[int] = []
        if records:
            earlier = records[base % len(records)]
            messages = copy.deepcopy(earlier.messages)
            messages = messages[: max(1, len(messages) - less)]
            assert earlier.answer is not None
            tokens = earlier.answer.tokens
            prompt = [*(tokens.prompt_ids or []), *(tokens.completion_ids or [])]
            prompt = prompt[: max(0, len(prompt) - fewer_ids)]
        messages += [message(each) for each in contents]
        tokens = SampledTokens(versions=[(0, "v1"), (2, 7)])
        if told != "nothing" and completion is not None:
            tokens.completion_ids = completion
            tokens.logprobs = [-0.1 * each for each in completion]
        if told == "all":
            tokens.prompt_ids = prompt + ids
        records.append(record(number, messages, tokens))
        packed.append(histories.pack(records[-1]))
    for whole, small in zip(records, packed, strict=True):
        assert histories.unpack(small) == whole
    histories.clear()
    for whole, small in zip(records, packed, strict=True):
        assert histories.unpack(small) == whole


def test_a_prompt_that_goes_on_is_held_as_what_is_new() -> None:
    histories = Histories()
    prompt, messages = list(range(1000, 3000)), [message("system")]
    sizes = []
    for number in range(5):
        tokens = SampledTokens(prompt_ids=prompt, completion_ids=[7, 8], logprobs=[-1.0, -2.0])
        packed = histories.pack(record(number, messages, tokens))
        assert packed.prompt is not None
        sizes.append(len(packed.prompt))
        prompt = [*prompt, 7, 8, number]
        messages = [*messages, message("text", "assistant"), message(str(number))]
    assert sizes[0] > 5000
    assert max(sizes[1:]) < 10


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 65535, 65536, 65537])
def test_prompts_of_any_length_go_on(count: int) -> None:
    histories = Histories()
    ids, messages = [5] * count, [message("system")]
    records, packed = [], []
    for number in range(3):
        tokens = SampledTokens(prompt_ids=ids, completion_ids=[7], logprobs=[-1.0])
        records.append(record(number, messages, tokens))
        packed.append(histories.pack(records[-1]))
        ids, messages = [*ids, 7, 300], [*messages, message(str(number))]
    assert [histories.unpack(each) for each in packed] == records
    assert packed[2].prompt is not None
    assert len(packed[2].prompt) < 10


def test_a_long_conversation_is_put_together_from_few_calls() -> None:
    histories = Histories()
    ids, messages = [1, 2, 3], [message("system")]
    records, packed = [], []
    for number in range(200):
        tokens = SampledTokens(prompt_ids=ids, completion_ids=[7, 8], logprobs=[-1.0, -1.0])
        records.append(record(number, messages, tokens))
        packed.append(histories.pack(records[-1]))
        ids, messages = [*ids, 7, 8, 9], [*messages, message(str(number))]
    assert [histories.unpack(each) for each in packed] == records
    assert max(each.depth for each in packed) == 64
