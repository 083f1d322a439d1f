"""Chat completions as servers answer them, whole or as a stream, made into replies.

Servers tell in these fields which tokens were sampled; nothing is made up where they are missing:

- OpenAI and all who follow it, with ``logprobs``: ``choices[].logprobs.content[].logprob``.
- vLLM, with ``return_token_ids``: ``prompt_token_ids`` of the completion (of a stream's first
  chunk) and ``choices[].token_ids``; with ``return_tokens_as_token_ids`` the tokens of ``logprobs``
  are written ``token_id:N``.
- llama.cpp's server, with ``logprobs``: each of ``logprobs.content`` has the ``id`` of its token.
- SGLang from 0.5.13 on, never of a stream: with ``return_prompt_token_ids``
  ``choices[].prompt_token_ids``; with ``return_meta_info`` ``choices[].meta_info``, which has
  ``output_token_logprobs``, a list of (log probability, id, text), and ``weight_version``; the
  completion's ``metadata`` has ``weight_version`` also unasked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from openenv_async.responders.base import Reply, Usage

__all__ = [
    "ABORTED",
    "TOKEN_FIELDS",
    "CallDelta",
    "CompletionStream",
    "Delta",
    "Impossible",
    "ServerFailed",
    "Truncated",
    "read_completion",
    "read_models",
]

TOKEN_FIELDS: Final[Mapping[str, Mapping[str, Any]]] = {
    "none": {},
    "logprobs": {"logprobs": True},
    "vllm": {"logprobs": True, "return_token_ids": True},
    "sglang": {"logprobs": True, "return_prompt_token_ids": True, "return_meta_info": True},
}
"""Fields of a request that ask for what was sampled, by whose they are."""

_TOKEN_ID: Final = "token_id:"
_LONGEST_DONE: Final = 16
"""Bytes of the event that says that nothing follows, white space around it included."""
_RUN: Final = 4
"""Events that are decoded in one go, at least."""
_ENDING: Final = 3
"""Events at the end of a stream that have more than text: the last choice, usage, the end."""
ABORTED: Final = "abort"
"""The finish reason of a reply that was broken off, for an update of the weights for one."""
_BROKEN_OFF: Final = frozenset({ABORTED, "error"})
"""Finish reasons of a reply that its server did not bring to an end."""


_MAX_ID: Final = 2**31 - 1
_ROUNDING: Final = 1e-3
"""The most by which rounding takes a log probability above 0."""


class Truncated(ValueError):
    """An answer ended before its end."""


class Impossible(ValueError):
    """An answer tells of what cannot have been sampled, or of more than was asked for."""


class CallDelta(msgspec.Struct, gc=False):
    """The next part of a tool call; ``id`` and ``name`` come with its first one.

    ``index`` counts the calls of the reply as they began, however the server numbers them.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Delta(msgspec.Struct, gc=False):
    """The next part of a streamed message, of one kind: reasoning, text or tool calls."""

    text: str = ""
    reasoning: str = ""
    calls: list[CallDelta] = []


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: Any = None


class _ToolCall(msgspec.Struct, gc=False):
    function: _Function
    id: str | None = None
    index: int | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | list[dict[str, Any]] | None = None
    tool_calls: list[_ToolCall] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None


class _Token(msgspec.Struct, gc=False):
    logprob: float | None
    token: str = ""
    id: int | None = None


class _Logprobs(msgspec.Struct, gc=False):
    content: list[_Token] | None = None
    token_logprobs: list[float | None] | None = None


class _MetaInfo(msgspec.Struct, gc=False):
    output_token_logprobs: list[tuple[float | None, int, Any]] | None = None
    weight_version: str | int | None = None


class _Choice(msgspec.Struct, gc=False):
    index: int | None = 0
    message: _Message | None = None
    delta: _Message | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: list[int] | None = None
    meta_info: _MetaInfo | None = None
    stop_reason: Any = None
    matched_stop: Any = None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _PromptDetails | None = None


class _Metadata(msgspec.Struct, gc=False):
    weight_version: str | int | None = None


class _Completion(msgspec.Struct, gc=False):
    choices: list[_Choice] | None = None
    error: Any = None
    id: str | None = None
    usage: _Usage | None = None
    model: str | None = None
    prompt_token_ids: list[int] | None = None
    metadata: _Metadata | None = None


class _PlainDelta(msgspec.Struct, gc=False):
    content: str
    tool_calls: None = None
    reasoning_content: None = None
    reasoning: None = None
    refusal: None = None


class _PlainLogprobs(msgspec.Struct, gc=False):
    content: list[_Token]


