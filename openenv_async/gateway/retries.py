"""Retries of calls, told from second samples by evidence. Nothing here does I/O.

A request is compared with the samples of its session that have the same content and the same
names of a thread. Content is equal as JSON, but for what agents are known to change when they
ask again (``CHANGING``). Equal content alone proves nothing: two sub-agents send equal requests.
The rules, the first that holds:

==== =========================================================== ==============================
rule of the samples with equal content and thread                the request is
==== =========================================================== ==============================
1    one has an answer that no client can have had whole         a retry: it gets that answer
2    one is being sampled, and every client of it has left       a retry: it joins the sampling
3    one failed, and no client is asking for it again            a retry: it is sampled again
4    there are some, each may have been had whole, or has a      a new sample; it may have been a
     client connected                                            retry, which is recorded
5    there is none                                               a new sample
==== =========================================================== ==============================

Of several under one rule the oldest is taken. Two agents that send equal requests cannot be told
apart, and need not be: one may get what was sampled for the other, but only what the other never
had, so that no answer goes to two. The other one, if it asks again, gets the next.

A client *may have had* an answer whole from the moment at which its end is handed to the system.
The journal has a note of that before, so that ``kill -9`` takes none back: an answer without one
was had by nobody. One thing alone shows later that it was not had either: its client reset the
connection, as systems do for bytes that nobody read or that come after the connection was closed.
That a connection ended after the last byte shows nothing, and neither does a count of retries
(``x-stainless-retry-count``): the request may be another agent's, whose earlier ones were lost on
their way, or whose sample died with the gateway.

A request that asks for more tokens than a sample that its client had whole is not a retry of it:
agents ask so when an answer was cut at the limit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal, TypeAlias

import msgspec

from openenv_async.gateway.calls import Call, CallRecord, Delivery

__all__ = [
    "CHANGING",
    "Again",
    "Decision",
    "Join",
    "New",
    "Replay",
    "Sample",
    "content_digest",
    "decide",
    "limit_of",
]

CHANGING: Final[Mapping[str, str]] = {
    "max_tokens": "qwen-code 0.24.4 asks for 64000 instead of 32000",
    "model": "claude-code 2.1.328 falls back to another model",
    "stream": "claude-code asks without a stream after streams that failed",
    "client_metadata": "codex 0.169.0 writes its keys in another order",
    "cache_control": "claude-code and pi 0.73.1 move it to the last message",
}
"""Fields that a retry may have otherwise than the call, with who does so. ``model``, ``stream``
and ``client_metadata`` are not part of a call's content."""
_CHANGING_SAMPLING: Final = frozenset({"max_tokens", "max_completion_tokens"})
_LIMITS: Final = ("max_tokens", "max_completion_tokens")
_ENCODER: Final = msgspec.json.Encoder(order="deterministic")


class Sample(msgspec.Struct, kw_only=True):
    """The facts of one sample that tell its retries.

    Attributes:
        number: of the call in its session.
        digest: ``content_digest`` of the call.
        thread: of the call.
        max_tokens: what the last request of it asked for, if anything.
        state: ``running`` until the answer is whole, also while a client waits for a call that
            is asked again; ``answered`` from the journal on; ``failed`` with an error for good.
        connected: clients that are connected and have not been sent all of it.
        deliveries: how those ended that are no more connected; one is ``whole`` from the moment
            at which the end of the answer leaves.
        ambiguous: the call that it may have been a retry of.
    """

    number: int
    digest: bytes
    thread: Mapping[str, str]
    max_tokens: int | None = None
    state: Literal["running", "answered", "failed"] = "running"
    connected: int = 1
    deliveries: list[Delivery] = []
    ambiguous: int | None = None


class New(msgspec.Struct, frozen=True):
    """A sample of its own; ``ambiguous`` is the call that it may have been a retry of."""

    ambiguous: int | None = None


class Replay(msgspec.Struct, frozen=True):
    """A retry that gets the kept answer of call ``number``."""

    number: int


class Join(msgspec.Struct, frozen=True):
    """A retry that is answered from the sampling of call ``number``, which goes on."""

    number: int


class Again(msgspec.Struct, frozen=True):
    """A retry of call ``number``, which failed: the engine is asked again."""

    number: int


Decision: TypeAlias = New | Replay | Join | Again


def content_digest(
    messages: bytes, tools: bytes, tool_choice: Any, sampling: Mapping[str, Any]
) -> bytes:
    """Return a digest of the content of a call, the same for its retries.

    Args:
        messages, tools: digests, as ``histories`` makes them.
        tool_choice, sampling: of the ``Call``.
    """
    rest = {name: value for name, value in sampling.items() if name not in _CHANGING_SAMPLING}
    hashed = hashlib.blake2b(messages, digest_size=16)
    hashed.update(tools)
    hashed.update(_ENCODER.encode((tool_choice, rest)))
    return hashed.digest()


def limit_of(call: Call | CallRecord) -> int | None:
    """Return how many tokens a call asks for at most; ``None`` where it does not say."""
    for name in _LIMITS:
        limit = call.sampling.get(name)
        if isinstance(limit, int):
            return limit
    return None


def decide(call: Call, digest: bytes, samples: Iterable[Sample]) -> Decision:
    """Return whether a request is a new sample, or a retry, and of which call.

    Args:
        call: the request.
        digest: its ``content_digest``.
        samples: of its session, in the order of their numbers; those alone that have its digest
            do as well.
    """
    equal = [each for each in samples if each.digest == digest and each.thread == call.thread]
    if not equal:
        return New()
    left = [each for each in equal if not each.connected]
    for each in left:
        if each.state == "answered" and "whole" not in each.deliveries:
            return Replay(each.number)
    for each in left:
        if each.state == "running":
            return Join(each.number)
    for each in left:
        if each.state == "failed":
            return Again(each.number)
    limit = limit_of(call)
    had = [each for each in equal if not _is_raised(limit, each)]
    return New(had[-1].number if had else None)


def _is_raised(limit: int | None, sample: Sample) -> bool:
    """Tell whether a request asks for more than a sample that a client had whole."""
    if limit is None or sample.max_tokens is None or sample.connected:
        return False
    return limit > sample.max_tokens
