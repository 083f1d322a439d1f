"""A scripted engine with a real tokenizer: what vLLM, SGLang or llama.cpp's server would answer.

Its ids can be checked: the tokenizer is SmolLM2's own, a prompt's ids are the chat template's
(ChatML with tools) of its messages, and a completion's decode to what it says, its end included::

    async with EngineStub(lambda messages, body: "hello") as stub:
        engines = Engines(stub.url)

Answers are functions of (messages, body), texts, or messages with ``reasoning_content`` and
``tool_calls`` (``tests.model_server.called`` makes one). Faults come by rate and seed as in
``tests.model_server``, which speaks of made-up tokens and stays the server of tests that need none:
this one has what an engine has besides, and is fast enough to measure others with, since it speaks
HTTP by hand and keeps the chunks of an answer that it has said before. ``python -m
tests.engine_stub --help`` runs one in a process of its own, ``EngineStubProcess`` does so for a
test.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gzip
import hashlib
import inspect
import json
import random
import socket
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import msgspec
from tokenizers import Tokenizer

from openenv_async.event_loop import loop_factory
from tests.model_server import (
    Answer,
    Answers,
    ModelServerProcess,
    ServedCall,
    drawn,
    parsed_answer,
    parsed_rate,
)

__all__ = [
    "FAULTS",
    "SHAPES",
    "EngineStub",
    "EngineStubProcess",
    "decode",
    "encode",
    "logprob",
    "prompt_ids",
    "prompt_text",
    "sampled_text",
]

FAULTS: Final = (
    "cut",  # the connection ends amid the answer
    "busy",  # 429 with Retry-After
    "broken",  # 500
    "slow",  # the answer comes after ``slow_seconds``
    "schema",  # 200, with JSON that is not a chat completion
    "no_ids",  # the fields that ask for tokens are passed over
    "wrong_ids",  # ids of another text, with their log probabilities
    "few_logprobs",  # one log probability is missing
    "odd_ids",  # one of the ids is below 0
    "odd_logprobs",  # log probabilities are above 0
    "odd_usage",  # a count of tokens is below 0
    "two_choices",  # a second choice, which nobody asked for
    "hangup",  # the connection ends before the first byte of an answer
    "other_model",  # another model's name in the answer
    "error",  # an error amid a stream, or in place of the answer
    "abort",  # half of the answer, with the finish reason abort; the rest can be asked for
)
SHAPES: Final = ("vllm", "sglang", "llama.cpp", "openai", "bare")
"""Engines whose fields tell of tokens; ``bare`` tells nothing, whatever is asked."""

_DATA: Final = Path(__file__).parent.parent / "environments/chat/chat_env/data"
_END: Final = "<|im_end|>"
_MAX_BODY: Final = 64 * 1024 * 1024


# -- tokens ---------------------------------------------------------------------------------------


@functools.cache
def _tokenizer() -> Tokenizer:
    packed = _DATA / "smollm2-tokenizer.json.gz"
    return Tokenizer.from_str(gzip.decompress(packed.read_bytes()).decode())


def decode(ids: Sequence[int]) -> str:
    """Return the text of ids, special tokens included."""
    return str(_tokenizer().decode(list(ids), skip_special_tokens=False))


@functools.lru_cache(maxsize=65_536)
def _encoded(text: str) -> tuple[int, ...]:
    return tuple(_tokenizer().encode(text, add_special_tokens=False).ids)


def encode(text: str) -> list[int]:
    """Return the ids of a text, special tokens in it included."""
    return list(_encoded(text))


def sampled_text(message: Mapping[str, Any]) -> str:
    """Return what the model samples to say an assistant's message, without its end."""
    return "".join(text for text, _ in _segments(message))


