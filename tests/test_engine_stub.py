"""The scripted engine has its tokenizer's ids, and the fields of the engines it stands for."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from tests.engine_stub import (
    FAULTS,
    EngineStub,
    EngineStubProcess,
    decode,
    encode,
    prompt_ids,
    prompt_text,
    sampled_text,
)
from tests.model_server import called

MESSAGES = [{"role": "user", "content": "hi"}]
IDS = {"logprobs": True, "return_token_ids": True}
META = {"logprobs": True, "return_prompt_token_ids": True, "return_meta_info": True}
TOOLS = [{"type": "function", "function": {"name": "act", "parameters": {}}}]


async def ask(url: str, **more: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http:
        body = {"model": "scripted-1", "messages": MESSAGES, **more}
        async with http.post(f"{url}/chat/completions", json=body) as answer:
            return answer.status, await answer.json()


async def events(url: str, **more: Any) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession() as http:
        body = {"model": "scripted-1", "messages": MESSAGES, "stream": True, **more}
        async with http.post(f"{url}/chat/completions", json=body) as answer:
            lines = (await answer.text()).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def test_a_conversation_grows_by_what_was_sampled() -> None:
    """A prompt begins with the last prompt and the ids that were sampled after it."""
    said = {"role": "assistant", **called("act", number=3), "content": "Grüß Gott, 日本 🎉"}
    tools = {"role": "tool", "tool_call_id": "x", "content": "done"}
    first = prompt_ids(MESSAGES, TOOLS)
    sampled = encode(sampled_text(said) + "<|im_end|>")
    second = prompt_ids([*MESSAGES, said, tools], TOOLS)
    assert second[: len(first) + len(sampled)] == first + sampled
    assert decode(second) == prompt_text([*MESSAGES, said, tools], TOOLS)


@pytest.mark.parametrize("oddly", [False, True])
@pytest.mark.parametrize(
    "answer",
    [
        "It is 17 degrees in Zürich 🎉, \n\n and quiet. ",
        {"content": "I look.", "reasoning_content": "Hm, 日本?"},
        {**called("act", where="über", n=3), "content": "So: "},
        {
            "tool_calls": [
                {"type": "function", "function": {"name": "act", "arguments": '{"a":  "b"}'}},
                {"type": "function", "function": {"name": "see", "arguments": "no json"}},
            ]
        },
    ],
)
async def test_streamed_and_whole_say_the_same(answer: Any, oddly: bool) -> None:
    async with EngineStub(answer, spells_oddly=oddly) as stub:
        _, whole = await ask(stub.url, **IDS)
        chunks = await events(stub.url, **IDS)
        kept, again = stub.calls
    message = whole["choices"][0]["message"]
    wanted: Any = {"content": answer} if isinstance(answer, str) else answer
    assert (message["content"] or "") == (wanted.get("content") or "")
    assert message.get("reasoning_content") == wanted.get("reasoning_content")
    assert [each["function"] for each in message.get("tool_calls", ())] == [
        each["function"] for each in wanted.get("tool_calls", ())
    ]
    assert all(each["id"] for each in message.get("tool_calls", ()))
    ids = whole["choices"][0]["token_ids"]
    assert decode(ids) == sampled_text(wanted) + "<|im_end|>"
    assert (ids == encode(sampled_text(wanted) + "<|im_end|>")) is not oddly
    assert whole["prompt_token_ids"] == kept.prompt_ids == prompt_ids(MESSAGES)
    assert len(whole["choices"][0]["logprobs"]["content"]) == len(ids)
    assert chunks[0]["prompt_token_ids"] == kept.prompt_ids
    parts = [chunk["choices"][0] for chunk in chunks[1:-1]]
    assert decode([each for part in parts for each in part["token_ids"]]) == decode(ids)
    for name in ("content", "reasoning_content"):
        said = "".join(part["delta"].get(name, "") for part in parts)
        assert said == (wanted.get(name) or "")
    arguments = ["" for _ in wanted.get("tool_calls", ())]
    for part in parts:
        for each in part["delta"].get("tool_calls", ()):
            arguments[each["index"]] += each["function"]["arguments"]
    assert arguments == [each["function"]["arguments"] for each in wanted.get("tool_calls", ())]
    assert parts[-1]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert again.reply is not None
    assert chunks[-1]["usage"]["completion_tokens"] == len(again.completion_ids or ())


async def test_an_answer_ends_at_a_stop_sequence_and_at_a_length() -> None:
    async with EngineStub("Thought: go\nObservation: none") as stub:
        _, stopped = await ask(stub.url, stop=["Observation:"], **IDS)
        _, short = await ask(stub.url, max_tokens=2, **IDS)
    choice = stopped["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "Observation:")
    assert choice["message"]["content"] == "Thought: go\n"
    assert decode(choice["token_ids"]).endswith("Observation:")
    assert short["choices"][0]["finish_reason"] == "length"
    assert decode(short["choices"][0]["token_ids"]) == short["choices"][0]["message"]["content"]


async def test_tokens_are_told_as_each_engine_does() -> None:
    said = {}
    for shape in ("vllm", "sglang", "llama.cpp", "openai", "bare"):
        async with EngineStub("grüß", shape=shape, weight_version="7") as stub:
            status, said[shape] = await ask(stub.url, **{**IDS, **META})
            assert status == 200
            status, _ = await ask(stub.url, stream=True, **META) if shape == "sglang" else (0, 0)
            assert status == (400 if shape == "sglang" else 0)
    choice = said["sglang"]["choices"][0]
    assert choice["prompt_token_ids"] == prompt_ids(MESSAGES)
    assert (
        choice["meta_info"]["weight_version"] == "7" == said["sglang"]["metadata"]["weight_version"]
    )
    triples = choice["meta_info"]["output_token_logprobs"]
    assert decode([each[1] for each in triples]) == "grüß<|im_end|>"
    logprobs = said["llama.cpp"]["choices"][0]["logprobs"]["content"]
    assert decode([each["id"] for each in logprobs]) == "grüß<|im_end|>"
    assert set(said["openai"]["choices"][0]) == {"index", "message", "finish_reason", "logprobs"}
    assert set(said["bare"]["choices"][0]) == {"index", "message", "finish_reason"}


async def test_the_same_requests_meet_the_same_faults_in_any_order() -> None:
    async def outcome(url: str, seed: int) -> str:
        try:
            status, said = await ask(url, seed=seed, **IDS)
        except aiohttp.ServerDisconnectedError:
            return "hangup"
        except aiohttp.ClientError:
            return "cut"
        if status != 200:
            return {429: "busy", 500: "broken"}[status]
        if "choices" not in said:
            return "error" if "error" in said else "schema"
        choice = said["choices"][0]
        if choice["finish_reason"] == "abort":
            return "abort"
        if "token_ids" not in choice:
            return "no_ids"
        if len(said["choices"]) > 1:
            return "two_choices"
        logprobs = [each["logprob"] for each in choice["logprobs"]["content"]]
        if len(choice["token_ids"]) != len(logprobs):
            return "few_logprobs"
        if logprobs[0] > 0:
            return "odd_logprobs"
        if choice["token_ids"][-1] < 0:
            return "odd_ids"
        if said["usage"]["completion_tokens"] < 0:
            return "odd_usage"
        if said["model"] != "scripted-1":
            return "other_model"
        return "answer" if decode(choice["token_ids"]).startswith("hello") else "wrong_ids"

    rates = {name: 0.06 for name in FAULTS if name != "slow"}
    met = []
    for order in (range(90), reversed(range(90))):
        async with EngineStub("hello to all of you", faults=rates, seed=3) as stub:
            met.append({seed: await outcome(stub.url, seed) for seed in order})
            assert {call.seed: call.given for call in stub.calls} == met[-1]
    assert met[0] == met[1]
    assert set(met[0].values()) == {*rates, "answer"}


async def test_a_client_that_leaves_is_noted() -> None:
    async with EngineStub("a b c d e f", token_delay=10.0) as stub:
        async with aiohttp.ClientSession() as http:
            body = {"model": "m", "messages": MESSAGES, "stream": True}
            async with http.post(f"{stub.url}/chat/completions", json=body) as answer:
                assert (await answer.content.readany()).startswith(b"data: ")
        async with asyncio.timeout(10):
            await stub.idle.wait()
        assert (stub.left, stub.most_at_once) == (1, 1)


async def test_a_process_of_its_own_tells_what_it_gave() -> None:
    async with EngineStubProcess("--fault", "busy=0.5", "--seed", "1") as stub:
        statuses = [(await ask(stub.url, seed=seed))[0] for seed in range(12)]
        calls = await stub.calls()
        assert [429 if call.given == "busy" else 200 for call in calls] == statuses
        assert len(set(statuses)) == 2
        assert await stub.counts() == {"busy": statuses.count(429), "answer": statuses.count(200)}


def test_a_script_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no fault 'gone'"):
        EngineStub(faults={"gone": 0.1})
    with pytest.raises(ValueError, match="must be one of vllm, sglang"):
        EngineStub(shape="round")
