"""Training rows: what was sampled, each token once, and nothing made up."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest

from openenv_async.gateway.calls import CallRecord, SampledTokens
from openenv_async.gateway.rows import TrainingRow, training_rows
from tests.gateway.recorded import Recorder, answer_of, asked, decoded, says, tool
from tests.gateway.test_graph import START, scrambled, turn


def sampled(row: TrainingRow) -> list[str]:
    """The texts of a row's samples, decoded from its ids."""
    assert row.completion_ids is not None
    return [decoded(row.completion_ids[span.start : span.stop]) for span in row.spans]


def test_turns_are_one_row_with_the_environments_tokens_unmarked() -> None:
    recorder = Recorder()
    history = turn(recorder, START, 0)
    recorder.call(history, answer_of("done"))
    (row,) = training_rows(recorder.records, reward=0.5, group="g", member=3)
    assert (row.reward, row.group, row.member, row.level, row.calls) == (
        0.5,
        "g",
        3,
        "tokens",
        [0, 1],
    )
    assert row.prompt_ids is not None
    assert row.completion_ids is not None
    assert row.mask is not None
    assert row.logprobs is not None
    assert decoded(row.prompt_ids).endswith("Fix the bug in parser.py, please||")
    assert sampled(row) == ['<bash {"command": "step 0"}>|', "done|"]
    between = [each for each, mark in zip(row.completion_ids, row.mask, strict=True) if not mark]
    assert decoded(between) == "|done 0||"
    marked = [value for value, mark in zip(row.logprobs, row.mask, strict=True) if mark]
    assert Counter(marked) == {-1.0: row.spans[0].stop, -2.0: 5}
    assert {value for value, mark in zip(row.logprobs, row.mask, strict=True) if not mark} == {0.0}
    last = recorder.records[1].answer
    assert last is not None
    assert row.prompt_ids + row.completion_ids == [
        *(last.tokens.prompt_ids or []),
        *(last.tokens.completion_ids or []),
    ]
    assert row.messages is None


def test_rewards_are_given_by_relation_and_none_stays_none() -> None:
    recorder = Recorder()
    history = turn(recorder, START, 0)
    recorder.call(history, answer_of("one"))
    recorder.call(history, answer_of("two"))
    assert [row.reward for row in training_rows(recorder.records, reward=1.0)] == [1.0, None]
    every = training_rows(recorder.records, reward=1.0, rewarded=("main", "second_sample"))
    assert [row.reward for row in every] == [1.0, 1.0]
    assert [row.reward for row in training_rows(recorder.records)] == [None, None]
    assert [row.reward for row in training_rows(recorder.records, reward=0.0)] == [0.0, None]


def test_versions_are_those_of_the_tokens() -> None:
    recorder = Recorder()
    first, second, third = asked(id="c0"), asked(id="c1"), answer_of("done")
    first.tokens.versions = [(0, 7)]
    second.tokens.versions = [(0, 7), (5, 8)]  # resumed under new weights
    third.tokens.versions = [(0, 8)]
    history = [*START, recorder.call(START, first), tool("a", "c0")]
    history = [*history, recorder.call(history, second), tool("b", "c1")]
    recorder.call(history, third)
    (row,) = training_rows(recorder.records)
    assert row.versions == [(0, 7), (row.spans[1].start + 5, 8)]


@pytest.mark.parametrize("level", ["logprobs", "text"])
def test_rows_without_ids_hold_messages_as_they_were_sampled(level: str) -> None:
    recorder = Recorder(level)  # type: ignore[arg-type]  # a level
    given = asked(id="c0", arguments='{"command":  "ls"}')
    given.tokens.versions = [(0, 1)]
    message = recorder.call(START, given)
    back = says("", calls=[("c0", "bash", '{"command":"ls"}')])
    last = recorder.call([*START, back, tool("parser.py", "c0")], answer_of("done"))
    (row,) = training_rows(recorder.records, reward=1.0)
    assert row.messages == [*START, message, tool("parser.py", "c0"), last]
    assert (row.prompt_ids, row.completion_ids, row.mask) == (None, None, None)
    assert row.tools == recorder.tools
    assert [span.message for span in row.spans] == [2, 4]
    assert row.versions == [(2, 1)]
    assert row.level == level
    if level == "logprobs":
        assert row.logprobs is not None
        assert [row.logprobs[span.start : span.stop] for span in row.spans] == [
            [-1.0] * row.spans[0].stop,
            [-2.0] * 5,
        ]
    else:
        assert row.logprobs is None


def test_ids_without_log_probabilities_are_a_row_that_says_so() -> None:
    recorder = Recorder()
    recorder.call(START, answer_of("done"))
    answer = recorder.records[0].answer
    assert answer is not None
    for wrong in (None, [-0.5]):
        answer.tokens.logprobs = wrong
        (row,) = training_rows(recorder.records)
        assert (row.level, row.logprobs) == ("text", None)
        assert sampled(row) == ["done|"]


@pytest.mark.parametrize("seed", range(40))
def test_each_sampled_token_is_marked_in_one_row_whatever_the_histories(seed: int) -> None:
    records = scrambled(random.Random(seed), "tokens")
    rows = training_rows(records, reward=1.0)
    seen: Counter[int] = Counter()
    for row in rows:
        seen.update(row.calls)
        if row.completion_ids is None:
            assert row.messages is not None
            continue
        assert row.mask is not None
        assert row.prompt_ids is not None
        assert len(row.mask) == len(row.completion_ids)
        assert sum(row.mask) == sum(span.stop - span.start for span in row.spans)
        for span in row.spans:
            tokens = tokens_of(records, span.call)
            assert row.completion_ids[span.start : span.stop] == tokens.completion_ids
            assert row.mask[span.start : span.stop] == [1] * (span.stop - span.start)
            assert [*row.prompt_ids, *row.completion_ids[: span.start]] == tokens.prompt_ids
            if row.logprobs is not None:
                assert row.logprobs[span.start : span.stop] == tokens.logprobs
    assert seen == Counter(record.number for record in records if record.answer is not None)


def tokens_of(records: list[CallRecord], number: int) -> SampledTokens:
    answer = records[number].answer
    assert answer is not None
    return answer.tokens


@pytest.mark.parametrize("changed", [False, True])
def test_rows_of_a_long_session_take_no_time(changed: bool) -> None:
    """400 calls, whose last prompt has 20,000 tokens; in the worst case each is its own chain."""
    recorder = Recorder()
    history = START
    for number in range(400):
        message = recorder.call(history, asked(id=f"c{number}", arguments='{"a":  1}'))
        if changed:
            message = says("", calls=[(f"c{number}", "bash", '{"a":1}')])
        history = [
            *history,
            message,
            tool("a result of some 40 characters, and more", f"c{number}"),
        ]
    recorder.call(history, answer_of("done"))
    assert len(tokens_of(recorder.records, 400).prompt_ids or []) > 20_000
    begun = time.process_time()
    rows = training_rows(recorder.records)
    assert time.process_time() - begun < 3.0  # 0.3 to 0.9 on the machine it was written on
    assert len(rows) == (401 if changed else 1)
