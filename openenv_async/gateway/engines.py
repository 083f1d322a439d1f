"""Inference servers behind the gateway: vLLM, SGLang, llama.cpp, ``transformers serve``, others.

Rules:

- A level of knowledge is asked for and held: an engine that does not give it is an error, at the
  start and at each answer, never a lower level. Nothing is tokenized again or made up.
- An engine is asked for a stream wherever its streams have what the level needs. SGLang tells
  token ids only of answers that come whole, so at level ``tokens`` its answers come in one piece.
- llama.cpp's server leaves log probabilities out: in a stream those of text that might have become
  a stop sequence, and always those of characters that are several tokens. Its answers with log
  probabilities come in one piece, and one that lacks some is an error.
- A session stays with one engine, whose cache has its conversation, until that engine fails. A new
  session goes to the engine with the fewest calls under way, then the fewest sessions.
- One sample asks one engine once; the caller decides on another attempt. Only a request that a
  kept connection lost at once, before a byte of an answer, is sent again, as clients of HTTP do:
  the engine was closing it, idle as it was. Any other one that is lost may have been acted on.
- An answer that an engine aborts, to update its weights for one, goes on from what was sampled if
  that can be had exactly: the prompt of its rest has to have the very ids. Else it has failed.
- A caller that closes the iterator ends the engine's call: its connection is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Final, Literal, NoReturn, TypeAlias, get_args
from urllib.parse import urlsplit

import msgspec

from openenv_async.errors import (
    CallRefused,
    InvalidCompletion,
    InvalidOption,
    ResponderFailed,
    ResponderRateLimited,
    ResponderUnavailable,
)
from openenv_async.gateway.calls import (
    Answer,
    Call,
    Level,
    Piece,
    SampledTokens,
    ToolCall,
    ToolDelta,
)
from openenv_async.gateway.engine_http import EngineHTTP, RequestFailed, Response, http_to
from openenv_async.responders.answers import (
    PASSING,
    UNKNOWN_FIELD,
    asked_wait,
    check_base_url,
    shown,
)
from openenv_async.responders.base import Reply
from openenv_async.responders.completions import (
    ABORTED,
    TOKEN_FIELDS,
    CompletionStream,
    Delta,
    Impossible,
    ServerFailed,
    Truncated,
    read_completion,
    read_models,
)

__all__ = ["AFFINITY_HEADERS", "EngineTimeouts", "Engines", "TokenFields"]

log = logging.getLogger("openenv_async.gateway")

TokenFields: TypeAlias = Literal["auto", "vllm", "sglang", "logprobs", "none"]
"""The engines whose fields ask for what was sampled."""
AFFINITY_HEADERS: Final = ("X-Session-ID", "X-SMG-Routing-Key", "X-Dynamo-Session-ID")
"""Headers by which routers in front of engines keep a session at one of them.

The first is vLLM's router's and that of gateways in general, the second SGLang's, the third
Dynamo's.
"""

_MAX_SIZE: Final = 64 * 1024 * 1024
_MAX_SESSIONS: Final = 65_536
_LONGEST_REST: Final = 30.0
_DRAIN: Final = 0.5
"""Seconds that a stream may take to close after its last event."""
_KINDS: Final[Mapping[Level, Sequence[str]]] = {
    "tokens": ("vllm", "sglang"),
    "logprobs": ("logprobs",),
    "text": ("none",),
}
"""Fields that may give a level, in the order in which they are tried."""
_UNSET_VERSION: Final = "default"
"""The version that SGLang tells while nobody has set any."""
_MOST_PARTS: Final = 64
"""Requests for one answer that is aborted again and again."""
_OF_CHAT: Final = frozenset(
    ("chat_template_kwargs", "parallel_tool_calls", "reasoning_effort", "response_format")
)
"""Fields that completions of text do not have."""
_PROBE: Final = Call(
    dialect="chat",
    messages=[{"role": "user", "content": "Hello"}],
    sampling={"max_tokens": 8},
)


class EngineTimeouts(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds that an engine is given.

    Attributes:
        connect: for a connection.
        first: until its answer begins; a long prompt takes long to read. Of an answer that
            comes whole, until it is there.
        piece: between two pieces of an answer.
        total: for the whole answer.
    """

    connect: float = 10.0
    first: float = 600.0
    piece: float = 120.0
    total: float = 3600.0


