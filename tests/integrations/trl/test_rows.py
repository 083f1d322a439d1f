"""Rows of a batch: prompts that name episodes, and the columns that TRL takes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from openenv_async.integrations.trl.rows import (
    Row,
    columns_of,
    episode_rows,
    reset_from_json,
    same_seed,
)
from openenv_async.types import Outcome, OutcomeStatus


def outcome(status: str = "completed", value: float | None = 1.0) -> Outcome[Any, Any]:
    return Outcome(0, OutcomeStatus(status), episode_return=value, steps=2)


def row(result: Outcome[Any, Any], ids: tuple[int, ...] = (7, 8), **settings: Any) -> Row:
    made = Row("prompt", prompt_ids=[1, 2], outcome=result, **settings)
    if ids:
        made.add(list(ids), [-0.5] * len(ids), 1)
    return made


def test_a_prompt_names_an_episode_and_is_read_again() -> None:
    episodes: list[dict[str, Any]] = [{"seed": 1, "level": "b"}, {}]
    rows = episode_rows(episodes)
    assert [reset_from_json(each["prompt"]) for each in rows] == episodes
    assert rows[0]["prompt"] == [{"role": "user", "content": '{"level": "b", "seed": 1}'}]
    assert reset_from_json('{"seed": 3}') == {"seed": 3}
    later = [{"role": "system", "content": "x"}, {"role": "user", "content": "{}"}]
    assert reset_from_json(later) == {}


def test_a_prompt_that_names_none() -> None:
    with pytest.raises(ValueError, match=r"a JSON object, got '\[1\]'"):
        reset_from_json("[1]")


def test_equal_prompts_have_equal_seeds() -> None:
    one, same, other = ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 1})
    assert same_seed(one) == same_seed(same)
    assert same_seed(one) != same_seed(other)
    assert 0 <= same_seed(one)["seed"] < 2**32
    assert same_seed(object) == same_seed(object)


def test_tokens_are_added_with_their_mask() -> None:
    made = Row("prompt")
    made.add([1, 2], [-0.1, -0.2], 1)
    made.add([3], None, 0)
    assert made.completion_ids == [1, 2, 3]
    assert made.logprobs == [-0.1, -0.2, 0.0]
    assert made.mask == [1, 1, 0]
    made.prompt_ids, made.nonsense = [9], True
    made.restart()
    assert (made.prompt_ids, made.completion_ids, made.logprobs, made.mask) == ([], [], [], [])
    assert not made.nonsense


def test_columns_of_usable_and_failed_rows() -> None:
    columns = columns_of(
        [
            row(outcome()),
            row(outcome("truncated", 0.0)),
            row(outcome("env_error", None)),
            row(outcome("completed", None)),
            row(outcome("completed", math.inf)),
            row(outcome("completed", math.nan)),
        ],
        filler=99,
    )
    assert columns["env_failed"] == [False, False, True, False, True, True]
    assert columns["env_reward"] == [1.0, 0.0, None, None, None, None]
    assert columns["env_mask"] == [[1, 1], [1, 1], [0, 0], [1, 1], [0, 0], [0, 0]]
    assert columns["completion_ids"] == [[7, 8]] * 6
    assert columns["logprobs"] == [[-0.5, -0.5]] * 6
    assert columns["prompt_ids"] == [[1, 2]] * 6
    assert columns["env_status"][:3] == ["completed", "truncated", "env_error"]
    assert columns["env_steps"] == [2] * 6


def test_a_row_without_tokens_gets_one_that_is_masked() -> None:
    empty = row(outcome(), ids=())
    empty.prompt_ids = []
    columns = columns_of([empty], filler=99)
    assert columns["completion_ids"] == columns["prompt_ids"] == [[99]]
    assert columns["logprobs"] == [[0.0]]
    assert columns["env_mask"] == [[0]]
    assert columns["env_failed"] == [True]
    assert columns["env_reward"] == [None]


def test_without_all_log_probabilities_there_are_none() -> None:
    rows = [row(outcome()), row(outcome(), counted=False)]
    assert columns_of(rows, filler=99)["logprobs"] is None
