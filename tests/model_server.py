"""A scripted model server: OpenAI's chat completions, with faults by rate and seed.

It stands where vLLM, SGLang or a provider would, over real HTTP, in the loop of a test::

    async with ModelServer(lambda messages, body: "hello", faults={"cut": 0.02}) as server:
        responder = OpenAIResponder("scripted", server.url)

or in a process of its own (``python -m tests.model_server --help``, ``ModelServerProcess``).

It writes down by call what it gave: ``server.calls`` and ``server.counts``, or ``GET /calls`` and
``GET /counts``. The ``id`` of a completion is the ``id`` of its call.

Faults are drawn from the seed, the request's body and how often that body was asked before:
the same requests meet the same faults, in whatever order they come.

Token ids are made up so that a client cannot guess them: each byte of the text is its own number or
that number plus 1,000 (``decoded`` gives the text back), and the log probabilities are random.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import importlib
import inspect
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

import aiohttp
from aiohttp import web

__all__ = [
    "FAULTS",
    "Answer",
    "Answers",
    "ModelServer",
    "ModelServerProcess",
    "ServedCall",
    "called",
    "decoded",
    "drawn",
    "parsed_answer",
    "parsed_rate",
]

FAULTS: Final = (
    "nonsense",  # a text in which there is no action
    "refused",  # an action that the environment refuses: answers["refused"] says which
    "cut",  # the connection ends amid the answer
    "busy",  # 429 with Retry-After
    "broken",  # 500
    "slow",  # the answer comes after ``slow_seconds``
    "schema",  # 200, with JSON that is not a chat completion
)
SHAPES: Final = ("openai", "vllm", "sglang", "bare")
"""Servers whose fields say what was sampled; ``bare`` says nothing of tokens, whatever is asked."""

Answer = str | Mapping[str, Any]
"""A text, or an assistant's message with its ``tool_calls``; ``called`` makes one."""
Answers = Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any]], Any]
"""Called with the messages and the whole body; gives an ``Answer``; sync or async."""


def called(name: str, **arguments: Any) -> dict[str, Any]:
    """Return an assistant's message that calls one tool."""
    function = {"name": name, "arguments": json.dumps(arguments)}
    call = {"id": "", "type": "function", "function": function}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def decoded(ids: Sequence[int]) -> str:
    """Return the text that sampled ids stand for."""
    return bytes(each % 1000 for each in ids).decode()


def drawn(rng: random.Random, faults: Mapping[str, float]) -> str:
    """Return the name of a fault, or ``answer``."""
    at = rng.random()
    for name, rate in faults.items():
        if at < rate:
            return name
        at -= rate
    return "answer"


@dataclass
class ServedCall:
    """One request and what it was given.

    ``given`` is ``answer`` or the name of a fault; ``reply`` and the ids are ``None`` for a
    fault that is not an answer.
    """

    id: str
    given: str
    request_id: str | None
    messages: list[dict[str, Any]]
    seed: int | None
    reply: dict[str, Any] | None = None
    prompt_ids: list[int] | None = None
    completion_ids: list[int] | None = None
    logprobs: list[float] | None = None
    finish_reason: str | None = None
    body: dict[str, Any] = field(default_factory=dict)


