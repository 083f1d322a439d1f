"""The calls of a session in the forms of others: upstream, trainers, a run's record, plain JSON.

- ``training_trace``: OpenEnv's ``TrainingTrace``, version 1: one turn for each call.
- ``trl_columns``: the dict that a ``rollout_func`` of TRL returns.
- ``model_calls``: calls as a trajectory's record has them.
- ``raw_calls``: everything, one line of JSON for each call, with secrets taken out.

Nothing is tokenized or made up: a form that needs a fact that the engine did not tell is refused.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from openenv_async.endpoints.redaction import Redactor
from openenv_async.errors import OperationUnsupported, sendable
from openenv_async.gateway.calls import CallRecord
from openenv_async.gateway.graph import Chain, chains
from openenv_async.gateway.rows import REWARDED, TrainingRow
from openenv_async.types import ModelCall

__all__ = ["model_calls", "raw_calls", "training_trace", "trl_columns"]

_TRACE_VERSION: Final = 1


def training_trace(
    records: Sequence[CallRecord], *, relations: Collection[str] = REWARDED
) -> dict[str, Any]:
    """Return calls as OpenEnv's ``TrainingTrace`` has them, as JSON takes it.

    Rewards are not a part of it: in OpenEnv they come from the session's ``verify``.

    Args:
        records: of one session.
        relations: chains of these are in it.

    Raises:
        OperationUnsupported: the engine did not tell token ids and log probabilities of a call.
    """
    by_number = {record.number: record for record in records}
    chosen = [chain for chain in chains(records) if chain.relation in relations]
    turns = [
        _turn(by_number[number], chain)
        for number, chain in sorted((number, chain) for chain in chosen for number in chain.calls)
    ]
    return {"schema_version": _TRACE_VERSION, "turns": turns}


def _turn(record: CallRecord, chain: Chain) -> dict[str, Any]:
    answer = record.answer
    assert answer is not None  # of a chain
    tokens = answer.tokens
    sampled = tokens.completion_ids
    if tokens.prompt_ids is None or sampled is None or tokens.logprobs is None:
        raise OperationUnsupported(
            f"call {record.number} of session {record.session} is of level {tokens.level!r}: a"
            " training trace needs the ids and log probabilities of the engine; open the gateway"
            " with level='tokens' and an engine that tells them"
        )
    choice = {"message": answer.message, "finish_reason": answer.finish_reason}
    return {
        "node_id": record.call_id,
        "prompt_token_ids": list(tokens.prompt_ids),
        "completion_token_ids": list(sampled),
        "per_token_logps": list(tokens.logprobs),
        "loss_mask": [0] * len(tokens.prompt_ids) + [1] * len(sampled),
        "request": {"messages": record.messages, "tools": record.tools},
        "response": {"choices": [choice]},
        "metadata": {
            "node_id": record.call_id,
            "index": record.number,
            "session": record.session,
            "model": answer.model,
            "n_tools": len(record.tools),
            "sampling_params": record.sampling,
            "relation": chain.relation,
            "chain": chain.calls[0],
            "versions": [list(version) for version in tokens.versions],
        },
    }


def trl_columns(
    episodes: Sequence[Sequence[TrainingRow]], *, filler: int = 0
) -> dict[str, list[Any]]:
    """Return the dict of a ``rollout_func`` of TRL: one row for each prompt of its batch.

    TRL takes one row of an episode: the one with a reward and the most sampled tokens, else that
    with the most. An episode without a reward is masked throughout, and its reward is ``None``.

    Args:
        episodes: the rows of each episode's session, in the order of the prompts.
        filler: a token for an episode in which nothing was sampled, such as the padding's.

    Raises:
        OperationUnsupported: an engine did not tell ids and log probabilities.
    """
    columns: dict[str, list[Any]] = {
        name: []
        for name in (
            *("prompt_ids", "completion_ids", "logprobs", "env_mask"),
            *("env_reward", "env_failed", "env_rows"),
        )
    }
    for rows in episodes:
        row = max(rows, key=lambda each: (each.reward is not None, _sampled(each)), default=None)
        ids, logprobs, mask = [filler], [0.0], [0]
        prompt, reward = [filler], None
        if row is not None:
            if row.prompt_ids is None or row.completion_ids is None or row.logprobs is None:
                raise OperationUnsupported(
                    f"row {row.number} of session {row.session} is of level {row.level!r}: TRL"
                    " needs ids and log probabilities; open the gateway with level='tokens' and"
                    " an engine that tells them"
                )
            prompt, reward = row.prompt_ids, row.reward
            if row.completion_ids:
                ids, logprobs, mask = row.completion_ids, row.logprobs, row.mask or []
        failed = reward is None or not math.isfinite(reward) or row is None or not any(mask)
        columns["prompt_ids"].append(list(prompt))
        columns["completion_ids"].append(list(ids))
        columns["logprobs"].append(list(logprobs))
        columns["env_mask"].append([0] * len(ids) if failed else list(mask))
        columns["env_reward"].append(None if failed else reward)
        columns["env_failed"].append(failed)
        columns["env_rows"].append(len(rows))
    return columns


def _sampled(row: TrainingRow) -> int:
    return sum(span.stop - span.start for span in row.spans)


def model_calls(records: Sequence[CallRecord]) -> list[ModelCall]:
    """Return a session's calls as a trajectory's record has them, by their numbers.

    A call has only the messages that are new to it if it continues the one before it exactly;
    ``extra`` says what a ``ModelCall`` has no field for: number, relation, what it comes from,
    counts of tokens, deliveries.
    """
    place = {call: (at, chain) for chain in chains(records) for at, call in enumerate(chain.calls)}
    made: list[ModelCall] = []
    before: CallRecord | None = None
    for record in sorted(records, key=lambda each: each.number):
        at, chain = place.get(record.number, (0, None))
        follows = chain is not None and at > 0 and before is not None
        if follows and chain is not None and before is not None:
            follows = chain.calls[at - 1] == before.number
        known = len(before.messages) + 1 if follows and before is not None else 0
        made.append(_model_call(record, chain, known))
        before = record
    return made


def _model_call(record: CallRecord, chain: Chain | None, known: int) -> ModelCall:
    """Return a call of which the record before has the first ``known`` messages."""
    answer = record.answer
    call = ModelCall(
        messages=record.messages[known:],
        continues=known > 0,
        model=record.asked_model,
        seconds=record.seconds,
        error=None if record.error is None else f"{record.error[0]}: {record.error[1]}",
        extra={"call": record.call_id, "dialect": record.dialect, **_extra(record, chain)},
    )
    if answer is not None:
        tokens = answer.tokens
        call.reply = answer.message
        call.finish_reason = answer.finish_reason
        call.model = answer.model or record.asked_model
        call.prompt_ids = tokens.prompt_ids
        call.completion_ids = tokens.completion_ids
        call.logprobs = tokens.logprobs
        if tokens.versions:
            call.weight_version = tokens.versions[0][1]
    return call


def _extra(record: CallRecord, chain: Chain | None) -> dict[str, Any]:
    """Return the facts of a call for which its record has no field; those that say nothing not."""
    answer = record.answer
    facts: dict[str, Any] = {}
    if chain is not None:
        facts |= {"relation": chain.relation, "chain": chain.calls[0]}
        if record.number == chain.calls[0]:
            facts |= {"parent": chain.parent}
            if chain.difference is not None:
                facts |= {"difference": msgspec.to_builtins(chain.difference)}
    facts |= {
        "asked_model": record.asked_model,
        "sampling": record.sampling,
        "left_out": record.left_out,
        "deliveries": list(record.deliveries),
        "ambiguous": record.ambiguous,
        "attempts": record.attempts if record.attempts > 1 else None,
    }
    if answer is not None:
        versions = answer.tokens.versions
        facts |= {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": answer.completion_tokens,
            "cached_tokens": answer.cached_tokens,
            "engine": answer.engine,
            "versions": [list(each) for each in versions] if len(versions) > 1 else None,
        }
    return {name: value for name, value in facts.items() if value not in (None, {}, [])}


def raw_calls(
    records: Sequence[CallRecord], *, environ: Mapping[str, str] | None = None
) -> Iterator[bytes]:
    """Yield each call as a line of JSON, for debugging, with secrets taken out.

    Args:
        records: of any sessions.
        environ: variables that may hold secrets; ``None``: those of this process.
    """
    redactor = Redactor(environ)
    for record in records:
        plain: dict[str, Any] = msgspec.to_builtins(record)
        answer = plain.get("answer") or {}
        tokens = answer.pop("tokens", None)  # nothing but numbers, and many
        plain = redactor.value(plain)
        if tokens is not None:
            plain["answer"]["tokens"] = tokens
        yield _line(plain)


def _line(plain: dict[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(plain) + b"\n"
    except UnicodeEncodeError:  # half of a character
        return msgspec.json.encode(_sendable(plain)) + b"\n"


def _sendable(value: Any) -> Any:
    if isinstance(value, str):
        return sendable(value)
    if isinstance(value, dict):
        return {_sendable(name): _sendable(item) for name, item in value.items()}
    return [_sendable(item) for item in value] if isinstance(value, list) else value