class Engines:
    """A sampler over one or several engines that serve the same model.

    Args:
        urls: base URLs, such as ``http://127.0.0.1:8000/v1``.
        model: its name there; by default the only one that the engine lists.
        api_key: of the engines; it is sent to them alone and shown nowhere.
        level: of what must be known of each answer.
        tokens: whose fields ask for it; ``auto``: what the engine turns out to answer.
        tokenizer: makes a text of token ids, special tokens included, such as
            ``tokenizer.decode``. With it an answer whose ids do not decode to its text is an error.
        timeouts: seconds for the steps of an answer.
        max_answer_size: bytes of one.
        headers: more headers of each request.
        extra_body: more fields of each request, such as ``chat_template_kwargs``.
        affinity_headers: by which routers keep a session at one engine.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        model: str | None = None,
        api_key: str | None = None,
        level: Level = "tokens",
        tokens: TokenFields = "auto",
        tokenizer: Callable[[Sequence[int]], str] | None = None,
        timeouts: EngineTimeouts | None = None,
        max_answer_size: int = _MAX_SIZE,
        headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        affinity_headers: Sequence[str] = AFFINITY_HEADERS,
    ) -> None:
        bases = [urls] if isinstance(urls, str) else list(urls)
        if not bases:
            raise InvalidOption("there is no engine: give the base URL of one", option="urls")
        if level not in get_args(Level):
            raise InvalidOption(
                f"level must be one of {', '.join(get_args(Level))}, got {level!r}", option="level"
            )
        if tokens not in get_args(TokenFields):
            raise InvalidOption(
                f"tokens must be one of {', '.join(get_args(TokenFields))}, got {tokens!r}",
                option="tokens",
            )
        given = _KINDS[level] if tokens == "auto" or level == "text" else (tokens,)
        if (level != "text" and given == ("none",)) or (level, given) == ("tokens", ("logprobs",)):
            raise InvalidOption(
                f"tokens={tokens!r} does not give the level {level!r}: ask for"
                f" level={'logprobs' if tokens == 'logprobs' else 'text'!r}, or leave tokens out",
                option="tokens",
            )
        self.level: Level = level
        self._model = model
        self._kinds = given
        self._tokenizer = tokenizer
        self._extra_body = dict(extra_body or {})
        self._affinity = tuple(affinity_headers)
        limits = timeouts or EngineTimeouts()
        self._engines = [
            _Engine(_base_url(base), api_key or "", dict(headers or {}), limits, max_answer_size)
            for base in bases
        ]
        self._places: OrderedDict[str, _Engine] = OrderedDict()
        self._version: str | int | None = None

    def __repr__(self) -> str:
        return f"Engines({', '.join(engine.url for engine in self._engines)})"

    @property
    def model(self) -> str | None:
        """The name of the model; ``None`` until an engine was asked."""
        return self._model or next((e.model for e in self._engines if e.model), None)

    @property
    def version(self) -> str | int | None:
        """The version of the weights that was published last."""
        return self._version

    async def open(self) -> None:
        """Ask every engine for one token, to see that it gives what each answer has to have.

        One of several that cannot be reached is asked again when it is needed.

        Raises:
            ResponderUnavailable: none can be reached.
            ResponderFailed: one refuses the key or the model.
            InvalidCompletion: one does not give the level that is asked for.
        """
        reached, last = 0, None
        for engine in self._engines:
            try:
                await self._get_ready(engine)
                reached += 1
            except ResponderUnavailable as exc:
                last = exc
                engine.rest()
        if last is not None and not reached:
            raise last

    async def aclose(self) -> None:
        """Close the connections. Idempotent."""
        for engine in self._engines:
            await engine.aclose()

    def publish(self, version: str | int | None) -> None:
        """Name the version of the weights that tokens are sampled under from now on.

        A token carries the version that was the last one when it came. It is exact when engines
        pause for an update, and go on only after this. An engine that tells its version itself is
        believed, but for SGLang's ``default``, which it tells while none was set.
        """
        self._version = version

    def forget(self, session: str) -> None:
        """Keep no engine for a session that has ended."""
        if (engine := self._places.pop(session, None)) is not None:
            engine.sessions -= 1

    def facts(self) -> list[dict[str, Any]]:
        """Return what the engines do now, for a page of statistics."""
        now = time.monotonic()
        return [
            {
                "url": engine.url,
                "model": engine.model,
                "tokens": engine.kind,
                "calls": engine.running,
                "sessions": engine.sessions,
                "failing": engine.rests_until > now,
            }
            for engine in self._engines
        ]

    async def sample(
        self, call: Call, *, session: str, attempt: int = 0
    ) -> AsyncGenerator[Piece | Answer, None]:
        """Yield the pieces of an answer as they come, then the whole answer, last.

        Args:
            call: what is asked for.
            session: id that keeps a session at one engine.
            attempt: how often this call was tried before.

        Raises:
            ResponderUnavailable: the engine cannot be reached, fails, cuts its answer or is late.
            ResponderRateLimited: it answers 429.
            InvalidCompletion: its answer is none, or lacks what the level needs.
            ResponderFailed: it refused the call.
        """
        engine = self._chosen(session)
        engine.running += 1
        try:
            if engine.kind is None:
                await self._get_ready(engine)
            async for part in self._sampled(engine, call, session):
                yield part
            engine.failures = 0
        except ResponderUnavailable as exc:
            if "aborted" not in exc.detail:
                engine.rest()
                self.forget(session)
            raise
        finally:
            engine.running -= 1

    async def count_tokens(self, call: Call) -> int:
        """Return how many tokens the prompt of a call has, by the engine's own count.

        Raises:
            CallRefused: the engine does not count tokens.
            ResponderFailed: it failed to.
        """
        engine = self._chosen(None)
        await self._get_ready(engine)
        conversation: dict[str, Any] = {"messages": call.messages}
        if call.tools:
            conversation["tools"] = call.tools
        if engine.counts != "llama.cpp":
            asked = {**self._extra_body, "model": engine.model, **conversation}
            told = await engine.ask(f"{engine.root}/tokenize", asked)
            if told is not None and isinstance(count := told.get("count"), int):
                return count
        rendered = await engine.ask(f"{engine.root}/apply-template", conversation)
        if rendered is not None and isinstance(prompt := rendered.get("prompt"), str):
            engine.counts = "llama.cpp"
            content = {"content": prompt, "add_special": True, "parse_special": True}
            told = await engine.ask(f"{engine.root}/tokenize", content)
            if told is not None and isinstance(ids := told.get("tokens"), list):
                return len(ids)
        raise CallRefused(
            f"{engine} does not count tokens: of the engines that the gateway knows vLLM and"
            " llama.cpp's server do"
        )

    # -- which engine -----------------------------------------------------------------------------

    def _chosen(self, session: str | None) -> _Engine:
        """Return the engine of a session; a new one's is the least loaded of those that work."""
        if session is not None and (engine := self._places.get(session)) is not None:
            self._places.move_to_end(session)
            return engine
        now = time.monotonic()
        engine = min(
            self._engines,
            key=lambda each: (max(each.rests_until - now, 0.0), each.running, each.sessions),
        )
        if session is not None:
            self._places[session] = engine
            engine.sessions += 1
            if len(self._places) > _MAX_SESSIONS:
                _, oldest = self._places.popitem(last=False)
                oldest.sessions -= 1
        return engine

    async def _get_ready(self, engine: _Engine) -> None:
        """Learn the engine's model and whose fields it knows, once."""
        async with engine.starting:
            if engine.kind is not None:
                return
            engine.model = self._model or await engine.only_model()
            refused: ResponderFailed | None = None
            for kind in self._kinds:
                engine.kind = kind
                try:
                    async for part in self._sampled(engine, _PROBE, ""):
                        if isinstance(part, Answer):
                            engine.told_model = part.model
                            has_ids = part.tokens.completion_ids is not None
                            engine.is_llama_cpp = kind == "logprobs" and has_ids
                    return
                except ResponderFailed as exc:
                    engine.kind = None
                    lacks = isinstance(exc, InvalidCompletion) and "lacks" in exc.detail
                    if not lacks and exc.detail.get("status") not in UNKNOWN_FIELD:
                        raise
                    refused = exc
            assert refused is not None
            lower = "level='text'" if self.level == "logprobs" else "level='logprobs' or 'text'"
            raise InvalidCompletion(
                f"{engine} does not give the level {self.level!r} ({refused.message}): start an"
                f" engine that gives it, such as vLLM or SGLang, or ask for less, {lower}",
                **refused.detail,
            ) from refused

    # -- one sample -------------------------------------------------------------------------------

    async def _sampled(
        self, engine: _Engine, call: Call, session: str
    ) -> AsyncGenerator[Piece | Answer, None]:
        headers = dict.fromkeys(self._affinity, session) if session else {}
        path, body = "/chat/completions", self._body(engine, call)
        versions = _Versions(self._version)
        stream = CompletionStream(keeps_aborted=True)
        for _ in range(_MOST_PARTS):
            exchange = await engine.post(engine.url + path, body, headers)
            try:
                if exchange.is_stream:
                    while not stream.ended and (data := await exchange.read()):
                        versions.note(stream.sampled, self._version)
                        for delta in exchange.told(stream.feed, data):
                            yield _piece(delta)
                    reply = exchange.told(stream.reply, engine.model)
                    await exchange.drain()
                else:
                    whole = await exchange.whole()
                    reply = exchange.told(read_completion, whole, engine.model)
                    yield _whole_piece(reply)
            finally:
                exchange.close()
            if reply.finish_reason != ABORTED:
                break
            path, body = self._rest_of(engine, call, reply)
            stream.go_on()
        else:
            raise engine.unavailable(f"aborted its answer {_MOST_PARTS} times", aborted=True)
        yield self._answer(engine, reply, versions.of(reply.weight_version))

    def _rest_of(self, engine: _Engine, call: Call, reply: Reply) -> tuple[str, bytes]:
        """Return the request for the rest of an answer that was aborted: path and body.

        The prompt is that of the call with what was sampled, by its ids. Only the chat API makes
        tool calls of tokens, and it takes messages: there the rest is asked for as the end of the
        last message, and is none if its ids turn out to be others.

        Raises:
            ResponderUnavailable: the rest cannot be had exactly.
        """
        ids, said = reply.completion_ids, reply.text
        stops = call.sampling.get("stop") or ()
        is_exact = (
            reply.prompt_ids is not None
            and ids is not None
            and len(ids) > 0
            and reply.logprobs is not None
            and not reply.tool_calls
            and "reasoning" not in reply.extra
            and "response_format" not in call.sampling
            and not said.endswith("\N{REPLACEMENT CHARACTER}")
            and not any(_begins_in(said, stop) for stop in stops)
        )
        most = call.sampling.get("max_tokens")
        if not is_exact or (most is not None and len(ids or ()) >= most):
            raise engine.unavailable(
                "aborted its answer, and the rest of it cannot be asked for exactly", aborted=True
            )
        assert reply.prompt_ids is not None
        assert ids is not None
        fields = dict(call.sampling)
        for name in ("max_tokens", "min_tokens"):
            if name in fields:
                fields[name] = max(0, fields[name] - len(ids))
        # Completions of text that name no limit end after 16 tokens.
        if most is None or (call.tools and call.tool_choice != "none"):
            last = {"role": "assistant", "content": said}
            more = {"add_generation_prompt": False, "continue_final_message": True}
            rest = msgspec.structs.replace(call, messages=[*call.messages, last], sampling=fields)
            return "/chat/completions", self._body(engine, rest, more)
        text_fields: dict[str, Any] = {
            "model": engine.model,
            **{name: value for name, value in fields.items() if name not in _OF_CHAT},
            **{name: value for name, value in self._extra_body.items() if name not in _OF_CHAT},
            "prompt": [*reply.prompt_ids, *ids],
            "logprobs": 0,
            "return_token_ids": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return "/completions", msgspec.json.encode(text_fields)

    def _body(self, engine: _Engine, call: Call, more: Mapping[str, Any] | None = None) -> bytes:
        """Return the body of a request for a call, with more fields."""
        assert engine.kind is not None
        body: dict[str, Any] = {"model": engine.model, "messages": call.messages, **call.sampling}
        if engine.is_of_openai and "max_tokens" in body:
            body["max_completion_tokens"] = body.pop("max_tokens")
        if call.tools:
            body["tools"] = call.tools
            if call.tool_choice is not None:
                body["tool_choice"] = call.tool_choice
        body |= TOKEN_FIELDS[engine.kind]
        if engine.is_llama_cpp:
            body["top_logprobs"] = 1
        elif engine.kind != "sglang":
            body["stream"] = True
            body["stream_options"] = {"include_usage": True}
        body |= self._extra_body
        if more is not None:
            body |= more
        return msgspec.json.encode(body)

    def _answer(
        self, engine: _Engine, reply: Reply, versions: list[tuple[int, str | int]]
    ) -> Answer:
        """Return the answer of a reply, which has all that the level needs."""
        self._check(engine, reply)
        usage = reply.usage
        return Answer(
            text=reply.text,
            reasoning=reply.extra.get("reasoning", ""),
            tool_calls=[
                ToolCall(
                    id=each["id"],
                    name=each["function"]["name"],
                    arguments=each["function"]["arguments"],
                )
                for each in reply.tool_calls
            ],
            finish_reason=reply.finish_reason,
            stop_sequence=reply.extra.get("stop_sequence"),
            prompt_tokens=None if usage is None else usage.prompt_tokens,
            completion_tokens=None if usage is None else usage.completion_tokens,
            cached_tokens=reply.extra.get("cached_tokens"),
            model=reply.model,
            engine=engine.url,
            engine_call_id=reply.extra.get("id"),
            tokens=SampledTokens(
                prompt_ids=_listed(reply.prompt_ids),
                completion_ids=_listed(reply.completion_ids),
                logprobs=_listed(reply.logprobs),
                versions=versions,
            ),
        )

    def _check(self, engine: _Engine, reply: Reply) -> None:
        """Refuse a reply that is another model's, or that lacks what the level needs."""
        if reply.model not in (engine.model, engine.told_model) and engine.told_model is not None:
            raise InvalidCompletion(
                f"{engine} answered with the model {reply.model!r} where {engine.model!r} was"
                " asked: see what it serves, and name the model in the gateway's options",
                model=reply.model,
            )
        lacks = ""
        if self.level != "text" and reply.logprobs is None:
            ids = reply.completion_ids
            lacks = "log probabilities"
            if ids is not None:
                lacks = f"a log probability for each of its {len(ids)} token ids"
        elif engine.is_llama_cpp and _is_short(reply):
            lacks = "some of its log probabilities (llama.cpp's server does: ask for level='text')"
        elif self.level == "tokens" and reply.completion_ids is None:
            lacks = "the ids of what it sampled"
        elif self.level == "tokens" and reply.prompt_ids is None:
            lacks = "the ids of the prompt"
        if lacks:
            raise InvalidCompletion(
                f"{engine} answered without {lacks}, which the level {self.level!r} needs (it was"
                f" asked by the fields of {engine.kind})",
                lacks=lacks,
            )
        if self._tokenizer is not None and reply.completion_ids is not None:
            _check_text(engine, reply, self._tokenizer(reply.completion_ids))


class _Versions:
    """Versions of the weights that were published as the tokens of an answer came."""

    def __init__(self, version: str | int | None) -> None:
        self._noted = [(0, version)]

    def note(self, sampled: int, version: str | int | None) -> None:
        """Note the version that holds for all tokens but the first ``sampled`` ones."""
        if version != self._noted[-1][1]:
            if self._noted[-1][0] == sampled:
                self._noted.pop()
            self._noted.append((sampled, version))

    def of(self, told: str | int | None) -> list[tuple[int, str | int]]:
        """Return the versions of an answer, of which the engine told its own or ``None``."""
        published = [(first, version) for first, version in self._noted if version is not None]
        if told is None or (told == _UNSET_VERSION and published):
            return published
        return [(0, told)]


class _Engine:
    """One engine: where it is, what it gives, how busy it is; and requests to it.

    Attributes:
        url: its base URL.
        root: the same without ``/v1``.
        model: which it is asked for; ``None`` until that is known.
        told_model: which it names in its answers.
        kind: whose fields ask it for what was sampled; ``None`` until it was asked.
        is_llama_cpp: it is llama.cpp's server, and is asked for log probabilities.
        counts: whose way of counting tokens it knows, as far as that is known.
        running: calls under way.
        sessions: that stay with it.
        failures: one after the other.
        rests_until: no new session goes to it before, where there is another.
    """

    def __init__(
        self,
        url: str,
        key: str,
        headers: Mapping[str, str],
        timeouts: EngineTimeouts,
        max_size: int,
    ) -> None:
        self.url = url
        self.root = url.removesuffix("/v1")
        self.key = key
        self.timeouts = timeouts
        self.max_size = max_size
        self.is_of_openai = urlsplit(url).hostname == "api.openai.com"
        self.model: str | None = None
        self.told_model: str | None = None
        self.kind: str | None = None
        self.is_llama_cpp = False
        self.counts: str | None = None
        self.running = 0
        self.sessions = 0
        self.failures = 0
        self.rests_until = 0.0
        self.starting = asyncio.Lock()
        self._headers = {"Content-Type": "application/json", **headers}
        if key:
            self._headers["Authorization"] = f"Bearer {key}"
        self._http: EngineHTTP | None = None

    def __str__(self) -> str:
        return f"the engine {self.url}"

    def rest(self) -> None:
        """Note a failure: other engines get its sessions for a while, longer at each failure."""
        self.failures += 1
        self.rests_until = time.monotonic() + min(2.0 ** (self.failures - 1), _LONGEST_REST)

    async def aclose(self) -> None:
        """Close its connections."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def only_model(self) -> str:
        """Return the name of the model that it lists.

        Raises:
            ResponderFailed: it lists none, or several.
        """
        exchange = await self.post(f"{self.url}/models", None, {})
        try:
            names = read_models(await exchange.whole())
        finally:
            exchange.close()
        if len(names) != 1:
            listed = ", ".join(names[:10]) or "none"
            raise ResponderFailed(
                f"{self} lists {len(names)} models ({listed}): name the one to ask for",
                retryable=False,
            )
        return names[0]

    async def ask(self, url: str, fields: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return the answer to a small question; ``None`` where the engine does not know it."""
        try:
            exchange = await self.post(url, msgspec.json.encode(fields), {})
        except ResponderFailed as exc:
            if exc.detail.get("status") in (404, 405, *UNKNOWN_FIELD):
                return None
            raise
        try:
            told = msgspec.json.decode(await exchange.whole())
        except msgspec.DecodeError:
            return None
        finally:
            exchange.close()
        return told if isinstance(told, dict) else None

    async def post(self, url: str, data: bytes | None, headers: Mapping[str, str]) -> _Exchange:
        """Return the exchange of a request that was taken; without data it is a GET.

        Raises:
            ResponderFailed: it was not.
        """
        http = self._http
        if http is None or http.loop is not asyncio.get_running_loop():
            await self.aclose()
            self._http = http = await http_to(self.url, self._headers, self.timeouts.connect)
        begun = time.monotonic()
        try:
            response = await http.request(url, headers, data, begun + self.timeouts.first)
        except RequestFailed as exc:
            raise self.unavailable(str(exc)) from exc
        except TimeoutError as exc:
            late = f"did not begin to answer within {self.timeouts.first:g} s"
            raise self.unavailable(late) from exc
        except ValueError as exc:
            raise ResponderFailed(
                f"{self.url} is not an address: {shown(str(exc), self.key)}", retryable=False
            ) from exc
        exchange = _Exchange(self, response, begun + self.timeouts.total)
        if response.status != 200:
            await exchange.refuse()
        return exchange

    def unavailable(self, what: str, **facts: Any) -> ResponderUnavailable:
        return ResponderUnavailable(f"{self} {shown(what, self.key)}", engine=self.url, **facts)


class _Exchange:
    """A request to an engine that was sent, and its response."""

    def __init__(self, engine: _Engine, response: Response, deadline: float) -> None:
        self._engine = engine
        self._response = response
        self._deadline = deadline
        self._limit = engine.timeouts.first
        self._size = 0
        self.is_stream = "event-stream" in response.headers.get("Content-Type", "")

    async def read(self) -> bytes:
        """Return the next bytes; none at the end.

        Raises:
            ResponderUnavailable: the answer is cut, or late.
            InvalidCompletion: it is too long.
        """
        until = time.monotonic() + self._limit
        try:
            data = await self._response.read(min(until, self._deadline))
        except TimeoutError as exc:
            late = f"sent nothing for {self._limit:g} s amid its answer"
            if self._deadline < until:
                late = f"did not end its answer within {self._engine.timeouts.total:g} s"
            raise self._engine.unavailable(late) from exc
        except RequestFailed as exc:
            raise self._engine.unavailable(str(exc)) from exc
        self._limit = self._engine.timeouts.piece
        self._size += len(data)
        if self._size > self._engine.max_size:
            raise InvalidCompletion(
                f"{self._engine} sent more than {self._engine.max_size:,} bytes as one answer:"
                " lower max_tokens, or raise max_answer_size"
            )
        return data

    async def whole(self) -> bytes:
        """Return the whole body."""
        parts = []
        while data := await self.read():
            parts.append(data)
        return b"".join(parts)

    async def drain(self) -> None:
        """Wait a little for the end of a stream whose last event came: its connection is reused."""
        if self._response.is_at_end:
            return
        with contextlib.suppress(ResponderFailed):
            self._limit = _DRAIN
            while await self.read():
                pass

    def close(self) -> None:
        """Give the connection back; one whose answer is not at its end is closed."""
        self._response.close()

    def told(self, read: Callable[..., Any], *given: Any) -> Any:
        """Return what a reader makes of the answer; its errors are typed.

        Raises:
            ResponderUnavailable: the answer is cut, or tells of a failure.
            InvalidCompletion: it is not a chat completion, or tells of what cannot be.
        """
        try:
            return read(*given)
        except Truncated as exc:
            raise self._engine.unavailable(f"cut its answer: {exc}") from exc
        except ServerFailed as exc:
            facts = {"aborted": True} if exc.is_abort else {}
            raise self._engine.unavailable(
                f"told of an error in place of its answer: {exc}", **facts
            ) from exc
        except Impossible as exc:
            raise InvalidCompletion(
                f"{self._engine} answered with what no model samples: {exc}"
            ) from exc
        except ValueError as exc:
            raise InvalidCompletion(
                f"{self._engine} answered with something other than a chat completion:"
                f" {shown(str(exc), self._engine.key)}. Is its URL that of an OpenAI-compatible"
                " API? It often ends in /v1"
            ) from exc

    async def refuse(self) -> NoReturn:
        """Raise the error of a response that is none of success."""
        engine, status = self._engine, self._response.status
        try:
            told = (await self.whole())[:2000].decode(errors="replace")
        except ResponderFailed as exc:
            told = exc.message
        finally:
            self.close()
        facts: dict[str, Any] = {
            "status": status,
            "engine": engine.url,
            "told": shown(told, engine.key),
        }
        text = f"{engine} answered HTTP {status}: {facts['told']}"
        wait = asked_wait(self._response.headers)
        if status == 429:
            raise ResponderRateLimited(text, retry_after=wait or None, **facts)
        if status in PASSING or status >= 500:
            raise ResponderUnavailable(text, retry_after=wait or None, **facts)
        if status in (401, 403):
            text += ". Give its key to the gateway"
        if status < 400 or status in (404, 405):
            text += ". Is its URL that of an OpenAI-compatible API? It often ends in /v1"
        raise ResponderFailed(text, retryable=False, **facts)


def _base_url(url: str) -> str:
    """Return the base URL of an engine's API; one without a path gets ``/v1``."""
    base = url.rstrip("/")
    try:
        check_base_url(base, "as api_key")
    except ValueError as exc:
        raise InvalidOption(str(exc), option="urls") from None
    return base if urlsplit(base).path else f"{base}/v1"


def _piece(delta: Delta) -> Piece:
    calls = [
        ToolDelta(index=each.index, id=each.id, name=each.name, arguments=each.arguments)
        for each in delta.calls
    ]
    return Piece(text=delta.text, reasoning=delta.reasoning, tool_calls=calls)


def _whole_piece(reply: Reply) -> Piece:
    """Return the one piece of a reply that came whole."""
    calls = [
        ToolDelta(
            index=index,
            id=each["id"],
            name=each["function"]["name"],
            arguments=each["function"]["arguments"],
        )
        for index, each in enumerate(reply.tool_calls)
    ]
    return Piece(text=reply.text, reasoning=reply.extra.get("reasoning", ""), tool_calls=calls)


def _is_short(reply: Reply) -> bool:
    """Return whether a reply tells of fewer tokens than were sampled by its own count."""
    return reply.usage is not None and reply.usage.completion_tokens > len(reply.logprobs or ())


def _begins_in(text: str, stop: str) -> bool:
    """Return whether a text ends amid a stop sequence, which its rest might complete."""
    return any(text.endswith(stop[:size]) for size in range(1, len(stop)))


def _listed(values: Sequence[Any] | None) -> list[Any] | None:
    return None if values is None else list(values)


def _check_text(engine: _Engine, reply: Reply, decoded: str) -> None:
    """Refuse a reply whose ids do not decode to what it says.

    Engines take marks out of the text and put arguments in their own spelling: what is left, the
    reasoning, the text and the names of tools, has to stand in what was sampled, in this order.
    """
    at = 0
    names = [each["function"]["name"] for each in reply.tool_calls]
    for part in (reply.extra.get("reasoning", ""), reply.text, *names):
        part = part.strip()
        found = decoded.find(part, at)
        if found < 0:
            raise InvalidCompletion(
                f"{engine} answered with token ids that do not decode to its text: they make"
                f" {decoded[:100]!r}, and it says {part[:100]!r}. Has it the tokenizer that the"
                " gateway was given?",
                lacks="ids of its text",
            )
        at = found + len(part)
