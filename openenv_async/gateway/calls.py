"""Calls of models as they pass through the gateway, in the terms of no dialect.

A request goes this way, and each part of the gateway knows only the types of this module:

1. A *dialect* reads the request of an agent into a ``Call``.
2. The *session* that the key opens tells whether it is a new sample or a retry of an earlier one.
3. An *engine* samples a new one: ``Piece`` after ``Piece`` as they come, then one ``Answer``.
4. The *journal* has the ``CallRecord`` before the last event of the answer leaves.
5. The dialect writes pieces and the answer for the agent; a kept answer is written the same way.
6. The *call graph* joins the records of a session into chains, and chains become training rows.

Messages, tools and tool calls have the form of OpenAI's chat completions, since every engine takes
it; reasoning is the message's ``reasoning_content``. An engine's words are never respelled,
tokenized again or made up: a fact that it did not tell is ``None``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from openenv_async.errors import OpenEnvError

__all__ = [
    "Answer",
    "Call",
    "CallRecord",
    "Delivery",
    "Dialect",
    "EventWriter",
    "Level",
    "Message",
    "Piece",
    "SampledTokens",
    "Sampler",
    "ToolCall",
    "ToolDelta",
]

Message: TypeAlias = dict[str, Any]
"""A message of a conversation, as OpenAI's chat completions have it."""
Level: TypeAlias = Literal["tokens", "logprobs", "text"]
"""Knowledge of an answer: sampled token ids with log probabilities, these alone, or its text."""
Delivery: TypeAlias = Literal["whole", "broken", "error"]
"""An answer reached its client to the end, or its connection ended before, or it was an error."""


class Call(msgspec.Struct, kw_only=True):
    """A request of an agent.

    Attributes:
        dialect: ``chat``, ``responses`` or ``messages``.
        messages: the whole history, system messages at their places.
        tools: functions on offer, as chat completions have them (``type``, ``function``). A tool
            of another kind is a function here, and the dialect makes its own kind of the answer.
        tool_choice: ``auto``, ``none``, ``required`` or one function, as chat completions have it.
        sampling: fields that the engine is given besides, by the names of chat completions:
            ``temperature``, ``top_p``, ``max_tokens``, ``stop`` (a list), ``seed``,
            ``parallel_tool_calls``, ``response_format``, …
        is_streamed: the answer is asked for as a stream of events.
        asked_model: the name that the agent gave; the session's model answers whatever it is.
        left_out: fields that are not passed on since they do not change what is sampled, by path,
            each with a short reason.
        thread: the agent's own names for its run and for the conversation in it, by header or
            field, such as ``thread-id``, ``x-claude-code-agent-id``, ``x-parent-session-id``.
            Only names that a retry repeats: no ids or times of the single request.
        form: what the dialect needs to write the answer; nobody else reads it.
    """

    dialect: str
    messages: list[Message]
    tools: list[dict[str, Any]] = []
    tool_choice: Any = None
    sampling: dict[str, Any] = {}
    is_streamed: bool = False
    asked_model: str | None = None
    left_out: dict[str, str] = {}
    thread: dict[str, str] = {}
    form: Any = None


class ToolDelta(msgspec.Struct, kw_only=True):
    """The next part of one tool call of an answer.

    Attributes:
        index: which call of the answer, from 0; the parts of a call come before those of the next.
        id, name: with the first part of a call; empty afterwards.
        arguments: the next characters of its arguments.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


class Piece(msgspec.Struct, kw_only=True):
    """The next part of an answer, as the engine streams it; fields that do not grow are empty."""

    text: str = ""
    reasoning: str = ""
    tool_calls: Sequence[ToolDelta] = ()


class ToolCall(msgspec.Struct, kw_only=True):
    """One tool call of an answer; ``arguments`` is the text as sampled, JSON or not."""

    id: str
    name: str
    arguments: str


class SampledTokens(msgspec.Struct, kw_only=True):
    """Tokens of an answer as its engine told them.

    Attributes:
        prompt_ids: token ids of the whole prompt; ``None`` where the engine did not tell.
        completion_ids: token ids as sampled; ``None`` likewise.
        logprobs: natural logarithm of the probability of each sampled token; ``None`` likewise.
        versions: ``(first, version)``: the weights' version from the completion's token ``first``
            on; more than one when a generation was resumed under other weights.
    """

    prompt_ids: list[int] | None = None
    completion_ids: list[int] | None = None
    logprobs: list[float] | None = None
    versions: list[tuple[int, str | int]] = []

    @property
    def level(self) -> Level:
        """The level that the known facts make."""
        if self.logprobs is None:
            return "text"
        if self.prompt_ids is None or self.completion_ids is None:
            return "logprobs"
        return "tokens"


class Answer(msgspec.Struct, kw_only=True):
    """A whole answer of an engine.

    Attributes:
        text, reasoning: as sampled; empty when there is none.
        tool_calls: in their order.
        finish_reason: ``stop``, ``length``, ``tool_calls``, or what else the engine says.
        stop_sequence: which of the asked stop sequences ended it, where the engine says so.
        prompt_tokens, completion_tokens, cached_tokens: as the engine counts; ``None``: not told.
        model: the name by which the engine calls its model.
        engine: the address that answered.
        engine_call_id: the engine's own id of the completion.
        tokens: what was sampled, as far as the engine told it.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: list[ToolCall] = []
    finish_reason: str = "stop"
    stop_sequence: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    model: str | None = None
    engine: str | None = None
    engine_call_id: str | None = None
    tokens: SampledTokens = msgspec.field(default_factory=SampledTokens)

    @property
    def message(self) -> Message:
        """The assistant's message, as the next call of the conversation repeats it."""
        message: Message = {"role": "assistant", "content": self.text or None}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        elif not self.text:
            message["content"] = ""
        return message


