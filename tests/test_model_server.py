"""The scripted model server gives what its script says, and writes down what it gave."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import aiohttp
import pytest

from tests.model_server import FAULTS, ModelServer, ModelServerProcess, called, decoded

MESSAGES = [{"role": "user", "content": "hi"}]


async def ask(url: str, **more: Any) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as http:
        body = {"model": "m", "messages": MESSAGES, **more}
        async with http.post(f"{url}/chat/completions", json=body) as answer:
            return answer.status, await answer.json()


async def outcome(url: str, **more: Any) -> str:
    try:
        status, said = await ask(url, **more)
    except aiohttp.ClientPayloadError:
        return "cut"
    return str(status) if status != 200 else "schema" if "choices" not in said else "answer"


async def test_the_same_requests_meet_the_same_faults_in_any_order() -> None:
    faults = dict.fromkeys(("cut", "busy", "broken", "schema", "nonsense"), 0.1)
    met = []
    for order in (range(40), reversed(range(40))):
        async with ModelServer(faults=faults, seed=3) as server:
            met.append({seed: await outcome(server.url, seed=seed) for seed in order})
            given = {call.seed: call.given for call in server.calls}
        names = {"busy": "429", "broken": "500", "nonsense": "answer"}
        assert met[-1] == {seed: names.get(name, name) for seed, name in given.items()}
        assert set(server.counts) == {*faults, "answer"}
    assert met[0] == met[1]


async def test_tokens_are_told_as_each_server_does() -> None:
    wanted = {
        "logprobs": True,
        "return_token_ids": True,
        "return_prompt_token_ids": True,
        "return_meta_info": True,
    }
    said = {}
    for shape in ("openai", "vllm", "sglang", "bare"):
        async with ModelServer("grüß", shape=shape, weight_version="7") as server:
            said[shape] = (await ask(server.url, **wanted))[1]
            [call] = server.calls
            assert call.completion_ids is not None
            assert decoded(call.completion_ids) == "grüß"
    choice = said["vllm"]["choices"][0]
    assert said["vllm"]["prompt_token_ids"]
    assert len(choice["token_ids"]) == len(choice["logprobs"]["content"]) == 6
    choice = said["sglang"]["choices"][0]
    assert choice["meta_info"]["weight_version"] == "7"
    assert len(choice["meta_info"]["output_token_logprobs"]) == 6
    assert choice["prompt_token_ids"]
    assert set(said["openai"]["choices"][0]) == {"index", "message", "finish_reason", "logprobs"}
    assert set(said["bare"]["choices"][0]) == {"index", "message", "finish_reason"}


async def test_a_process_of_its_own_tells_what_it_gave() -> None:
    async with ModelServerProcess("--fault", "busy=0.5", "--seed", "1") as server:
        met = await asyncio.gather(*(ask(server.url, seed=seed) for seed in range(20)))
        calls = await server.calls()
        statuses = Counter("busy" if status == 429 else "answer" for status, _ in met)
        assert await server.counts() == statuses == Counter(call.given for call in calls)
        assert len(statuses) == 2


def test_a_script_that_makes_no_sense_is_refused() -> None:
    for options, why in (
        ({"faults": {"gone": 0.1}}, "there is no fault 'gone'; known: nonsense"),
        ({"faults": dict.fromkeys(FAULTS, 0.2), "answers": {"refused": "x"}}, "at most 1"),
        ({"faults": {"refused": 0.1}}, "which action does the environment refuse"),
        ({"shape": "round"}, "must be one of openai, vllm, sglang, bare"),
    ):
        with pytest.raises(ValueError, match=why):
            ModelServer(**options)


async def test_a_tool_is_called() -> None:
    async with ModelServer(lambda messages, body: called("act", number=3)) as server:
        _, said = await ask(server.url)
    [call] = said["choices"][0]["message"]["tool_calls"]
    assert call["function"] == {"name": "act", "arguments": '{"number": 3}'}
    assert said["choices"][0]["finish_reason"] == "tool_calls"
    assert call["id"]
