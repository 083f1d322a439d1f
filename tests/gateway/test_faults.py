"""The gateway as a process among faults: its journal has each answered call once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks.gateway_faults import Engine, Rates, Report, Wish, compared, run_faults, text_of
from openenv_async.gateway.calls import Answer, CallRecord, SampledTokens


def check(report: Report, calls: int, kills: int) -> None:
    audit = report.audit
    assert report.calls == audit.wishes == calls
    assert report.kills == kills
    assert report.asked > calls  # they had to ask again
    assert audit.is_clean, audit
    # A retry that could not be told is a sample more, and is said to be one.
    assert audit.records == calls + audit.unwanted
    assert audit.unwanted == audit.ambiguous <= calls // 50


async def test_each_answered_call_is_in_the_journal_once(tmp_path: Path) -> None:
    report = await run_faults(
        sessions=16, calls=5, kills=1, seed=3, journal=tmp_path, gap=0.004, rates=Rates(error=0.1)
    )
    check(report, 80, 1)


@pytest.mark.heavy
async def test_the_same_of_thousands_of_calls_and_five_kills(tmp_path: Path) -> None:
    report = await run_faults(sessions=200, calls=20, kills=5, seed=7, journal=tmp_path)
    check(report, 4000, 5)


def test_the_comparison_finds_what_is_wrong() -> None:
    engine = Engine(Rates(), 1, 0.0)
    messages = [{"role": "user", "content": "hi"}]
    texts = []
    for _ in range(3):
        sampled = engine.draw(messages)
        texts.append(text_of(sampled.ids))

    def record(number: int, **fields: Any) -> CallRecord:
        sampled = engine.book[number]
        tokens = SampledTokens(
            prompt_ids=sampled.prompt_ids, completion_ids=sampled.ids, logprobs=sampled.logprobs
        )
        answer = Answer(text=texts[number], tokens=tokens)
        return CallRecord(
            session="s", number=number, dialect="chat", messages=messages, answer=answer, **fields
        )

    def wish(number: int) -> Wish:
        return Wish("s", messages, "kind", text=texts[number])

    records = [record(number) for number in range(3)]
    wishes = [wish(number) for number in range(3)]
    assert compared(records, wishes, engine).is_clean
    assert compared(records[1:], wishes, engine).lost == 1
    assert compared([*records, records[0]], wishes, engine).twice == 1
    assert compared(records, [*wishes, wishes[0]], engine).twice == 1
    second = compared(records, wishes[1:], engine)
    assert (second.unwanted, second.ambiguous, second.is_clean) == (1, 0, False)
    doubted = compared([records[0], record(1, ambiguous=0), records[2]], wishes[1:], engine)
    assert (doubted.unwanted, doubted.ambiguous, doubted.is_clean) == (1, 1, True)
    assert records[1].answer is not None
    assert records[1].answer.tokens.logprobs is not None
    records[1].answer.tokens.logprobs = [0.0, *records[1].answer.tokens.logprobs[1:]]
    assert compared(records, wishes, engine).mismatched == 1