class _PlainChoice(msgspec.Struct, gc=False):
    delta: _PlainDelta
    index: Literal[0] | None = 0
    finish_reason: None = None
    logprobs: _PlainLogprobs | None = None
    token_ids: list[int] | None = None
    prompt_token_ids: None = None
    meta_info: None = None


class _PlainChunk(msgspec.Struct, gc=False):
    """A chunk that has the next characters and nothing else: what has more cannot be decoded."""

    choices: tuple[_PlainChoice]
    error: None = None
    usage: None = None
    prompt_token_ids: None = None
    metadata: None = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


_decode: Final = msgspec.json.Decoder(_Completion, strict=True).decode
_decode_plain: Final = msgspec.json.Decoder(_PlainChunk, strict=True).decode
_decode_run: Final = msgspec.json.Decoder(list[_PlainChunk], strict=True).decode


def read_completion(data: bytes, model: str) -> Reply:
    """Return the reply in an answer.

    Args:
        data: the body.
        model: which was asked, for an answer that does not say.

    Raises:
        Truncated: it ends amid the JSON.
        Impossible: it tells of what cannot be.
        ServerFailed: the server tells of an error instead of answering.
        ValueError: it is not a chat completion.
    """
    completion = _checked(_decoded(data))
    if not completion.choices:
        raise ValueError("it has no choices")
    choice = _only(completion.choices)
    message = choice.message
    if message is None:
        raise ValueError("its choice has no message")
    return _reply(completion, choice, message, model)


def read_models(data: bytes) -> list[str]:
    """Return the names of an endpoint's models; none where the answer is something else."""
    try:
        return [model.id for model in msgspec.json.decode(data, type=_Models).data]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return []


