"""Any endpoint that speaks OpenAI's chat completions: vLLM, llama.cpp, Ollama, TGI, a provider.

Rules:

- One deadline covers a call with all its attempts.
- Attempts repeat after what passes by itself: no connection, 408, 409, 425, 429 and 5xx. They wait
  a random part of an interval that doubles, so that a thousand sessions do not come back at
  once, and not less than the endpoint asks for.
- The key is read from an environment variable at each call; it is in no log, error or pickle.
- Redirects are refused: they could carry the key elsewhere.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from openenv_async.client.endpoint import Sockets
from openenv_async.endpoints.addresses import is_here
from openenv_async.errors import DeadlineExceeded, ResponderFailed
from openenv_async.responders.base import Reply, Usage

__all__ = ["OpenAIResponder"]

_URL: Final = "https://api.openai.com/v1"
_PASSING: Final = frozenset((408, 409, 425, 429))
_MOST_WAIT: Final = 20.0
_MAX_SIZE: Final = 16 * 1024 * 1024


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None
    model: str | None = None


class _Again(Exception):
    """An attempt failed in a way that passes; not an error yet."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class OpenAIResponder:
    """A model behind an OpenAI-compatible ``/chat/completions``.

    Args:
        model: its name there.
        base_url: such as ``http://127.0.0.1:8080/v1``; by default the variable
            ``OPENAI_BASE_URL``, then OpenAI's own.
        api_key_variable: name of the environment variable that holds the key. Without the
            variable no key is sent.
        timeout: seconds for a reply, all attempts together.
        max_attempts: how often it is tried.
        retry_interval: seconds; the first wait is a random part of it, later ones of its doubles.
        headers: more headers of each request.
        extra_body: more fields of each request, such as ``{"top_p": 0.9}``.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        api_key_variable: str = "OPENAI_API_KEY",
        timeout: float = 60.0,
        max_attempts: int = 5,
        retry_interval: float = 0.5,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        self.base_url = (base_url or os.environ.get("OPENAI_BASE_URL") or _URL).rstrip("/")
        if not model:
            raise ValueError("an OpenAI-compatible endpoint needs the name of a model")
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(
                f"{self.base_url!r} is not a base URL: it begins with http:// or https://"
            )
        if not timeout > 0 or max_attempts < 1:
            raise ValueError("timeout must be positive and max_attempts at least 1")
        self.model = model
        self._api_key_variable = api_key_variable
        self._timeout = timeout
        self._max_attempts = max_attempts
        self._retry_interval = retry_interval
        self._headers = dict(headers or {})
        self._extra_body = dict(extra_body or {})
        self._sockets: Sockets | None = None

    def __repr__(self) -> str:
        return f"OpenAIResponder({self.model!r}, {self.base_url!r})"

    def __getstate__(self) -> dict[str, Any]:
        """The settings: a pickled responder makes connections of its own."""
        return {**self.__dict__, "_sockets": None}

    async def respond(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] | None = None,
    ) -> Reply:
        """Return the model's next message; see ``Responder.respond``."""
        wanted = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "stop": list(stop) if stop else None,
        }
        body = {
            "model": self.model,
            "messages": [dict(message) for message in messages],
            **{name: value for name, value in wanted.items() if value is not None},
            **self._extra_body,
        }
        data = msgspec.json.encode(body)
        last = "none was made"
        try:
            async with asyncio.timeout(self._timeout) as limit:
                for attempt in range(self._max_attempts):
                    try:
                        return await self._attempt(data)
                    except _Again as again:
                        last = str(again)
                        if attempt + 1 < self._max_attempts:
                            await asyncio.sleep(self._pause(attempt, again.wait))
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                f"{self!r} did not answer within {self._timeout:g} s (last attempt: {last}):"
                " raise its timeout",
                field="responder",
                value=self._timeout,
            ) from None
        raise ResponderFailed(
            f"{self!r} did not answer in {self._max_attempts} attempts: {last}"
        ) from None

    async def aclose(self) -> None:
        """Close its connections. Idempotent."""
        sockets, self._sockets = self._sockets, None
        if sockets is not None:
            await sockets.release()

    def _pause(self, attempt: int, asked: float) -> float:
        drawn = random.uniform(0, min(self._retry_interval * 2**attempt, _MOST_WAIT))
        return min(asked, _MOST_WAIT) + drawn

    async def _attempt(self, data: bytes) -> Reply:
        import aiohttp

        key = os.environ.get(self._api_key_variable, "")
        headers = {"Content-Type": "application/json", **self._headers}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        sockets = await self._connected()
        try:
            async with sockets.client.post(
                f"{self.base_url}/chat/completions",
                data=data,
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None),  # the caller's scope is the deadline
            ) as response:
                answer = await _read(response)
                status, asked = response.status, response.headers.get("Retry-After", "")
        except (aiohttp.InvalidURL, ValueError) as exc:
            raise ResponderFailed(
                f"{self.base_url} is not an address: {exc}", retryable=False
            ) from exc
        except (aiohttp.ClientError, OSError) as exc:
            raise _Again(_shown(f"{type(exc).__name__}: {exc}", key)) from exc
        if status == 200:
            return self._reply(answer)
        told = _shown(f"HTTP {status}: {answer[:2000].decode(errors='replace')}", key)
        if status in _PASSING or status >= 500:
            raise _Again(told, _seconds(asked))
        raise ResponderFailed(f"{self!r} refused: {told}", retryable=False, status=status)

    def _reply(self, answer: bytes) -> Reply:
        try:
            completion = msgspec.json.decode(answer, type=_Completion)
            choice = completion.choices[0]
        except (msgspec.MsgspecError, IndexError, ValueError) as exc:
            raise ResponderFailed(
                f"{self!r} answered with something other than a chat completion: {exc}",
                retryable=False,
            ) from exc
        used = completion.usage
        return Reply(
            choice.message.content or "",
            choice.finish_reason or "stop",
            None if used is None else Usage(used.prompt_tokens, used.completion_tokens),
            completion.model or self.model,
        )

    async def _connected(self) -> Sockets:
        """Return the connections of the running loop."""
        if self._sockets is not None and self._sockets.loop is not asyncio.get_running_loop():
            await self.aclose()
        if self._sockets is None:
            self._sockets = await Sockets.acquire(not is_here(self.base_url))
        return self._sockets


async def _read(response: Any) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > _MAX_SIZE:
            response.close()
            raise ResponderFailed(
                f"the endpoint answered with more than {_MAX_SIZE} bytes", retryable=False
            )
        parts.append(part)
    return b"".join(parts)


def _shown(text: str, key: str) -> str:
    """Return one short line without the key: endpoints like to repeat it."""
    if key:
        text = text.replace(key, "***")
    return " ".join(text.split())[:300]


def _seconds(text: str) -> float:
    """``Retry-After`` in seconds; its date form is not worth parsing for waits this short."""
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0