class ModelServer:
    """The server, in the running loop.

    Args:
        answer: what is said; a text or message says the same to all.
        faults: how often, by name (``FAULTS``), from 0 to 1; together at most 1.
        answers: what is said in place of ``answer`` for ``nonsense`` and ``refused``.
        seed: of the faults and the tokens.
        shape: whose fields tell of tokens, when they are asked for (``SHAPES``).
        weight_version: told as SGLang does.
        delay: seconds before each answer.
        slow_seconds: of the fault ``slow``.
        retry_after: seconds that the fault ``busy`` asks for.
        keeps_prompts: write down what was asked, and the ids of it; of many calls it is much.
        port: 0 takes a free one.
    """

    def __init__(
        self,
        answer: Answer | Answers = "hello",
        *,
        faults: Mapping[str, float] | None = None,
        answers: Mapping[str, Answer | Answers] | None = None,
        seed: int = 0,
        shape: str = "openai",
        model: str = "scripted-1",
        weight_version: str | None = None,
        delay: float = 0.0,
        slow_seconds: float = 2.0,
        retry_after: float = 0.01,
        keeps_prompts: bool = True,
        port: int = 0,
    ) -> None:
        self.faults = dict(faults or {})
        if unknown := sorted(set(self.faults) - set(FAULTS)):
            raise ValueError(f"there is no fault {unknown[0]!r}; known: {', '.join(FAULTS)}")
        if sum(self.faults.values()) > 1 or min(self.faults.values(), default=0.0) < 0:
            raise ValueError("the rates of the faults are from 0 to 1, together at most 1")
        if shape not in SHAPES:
            raise ValueError(f"the shape must be one of {', '.join(SHAPES)}, got {shape!r}")
        self.answer = answer
        self.answers: dict[str, Answer | Answers] = {
            "nonsense": "Well, let me think about it.",
            **(answers or {}),
        }
        if self.faults.get("refused") and "refused" not in self.answers:
            raise ValueError("answers has no 'refused': which action does the environment refuse?")
        self.seed = seed
        self.shape = shape
        self.model = model
        self.weight_version = weight_version
        self.delay = delay
        self.slow_seconds = slow_seconds
        self.retry_after = retry_after
        self.keeps_prompts = keeps_prompts
        self.calls: list[ServedCall] = []
        self.most_at_once = 0
        self._at_once = 0
        self._asked: Counter[str] = Counter()
        self._port = port
        self._runner: web.AppRunner | None = None
        self.url = ""

    @property
    def counts(self) -> Counter[str]:
        """Return how many calls were given what."""
        return Counter(call.given for call in self.calls)

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._complete)
        app.router.add_get("/v1/models", self._tell_models)
        app.router.add_get("/calls", self._tell_calls)
        app.router.add_get("/counts", self._tell_counts)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, backlog=4096)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}/v1"
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _tell_models(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.model}]})

    async def _tell_calls(self, request: web.Request) -> web.Response:
        return web.json_response([asdict(call) for call in self.calls])

    async def _tell_counts(self, request: web.Request) -> web.Response:
        return web.json_response(self.counts)

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            return await self._given(request)
        finally:
            self._at_once -= 1

    async def _given(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        body = json.loads(data)
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        times = self._asked[digest]
        self._asked[digest] += 1
        rng = random.Random(f"{self.seed}/{digest}/{times}")
        given = drawn(rng, self.faults)
        call = ServedCall(
            id=f"chatcmpl-{len(self.calls)}",
            given=given,
            request_id=request.headers.get("X-Request-Id"),
            messages=body["messages"] if self.keeps_prompts else [],
            seed=body.get("seed"),
        )
        if self.keeps_prompts:
            call.body = {name: value for name, value in body.items() if name != "messages"}
        self.calls.append(call)
        if self.delay:
            await asyncio.sleep(self.delay)
        match given:
            case "busy":
                error = {"error": {"message": "slow down", "type": "rate_limit_exceeded"}}
                headers = {"Retry-After": f"{self.retry_after:g}"}
                return web.json_response(error, status=429, headers=headers)
            case "broken":
                return web.json_response({"error": {"message": "out of memory"}}, status=500)
            case "schema":
                return web.json_response({"generated_text": "hello", "status": "ok"})
            case "slow":
                await asyncio.sleep(self.slow_seconds)
        message = await self._said(given, body)
        completion = self._completion(call, message, body, rng)
        if body.get("stream"):
            return await self._stream(request, completion, cut=given == "cut")
        if given == "cut":
            call.reply = call.completion_ids = call.logprobs = None
            return await _half(request, json.dumps(completion).encode())
        return web.json_response(completion)

    async def _said(self, given: str, body: dict[str, Any]) -> dict[str, Any]:
        answer: Any = self.answers.get(given, self.answer)
        if callable(answer):
            answer = answer(body["messages"], body)
            if inspect.isawaitable(answer):
                answer = await answer
        if isinstance(answer, str):
            return {"role": "assistant", "content": answer}
        message = {"role": "assistant", "content": None, **answer}
        number = len(self.calls)
        calls = [
            {**each, "id": each.get("id") or f"call_{number}_{i}"}
            for i, each in enumerate(message.get("tool_calls") or ())
        ]
        return {**message, "tool_calls": calls} if calls else message

    def _completion(
        self, call: ServedCall, message: dict[str, Any], body: dict[str, Any], rng: random.Random
    ) -> dict[str, Any]:
        tools = message.get("tool_calls")
        said = message["content"] or ""
        for each in tools or ():
            function = each["function"]
            said += f"<tool_call>{function['name']} {function['arguments']}</tool_call>"
        ids = [byte + 1000 * rng.randrange(2) for byte in said.encode()]
        finish = "tool_calls" if tools else "stop"
        most = body.get("max_tokens") or body.get("max_completion_tokens")
        if most is not None and len(ids) > most and not tools:
            ids, finish = ids[:most], "length"
            message = {**message, "content": decoded(ids)}
        prompt = [*json.dumps(body["messages"]).encode()]
        if self.keeps_prompts:
            prompt = [1000 * rng.randrange(2) + byte for byte in prompt]
        logprobs = [-rng.expovariate(2.0) for _ in ids]
        call.reply, call.finish_reason = message, finish
        call.prompt_ids = prompt if self.keeps_prompts else None
        call.completion_ids, call.logprobs = ids, logprobs
        choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": finish}
        completion: dict[str, Any] = {
            "id": call.id,
            "object": "chat.completion",
            "created": 0,
            "model": self.model,
            "choices": [choice],
            "usage": {
                "prompt_tokens": len(prompt),
                "completion_tokens": len(ids),
                "total_tokens": len(prompt) + len(ids),
            },
        }
        if body.get("logprobs") and self.shape != "bare":
            choice["logprobs"] = {
                "content": [
                    {"token": chr(each % 1000), "logprob": log, "bytes": [each % 1000]}
                    for each, log in zip(ids, logprobs, strict=True)
                ]
            }
        if self.shape == "vllm" and body.get("return_token_ids"):
            completion["prompt_token_ids"] = prompt
            choice["token_ids"] = ids
        if self.shape == "sglang":
            completion["metadata"] = {"weight_version": self.weight_version or "default"}
            if body.get("return_prompt_token_ids"):
                choice["prompt_token_ids"] = prompt
            if body.get("return_meta_info"):
                choice["meta_info"] = {
                    "id": call.id,
                    "weight_version": self.weight_version or "default",
                    "output_token_logprobs": [
                        [log, each, None] for each, log in zip(ids, logprobs, strict=True)
                    ],
                }
        return completion

    async def _stream(
        self, request: web.Request, completion: dict[str, Any], *, cut: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        chunks = _chunks(completion)
        for number, chunk in enumerate(chunks):
            if cut and number >= len(chunks) // 2:
                assert request.transport is not None
                request.transport.close()
                return response
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


def _chunks(completion: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a completion as a stream's chunks: each has a part of the text and of the ids."""
    [choice] = completion["choices"]
    base = {"id": completion["id"], "object": "chat.completion.chunk", "model": completion["model"]}
    message, ids = choice["message"], choice.get("token_ids")
    logprobs = (choice.get("logprobs") or {}).get("content")
    deltas: list[dict[str, Any]] = []
    text = message["content"] or ""
    deltas += [{"content": text[at : at + 3]} for at in range(0, len(text), 3)]
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        first = {"index": index, "id": call["id"], "type": "function"}
        deltas.append({"tool_calls": [{**first, "function": {"name": function["name"]}}]})
        arguments = function["arguments"]
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": arguments[at : at + 4]}}]}
            for at in range(0, len(arguments), 4)
        ]
    chunks = []
    opening = {**base, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
    if "prompt_token_ids" in completion:
        opening["prompt_token_ids"] = completion["prompt_token_ids"]
    chunks.append(opening)
    total = len(ids if ids is not None else logprobs or ())
    for number, delta in enumerate(deltas):
        part: dict[str, Any] = {"index": 0, "delta": delta}
        here = slice(number * total // len(deltas), (number + 1) * total // len(deltas))
        if ids is not None:
            part["token_ids"] = ids[here]
        if logprobs is not None:
            part["logprobs"] = {"content": logprobs[here]}
        chunks.append({**base, "choices": [part]})
    end = {"index": 0, "delta": {}, "finish_reason": choice["finish_reason"]}
    chunks.append({**base, "choices": [end]})
    chunks.append({**base, "choices": [], "usage": completion["usage"]})
    return chunks


async def _half(request: web.Request, data: bytes) -> web.StreamResponse:
    """Send the head and half of an answer, then end the connection."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    response.content_length = len(data)
    await response.prepare(request)
    await response.write(data[: len(data) // 2])
    assert request.transport is not None
    request.transport.close()
    return response


class ModelServerProcess:
    """The server in a process of its own; the arguments are those of its command line."""

    module = "tests.model_server"

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments
        self._process: asyncio.subprocess.Process | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", self.module, *self._arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        self.url = (await self._process.stdout.readline()).decode().strip()
        if not self.url:
            raise RuntimeError("the model server did not start: see its standard error")
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()  # it ends with its standard input, and with this process
        await self._process.wait()

    async def calls(self) -> list[ServedCall]:
        """Return what it gave."""
        return [ServedCall(**each) for each in await self._get("/calls")]

    async def counts(self) -> Counter[str]:
        """Return how many calls were given what."""
        return Counter(await self._get("/counts"))

    async def _get(self, path: str) -> Any:
        async with (
            aiohttp.ClientSession() as http,
            http.get(self.url.removesuffix("/v1") + path) as answer,
        ):
            return await answer.json()


def parsed_rate(text: str) -> tuple[str, float]:
    """Return a fault and its rate, written ``NAME=RATE``."""
    name, _, rate = text.partition("=")
    return name, float(rate)


def parsed_answer(text: str) -> Answer | Answers:
    """Return an answer: ``module:name``, a JSON message, or a text."""
    if text.startswith("{"):
        message: dict[str, Any] = json.loads(text)
        return message
    module, colon, name = text.partition(":")
    if colon and module.replace(".", "").isidentifier() and name.isidentifier():
        return getattr(importlib.import_module(module), name)  # type: ignore[no-any-return]
    return text


def _named_answer(text: str) -> tuple[str, Answer | Answers]:
    name, _, answer = text.partition("=")
    return name, parsed_answer(answer)


async def _serve(server: ModelServer) -> None:
    async with server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Serve until standard input ends; the first line of the output is the URL."""
    parser = argparse.ArgumentParser(prog="python -m tests.model_server")
    parser.add_argument(
        "--answer", type=parsed_answer, default="hello", help="text|JSON|module:name"
    )
    parser.add_argument("--fault", type=parsed_rate, action="append", default=[], help="NAME=RATE")
    parser.add_argument("--answers", type=_named_answer, action="append", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shape", choices=SHAPES, default="openai")
    parser.add_argument("--weight-version")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--slow-seconds", type=float, default=2.0)
    parser.add_argument("--retry-after", type=float, default=0.01)
    parser.add_argument("--no-prompts", dest="keeps_prompts", action="store_false")
    parser.add_argument("--port", type=int, default=0)
    options = vars(parser.parse_args())
    answer, faults, answers = (options.pop(name) for name in ("answer", "fault", "answers"))
    asyncio.run(_serve(ModelServer(answer, faults=dict(faults), answers=dict(answers), **options)))


if __name__ == "__main__":
    main()