class CompletionStream:
    """A completion that comes in chunks of server-sent events; ``feed`` takes bytes as they come.

    Args:
        keeps_aborted: an answer that its server broke off has a reply, with what there is of it;
            ``go_on`` takes the rest of it from another stream.

    Attributes:
        complete: the model said that it ended, or the server that this is all.
        ended: the server said that nothing follows.
        size: bytes taken so far.
    """

    def __init__(self, *, keeps_aborted: bool = False) -> None:
        self.complete = False
        self.ended = False
        self.size = 0
        self._keeps_aborted = keeps_aborted
        self._rest: list[bytes] = []
        self._before = 0
        self._prompt: list[int] | None = None
        self._whole = _Completion([])
        self._choice = _Choice()
        self._begun = False
        self._is_plain = False
        self._ids: list[int] | None = None
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._calls: dict[int, _ToolCall] = {}
        self._tokens: list[_Token] | None = None

    def feed(self, data: bytes) -> list[Delta]:
        """Take the next bytes; return what they add to the message, parts of one kind as one.

        Raises:
            Impossible: it has more than one choice.
            ServerFailed: the server tells of an error instead of going on.
            ValueError: this is not a stream of chat completion chunks.
        """
        self.size += len(data)
        if b"\n" not in data:
            self._rest.append(data)
            return []
        if self._rest:
            data = b"".join((*self._rest, data))
        *lines, rest = data.split(b"\n")
        self._rest = [rest] if rest else []
        deltas: list[Delta] = []
        texts: list[str] = []
        events = [line[5:] for line in lines if line[:5] == b"data:"]
        taken, count = 0, len(events)
        run_to, is_ending = count - _ENDING, False
        while taken < count:
            event = events[taken]
            if self._is_plain and not is_ending:
                if run_to - taken >= _RUN and self._take_run(events[taken:run_to], texts):
                    taken, is_ending = run_to, True
                    continue
                run_to = 0  # one attempt for all that came at once
                if self._take_text(event, texts):
                    taken += 1
                    continue
            taken += 1
            if len(event) <= _LONGEST_DONE and event.strip() == b"[DONE]":
                self.complete = self.ended = True
                continue
            if texts:
                self._join(texts, deltas)
                texts.clear()
            try:
                chunk = _checked(_decoded(event.strip()), self._keeps_aborted)
            except Truncated as exc:
                raise ValueError(f"an event of the stream is not JSON: {exc}") from None
            self._take(chunk, deltas)
        if texts:
            self._join(texts, deltas)
        return deltas

    def _join(self, texts: list[str], deltas: list[Delta]) -> None:
        """Add texts that came one after the other."""
        if text := "".join(texts):
            self._text.append(text)
            if deltas and deltas[-1].text:
                deltas[-1].text += text
            else:
                deltas.append(Delta(text))

    def _take_text(self, event: bytes, texts: list[str]) -> bool:
        """Take an event that has the next characters alone, as nearly all have; return if it did.

        Its text goes to ``texts``, for ``_join``.
        """
        try:
            chunk = _decode_plain(event)
        except (msgspec.MsgspecError, RecursionError):
            return False
        self._take_plain(chunk.choices[0], texts)
        return True

    def _take_run(self, events: list[bytes], texts: list[str]) -> bool:
        """Take events that came at once, as ``_take_text`` does, if all are of that kind."""
        try:
            chunks = _decode_run(b"[%b]" % b",".join(events))
        except (msgspec.MsgspecError, RecursionError):
            return False
        if len(chunks) != len(events):
            return False
        for chunk in chunks:
            self._take_plain(chunk.choices[0], texts)
        return True

    def _take_plain(self, part: _PlainChoice, texts: list[str]) -> None:
        texts.append(part.delta.content)
        if part.logprobs is not None:
            if self._tokens is None:
                self._tokens = part.logprobs.content
            else:
                self._tokens += part.logprobs.content
        if part.token_ids is not None:
            if self._ids is None:
                self._ids = part.token_ids
            else:
                self._ids += part.token_ids

    @property
    def sampled(self) -> int:
        """The number of tokens that were told so far."""
        return len(self._ids or self._tokens or ())

    def go_on(self) -> None:
        """Take the rest of an aborted answer from now on: of chat or of text completions.

        Its prompt has to be the first one's with all that was sampled so far, by their ids.
        """
        self.complete = self.ended = False
        self._rest = []
        self._is_plain = False
        self._prompt = [*(self._prompt_ids or ()), *(self._ids or ())]
        self._before = self.sampled
        self._whole.usage = None

    @property
    def _prompt_ids(self) -> list[int] | None:
        return self._whole.prompt_token_ids or self._choice.prompt_token_ids

    def reply(self, model: str) -> Reply:
        """Return the reply; only a ``complete`` one has one.

        Raises:
            Truncated: the stream ended before its end, or has nothing else.
            Impossible: it tells of what cannot be.
            ServerFailed: the rest of an aborted answer does not belong to it.
        """
        if not self.complete or not self._begun:
            raise Truncated("the stream ended before the end of the reply")
        if self._prompt is not None:
            raise ServerFailed(
                "the rest of an aborted answer does not tell its prompt", is_abort=True
            )
        if self._before and self._whole.usage is not None:
            used = self._whole.usage
            used.prompt_tokens = (used.prompt_tokens or 0) - self._before
            used.completion_tokens = (used.completion_tokens or 0) + self._before
            cached = used.prompt_tokens_details  # of the rest, whose prompt has what was sampled
            if cached is not None and cached.cached_tokens is not None:
                cached.cached_tokens = min(cached.cached_tokens, used.prompt_tokens)
            self._before = 0
        choice = self._choice
        message = _Message(
            "".join(self._text),
            [*self._calls.values()],
            "".join(self._reasoning) or None,
            refusal="".join(self._refusal) or None,
        )
        choice.token_ids = self._ids
        if self._tokens is not None:
            choice.logprobs = _Logprobs(self._tokens)
        return _reply(self._whole, choice, message, model)

    def _take(self, chunk: _Completion, deltas: list[Delta]) -> None:
        whole, choice = self._whole, self._choice
        if whole.id is None or whole.model is None:
            whole.id = whole.id or chunk.id
            whole.model = whole.model or chunk.model
        if chunk.usage is not None:
            whole.usage = chunk.usage
        if chunk.metadata is not None:
            whole.metadata = chunk.metadata
        if self._prompt is not None:
            self._check_prompt(chunk)
        if chunk.prompt_token_ids is not None:
            whole.prompt_token_ids = whole.prompt_token_ids or chunk.prompt_token_ids
        if chunk.choices is None and chunk.usage is None:
            raise ValueError("an event of the stream has no choices")
        if chunk.choices:
            part = _only(chunk.choices)
            self._begun = True
            if part.prompt_token_ids is not None and not self._before:
                choice.prompt_token_ids = choice.prompt_token_ids or part.prompt_token_ids
            if part.meta_info is not None:
                choice.meta_info = part.meta_info
            if part.token_ids is not None:
                if self._ids is None:
                    self._ids = []
                self._ids += part.token_ids
            if part.logprobs is not None:
                told = part.logprobs.content
                if told is None:
                    told = [_Token(each) for each in part.logprobs.token_logprobs or ()]
                if self._tokens is None:
                    self._tokens = []
                self._tokens += told
            if part.delta is not None:
                self._add(part.delta, deltas)
                self._is_plain = self._prompt is None and _has_only_text(part.delta)
            elif part.text:
                self._add(_Message(part.text), deltas)
            if part.finish_reason is not None:
                choice.finish_reason = part.finish_reason
                choice.stop_reason = part.stop_reason
                choice.matched_stop = part.matched_stop
                self.complete = True

    def _check_prompt(self, chunk: _Completion) -> None:
        """Refuse the rest of an answer that does not go on where it was aborted."""
        told = chunk.prompt_token_ids
        for choice in chunk.choices or ():
            told = told or choice.prompt_token_ids
        if told is not None:
            if told != self._prompt:
                raise ServerFailed(
                    "the rest of an aborted answer has another prompt", is_abort=True
                )
            self._prompt = None
        elif any(choice.token_ids for choice in chunk.choices or ()):
            raise ServerFailed(
                "the rest of an aborted answer does not tell its prompt", is_abort=True
            )

    def _add(self, delta: _Message, deltas: list[Delta]) -> None:
        last = deltas[-1] if deltas else None
        if reasoning := delta.reasoning_content or delta.reasoning:
            self._reasoning.append(reasoning)
            if last is not None and last.reasoning:
                last.reasoning += reasoning
            else:
                deltas.append(last := Delta(reasoning=reasoning))
        if delta.content and isinstance(delta.content, str):
            self._text.append(delta.content)
            if last is not None and last.text:
                last.text += delta.content
            else:
                deltas.append(last := Delta(text=delta.content))
        if delta.refusal:
            self._refusal.append(delta.refusal)
        for call in delta.tool_calls or ():
            index = len(self._calls) if call.index is None else call.index
            known = self._calls.get(index)
            if known is None:
                place = len(self._calls)
                known = self._calls[index] = _ToolCall(_Function(arguments=""), index=place)
            assert known.index is not None
            more = CallDelta(
                known.index,
                "" if known.id else call.id or "",
                "" if known.function.name else call.function.name or "",
                "" if call.function.arguments is None else _as_text(call.function.arguments),
            )
            known.id = known.id or more.id
            known.function.name = known.function.name or more.name
            known.function.arguments += more.arguments
            if last is None or not last.calls:
                deltas.append(last := Delta(calls=[more]))
            elif last.calls[-1].index == more.index and not (more.id or more.name):
                last.calls[-1].arguments += more.arguments
            else:
                last.calls.append(more)


