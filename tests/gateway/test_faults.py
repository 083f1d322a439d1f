"""The gateway as a process among faults: its journal has each answered call once."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from benchmarks.gateway_faults import (
    Engine,
    GatewayProcess,
    Rates,
    Report,
    Wish,
    compared,
    files_of,
    run_faults,
    run_soak,
    serving,
    text_of,
)
from openenv_async.gateway.calls import Answer, CallRecord, SampledTokens
from openenv_async.gateway.journal import read_journal


def check(report: Report, calls: int, kills: int) -> None:
    audit = report.audit
    assert report.calls == audit.wishes == calls
    assert report.kills == kills
    assert report.asked > calls  # they had to ask again
    assert audit.is_clean, audit
    # An answer that was lost so that nobody can see it is sampled anew, which is recorded.
    assert audit.records == calls + audit.unwanted
    # So is one whose end was noted, and killed with the gateway before it left.
    assert audit.unwanted == audit.ambiguous <= report.missed + 2 * kills


async def test_each_answered_call_is_in_the_journal_once(tmp_path: Path) -> None:
    report = await run_faults(
        sessions=16, calls=5, kills=1, seed=3, journal=tmp_path, gap=0.004, rates=Rates(error=0.1)
    )
    check(report, 80, 1)


@pytest.mark.heavy
async def test_the_same_of_a_hundred_sessions_and_three_kills(tmp_path: Path) -> None:
    report = await run_faults(sessions=100, calls=10, kills=3, seed=7, journal=tmp_path)
    check(report, 1000, 3)


@pytest.mark.heavy
async def test_memory_stays_flat(tmp_path: Path) -> None:
    soak = await run_soak(calls=4000, at_once=32, seed=5, journal=tmp_path)
    assert soak.calls == soak.audit.records == 4000
    assert soak.is_good, soak


async def test_calls_fail_while_the_disk_is_full_and_nothing_answered_is_lost(
    tmp_path: Path,
) -> None:
    engine = Engine(Rates(error=0.0, engine_cut=0.0), 1, 0.0)
    async with serving(engine) as port, aiohttp.ClientSession() as http:
        gateway = GatewayProcess(port, tmp_path)
        await gateway.start()
        try:
            session = json.loads(await gateway.verb(http, "POST", "/sessions"))

            async def ask(text: str) -> tuple[int, Any]:
                url = f"http://127.0.0.1:{gateway.port}/v1/chat/completions"
                headers = {"authorization": f"Bearer {session['key']}"}
                body = {"model": "any", "messages": [{"role": "user", "content": text}]}
                async with http.post(url, json=body, headers=headers) as reply:
                    return reply.status, await reply.json()

            assert (await ask("before"))[0] == 200
            full = sum(files_of(tmp_path).values())
            no_limit = resource.RLIM_INFINITY
            resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (full + 50, no_limit))
            for text in ("one", "two"):
                status, told = await ask(text)
                assert (status, told["error"]["code"]) == (500, "journal_failed")
                assert "make room" in told["error"]["message"]
            resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (no_limit, no_limit))
            for text in ("two", "after"):
                assert (await ask(text))[0] == 200
        finally:
            await gateway.stop()
    contents = read_journal(tmp_path)
    records = contents.sessions[session["id"]].records
    asked = [each.messages[0]["content"] for each in records if each.answer is not None]
    assert asked == ["before", "two", "after"]
    assert not contents.damage
    assert compared(records, [], engine).mismatched == 0


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
