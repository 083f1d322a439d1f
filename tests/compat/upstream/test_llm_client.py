"""Upstream's clients of language models, against a scripted model server."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.compat.upstream.llm_client import (
    LLMClient,
    LLMResponse,
    OpenAIClient,
    ToolCall,
    create_llm_client,
)
from tests.model_server import ModelServer, called


class Repeating(LLMClient):
    async def complete(self, prompt: str, **kwargs: Any) -> str:
        return prompt


async def test_a_prompt_is_answered() -> None:
    asked: list[dict[str, Any]] = []

    def answer(messages: Any, body: Any) -> str:
        asked.append(dict(body))
        return "four"

    async with ModelServer(answer) as server:
        client = OpenAIClient(server.url, None, "m", system_prompt="Be brief", max_tokens=9)
        assert await client.complete("2 + 2?", temperature=0.5) == "four"
        reasoning = OpenAIClient(server.url, None, "m", "key", use_max_completion_tokens=True)
        assert await reasoning.complete("2 + 2?") == "four"
    first, second = asked
    assert [message["role"] for message in first["messages"]] == ["system", "user"]
    assert (first["max_tokens"], first["temperature"]) == (9, 0.5)
    assert second["max_completion_tokens"] == 256
    assert not {"temperature", "max_tokens"} & second.keys()


async def test_a_tool_is_called() -> None:
    tool = {"name": "look", "description": "Look around", "inputSchema": {"type": "object"}}
    async with ModelServer(called("look", far=True)) as server:
        client = OpenAIClient(server.url, None, "m")
        response = await client.complete_with_tools([{"role": "user", "content": "?"}], [tool])
    [call] = response.tool_calls
    assert (call.name, call.args) == ("look", {"far": True})


def test_a_response_is_a_message() -> None:
    assert LLMResponse("hi").to_message_dict() == {"role": "assistant", "content": "hi"}
    message = LLMResponse("", [ToolCall("1", "look", {"far": True})]).to_message_dict()
    assert message["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"far": true}'}


async def test_a_client_of_the_callers_own() -> None:
    client = Repeating("http://localhost", 8000)
    assert await client.complete("a") == "a"
    assert client.base_url == "http://localhost:8000"
    with pytest.raises(NotImplementedError, match="Repeating does not support tool calling"):
        await client.complete_with_tools([], [])


@pytest.mark.parametrize(
    ("endpoint", "port", "url"),
    [
        ("http://a/", None, "http://a"),
        ("http://a:1/v1/", 1, "http://a:1/v1"),
        ("https://a/p", 2, "https://a:2/p"),
        ("http://[::1]", 3, "http://[::1]:3"),
    ],
)
def test_addresses(endpoint: str, port: int | None, url: str) -> None:
    assert Repeating(endpoint, port).base_url == url


@pytest.mark.parametrize(
    ("endpoint", "port", "said"),
    [
        ("ftp://a", None, "http://"),
        ("http://", None, "with a host"),
        ("http://me:secret@a", None, "give api_key"),
        ("http://a?b=c", None, "end with its path"),
        ("http://a:1", 2, "leave one out"),
        ("http://a:x", None, "not an address"),
    ],
)
def test_wrong_addresses_are_refused(endpoint: str, port: int | None, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        _ = Repeating(endpoint, port).base_url
    assert "secret" not in str(caught.value)


def test_hosted_services() -> None:
    client = create_llm_client("OpenAI", "gpt-5-mini", "key")
    assert isinstance(client, OpenAIClient)
    assert client.base_url == "https://api.openai.com"
    with pytest.raises(ValueError, match=r"Unsupported provider: 'anthropic'.*OpenAI-compatible"):
        create_llm_client("anthropic", "m", "key")
