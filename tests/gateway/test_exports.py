"""A session's calls in the forms of others."""

from __future__ import annotations

import json
import random
from typing import Any

import msgspec
import pytest

from openenv_async.errors import OperationUnsupported
from openenv_async.gateway.calls import CallRecord
from openenv_async.gateway.exports import model_calls, raw_calls, training_trace, trl_columns
from openenv_async.gateway.rows import training_rows
from openenv_async.rollouts.record import Trajectory, Transition, decode, encode
from tests.gateway.recorded import Recorder, answer_of, asked, decoded, says, tool, user
from tests.gateway.test_graph import START, scrambled, turn


def played(level: Any = "tokens") -> Recorder:
    recorder = Recorder(level)
    history = turn(recorder, START, 0)
    recorder.call([*history, user("A title?")], answer_of("Parser"), relation="title")
    recorder.call(history, answer_of("done"))
    return recorder


# -- upstream's trace -----------------------------------------------------------------------------


def test_a_trace_has_a_turn_for_each_call_of_the_agent() -> None:
    recorder = played()
    trace = training_trace(recorder.records)
    assert trace["schema_version"] == 1
    assert [turn["node_id"] for turn in trace["turns"]] == ["s-0", "s-2"]
    last = trace["turns"][1]
    assert decoded(last["completion_token_ids"]) == "done|"
    prompt = len(last["prompt_token_ids"])
    assert last["loss_mask"] == [0] * prompt + [1] * 5
    assert last["per_token_logps"] == [-3.0] * 5
    assert last["response"]["choices"][0]["message"] == says("done")
    assert last["metadata"]["relation"] == "main"
    every = training_trace(recorder.records, relations=("main", "title"))
    assert [turn["node_id"] for turn in every["turns"]] == ["s-0", "s-1", "s-2"]


@pytest.mark.parametrize("level", ["logprobs", "text"])
def test_a_trace_without_ids_is_refused(level: str) -> None:
    with pytest.raises(OperationUnsupported, match=f"call 0 of session s is of level '{level}'"):
        training_trace(played(level).records)


# -- TRL ------------------------------------------------------------------------------------------


def test_trl_has_a_row_for_each_prompt_and_none_for_a_failure() -> None:
    records = played().records
    broken = Recorder()
    turn(broken, START, 0)
    columns = trl_columns(
        [training_rows(records, reward=0.0), training_rows(broken.records), []], filler=9
    )
    assert columns["env_reward"] == [0.0, None, None]
    assert columns["env_failed"] == [False, True, True]
    assert columns["env_rows"] == [2, 1, 0]
    assert sum(columns["env_mask"][0]) == len('<bash {"command": "step 0"}>|done|')
    assert decoded(columns["completion_ids"][0]).endswith("done|")
    assert set(columns["env_mask"][1]) == {0}
    assert (columns["prompt_ids"][2], columns["completion_ids"][2]) == ([9], [9])
    for ids, logprobs, mask in zip(
        columns["completion_ids"], columns["logprobs"], columns["env_mask"], strict=True
    ):
        assert len(ids) == len(logprobs) == len(mask)


def test_trl_takes_the_row_with_a_reward_and_no_infinite_one() -> None:
    recorder = Recorder()
    recorder.call(START, asked(id="c0", arguments='{"command":  "ls"}'))
    back = says("", calls=[("c0", "bash", '{"command":"ls"}')])
    recorder.call([*START, back, tool("a", "c0")], answer_of("it is done, and this is longer"))
    rows = training_rows(recorder.records, reward=1.0)
    assert len(rows) == 2
    columns = trl_columns([rows])
    assert decoded(columns["completion_ids"][0]) == "it is done, and this is longer|"
    assert columns["env_reward"] == [1.0]
    columns = trl_columns([training_rows(recorder.records, reward=float("inf"))])
    assert columns["env_reward"] == [None]


def test_trl_needs_ids() -> None:
    with pytest.raises(OperationUnsupported, match="level 'text'"):
        trl_columns([training_rows(played("text").records, reward=1.0)])


