"""Answers of servers, read: what each tells of what was sampled, and nothing more."""

from __future__ import annotations

import itertools
import json
import random
import time
from typing import Any

import msgspec
import pytest

from openenv_async.responders.completions import (
    CompletionStream,
    Impossible,
    Truncated,
    read_completion,
)


def answered(choice: dict[str, Any], **more: Any) -> Any:
    base: dict[str, Any] = {"message": {"role": "assistant", "content": "hi"}}
    return read_completion(json.dumps({"choices": [base | choice], **more}).encode(), "asked")


def read_stream(stream: CompletionStream, events: list[bytes]) -> Any:
    for event in events:
        stream.feed(event)
    return stream.reply("asked")


def tokens(*pairs: tuple[str, float | None]) -> dict[str, Any]:
    return {
        "content": [{"token": token, "logprob": log, "top_logprobs": []} for token, log in pairs]
    }


def meta(*triples: tuple[float | None, int, str | None]) -> dict[str, Any]:
    return {"output_token_logprobs": triples, "finish_reason": {"type": "stop"}, "e2e_latency": 1}


@pytest.mark.parametrize(
    ("choice", "more", "ids", "logprobs", "prompt"),
    [
        ({}, {}, None, None, None),
        ({"logprobs": None}, {}, None, None, None),
        ({"logprobs": {"content": None}}, {}, None, None, None),
        ({"logprobs": tokens(("h", -0.5), ("i", -1.5))}, {}, None, [-0.5, -1.5], None),
        (
            {"logprobs": tokens(("token_id:7", -0.5), ("token_id:9", -1.0))},
            {},
            [7, 9],
            [-0.5, -1.0],
            None,
        ),
        ({"logprobs": tokens(("token_id:7", -0.5), ("h", -1.0))}, {}, None, [-0.5, -1.0], None),
        ({"token_ids": [7, 9]}, {"prompt_token_ids": [1, 2]}, [7, 9], None, [1, 2]),
        ({"token_ids": []}, {}, [], None, None),
        (
            {"token_ids": [7, 9], "logprobs": tokens(("a", -1.0), ("b", -2.0))},
            {},
            [7, 9],
            [-1.0, -2.0],
            None,
        ),
        # one log probability for two ids: it is of something else
        ({"token_ids": [7, 9], "logprobs": tokens(("a", -1.0))}, {}, [7, 9], None, None),
        ({"token_ids": [7], "logprobs": tokens(("a", None))}, {}, [7], None, None),
        (
            {"meta_info": meta((-0.1, 4, "h"), (-0.2, 5, None)), "prompt_token_ids": [3]},
            {},
            [4, 5],
            [-0.1, -0.2],
            [3],
        ),
        ({"meta_info": meta((None, 4, "h"))}, {}, [4], None, None),
        ({"meta_info": meta((-0.1, 4, "h")), "token_ids": [5]}, {}, [5], None, None),
        ({"meta_info": {"weight_version": "w"}}, {}, None, None, None),
    ],
)
def test_what_was_sampled(
    choice: dict[str, Any], more: dict[str, Any], ids: Any, logprobs: Any, prompt: Any
) -> None:
    reply = answered(choice, **more)
    assert (reply.completion_ids, reply.logprobs, reply.prompt_ids) == (ids, logprobs, prompt)


def test_the_version_of_the_weights() -> None:
    assert answered({}).weight_version is None
    assert answered({}, metadata={"weight_version": "a"}).weight_version == "a"
    both = answered({"meta_info": {"weight_version": 3}}, metadata={"weight_version": "a"})
    assert both.weight_version == 3


