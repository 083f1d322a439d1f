"""Any endpoint that speaks OpenAI's chat completions: vLLM, llama.cpp, Ollama, TGI, a provider.

Rules:

- One deadline covers a call with all its attempts; it begins when the call has its turn.
- Attempts repeat after what passes by itself: no connection, an answer that is cut, 408, 409, 425,
  429 and 5xx. They wait a random part of an interval that doubles, so that a thousand sessions do
  not come back at once, and not less than the endpoint asks for.
- The key is read from an environment variable at each call; it is in no log, error or pickle.
- Redirects are refused: they could carry the key elsewhere.
- Sampled tokens are asked for where they are wanted (``tokens``), and nothing is made up that the
  endpoint does not tell. One that refuses to be asked is asked for less.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, get_args
from urllib.parse import urlsplit

import msgspec

from openenv_async.client.endpoint import Sockets
from openenv_async.endpoints.addresses import is_here
from openenv_async.errors import (
    DeadlineExceeded,
    InvalidCompletion,
    ResponderFailed,
    ResponderRateLimited,
    ResponderUnavailable,
)
from openenv_async.responders.answers import (
    MAX_SIZE,
    PASSING,
    UNKNOWN_FIELD,
    asked_wait,
    check_base_url,
    shown,
    whole_body,
)
from openenv_async.responders.base import Message, Reply
from openenv_async.responders.completions import (
    TOKEN_FIELDS,
    CompletionStream,
    Impossible,
    ServerFailed,
    Truncated,
    read_completion,
    read_models,
)

__all__ = ["OpenAIResponder", "Tokens"]

log = logging.getLogger("openenv_async.responders")

Tokens = Literal["auto", "vllm", "sglang", "logprobs", "none"]
"""The servers whose fields ask for the sampled tokens."""

_URL: Final = "https://api.openai.com/v1"
_MOST_WAIT: Final = 20.0


class _Again(Exception):
    """An attempt failed in a way that passes; not an error yet."""

    def __init__(
        self, reason: str, kind: type[ResponderFailed], wait: float = 0.0, status: int | None = None
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.wait = wait
        self.status = status


class _Turns:
    """Calls that one event loop may have under way at once."""

    def __init__(self, most: int | None) -> None:
        self.loop = asyncio.get_running_loop()
        self._free = contextlib.nullcontext() if most is None else asyncio.Semaphore(most)

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[float]:
        """Hold a turn; gives the seconds that it was waited for."""
        begun = time.perf_counter()
        async with self._free:
            yield time.perf_counter() - begun


class OpenAIResponder:
    """A model behind an OpenAI-compatible ``/chat/completions``.

    Args:
        model: its name there.
        base_url: such as ``http://127.0.0.1:8080/v1``; by default the variable
            ``OPENAI_BASE_URL``, then OpenAI's own.
        api_key_variable: name of the environment variable that holds the key. Without the
            variable no key is sent.
        timeout: seconds for a reply, all attempts together, from when the call has its turn.
        max_attempts: how often it is tried.
        retry_interval: seconds; the first wait is a random part of it, later ones of its doubles.
        max_concurrency: calls at once, for each event loop; further ones wait for their turn.
        stream: ask for the reply in pieces, so that a proxy does not cut a long silence.
        tokens: whose fields ask for the token ids and log probabilities of what was sampled:
            ``vllm``; ``sglang``; ``logprobs``, OpenAI's, without ids; ``auto``: all of them, and
            less from an endpoint that refuses; ``none``.
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
        max_concurrency: int | None = None,
        stream: bool = False,
        tokens: Tokens = "none",
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        self.base_url = (base_url or os.environ.get("OPENAI_BASE_URL") or _URL).rstrip("/")
        if not model:
            raise ValueError("an OpenAI-compatible endpoint needs the name of a model")
        check_base_url(self.base_url, f"in the environment variable {api_key_variable}")
        if not timeout > 0 or max_attempts < 1:
            raise ValueError("timeout must be positive and max_attempts at least 1")
        if max_concurrency is not None and max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1, got {max_concurrency}")
        if tokens not in get_args(Tokens):
            raise ValueError(f"tokens must be one of {', '.join(get_args(Tokens))}, got {tokens!r}")
        self.model = model
        self._api_key_variable = api_key_variable
        self._timeout = timeout
        self._max_attempts = max_attempts
        self._retry_interval = retry_interval
        self._max_concurrency = max_concurrency
        self._stream = stream
        self._of_openai = urlsplit(self.base_url).hostname == "api.openai.com"
        self._asked_tokens = _askings(tokens, self._of_openai, stream)
        self._asked_so_far = 0
        self._answers_them = False
        self._headers = dict(headers or {})
        self._extra_body = dict(extra_body or {})
        self._sockets: Sockets | None = None
        self._turns: _Turns | None = None

    def describe(self) -> dict[str, Any]:
        """Return what tells its replies from others', for the manifest of a run."""
        return {"model": self.model, "url": self.base_url, "extra_body": self._extra_body}

    def __repr__(self) -> str:
        return f"OpenAIResponder({self.model!r}, {self.base_url!r})"

    def __getstate__(self) -> dict[str, Any]:
        """The settings: a pickled responder makes connections of its own."""
        return {**self.__dict__, "_sockets": None, "_turns": None}

    async def respond(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        stop: Sequence[str] | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: Any = None,
    ) -> Reply:
        """Return the model's next message; see ``Responder.respond``.

        Args:
            messages: as OpenAI's API has them, content blocks, ``tool_calls`` and tools' results
                included.
            max_tokens: of the reply, at most.
            temperature: of sampling.
            seed: of sampling.
            stop: texts at which the reply ends.
            tools: that the model may call: OpenAI's ``{"type": "function", "function": …}``.
            tool_choice: ``auto``, ``required``, ``none``, or which tool.

        Raises:
            ResponderUnavailable: no connection, 5xx, or a cut answer, in every attempt.
            ResponderRateLimited: 429 in every attempt.
            InvalidCompletion: the answer is something other than a chat completion.
            ResponderFailed: the endpoint refused the call (4xx).
            DeadlineExceeded: the timeout passed.
        """
        wanted = {
            "max_completion_tokens" if self._of_openai else "max_tokens": max_tokens,
            "temperature": temperature,
            "seed": seed,
            "stop": list(stop) if stop else None,
            "tools": list(tools) if tools else None,
            "tool_choice": tool_choice if tools else None,
        }
        body = {
            "model": self.model,
            "messages": [dict(message) for message in messages],
            **{name: value for name, value in wanted.items() if value is not None},
            **self._extra_body,
        }
        if self._stream:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        turns = self._turns
        if turns is None or turns.loop is not asyncio.get_running_loop():
            turns = self._turns = _Turns(self._max_concurrency)
        async with turns.taken() as waited:
            return await self._answered(_Call(body, uuid.uuid4().hex, waited))

    async def check(self, timeout: float = 10.0) -> None:
        """Ask the endpoint which models it has, before a run relies on it.

        One that has no such list passes; one whose list lacks the model is warned of.

        Raises:
            ResponderUnavailable: it cannot be reached.
            ResponderFailed: it refuses the key, or the URL is not an address.
        """
        import aiohttp

        key = os.environ.get(self._api_key_variable, "")
        headers = {**self._headers, **({"Authorization": f"Bearer {key}"} if key else {})}
        sockets = await self._connected()
        try:
            async with sockets.client.get(
                f"{self.base_url}/models",
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=timeout),
            ) as response:
                status = response.status
                known = read_models(await whole_body(response)) if status == 200 else []
        except (aiohttp.InvalidURL, ValueError) as exc:
            raise ResponderFailed(
                f"{self.base_url} is not an address: {shown(str(exc), key)}", retryable=False
            ) from exc
        except (aiohttp.ClientError, OSError) as exc:
            told = shown(f"{type(exc).__name__}: {exc}", key)
            raise ResponderUnavailable(
                f"{self!r} cannot be reached ({told}): start the model's server, or correct its URL"
            ) from exc
        if status in (401, 403):
            raise ResponderFailed(
                f"{self!r} refused {'the key' if key else 'to answer without a key'} (HTTP"
                f" {status}): put its key into the environment variable {self._api_key_variable}",
                retryable=False,
                status=status,
            )
        if known and self.model not in known:
            log.warning("%r: there is no such model, it has %s", self, ", ".join(known[:10]))

    async def aclose(self) -> None:
        """Close its connections. Idempotent."""
        sockets, self._sockets = self._sockets, None
        if sockets is not None:
            await sockets.release()

    async def _answered(self, call: _Call) -> Reply:
        """Try until there is a reply, or no more time or attempts."""
        last: _Again | None = None
        try:
            async with asyncio.timeout(self._timeout) as limit:
                for attempt in range(self._max_attempts):
                    call.attempts = attempt + 1
                    try:
                        return await self._asked(call)
                    except _Again as again:
                        last = again
                        if call.attempts == self._max_attempts:
                            break
                        when = limit.when()
                        assert when is not None
                        if again.wait > when - asyncio.get_running_loop().time():
                            raise again.kind(
                                f"{self!r} did not answer call {call.id}: {again}; it asks to wait"
                                f" {again.wait:,.0f} s, and the timeout is {self._timeout:g} s:"
                                " raise it, or lower max_concurrency",
                                **call.facts(again.status),
                            ) from again.__cause__
                        await asyncio.sleep(self._pause(attempt, again.wait))
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineExceeded(
                f"{self!r} did not answer call {call.id} within {self._timeout:g} s (last attempt:"
                f" {last or 'no answer'}): raise its timeout, or lower max_concurrency",
                field="responder",
                value=self._timeout,
                call=call.id,
                attempts=call.attempts,
            ) from last
        assert last is not None
        raise last.kind(
            f"{self!r} did not answer call {call.id} in {call.attempts} attempts: {last}",
            **call.facts(last.status),
        ) from last.__cause__

    async def _asked(self, call: _Call) -> Reply:
        """Ask once; for less of what was sampled, where the endpoint refuses to be asked."""
        first: ResponderFailed | None = None
        for asked in range(self._asked_so_far, len(self._asked_tokens)):
            fields = self._asked_tokens[asked]
            try:
                reply = await self._attempt(call, fields, asked)
            except ResponderFailed as exc:
                first = first or exc
                if exc.detail.get("status") in UNKNOWN_FIELD and fields and not self._answers_them:
                    continue
                raise first from None
            if asked > self._asked_so_far:
                self._asked_so_far = asked
                log.warning(
                    "%r is asked for %s: it refused more (%s)",
                    self,
                    " and ".join(self._asked_tokens[asked]) or "nothing of the tokens",
                    first.message if first is not None else "",
                )
            self._answers_them = True
            return reply
        assert first is not None
        raise first

    def _pause(self, attempt: int, asked: float) -> float:
        drawn = random.uniform(0, min(self._retry_interval * 2**attempt, _MOST_WAIT))
        return asked + drawn

    async def _attempt(self, call: _Call, fields: Mapping[str, Any], asked: int) -> Reply:
        import aiohttp

        key = os.environ.get(self._api_key_variable, "")
        headers = {
            "Content-Type": "application/json",
            "X-Request-Id": f"{call.id}-{call.attempts}" + (f".{asked}" if asked else ""),
            **self._headers,
        }
        if key:
            headers["Authorization"] = f"Bearer {key}"
        sockets = await self._connected()
        try:
            async with sockets.client.post(
                f"{self.base_url}/chat/completions",
                data=call.data(fields),
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=None),  # the caller's scope is the deadline
            ) as response:
                return await self._read(response, call, key)
        except (aiohttp.InvalidURL, ValueError) as exc:
            raise ResponderFailed(
                f"{self.base_url} is not an address: {shown(str(exc), key)}",
                retryable=False,
                **call.facts(),
            ) from exc
        except (aiohttp.ClientError, OSError) as exc:
            told = shown(f"{type(exc).__name__}: {exc}", key)
            raise _Again(told, ResponderUnavailable) from exc

    async def _read(self, response: Any, call: _Call, key: str) -> Reply:
        """Return the reply in a response; what the connection raises is the caller's."""
        status: int = response.status
        if status == 200:
            streamed = "event-stream" in response.headers.get("Content-Type", "")
            try:
                if streamed:
                    return call.told(await _streamed(response, self.model))
                return call.told(read_completion(await whole_body(response), self.model))
            except Truncated as exc:
                raise _Again(f"the answer was cut: {exc}", ResponderUnavailable) from exc
            except ServerFailed as exc:
                told = shown(f"it told of an error in place of the answer: {exc}", key)
                raise _Again(told, ResponderUnavailable) from exc
            except Impossible as exc:
                raise InvalidCompletion(
                    f"{self!r} answered call {call.id} with what no model samples: {exc}",
                    **call.facts(status),
                ) from exc
            except ValueError as exc:
                raise InvalidCompletion(
                    f"{self!r} answered call {call.id} with something other than a chat"
                    f" completion: {shown(str(exc), key)}. Is its URL that of an OpenAI-compatible"
                    " API? It often ends in /v1",
                    **call.facts(status),
                ) from exc
        try:
            answer = await whole_body(response)
        except ValueError as exc:
            answer = str(exc).encode()
        told = shown(f"HTTP {status}: {answer[:2000].decode(errors='replace')}", key)
        if status in PASSING or status >= 500:
            kind = ResponderRateLimited if status == 429 else ResponderUnavailable
            raise _Again(told, kind, asked_wait(response.headers), status)
        if status < 400 or status in (404, 405):
            told += ". Is its URL that of an OpenAI-compatible API? It often ends in /v1"
        raise ResponderFailed(
            f"{self!r} refused call {call.id}: {told}", retryable=False, **call.facts(status)
        )

    async def _connected(self) -> Sockets:
        """Return the connections of the running loop."""
        if self._sockets is not None and self._sockets.loop is not asyncio.get_running_loop():
            await self.aclose()
        if self._sockets is None:
            self._sockets = await Sockets.acquire(not is_here(self.base_url))
        return self._sockets