class ServerFailed(Exception):
    """The server told of an error where an answer was to be, or broke the answer off.

    Attributes:
        is_abort: it broke the answer off by its own decision; it did not fail.
    """

    def __init__(self, message: str, *, is_abort: bool = False) -> None:
        super().__init__(message)
        self.is_abort = is_abort


def _has_only_text(delta: _Message) -> bool:
    """Return whether the chunk after one with this delta is likely to have text alone."""
    is_text = isinstance(delta.content, str)
    return is_text and not (
        delta.tool_calls or delta.reasoning_content or delta.reasoning or delta.refusal
    )


def _decoded(data: bytes) -> _Completion:
    try:
        return _decode(data)
    except msgspec.ValidationError as exc:
        raise ValueError(str(exc)) from None
    except msgspec.DecodeError as exc:
        if not data.strip() or "truncated" in str(exc):
            raise Truncated(str(exc) if data.strip() else "it is empty") from None
        raise ValueError(str(exc)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _checked(completion: _Completion, keeps_aborted: bool = False) -> _Completion:
    """Return a completion, unless its server failed.

    Raises:
        ServerFailed: it did.
    """
    if isinstance(completion.error, dict):
        raise ServerFailed(msgspec.json.encode(completion.error)[:2000].decode(errors="replace"))
    for choice in completion.choices or ():
        if choice.finish_reason is None:
            continue
        if choice.finish_reason in _BROKEN_OFF and not (
            keeps_aborted and choice.finish_reason == ABORTED
        ):
            raise ServerFailed(
                f"its finish reason is {choice.finish_reason}",
                is_abort=choice.finish_reason == ABORTED,
            )
    return completion


def _reply(completion: _Completion, choice: _Choice, message: _Message, model: str) -> Reply:
    used = completion.usage
    extra: dict[str, Any] = {}
    if completion.id is not None:
        extra["id"] = completion.id
    if reasoning := message.reasoning_content or message.reasoning:
        extra["reasoning"] = reasoning
    if message.refusal:
        extra["refusal"] = message.refusal
    details = None if used is None else used.prompt_tokens_details
    if details is not None and details.cached_tokens is not None:
        extra["cached_tokens"] = details.cached_tokens
    stopped_at = choice.matched_stop if choice.stop_reason is None else choice.stop_reason
    if isinstance(stopped_at, str):  # a number is the token that ended it
        extra["stop_sequence"] = stopped_at
    ids, logprobs = _sampled(choice)
    prompt = completion.prompt_token_ids
    if prompt is None:
        prompt = choice.prompt_token_ids
    _check_ids("sampled", ids)
    _check_ids("prompt's", prompt)
    if logprobs and max(logprobs) > _ROUNDING:
        raise Impossible(f"it tells of the log probability {max(logprobs)!r}, which is above 0")
    _check_usage(used)
    meta, metadata = choice.meta_info, completion.metadata
    version = None if metadata is None else metadata.weight_version
    content = message.content
    blocks = content if isinstance(content, list) else None
    calls = [_call(each, number) for number, each in enumerate(message.tool_calls or ())]
    return Reply(
        text=_text_of(blocks) if blocks is not None else content or "",  # type: ignore[arg-type]
        finish_reason=choice.finish_reason or "stop",
        usage=None
        if used is None or used.prompt_tokens is None
        else Usage(used.prompt_tokens, used.completion_tokens or 0),
        model=completion.model or model,
        tool_calls=calls,
        content=blocks,
        prompt_ids=prompt,
        completion_ids=ids,
        logprobs=logprobs,
        weight_version=version
        if meta is None or meta.weight_version is None
        else meta.weight_version,
        extra=extra,
    )


def _only(choices: Sequence[_Choice]) -> _Choice:
    """Return the one choice that was asked for."""
    if len(choices) != 1 or choices[0].index:
        raise Impossible("it has more choices than the one that was asked for")
    return choices[0]


def _check_ids(whose: str, ids: Sequence[int] | None) -> None:
    """Refuse ids that no tokenizer has."""
    if ids and (min(ids) < 0 or max(ids) > _MAX_ID):
        odd = next(each for each in ids if not 0 <= each <= _MAX_ID)
        raise Impossible(f"the {whose} ids have {odd}, which is not the id of a token")


def _check_usage(used: _Usage | None) -> None:
    """Refuse counts of tokens that cannot be."""
    if used is None:
        return
    details = used.prompt_tokens_details
    cached = 0 if details is None else details.cached_tokens or 0
    prompt = used.prompt_tokens or 0
    counts = {"prompt": prompt, "completion": used.completion_tokens or 0, "cached": cached}
    for name, count in counts.items():
        if count < 0:
            raise Impossible(f"it counts {count} {name} tokens")
    if cached > prompt:
        raise Impossible(f"it counts {cached} cached tokens among the {prompt} of the prompt")


def _sampled(choice: _Choice) -> tuple[list[int] | None, list[float] | None]:
    """Return the sampled ids and their log probabilities, as far as they are told.

    Log probabilities that are not one for each id are those of something else: they are left out.
    """
    ids = choice.token_ids
    meta = None if choice.meta_info is None else choice.meta_info.output_token_logprobs
    logprobs: list[float | None] | None = None
    if meta is not None:
        of_meta = [each[1] for each in meta]
        if ids is None:
            ids = of_meta
        if ids == of_meta:
            logprobs = [each[0] for each in meta]
    tokens = None if choice.logprobs is None else choice.logprobs.content
    if tokens is not None:
        if ids is None and tokens and all(each.token.startswith(_TOKEN_ID) for each in tokens):
            ids = [int(each.token[len(_TOKEN_ID) :]) for each in tokens]
        elif ids is None and tokens and None not in (told := [each.id for each in tokens]):
            ids = told  # type: ignore[assignment]  # no None in it
        if logprobs is None:
            logprobs = [each.logprob for each in tokens]
    if logprobs is None or None in logprobs or (ids is not None and len(ids) != len(logprobs)):
        return ids, None
    return ids, logprobs  # type: ignore[return-value]  # no None in it, as was checked


def _call(call: _ToolCall, number: int) -> dict[str, Any]:
    function = {
        "name": call.function.name or "",
        "arguments": _as_text(call.function.arguments),
    }
    return {"id": call.id or f"call_{number}", "type": "function", "function": function}


def _as_text(arguments: Any) -> str:
    """Return a tool's arguments as JSON text; some servers give the object itself."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else msgspec.json.encode(arguments).decode()


def _text_of(blocks: Sequence[Mapping[str, Any]]) -> str:
    texts = [block.get("text") for block in blocks if block.get("type") == "text"]
    return "".join(text for text in texts if isinstance(text, str))