def test_the_message_may_be_blocks_tools_or_reasoning() -> None:
    blocks = [
        {"type": "text", "text": "a"},
        {"type": "image", "n": 1},
        {"type": "text", "text": "b"},
    ]
    reply = answered(
        {"message": {"content": blocks, "reasoning_content": "hm"}}, model="told", id="x"
    )
    assert (reply.text, reply.content, reply.model) == ("ab", blocks, "told")
    assert reply.extra == {"id": "x", "reasoning": "hm"}
    assert reply.message == {"role": "assistant", "content": blocks}
    call = {"function": {"name": "f", "arguments": {"a": 1}}}  # no id, and the object itself
    reply = answered({"message": {"content": "", "tool_calls": [call], "refusal": "no"}})
    made = {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    assert reply.tool_calls == [made]
    assert reply.extra == {"refusal": "no"}
    assert (reply.model, reply.usage, reply.finish_reason) == ("asked", None, "stop")


@pytest.mark.parametrize(
    ("data", "error", "why"),
    [
        (b"", Truncated, "empty"),
        (b'{"choices": [', Truncated, "truncated"),
        (b"<html>", ValueError, "malformed"),
        (b"[]", ValueError, "Expected `object`"),
        (b'{"choices": []}', ValueError, "no choices"),
        (b'{"choices": [{}]}', ValueError, "no message"),
        (b'{"choices": [{"message": {"content": 3}}]}', ValueError, "Expected `str"),
        (b'{"choices": [{"message": {}, "token_ids": ["a"]}]}', ValueError, "Expected `int`"),
    ],
)
def test_answers_that_are_none(data: bytes, error: type, why: str) -> None:
    with pytest.raises(error, match=why) as told:
        read_completion(data, "m")
    assert type(told.value) is error


@pytest.mark.parametrize(
    ("choice", "more", "why"),
    [
        ({"token_ids": [4, -5]}, {}, "sampled ids have -5"),
        ({"token_ids": [4, 2**31]}, {}, "sampled ids have 2147483648"),
        ({"prompt_token_ids": [-1]}, {}, "prompt's ids have -1"),
        ({"logprobs": {"content": [{"logprob": 0.01}]}}, {}, r"probability 0\.01"),
        ({"index": 1}, {}, "more choices than the one"),
        ({}, {"usage": {"prompt_tokens": -1}}, "counts -1 prompt tokens"),
        (
            {},
            {"usage": {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}},
            "4 cached tokens among the 3",
        ),
    ],
)
def test_what_cannot_have_been_sampled_is_no_answer(
    choice: dict[str, Any], more: dict[str, Any], why: str
) -> None:
    with pytest.raises(Impossible, match=why):
        answered(choice, **more)
    stream = CompletionStream()
    begun = {"choices": [{"delta": {"content": "a"}}]}
    last = {"choices": [{"delta": {}, "finish_reason": "stop", **choice}], **more}
    events = [b"data: " + json.dumps(event).encode() + b"\n\n" for event in (begun, last)]
    with pytest.raises(Impossible, match=why):
        read_stream(stream, events)


def test_rounding_may_take_a_log_probability_above_zero() -> None:
    assert answered({"logprobs": {"content": [{"logprob": 1e-6}]}}).logprobs == [1e-6]


def test_tokens_that_nobody_counted_are_no_count() -> None:
    assert answered({}, usage={"prompt_tokens": None, "completion_tokens": None}).usage is None


def test_a_stream_without_a_chunk_of_a_reply_is_cut() -> None:
    stream = CompletionStream()
    stream.feed(b'data: {"usage": {"prompt_tokens": 1}}\n\ndata: [DONE]\n\n')
    with pytest.raises(Truncated):
        stream.reply("m")
    with pytest.raises(ValueError, match="no choices"):
        CompletionStream().feed(b'data: {"a": 1}\n\n')


def test_a_long_stream_costs_each_token_once() -> None:
    """Copied at each chunk, half a million tokens would take minutes."""
    stream = CompletionStream()
    made = {"delta": {"content": "a"}, "token_ids": [7] * 50, "logprobs": tokens(("x", -1.0))}
    chunk = b"data: " + json.dumps({"choices": [made]}).encode() + b"\n\n"
    begun = time.process_time()
    for _ in range(10_000):
        stream.feed(chunk)
    stream.feed(b"data: [DONE]\n\n")
    assert len(stream.reply("m").completion_ids or ()) == 500_000
    assert time.process_time() - begun < 10


def test_a_stream_may_come_in_any_pieces() -> None:
    events = [
        {
            "id": "s",
            "model": "told",
            "prompt_token_ids": [1],
            "choices": [{"delta": {"role": "assistant", "content": ""}}],
        },
        {"choices": [{"delta": {"reasoning_content": "h"}, "token_ids": [2]}]},
        {
            "choices": [
                {"delta": {"content": "ü"}, "token_ids": [3], "logprobs": tokens(("x", -1.0))}
            ]
        },
        {
            "choices": [
                {
                    "delta": {"content": "b"},
                    "token_ids": [4],
                    "logprobs": tokens(("y", -2.0), ("z", -3.0)),
                }
            ]
        },
        {"choices": [{"delta": {}, "finish_reason": "length"}]},
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 3}},
    ]
    data = b": ping\n\n" + b"".join(
        b"data: " + json.dumps(each).encode() + b"\n\n" for each in events
    )
    for size in (1, 7, len(data)):
        stream = CompletionStream()
        for at in range(0, len(data), size):
            stream.feed(data[at : at + size])
        reply = stream.reply("asked")
        assert (reply.text, reply.finish_reason, reply.model) == ("üb", "length", "told")
        assert (reply.completion_ids, reply.logprobs) == ([2, 3, 4], [-1.0, -2.0, -3.0])
        assert (reply.prompt_ids, reply.extra) == ([1], {"id": "s", "reasoning": "h"})
        assert reply.usage is not None