class CallRecord(msgspec.Struct, kw_only=True):
    """The record of one sample: the request, the answer, and its deliveries.

    A retry of a call has no record of its own: it is another delivery of the first one.

    Attributes:
        session: id of the session.
        number: of the call in its session, from 0, in the order in which calls came.
        dialect, asked_model, sampling, tool_choice, left_out, thread: of the ``Call``.
        messages, tools: of the ``Call``, whole.
        is_streamed: of the first request.
        answer: ``None`` while none is there, and of a call that failed.
        error: code and message of what failed for good, else ``None``.
        is_refused: the engine did not take the request itself, such as a prompt longer than its
            context: an error that the agent made, and may go on from.
        deliveries: one for each request that was answered from this record, in order.
        ambiguous: it may have been a retry of this call; evidence was missing, so it is a sample.
        started_at: Unix time in seconds.
        seconds: from the request until the engine's answer was whole.
        attempts: how often an engine was asked.
        relation: what the agent's own marks say of the call: ``subagent``, ``title``, ``summary``.
    """

    session: str
    number: int
    dialect: str
    messages: list[Message]
    tools: list[dict[str, Any]] = []
    tool_choice: Any = None
    sampling: dict[str, Any] = {}
    is_streamed: bool = False
    asked_model: str | None = None
    left_out: dict[str, str] = {}
    thread: dict[str, str] = {}
    answer: Answer | None = None
    error: tuple[str, str] | None = None
    is_refused: bool = False
    deliveries: list[Delivery] = []
    ambiguous: int | None = None
    started_at: float = 0.0
    seconds: float = 0.0
    attempts: int = 1
    relation: str | None = None

    @property
    def call_id(self) -> str:
        """An id that stays the same whenever the answer is written."""
        return f"{self.session}-{self.number}"


class EventWriter(Protocol):
    """A writer of one answer as a stream of events. Each method returns bytes to send."""

    def begin(self) -> bytes:
        """Return the events before the first piece."""
        ...

    def piece(self, piece: Piece) -> bytes:
        """Return the events of a piece; none while it has to wait for the next one."""
        ...

    def end(self, answer: Answer) -> bytes:
        """Return what is left of the answer, and its last event."""
        ...

    def fail(self, error: OpenEnvError) -> bytes:
        """Return the event that says that no more comes."""
        ...


class Dialect(Protocol):
    """One API of model providers. It does no I/O and keeps nothing between requests."""

    name: str

    def read(self, body: bytes, headers: Mapping[str, str]) -> Call:
        """Return what a request asks for.

        Args:
            body: JSON.
            headers: names in lower case.

        Raises:
            CallRefused: it asks for what would change the form of the answer and cannot be had,
                or it is not a request of this dialect; names the field.
        """
        ...

    def whole(self, call: Call, call_id: str, answer: Answer, created_at: float = 0.0) -> bytes:
        """Return the body of an answer that is not streamed.

        Args:
            call: the request that it answers, which may be a retry.
            call_id: of the record.
            answer: of the engine.
            created_at: Unix time of the record, so that every body of it is equal; 0 for now.
        """
        ...

    def events(self, call: Call, call_id: str, created_at: float) -> EventWriter:
        """Return what writes the answer as events."""
        ...

    def error(self, error: OpenEnvError) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of an error, such that agents retry it or do not."""
        ...


class Sampler(Protocol):
    """An engine, or several, as a session sees them."""

    def sample(
        self, call: Call, *, session: str, attempt: int = 0
    ) -> AsyncIterator[Piece | Answer]:
        """Yield the pieces of an answer as they come, then the whole answer, last.

        Args:
            call: what is asked for.
            session: id that keeps a session at one engine.
            attempt: how often this call was tried before.

        Raises:
            ResponderFailed: the engine did not answer whole; ``detail`` has its ``status`` and
                ``retry_after`` where it said so, ``retryable`` whether to try again.
        """
        ...
