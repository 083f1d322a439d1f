"""Retries of calls, told from second samples by evidence. Nothing here does I/O.

A request is compared with the samples of its session that have the same content and the same
names of a thread. Content is equal as JSON, but for what agents are known to change when they
ask again (``CHANGING``). Equal content alone proves nothing: two sub-agents send equal requests.
The rules, the first that holds:

==== =========================================================== ==============================
rule of the samples with equal content and thread                the request is
==== =========================================================== ==============================
1    one has an answer that no client had whole                  a retry: it gets that answer
2    one is being sampled, and every client of it has left       a retry: it joins the sampling
3    one failed, and no client is asking for it again            a retry: it is sampled again
4    the client counts this request as a retry, and just one     a retry: it gets that answer
     went out whole over a connection that ended since, with
     nothing more asked over it
5    there are some, each had whole or with a client connected   a new sample; it may have been a
                                                                 retry, which is recorded
6    there is none                                               a new sample
==== =========================================================== ==============================

Of several under one rule the oldest is taken: nobody had its answer, so that no sample counts
twice whichever it is, and the next retry takes the next one. A count of retries that is 0 proves
nothing either: some agents begin at 0 in each round, and one always sends 0. Rule 4 is for
connections that break after the last bytes were handed over. More than a count is needed for it: of
two that want a sample each, the request of one may have been lost on its way.

An answer of which the journal has no delivery (the gateway was killed) was not had whole, nor one
whose client reset the connection afterwards, as systems do for bytes that nobody read. A request
that asks for more tokens than a sample that its client had whole is not a retry of it: agents ask
so when an answer was cut at the limit. If the gateway was killed, the note of a delivery may be
lost: others of rules 1 to 3 go before an answer without one.
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
    "retry_count_of",
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
_RETRY_COUNT: Final = "x-stainless-retry-count"
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
        deliveries: how those ended that are no more connected.
        is_disconnected: the connection of the last delivery ended, with nothing more asked over
            it.
        ambiguous: the call that it may have been a retry of.
    """

    number: int
    digest: bytes
    thread: Mapping[str, str]
    max_tokens: int | None = None
    state: Literal["running", "answered", "failed"] = "running"
    connected: int = 1
    deliveries: list[Delivery] = []
    is_disconnected: bool = False
    ambiguous: int | None = None

    def disconnected(self, was_reset: bool = False) -> bool:
        """Note that the connection of the last delivery ended.

        Args:
            was_reset: its client left something unread: it had not all of the answer.

        Returns:
            Whether the delivery, ``whole`` as it seemed, is ``broken``.
        """
        self.is_disconnected = True
        if was_reset and self.deliveries and self.deliveries[-1] == "whole":
            self.deliveries[-1] = "broken"
            return True
        return False


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


def retry_count_of(headers: Mapping[str, str]) -> int | None:
    """Return how often a client says that it asked before; ``None`` where it does not say."""
    told = headers.get(_RETRY_COUNT, "")
    return int(told) if told.isascii() and told.isdigit() and len(told) < 10 else None


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
    unheard = [
        each
        for each in equal
        if each.state == "answered" and not each.connected and "whole" not in each.deliveries
    ]
    for each in unheard:
        if each.deliveries:
            return Replay(each.number)
    for each in equal:
        if each.state == "running" and not each.connected:
            return Join(each.number)
    for each in equal:
        if each.state == "failed" and not each.connected:
            return Again(each.number)
    for each in unheard:
        return Replay(each.number)
    limit = limit_of(call)
    had = [each for each in equal if not _is_raised(limit, each)]
    if call.retry_count:
        missed = [each for each in had if _may_be_missed(each, call.retry_count)]
        if len(missed) == 1:
            return Replay(missed[0].number)
    return New(had[-1].number if had else None)


def _is_raised(limit: int | None, sample: Sample) -> bool:
    """Tell whether a request asks for more than a sample that a client had whole."""
    if limit is None or sample.max_tokens is None or sample.connected:
        return False
    return limit > sample.max_tokens


def _may_be_missed(sample: Sample, retry_count: int) -> bool:
    """Tell whether an answer that went out whole may not have arrived with who asked for it."""
    is_out_less = len(sample.deliveries) <= retry_count
    return sample.is_disconnected and not sample.connected and is_out_less