# -- a run's record -------------------------------------------------------------------------------


def test_calls_of_a_record_have_what_is_new_to_each() -> None:
    recorder = Recorder()
    first = asked(id="c0")
    first.tokens.versions = [(0, 4), (3, 5)]
    first.model = "served"
    history = [*START, recorder.call(START, first), tool("a", "c0")]
    history = [*history, recorder.call(history, asked(id="c1")), tool("b", "c1")]
    recorder.call([*history, user("A title?")], answer_of("T"), relation="title")
    recorder.call(history, None, error=("responder_failed", "the engine is gone"))
    recorder.call(history, answer_of("done"), asked_model="gpt")
    calls = model_calls(recorder.records)
    assert [(call.continues, len(call.messages)) for call in calls] == [
        (False, 2),
        (True, 1),
        (False, 7),
        (False, 6),
        (False, 6),
    ]
    assert calls[1].messages == [tool("a", "c0")]
    assert calls[0].model == "served"
    assert calls[0].weight_version == 4
    assert calls[0].extra["versions"] == [[0, 4], [3, 5]]
    assert calls[2].extra["relation"] == "title"
    assert calls[2].extra["parent"] == 1
    assert calls[3].error == "responder_failed: the engine is gone"
    assert calls[3].reply is None
    assert calls[4].model == "gpt"
    assert calls[4].reply == says("done")
    assert calls[4].logprobs == [-5.0] * 5


@pytest.mark.parametrize("seed", range(20))
def test_prompts_can_be_told_from_a_record(seed: int) -> None:
    records = scrambled(random.Random(seed), "tokens")
    prompt: list[Any] = []
    for record, call in zip(records, model_calls(records), strict=True):
        prompt = [*prompt, *call.messages] if call.continues else list(call.messages)
        assert len(prompt) == len(record.messages)
        assert [each["role"] for each in prompt] == [each["role"] for each in record.messages]
        prompt = [*prompt, *([] if call.reply is None else [call.reply])]


def test_calls_go_into_files_and_back() -> None:
    calls = model_calls(played().records)
    trajectory = Trajectory(0, transitions=[Transition(0, 1, 2, model_calls=calls)])
    back = decode(encode(trajectory))
    [step] = back["transitions"]
    assert [call["extra"]["relation"] for call in step["model_calls"]] == [
        "main",
        "title",
        "main",
    ]


# -- plain JSON -----------------------------------------------------------------------------------


def test_raw_calls_are_lines_that_are_read_again_without_secrets() -> None:
    recorder = Recorder()
    secret = "sk-abcdefghijklmnop0123"
    recorder.call(
        [user(f"use {secret} and opensesame9")],
        answer_of(f"Bearer {secret}", calls=[("c", "bash", '{"api_key": "abcdefghi"}')]),
        thread={"thread-id": "t"},
        error=None,
    )
    recorder.call(START, None, error=("unauthorized", f"the key {secret} is not valid"))
    lines = list(raw_calls(recorder.records, environ={"MY_TOKEN": "opensesame9"}))
    assert all(line.endswith(b"\n") for line in lines)
    assert secret.encode() not in b"".join(lines)
    assert b"opensesame9" not in b"".join(lines)
    assert b"abcdefghi" not in b"".join(lines)
    read = [msgspec.json.decode(line, type=CallRecord) for line in lines]
    assert read[0].thread == {"thread-id": "t"}
    assert read[0].answer is not None
    assert recorder.records[0].answer is not None
    assert read[0].answer.tokens == recorder.records[0].answer.tokens
    assert read[1].error == ("unauthorized", "the key *** is not valid")
    assert json.loads(lines[0])["answer"]["text"] == "Bearer ***"


def test_raw_calls_take_half_of_a_character() -> None:
    recorder = Recorder("text")
    recorder.call([user("\ud83d")], answer_of("ok"))
    [line] = raw_calls(recorder.records, environ={})
    assert b"ud83d" in line