class _Call:
    """One call, with what its error and its reply say of it."""

    def __init__(self, body: dict[str, Any], call_id: str, waited: float) -> None:
        self.id = call_id
        self.attempts = 0
        self._body = body
        self._waited = waited

    def data(self, fields: Mapping[str, Any]) -> bytes:
        """Return the request's body, with fields that ask for what was sampled."""
        return msgspec.json.encode({**fields, **self._body} if fields else self._body)

    def facts(self, status: int | None = None) -> dict[str, Any]:
        """Return details of an error."""
        facts: dict[str, Any] = {"call": self.id, "attempts": self.attempts}
        return facts if status is None else {**facts, "status": status}

    def told(self, reply: Reply) -> Reply:
        """Return a reply that says which call it answers."""
        extra = {**reply.extra, "call": self.id, "attempts": self.attempts}
        return replace(reply, queue_seconds=self._waited, extra=extra)


def _askings(tokens: Tokens, of_openai: bool, stream: bool) -> list[Mapping[str, Any]]:
    """Return what asks for the sampled tokens, from all to less."""
    if tokens != "auto":
        return [TOKEN_FIELDS[tokens]]
    most = {**TOKEN_FIELDS["vllm"], **({} if stream else TOKEN_FIELDS["sglang"])}
    return [*([] if of_openai else [most]), TOKEN_FIELDS["logprobs"], TOKEN_FIELDS["none"]]


async def _streamed(response: Any, model: str) -> Reply:
    """Return the reply that a response streams.

    Raises:
        Truncated: it ended before the reply did.
        Impossible: it tells of what cannot be.
        ServerFailed: the server told of an error.
        ValueError: it is not one.
    """
    stream = CompletionStream()
    async for part in response.content.iter_any():
        stream.feed(part)
        if stream.size > MAX_SIZE:
            response.close()
            raise ValueError(f"it is more than {MAX_SIZE} bytes long")
    return stream.reply(model)
