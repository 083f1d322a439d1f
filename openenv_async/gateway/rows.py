"""Training rows: one for each chain of a session's calls, with what was sampled and nothing else.

Rules:

- The row of a chain begins with the prompt of its first call. Behind it stand the tokens of the
  samples, marked 1 in the mask, and between them the tokens that the engine had in its next prompt,
  marked 0. No text is tokenized, and no token is in two rows with a mark.
- Each sampled token of an answered call is marked in exactly one row.
- The reward is the episode's, for rows of the relations that are to be rewarded, and ``None``
  for others. ``None`` for the episode, as for one that failed, is ``None`` everywhere: never 0.
- Rows of engines that told no ids hold messages; those of level ``logprobs`` have the log
  probabilities of each sample besides.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec

from openenv_async.gateway.calls import Answer, CallRecord, Level, Message
from openenv_async.gateway.differences import Difference
from openenv_async.gateway.graph import Chain, Relation, chains

__all__ = ["REWARDED", "Span", "TrainingRow", "training_rows"]

REWARDED: Final[tuple[Relation, ...]] = ("main", "continuation")
"""Relations whose rows have the episode's reward, unless others are named."""


class Span(msgspec.Struct, kw_only=True, frozen=True):
    """The part of a row that one call sampled.

    Attributes:
        call: its number.
        start, stop: of the row's ``completion_ids`` and ``logprobs``; equal where it has none.
        message: place of the answer in the row's ``messages``; ``None`` in a row of tokens.
        finish_reason: of the answer.
    """

    call: int
    start: int
    stop: int
    message: int | None = None
    finish_reason: str = "stop"


class TrainingRow(msgspec.Struct, kw_only=True):
    """A chain of calls, ready to be trained on.

    Attributes:
        session: id of the session.
        number: of the row in its session, from 0.
        relation: of the chain: ``main``, ``continuation``, ``subagent``, ``title``, ``summary``,
            ``side``, ``second_sample``, ``dropped`` or ``fork``.
        parent: number of the call that it comes from.
        difference: between the history that it begins with and what had been sampled.
        level: ``tokens``: ids and log probabilities; ``logprobs``: messages, and the log
            probabilities of the samples one after the other; ``text``: messages, or ids without
            log probabilities.
        spans: what each call sampled, in order.
        prompt_ids: of the first prompt.
        completion_ids: sampled tokens, with those of the environment between.
        logprobs: of each of them; 0.0 for the environment's.
        mask: 1 for each that was sampled, else 0.
        versions: ``(first, version)``: the weights' version that sampled from place ``first``
            of ``completion_ids`` on; in a row of messages from message ``first`` on.
        messages, tools: of a row without ids: the conversation with its answers as sampled.
        reward: of the episode; ``None``: there is none, or not for this row.
        group: id of the group of episodes among which rewards are compared.
        member: which of the group's episodes it is.
    """

    session: str
    number: int
    relation: Relation
    parent: int | None = None
    difference: Difference | None = None
    level: Level = "text"
    spans: list[Span] = []
    prompt_ids: list[int] | None = None
    completion_ids: list[int] | None = None
    logprobs: list[float] | None = None
    mask: list[int] | None = None
    versions: list[tuple[int, str | int]] = []
    messages: list[Message] | None = None
    tools: list[dict[str, Any]] = []
    reward: float | None = None
    group: str | int | None = None
    member: int | None = None

    @property
    def calls(self) -> list[int]:
        """The numbers of its calls."""
        return [span.call for span in self.spans]


def training_rows(
    records: Sequence[CallRecord],
    *,
    reward: float | None = None,
    group: str | int | None = None,
    member: int | None = None,
    rewarded: Collection[str] = REWARDED,
) -> list[TrainingRow]:
    """Return the rows of a session, in the order of their first calls.

    Args:
        records: of the session's calls; those without an answer make no row.
        reward: of the episode; ``None`` if it failed or gave none.
        group, member: which group of episodes it is compared with, and which of them it is.
        rewarded: relations whose rows have the reward.
    """
    by_number = {record.number: record for record in records}
    rows = []
    for number, chain in enumerate(chains(records)):
        of_chain = [by_number[call] for call in chain.calls]
        row = _row(number, chain, of_chain)
        row.reward = reward if chain.relation in rewarded else None
        row.group, row.member = group, member
        rows.append(row)
    return rows


def _row(number: int, chain: Chain, records: Sequence[CallRecord]) -> TrainingRow:
    row = TrainingRow(
        session=records[0].session,
        number=number,
        relation=chain.relation,
        parent=chain.parent,
        difference=chain.difference,
        spans=[],
        versions=[],
    )
    answers = [_answer(record) for record in records]
    if all(answer.tokens.prompt_ids is not None for answer in answers) and all(
        answer.tokens.completion_ids is not None for answer in answers
    ):
        _fill_with_tokens(row, records, answers)
    else:
        _fill_with_messages(row, records, answers)
    return row


def _fill_with_tokens(
    row: TrainingRow, records: Sequence[CallRecord], answers: Sequence[Answer]
) -> None:
    prompt = answers[0].tokens.prompt_ids or []
    ids: list[int] = []
    mask: list[int] = []
    logprobs: list[float] | None = [] if all(map(_has_logprobs, answers)) else None
    for record, answer in zip(records, answers, strict=True):
        between = (answer.tokens.prompt_ids or [])[len(prompt) + len(ids) :]
        sampled = answer.tokens.completion_ids or []
        start = len(ids) + len(between)
        ids += between
        ids += sampled
        mask += [0] * len(between)
        mask += [1] * len(sampled)
        if logprobs is not None:
            logprobs += [0.0] * len(between)
            logprobs += answer.tokens.logprobs or []
        _add_span(row, record, answer, start, len(ids), None)
    row.prompt_ids, row.completion_ids, row.mask, row.logprobs = list(prompt), ids, mask, logprobs
    row.level = "text" if logprobs is None else "tokens"


def _fill_with_messages(
    row: TrainingRow, records: Sequence[CallRecord], answers: Sequence[Answer]
) -> None:
    messages = [*records[-1].messages, answers[-1].message]
    logprobs: list[float] | None = [] if all(map(_has_logprobs, answers)) else None
    for record, answer in zip(records, answers, strict=True):
        place = len(record.messages)
        messages[place] = answer.message  # as it was sampled, not as it came back
        start = 0 if logprobs is None else len(logprobs)
        if logprobs is not None:
            logprobs += answer.tokens.logprobs or []
        stop = start if logprobs is None else len(logprobs)
        _add_span(row, record, answer, start, stop, place)
    row.messages, row.tools, row.logprobs = messages, list(records[0].tools), logprobs
    row.level = "text" if logprobs is None else "logprobs"


def _add_span(
    row: TrainingRow, record: CallRecord, answer: Answer, start: int, stop: int, place: int | None
) -> None:
    span = Span(
        call=record.number,
        start=start,
        stop=stop,
        message=place,
        finish_reason=answer.finish_reason,
    )
    row.spans.append(span)
    for first, version in answer.tokens.versions:
        if not row.versions or row.versions[-1][1] != version:
            row.versions.append((start + first if place is None else place, version))


def _answer(record: CallRecord) -> Answer:
    assert record.answer is not None
    return record.answer


def _has_logprobs(answer: Answer) -> bool:
    """Return whether there is a log probability for each sampled token."""
    tokens = answer.tokens
    if tokens.logprobs is None:
        return False
    return tokens.completion_ids is None or len(tokens.logprobs) == len(tokens.completion_ids)
