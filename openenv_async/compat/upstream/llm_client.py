"""Upstream's clients of language models, over this runtime's OpenAI-compatible one."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from openenv_async.responders.base import Reply
from openenv_async.responders.openai import OpenAIResponder

__all__ = ["LLMClient", "LLMResponse", "OpenAIClient", "ToolCall", "create_llm_client"]

_NO_ARGUMENTS: Final = {"type": "object", "properties": {}, "required": []}


@dataclass
class ToolCall:
    """A call of a tool that a model asks for."""

    id: str
    name: str
    args: dict[str, Any]


@dataclass
class LLMResponse:
    """A model's message: its text, and the calls of tools that it asks for."""

    content: str
    tool_calls: list[ToolCall] = field(default_factory=list)

    def to_message_dict(self) -> dict[str, Any]:
        """Return the message as OpenAI's API has it."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": json.dumps(call.args)},
                }
                for call in self.tool_calls
            ]
        return message


class LLMClient(ABC):
    """Base of clients of language models.

    Args:
        endpoint: address of the service, such as ``http://localhost``.
        port: its port, where the address has none.
    """

    def __init__(self, endpoint: str, port: int | None) -> None:
        self.endpoint = endpoint
        self.port = port

    @abstractmethod
    async def complete(self, prompt: str, **kwargs: Any) -> str:
        """Return the answer to a prompt."""

    async def complete_with_tools(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], **kwargs: Any
    ) -> LLMResponse:
        """Return the next message of a conversation, with tools as MCP describes them."""
        raise NotImplementedError(f"{type(self).__name__} does not support tool calling")

    @property
    def base_url(self) -> str:
        """The address with the port.

        Raises:
            ValueError: it is not an address of a service, or it has another port.
        """
        return _with_port(self.endpoint, self.port)


class OpenAIClient(LLMClient):
    """A client of an OpenAI-compatible service: vLLM, Ollama, a hosted one.

    Args:
        endpoint, port: its address; ``/v1`` is added where it has no path.
        model: name of the model.
        api_key: the key; none by default.
        system_prompt: a message before each prompt.
        temperature, max_tokens: of sampling, by default.
        use_max_completion_tokens: whether to send ``max_completion_tokens`` and no temperature, as
            reasoning models of OpenAI's want it.
    """

    def __init__(
        self,
        endpoint: str,
        port: int | None,
        model: str,
        api_key: str | None = None,
        system_prompt: str | None = None,
        temperature: float = 0.0,
        max_tokens: int = 256,
        use_max_completion_tokens: bool = False,
    ) -> None:
        super().__init__(endpoint, port)
        self.model = model
        self.system_prompt = system_prompt
        self.temperature = temperature
        self.max_tokens = max_tokens
        self._reasons = use_max_completion_tokens
        url = self.base_url if urlsplit(self.base_url).path else f"{self.base_url}/v1"
        headers = None if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._url, self._headers = url, headers

    async def complete(self, prompt: str, **kwargs: Any) -> str:
        """Return the answer to a prompt; ``temperature`` and ``max_tokens`` may be given."""
        messages = [{"role": "user", "content": prompt}]
        if self.system_prompt:
            messages.insert(0, {"role": "system", "content": self.system_prompt})
        return (await self._respond(messages, (), kwargs)).text

    async def complete_with_tools(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], **kwargs: Any
    ) -> LLMResponse:
        """Return the next message of a conversation, with tools as MCP describes them."""
        reply = await self._respond(messages, tools, kwargs)
        calls = [
            ToolCall(
                call["id"], call["function"]["name"], json.loads(call["function"]["arguments"])
            )
            for call in reply.tool_calls
        ]
        return LLMResponse(reply.text, calls)

    async def _respond(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        kwargs: Mapping[str, Any],
    ) -> Reply:
        most = kwargs.get("max_tokens", self.max_tokens)
        responder = OpenAIResponder(
            self.model,
            self._url,
            headers=self._headers,
            extra_body={"max_completion_tokens": most} if self._reasons else None,
        )
        try:
            return await responder.respond(
                messages,
                max_tokens=None if self._reasons else most,
                temperature=None if self._reasons else kwargs.get("temperature", self.temperature),
                tools=[_function(tool) for tool in tools],
            )
        finally:
            await responder.aclose()


def create_llm_client(
    provider: str,
    model: str,
    api_key: str,
    *,
    system_prompt: str | None = None,
    temperature: float = 0.0,
    max_tokens: int = 4096,
) -> LLMClient:
    """Return a client of a hosted service.

    Raises:
        ValueError: it is none of those that there are clients of.
    """
    if provider.lower() != "openai":
        raise ValueError(
            f"Unsupported provider: {provider!r}. Supported: ['openai']; for another service with"
            " an OpenAI-compatible address use OpenAIClient(ADDRESS, None, MODEL, api_key=KEY)"
        )
    return OpenAIClient(
        "https://api.openai.com",
        None,
        model,
        api_key,
        system_prompt,
        temperature,
        max_tokens,
        model.startswith(("gpt-5", "o1", "o3", "o4")),
    )


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as MCP describes it, as OpenAI's API does."""
    parameters = tool.get("inputSchema") or tool.get("input_schema") or _NO_ARGUMENTS
    named = {"name": tool["name"], "description": tool.get("description") or ""}
    return {"type": "function", "function": {**named, "parameters": parameters}}


def _with_port(endpoint: str, port: int | None) -> str:
    try:
        parts = urlsplit(endpoint)
        own = parts.port
    except ValueError as exc:
        raise ValueError(f"the endpoint is not an address: {exc}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("the endpoint must be an http:// or https:// address with a host")
    if "@" in parts.netloc:
        raise ValueError("the endpoint must not have a password in it: give api_key")
    if parts.query or parts.fragment:
        raise ValueError("the endpoint must end with its path")
    if own is not None and port not in (None, own):
        raise ValueError(f"the endpoint has port {own}, and port={port} is given: leave one out")
    added = f":{port}" if own is None and port is not None else ""
    return f"{parts.scheme}://{parts.netloc}{added}{parts.path.rstrip('/')}"