def test_a_stream_that_stops_is_truncated() -> None:
    stream = CompletionStream()
    stream.feed(b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n')
    assert not stream.complete
    with pytest.raises(Truncated, match="before the end"):
        stream.reply("m")
    stream.feed(b"data: [DONE]\n\n")
    assert stream.reply("m").text == "a"


@pytest.mark.parametrize("seed", range(30))
def test_chunks_of_text_alone_are_taken_as_others_are(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most chunks have nothing but the next characters: there are short ways for them."""
    draw = random.Random(seed)
    told = draw.random() < 0.7
    events = [chunk(draw, told) for _ in range(draw.randrange(1, 12))]
    plain = chunk(draw, told) | {"choices": [{"delta": {"content": "p"}}]}
    events[seed % len(events) : 0] = [plain] * draw.choice([0, 0, 12])
    events.append({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {}})
    data = b"".join(b"data: " + msgspec.json.encode(each) + b"\n\n" for each in events)
    cuts = sorted(draw.choices(range(len(data)), k=3))
    parts = [data[a:b] for a, b in itertools.pairwise([0, *cuts, len(data)])]
    found = []
    for without in (None, "_take_run", "_take_text"):
        if without is not None:
            monkeypatch.setattr(CompletionStream, without, lambda *given: False)
        stream = CompletionStream()
        deltas = [stream.feed(part) for part in parts]
        found.append((deltas, stream.reply("m"), stream.sampled))
    assert found[0] == found[1] == found[2]


def test_chunks_that_come_at_once_are_each_whole() -> None:
    """Events are decoded together where many come at once: each has to be JSON by itself."""
    whole = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
    ending = (
        b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n' + b"data: [DONE]\n\n"
    )
    stream = CompletionStream()
    stream.feed(9 * whole + ending)
    assert stream.reply("m").text == 9 * "a"
    cut = b'data: {"choices": [{"delta": {"content": "a"}}]\n\ndata: "id": "x"}\n\n'
    two = b'data: {"choices": [{"delta": {"content": "a"}}]}, {"choices": []}\n\n'
    for odd in (cut, two):
        with pytest.raises(ValueError, match=r"JSON|trailing"):
            CompletionStream().feed(3 * whole + odd + 6 * whole + ending)


def chunk(draw: random.Random, told: bool) -> dict[str, Any]:
    """A chunk of a stream: mostly the next characters, with or without what tells its tokens."""
    delta: dict[str, Any] = {"content": draw.choice(["a", "bc", "", None])}
    if draw.random() < 0.2:
        delta["reasoning_content"] = draw.choice(["r", ""])
    if draw.random() < 0.2:
        call = {"index": 0, "function": {"arguments": "1"}}
        delta["tool_calls"] = draw.choice([[call], [], None])
    choice: dict[str, Any] = {"index": 0, "delta": delta}
    if told:
        choice["token_ids"] = [draw.randrange(9)]
        kind = draw.choice(["content", "token_logprobs"])
        value = -draw.random()
        choice["logprobs"] = {
            kind: [{"token": "t", "logprob": value}] if kind == "content" else [value]
        }
    event: dict[str, Any] = {"id": "c", "choices": [choice]}
    if draw.random() < 0.1:
        event["prompt_token_ids"] = [1, 2]
    if draw.random() < 0.1:
        event["usage"] = {"prompt_tokens": 1, "completion_tokens": 2}
    if draw.random() < 0.1:
        event["metadata"] = {"weight_version": "v"}
    return event


@pytest.mark.parametrize("numbers", [(1, 2), (7, 3), (10**12, 0), (-1, -2)])
def test_tool_calls_are_counted_as_they_begin(numbers: tuple[int, int]) -> None:
    stream = CompletionStream()
    first, second = numbers
    parts = [(first, "f", "{"), (first, None, "}"), (second, "g", "{}")]
    deltas = []
    for index, name, arguments in parts:
        call = {"index": index, "function": {"name": name, "arguments": arguments}}
        if name is not None:
            call["id"] = f"of-{name}"
        event = {"choices": [{"delta": {"tool_calls": [call]}}]}
        deltas += stream.feed(f"data: {json.dumps(event)}\n\n".encode())
    stream.feed(b"data: [DONE]\n\n")
    told = [(call.index, call.id, call.arguments) for each in deltas for call in each.calls]
    assert told == [(0, "of-f", "{"), (0, "", "}"), (1, "of-g", "{}")]
    reply = stream.reply("m")
    assert [each["function"] for each in reply.tool_calls] == [
        {"name": "f", "arguments": "{}"},
        {"name": "g", "arguments": "{}"},
    ]
