"""The checks of seeds and isolation, each broken by an environment; and differences told."""

from __future__ import annotations

from typing import Any

from openenv_async.checks.validation import seeds
from openenv_async.checks.validation.seeds import first_difference
from tests.checks.validation.broken import BROKEN
from tests.checks.validation.caught import broken_in, is_caught, names_of


@broken_in(seeds)
async def test_each_broken_environment_is_caught_by_its_check(cls: Any) -> None:
    await is_caught(cls)


def test_every_check_catches_one() -> None:
    assert names_of(seeds) <= set(BROKEN.values())


def turn(observation: Any, reward: Any = None, terminated: bool = False) -> Any:
    return observation, reward, terminated, False


def test_equal_episodes_do_not_differ() -> None:
    one = [turn({"a": [1, 2]}), turn({"a": [3]}, "1.0", True)]
    assert first_difference(one, list(one)) is None


def test_thefirst_difference_is_told_by_its_place() -> None:
    begin = turn({"a": [1, {"b": 2}]})
    for other, said in (
        ([turn({"a": [1, {"b": 3}]})], "'b' of [1] of 'a' of observation of reset() is 2 and 3"),
        ([turn({"a": [1]})], "'a' of observation of reset() is [1, {'b': 2}] and [1]"),
        ([turn({"c": 1})], "observation of reset() is {'a': [1, {'b': 2}]} and {'c': 1}"),
    ):
        assert first_difference([begin], other) == said
    stepped = [begin, turn({}, "1.0")]
    assert first_difference(stepped, [begin, turn({}, "2.0")]) == (
        "reward of step 1 is '1.0' and '2.0'"
    )
    assert first_difference(stepped, [begin, turn({}, "1.0", True)]) == (
        "terminated of step 1 is False and True"
    )
    assert first_difference(stepped, [begin]) == "one ends before step 1"
    assert first_difference([begin], stepped) == "one ends before step 1"


def test_arrays_are_told_by_dtype_and_shape() -> None:
    one, other = turn(("<f4", (2,), b"12345678")), turn(("<f4", (2,), b"12345679"))
    assert first_difference([one], [other]) == (
        "observation of reset() is an array <f4 (2,) and an array <f4 (2,)"
    )