def _segments(message: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the parts of an assistant's message, each with what of it a client sees."""
    parts: list[tuple[str, Any]] = []
    if reasoning := message.get("reasoning_content") or "":
        parts += [("<think>\n", None), (reasoning, "reasoning_content"), ("\n</think>\n\n", None)]
    content = _text_of(message.get("content"))
    if content:
        parts.append((content, "content"))
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        if index or content:
            parts.append(("\n", None))
        parts.append((f'<tool_call>\n{{"name": {json.dumps(function["name"])}', (index, call)))
        parts.append((', "arguments": ', None))
        parts.append((function["arguments"], index))
        parts.append(("}\n</tool_call>", None))
    return parts


def _text_of(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", f"[{part.get('type')}]") for part in content)
    return content or ""


def _turns(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]) -> list[str]:
    turns = []
    first = messages[0] if messages else {}
    if tools:
        system = _text_of(first.get("content")) if first.get("role") == "system" else ""
        listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        turns.append(f"<|im_start|>system\n{system}\n\n# Tools\n\n{listed}{_END}\n")
        if first.get("role") == "system":
            messages = messages[1:]
    for message in messages:
        role = message["role"]
        said = _text_of(message.get("content"))
        if role == "assistant":
            said = sampled_text(message)
        elif role == "tool":
            role, said = "user", f"<tool_response>\n{said}\n</tool_response>"
        turns.append(f"<|im_start|>{role}\n{said}{_END}\n")
    turns.append("<|im_start|>assistant\n")
    return turns


def prompt_text(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Return the chat template's text of a conversation."""
    return "".join(_turns(messages, tools))


def prompt_ids(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()
) -> list[int]:
    """Return its ids: those of its turns, since each begins with a special token."""
    ids: list[int] = []
    for turn in _turns(messages, tools):
        ids += _encoded(turn)
    return ids


def logprob(position: int, token: int) -> float:
    """Return the log probability that the stub tells of an id at a position of a completion."""
    mixed = (token * 2_654_435_761 + position * 40_503) & 0xFFFFF
    return -(mixed + 1) / 0x40000


# -- answers --------------------------------------------------------------------------------------


class _Asked(NamedTuple):
    """Fields of a request that say how its answer is made and told."""

    shape: str
    stream: bool
    logprobs: bool
    as_ids: bool
    ids: bool
    prompt_ids: bool
    meta: bool
    most: int | None
    stop: tuple[str, ...]
    version: str | None


class _Token(NamedTuple):
    id: int
    logprob: float
    text: str
    end: int
    delta: dict[str, Any]


class _Said(msgspec.Struct):
    """An answer as the engine samples it, made once for all calls that get it.

    ``rest`` are the bytes of each chunk of its stream from the choices on, without the first.
    """

    ids: list[int]
    logprobs: list[float]
    message: dict[str, Any]
    finish: str
    rest: list[bytes]
    choice: bytes


def _tokens(message: Mapping[str, Any], rng: random.Random | None, seen_to: int) -> list[_Token]:
    """Return the tokens of a message, each with what a client sees of it, up to a character."""
    segments = _segments(message)
    text = "".join(each for each, _ in segments)
    pieces = _pieces(text, rng)
    tokens: list[_Token] = []
    bounds, at = [], 0
    for part, seen in segments:
        if at < seen_to:
            bounds.append((at, min(at + len(part), seen_to), seen))
        at += len(part)
    begun = 0
    for position, (token, end) in enumerate(pieces):
        delta: dict[str, Any] = {}
        for first, last, seen in bounds:
            low, high = max(first, begun), min(last, end)
            if low >= high:
                continue
            if isinstance(seen, str):
                delta[seen] = delta.get(seen, "") + text[low:high]
            elif isinstance(seen, tuple) and high == last:
                index, call = seen
                function = {"name": call["function"]["name"], "arguments": ""}
                named = {"index": index, "id": call["id"], "type": "function"}
                delta.setdefault("tool_calls", []).append({**named, "function": function})
            elif isinstance(seen, int):
                more = {"index": seen, "function": {"arguments": text[low:high]}}
                delta.setdefault("tool_calls", []).append(more)
        tokens.append(_Token(token, logprob(position, token), text[begun:end], end, delta))
        begun = max(begun, end)
    return tokens


def _pieces(text: str, rng: random.Random | None) -> list[tuple[int, int]]:
    """Return ids that decode to a text, each with where it ends in it.

    With ``rng`` some words are spelled in another way than the tokenizer would: a model may.
    """
    encoding = _tokenizer().encode(text, add_special_tokens=False)
    pieces: list[tuple[int, int]] = []
    starts = [*(first for first, _ in encoding.offsets), len(text)][1:]
    for token, (first, last), after in zip(encoding.ids, encoding.offsets, starts, strict=True):
        last = min(last, after)  # a character of several tokens is seen with its last one
        word = text[first:last]
        if rng is not None and len(word) > 1 and word.isascii() and rng.random() < 0.2:
            pieces += [(_encoded(each)[0], first + n + 1) for n, each in enumerate(word)]
        else:
            pieces.append((token, last))
    if pieces:
        pieces[-1] = (pieces[-1][0], len(text))
    return pieces


def _said(
    message: Mapping[str, Any],
    asked: _Asked,
    given: str,
    rng: random.Random | None,
    tokens_per_chunk: int,
) -> _Said:
    """Return how an engine of a shape says a message."""
    text = sampled_text(message)
    found = [(at, stop) for stop in asked.stop if (at := text.find(stop)) >= 0]
    at, stop = min(found, default=(len(text), ""))
    tokens = _tokens(message, rng, at)
    finish, stopped = "tool_calls" if message.get("tool_calls") else "stop", None
    if found:
        finish, stopped = "stop", stop
        ends = [number for number, token in enumerate(tokens) if token.end >= at + len(stop)]
        tokens = tokens[: ends[0] + 1]
    else:
        end = _encoded(_END)[0]
        tokens.append(_Token(end, logprob(len(tokens), end), _END, len(text), {}))
    if asked.most is not None and len(tokens) > asked.most:
        tokens, finish, stopped = tokens[: asked.most], "length", None
    if given == "abort":
        tokens, finish, stopped = tokens[: max(1, len(tokens) // 2)], "abort", None
    if given == "wrong_ids":
        tokens = [each._replace(id=each.id + 1) for each in tokens]
    if given == "odd_ids":
        tokens[-1] = tokens[-1]._replace(id=-1)
    if given == "odd_logprobs":
        tokens = [each._replace(logprob=-each.logprob) for each in tokens]
    fields = "bare" if given == "no_ids" else asked.shape
    few = given == "few_logprobs"
    choice: dict[str, Any] = {
        "index": 0,
        "message": _joined(tokens),
        "finish_reason": finish,
        **_told(tokens, asked, fields, few),
    }
    stop_field = {"vllm": "stop_reason", "sglang": "matched_stop"}.get(asked.shape)
    stops = {stop_field: stopped} if stop_field and stopped is not None else {}
    rest = []
    for first in range(0, len(tokens), tokens_per_chunk):
        here = tokens[first : first + tokens_per_chunk]
        is_last = first + tokens_per_chunk >= len(tokens)
        delta = _joined(here, is_delta=True)
        told = _told(here, asked, fields, few and is_last)
        ending = {"finish_reason": finish, **stops} if is_last else {"finish_reason": None}
        part = {"index": 0, "delta": delta, **told, **ending}
        parts = [part, {**part, "index": 1}] if given == "two_choices" else [part]
        rest.append(b'"choices":' + msgspec.json.encode(parts) + b"}\n\n")
    return _Said(
        ids=[each.id for each in tokens],
        logprobs=[each.logprob for each in tokens],
        message=choice["message"],
        finish=finish,
        rest=rest,
        choice=msgspec.json.encode({**choice, **stops}),
    )


def _joined(tokens: Sequence[_Token], *, is_delta: bool = False) -> dict[str, Any]:
    """Return what tokens add to a message, or the whole message."""
    joined: dict[str, Any] = {}
    calls: dict[int, dict[str, Any]] = {}
    for token in tokens:
        for name in ("content", "reasoning_content"):
            if name in token.delta:
                joined[name] = joined.get(name, "") + token.delta[name]
        for part in token.delta.get("tool_calls", ()):
            call = calls.setdefault(part["index"], {"function": {"arguments": ""}})
            more = part["function"]["arguments"]
            function = {**part["function"], "arguments": call["function"]["arguments"] + more}
            calls[part["index"]] = {**call, **part, "function": {**call["function"], **function}}
    if calls:
        joined["tool_calls"] = [calls[index] for index in sorted(calls)]
    if is_delta:
        return joined
    for call in calls.values():
        del call["index"]
    return {"role": "assistant", "content": None, **joined}


def _told(tokens: Sequence[_Token], asked: _Asked, shape: str, misses_one: bool) -> dict[str, Any]:
    """Return the fields of a choice that tell what was sampled, as far as they are asked for."""
    told: dict[str, Any] = {}
    logprobs = [each.logprob for each in tokens[: len(tokens) - misses_one]]
    if asked.logprobs and shape != "bare":
        if shape == "llama.cpp":  # it tells nothing of the first tokens of a character
            tokens = [each for each in tokens if each.text]
            logprobs = [each.logprob for each in tokens]
        told["logprobs"] = {
            "content": [
                {
                    "token": f"token_id:{each.id}" if asked.as_ids else each.text,
                    "logprob": logprob,
                    "bytes": list(each.text.encode()),
                    "top_logprobs": [],
                    **({"id": each.id} if shape == "llama.cpp" else {}),
                }
                for each, logprob in zip(tokens, logprobs, strict=False)
            ]
        }
    if asked.ids and shape == "vllm":
        told["token_ids"] = [each.id for each in tokens]
    if asked.meta and shape == "sglang":
        told["meta_info"] = {
            "weight_version": asked.version or "default",
            "output_token_logprobs": [
                [logprob, each.id, None]
                for each, logprob in zip(tokens, [*logprobs, None], strict=False)
            ],
        }
    return told


# -- the server -----------------------------------------------------------------------------------


class EngineStub:
    """The engine, in the running loop.

    Args:
        answer: what is said: a text, a message, or a function of (messages, body), sync or async.
        shape: the engine whose fields tell of tokens, when they are asked for (``SHAPES``).
        faults: how often, by name (``FAULTS``), from 0 to 1; together at most 1.
        seed: of the faults.
        model: the name of the model.
        weight_version: told as SGLang does.
        delay: seconds before each answer.
        token_delay: seconds between two chunks of a stream.
        tokens_per_chunk: of a stream.
        slow_seconds: of the fault ``slow``.
        retry_after: seconds that the fault ``busy`` asks for.
        spells_oddly: some words are sampled as other tokens than the tokenizer would make of them.
        keeps_calls: keep what was asked and given; of many calls it is much.
        loses_prompts: the rest of an aborted answer is of another prompt than was asked.
        api_key: asked for, if given.
        port: 0 takes a free one.

    Attributes:
        calls: what was asked and given.
        counts: calls by what they were given.
        left: calls whose client left before the end of the answer.
        most_at_once: calls under way at the same time, at most.
        idle: set while no call is under way.
        gate: streams wait for it after their first token, if there is one.
    """

    def __init__(
        self,
        answer: Answer | Answers = "hello",
        *,
        shape: str = "vllm",
        faults: Mapping[str, float] | None = None,
        seed: int = 0,
        model: str = "scripted-1",
        weight_version: str | None = None,
        delay: float = 0.0,
        token_delay: float = 0.0,
        tokens_per_chunk: int = 1,
        slow_seconds: float = 2.0,
        retry_after: float = 0.01,
        spells_oddly: bool = False,
        keeps_calls: bool = True,
        loses_prompts: bool = False,
        api_key: str | None = None,
        port: int = 0,
    ) -> None:
        self.faults = dict(faults or {})
        if unknown := sorted(set(self.faults) - set(FAULTS)):
            raise ValueError(f"there is no fault {unknown[0]!r}; known: {', '.join(FAULTS)}")
        if shape not in SHAPES:
            raise ValueError(f"the shape must be one of {', '.join(SHAPES)}, got {shape!r}")
        self.answer = answer
        self.shape = shape
        self.seed = seed
        self.model = model
        self.weight_version = weight_version
        self.delay = delay
        self.token_delay = token_delay
        self.tokens_per_chunk = tokens_per_chunk
        self.slow_seconds = slow_seconds
        self.retry_after = retry_after
        self.spells_oddly = spells_oddly
        self.keeps_calls = keeps_calls
        self.loses_prompts = loses_prompts
        self.api_key = api_key
        self.calls: list[ServedCall] = []
        self.headers: list[dict[str, str]] = []
        self.counts: Counter[str] = Counter()
        self.left = 0
        self.most_at_once = 0
        self.idle = asyncio.Event()
        self.gate: asyncio.Event | None = None
        self.url = ""
        self._at_once = 0
        self._number = 0
        self._asked: Counter[bytes] = Counter()
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()
        self._said_before: dict[Any, _Said] = {}
        self._aborted: list[tuple[list[int], str]] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self._port, backlog=4096
        )
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        _tokenizer()
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for connection in list(self._connections):
            connection.close()
        await self._server.wait_closed()

    def __call__(self, path: str, headers: dict[str, str], data: bytes) -> _Response | _Work:
        """Return the response to a request, or the work that makes it."""
        if self.api_key is not None and headers.get("authorization") != f"Bearer {self.api_key}":
            return _json(401, {"error": {"message": f"wrong key {headers.get('authorization')}"}})
        match path:
            case "/v1/chat/completions":
                return self._complete(headers, data)
            case "/v1/completions" if self.shape == "vllm":
                return self._go_on(data)
            case "/v1/models":
                return _json(200, {"object": "list", "data": [{"id": self.model}]})
            case "/tokenize" if self.shape in ("vllm", "llama.cpp"):
                return self._tokenize(json.loads(data))
            case "/apply-template" if self.shape == "llama.cpp":
                asked = json.loads(data)
                text = prompt_text(asked["messages"], asked.get("tools") or ())
                return _json(200, {"prompt": text})
            case "/health":
                return _json(200, {})
            case "/calls":
                return _json(200, [asdict(call) for call in self.calls])
            case "/counts":
                return _json(200, self.counts)
            case _:
                return _json(404, {"error": {"message": f"there is no {path}"}})

    def _go_on(self, data: bytes) -> _Response:
        """Return the rest of an aborted answer, whose prompt ends with what was sampled of it."""
        body = msgspec.json.decode(data)
        asked = self._asked_of({**body, "logprobs": body.get("logprobs") is not None})
        for prompt, answer in reversed(self._aborted):
            sampled = body["prompt"][len(prompt) :]
            said = _said({"content": answer}, asked._replace(most=None), "answer", None, 1)
            if body["prompt"][: len(prompt)] == prompt and said.ids[: len(sampled)] == sampled:
                return self._rest(body, asked, said, len(sampled))
        return _json(400, {"error": {"message": "the prompt belongs to no aborted answer"}})

    def _rest(self, body: Any, asked: _Asked, said: _Said, begun: int) -> _Response:
        """Return the tokens of an answer from one on, as a completion of text."""
        call = ServedCall(f"cmpl-{self._number}", "rest", None, [], None, prompt_ids=body["prompt"])
        self._number += 1
        self.counts["rest"] += 1
        call.completion_ids = said.ids[begun:][: asked.most]
        call.logprobs = said.logprobs[begun:][: asked.most]
        if self.keeps_calls:
            call.body = {**body, "path": "/v1/completions"}
            self.calls.append(call)
        is_whole = begun + len(call.completion_ids) == len(said.ids)
        text = decode(call.completion_ids).removesuffix(_END)
        choice = {
            "index": 0,
            "text": text,
            "logprobs": {"token_logprobs": call.logprobs, "tokens": [], "text_offset": []},
            "finish_reason": said.finish if is_whole else "length",
            "prompt_token_ids": body["prompt"],
            "token_ids": call.completion_ids,
        }
        if self.loses_prompts:
            choice["prompt_token_ids"] = body["prompt"][1:]
        counts = (len(body["prompt"]), len(call.completion_ids))
        usage = dict(zip(("prompt_tokens", "completion_tokens"), counts, strict=True))
        top = {"id": call.id, "object": "text_completion", "model": self.model}
        events = [{**top, "choices": [choice]}, {**top, "choices": [], "usage": usage}]
        lines = [b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events]
        data = b"".join(lines) + b"data: [DONE]\n\n"
        return _Response([_STREAM_HEAD + _chunk(data) + b"0\r\n\r\n"])

    def _tokenize(self, asked: dict[str, Any]) -> _Response:
        if "messages" in asked and self.shape == "vllm":
            ids = prompt_ids(asked["messages"], asked.get("tools") or ())
            return _json(200, {"count": len(ids), "max_model_len": 8192, "tokens": ids})
        if "content" in asked and self.shape == "llama.cpp":
            return _json(200, {"tokens": encode(asked["content"])})
        return _json(400, {"error": {"message": "there are no messages"}})

    def _complete(self, headers: dict[str, str], data: bytes) -> _Response | _Work:
        body = msgspec.json.decode(data)
        given = "answer"
        rng = None
        if self.faults or self.spells_oddly:
            digest = hashlib.blake2b(data, digest_size=16).digest()
            rng = random.Random(f"{self.seed}/{digest.hex()}/{self._asked[digest]}")
            self._asked[digest] += 1
            given = drawn(rng, self.faults)
        if body.get("continue_final_message"):
            given = "rest"
        self._number += 1
        self.counts[given] += 1
        call = ServedCall(f"chatcmpl-{self._number - 1}", given, headers.get("x-request-id"), [], 0)
        if self.keeps_calls:
            call.messages, call.seed = body["messages"], body.get("seed")
            call.body = {name: value for name, value in body.items() if name != "messages"}
            call.body["path"] = "/v1/chat/completions"
            self.calls.append(call)
            self.headers.append(headers)
        answer: Any = self.answer
        if callable(answer):
            is_rest = body.get("continue_final_message")
            answer = answer(body["messages"][:-1] if is_rest else body["messages"], body)
        wait = self.delay + (self.slow_seconds if given == "slow" else 0.0)
        if wait or inspect.isawaitable(answer):
            return _Work(self._later(call, body, answer, wait, rng))
        return self._response(call, body, answer, rng)

    async def _later(
        self, call: ServedCall, body: Any, answer: Any, wait: float, rng: random.Random | None
    ) -> _Response:
        if wait:
            await asyncio.sleep(wait)
        if inspect.isawaitable(answer):
            answer = await answer
        return self._response(call, body, answer, rng)

    def _response(
        self, call: ServedCall, body: dict[str, Any], answer: Any, rng: random.Random | None
    ) -> _Response:
        match call.given:
            case "busy":
                error = {"error": {"message": "slow down", "type": "rate_limit_exceeded"}}
                return _json(429, error, f"Retry-After: {self.retry_after:g}\r\n")
            case "broken":
                return _json(500, {"error": {"message": "out of memory"}})
            case "schema":
                return _json(200, {"generated_text": "hello", "status": "ok"})
            case "hangup":
                return _Response([b""], cuts=True)
        asked = self._asked_of(body)
        if self.shape == "llama.cpp" and asked.stream and asked.logprobs and body.get("tools"):
            told = {"message": "logprobs is not supported with tools + stream", "code": 400}
            return _json(400, {"error": told})
        if self.shape == "sglang" and asked.stream and (asked.prompt_ids or asked.meta):
            field = "return_prompt_token_ids" if asked.prompt_ids else "return_meta_info"
            return _json(400, {"error": {"message": f"{field} is not supported with streaming"}})
        messages, tools = body["messages"], body.get("tools") or ()
        if call.given == "rest":
            *messages, last = messages
            message: dict[str, Any] = {"content": answer} if isinstance(answer, str) else answer
            answer = {**message, "content": message["content"].removeprefix(last["content"])}
            prompt = [*prompt_ids(messages, tools), *encode(last["content"])]
            prompt = prompt[self.loses_prompts :]
        else:
            prompt = prompt_ids(messages, tools)
        said = self._made(call, answer, asked, rng)
        call.reply, call.finish_reason = said.message, said.finish
        call.completion_ids, call.logprobs = said.ids, said.logprobs
        if self.keeps_calls:
            call.prompt_ids = prompt
        if call.given == "abort" and isinstance(answer, str):
            self._aborted.append((prompt, answer))
        model = "another-model" if call.given == "other_model" else body.get("model", self.model)
        counts = {
            "prompt_tokens": len(prompt),
            "completion_tokens": -1 if call.given == "odd_usage" else len(said.ids),
            "total_tokens": len(prompt) + len(said.ids),
        }
        tells_ids = asked.ids and self.shape == "vllm" and call.given != "no_ids"
        top: dict[str, Any] = {"id": call.id, "model": model, "created": 0}
        if self.shape == "sglang":
            top["metadata"] = {"weight_version": self.weight_version or "default"}
        usage = msgspec.json.encode(counts)
        if asked.stream:
            return self._streamed(call, said, top, prompt if tells_ids else None, usage)
        top["object"] = "chat.completion"
        if tells_ids:
            top["prompt_token_ids"] = prompt
        choice = said.choice
        if asked.prompt_ids and self.shape == "sglang" and call.given != "no_ids":
            choice = choice[:-1] + b',"prompt_token_ids":' + msgspec.json.encode(prompt) + b"}"
        if call.given == "error":
            return _json(200, {"error": {"message": "the worker died", "code": 500}})
        if call.given == "two_choices":
            choice = choice + b',{"index":1,"message":{"content":"or else"}}'
        data = msgspec.json.encode(top)[:-1] + b',"choices":[' + choice + b'],"usage":' + usage
        response = _head(200, "application/json", len(data) + 1) + data + b"}"
        return (
            _Response([response[: len(response) // 2]], cuts=True)
            if call.given == "cut"
            else (_Response([response]))
        )

    def _streamed(
        self,
        call: ServedCall,
        said: _Said,
        top: dict[str, Any],
        prompt: list[int] | None,
        usage: bytes,
    ) -> _Response:
        begin = b"data: " + msgspec.json.encode({**top, "object": "chat.completion.chunk"})[:-1]
        first = b"" if prompt is None else b',"prompt_token_ids":' + msgspec.json.encode(prompt)
        role = b',"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
        begin_more = begin + b","
        events = [begin + first + role, *(begin_more + rest for rest in said.rest)]
        if call.given == "cut":
            events = events[: max(1, len(events) // 2)]
            return _Response([_STREAM_HEAD + _chunk(b"".join(events))], cuts=True)
        if call.given == "error":
            error = b'data: {"error":{"message":"the worker died","code":500}}\n\n'
            events = [*events[: max(1, len(events) // 2)], error]
        else:
            events.append(begin + b',"choices":[],"usage":' + usage + b"}\n\n")
        events.append(b"data: [DONE]\n\n")
        if self.token_delay or self.gate is not None:
            opening = _STREAM_HEAD + _chunk(b"".join(events[:2]))
            parts = [opening, *map(_chunk, events[2:]), b"0\r\n\r\n"]
            return _Response(parts, pause=self.token_delay)
        return _Response([_STREAM_HEAD + _chunk(b"".join(events)) + b"0\r\n\r\n"])

    def _asked_of(self, body: Mapping[str, Any]) -> _Asked:
        stop = body.get("stop") or ()
        return _Asked(
            shape=self.shape,
            stream=bool(body.get("stream")),
            logprobs=bool(body.get("logprobs")),
            as_ids=bool(body.get("return_tokens_as_token_ids")),
            ids=bool(body.get("return_token_ids")),
            prompt_ids=bool(body.get("return_prompt_token_ids")),
            meta=bool(body.get("return_meta_info")),
            most=body.get("max_completion_tokens") or body.get("max_tokens"),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            version=self.weight_version,
        )

    def _made(
        self, call: ServedCall, answer: Any, asked: _Asked, rng: random.Random | None
    ) -> _Said:
        """Return an answer as it is said; one that was said before is the same again."""
        message: dict[str, Any] = {"content": answer} if isinstance(answer, str) else dict(answer)
        calls = message.get("tool_calls") or ()
        if any(not each.get("id") for each in calls):
            message["tool_calls"] = [
                {**each, "id": each.get("id") or f"call_{self._number}_{index}"}
                for index, each in enumerate(calls)
            ]
        odd = rng if self.spells_oddly else None
        if odd is not None or calls:
            return _said(message, asked, call.given, odd, self.tokens_per_chunk)
        key = (
            *(message.get("content"), message.get("reasoning_content")),
            *(asked, call.given, self.tokens_per_chunk),
        )
        said = self._said_before.get(key)
        if said is None:
            if len(self._said_before) > 4096:
                self._said_before.clear()
            said = _said(message, asked, call.given, None, self.tokens_per_chunk)
            self._said_before[key] = said
        return said

    def begun(self) -> None:
        """Note a call under way."""
        self._at_once += 1
        self.idle.clear()
        self.most_at_once = max(self.most_at_once, self._at_once)

    def ended(self, *, left: bool) -> None:
        """Note the end of a call."""
        self._at_once -= 1
        self.left += left
        if not self._at_once:
            self.idle.set()


class _Response(NamedTuple):
    """Bytes to send, in parts.

    ``pause`` seconds lie between two parts; ``cuts``: the connection ends after them.
    """

    parts: Sequence[bytes]
    cuts: bool = False
    pause: float = 0.0


class _Work(NamedTuple):
    response: Any  # a coroutine of a _Response


_STREAM_HEAD: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_REASONS: Final = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found"}


def _head(status: int, content_type: str, length: int, more: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {length}\r\n{more}\r\n"
    ).encode()


def _json(status: int, value: Any, more: str = "") -> _Response:
    data = msgspec.json.encode(value)
    return _Response([_head(status, "application/json", len(data), more) + data])


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class _Connection(asyncio.Protocol):
    """One client's connection; requests are answered one after the other."""

    def __init__(self, stub: EngineStub) -> None:
        self._stub = stub
        self._data = bytearray()
        self._task: asyncio.Task[None] | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._stub._connections.add(self)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stub._connections.discard(self)
        if self._task is not None:
            self._task.cancel()

    def close(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._serve()

    def _serve(self) -> None:
        """Answer the requests that are there whole."""
        while self._task is None and (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._data[:end]).decode("latin-1").split("\r\n")
            headers = {}
            for line in head[1:]:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            size = int(headers.get("content-length", 0))
            if size > _MAX_BODY or "transfer-encoding" in headers:
                self._transport.abort()
                return
            if len(self._data) < end + 4 + size:
                if headers.get("expect", "").lower() == "100-continue":
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            body = bytes(self._data[end + 4 : end + 4 + size])
            del self._data[: end + 4 + size]
            made = self._stub(head[0].split(" ")[1], headers, body)
            if isinstance(made, _Response) and len(made.parts) == 1:
                self._stub.begun()
                self._transport.write(b"".join(made.parts))
                self._stub.ended(left=False)
                if made.cuts:
                    self._transport.close()
                    return
                continue
            self._task = asyncio.get_running_loop().create_task(self._slowly(made))

    async def _slowly(self, made: _Response | _Work) -> None:
        left = True
        self._stub.begun()
        try:
            response = await made.response if isinstance(made, _Work) else made
            for number, part in enumerate(response.parts):
                if number and response.pause:
                    await asyncio.sleep(response.pause)
                if number and self._stub.gate is not None:
                    await self._stub.gate.wait()
                self._transport.write(part)
            left = False
            if response.cuts:
                self._transport.close()
        finally:
            self._stub.ended(left=left)
            self._task = None
        self._serve()


class EngineStubProcess(ModelServerProcess):
    """The engine in a process of its own; the arguments are those of its command line."""

    module = "tests.engine_stub"


async def _run(stub: EngineStub) -> None:
    async with stub:
        sys.stdout.write(f"{stub.url}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Serve until standard input ends; the first line of the output is the URL."""
    parser = argparse.ArgumentParser(prog="python -m tests.engine_stub")
    parser.add_argument(
        "--answer", type=parsed_answer, default="hello", help="text|JSON|module:name"
    )
    parser.add_argument("--fault", type=parsed_rate, action="append", default=[], help="NAME=RATE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shape", choices=SHAPES, default="vllm")
    parser.add_argument("--model", default="scripted-1")
    parser.add_argument("--weight-version")
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--token-delay", type=float, default=0.0)
    parser.add_argument("--tokens-per-chunk", type=int, default=1)
    parser.add_argument("--slow-seconds", type=float, default=2.0)
    parser.add_argument("--retry-after", type=float, default=0.01)
    parser.add_argument("--spells-oddly", action="store_true")
    parser.add_argument("--no-calls", dest="keeps_calls", action="store_false")
    parser.add_argument("--port", type=int, default=0)
    options = vars(parser.parse_args())
    answer, faults = options.pop("answer"), options.pop("fault")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_run(EngineStub(answer, faults=dict(faults), **options)))


if __name__ == "__main__":
    main()
